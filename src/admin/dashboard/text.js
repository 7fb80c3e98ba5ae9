// Numbers as people read them. What is not known is a dash.

export const NONE = '–';

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const tenths = new Intl.NumberFormat('en', { maximumFractionDigits: 1 });

const known = (value, say) => (value === null || value === undefined ? NONE : say(value));

export const count = (value) => known(value, (number) => whole.format(number));

/** How often a second. */
export const rate = (value) => known(value, (number) => (number < 10 ? tenths : whole).format(number));

export const ms = (value) => known(value, (number) => {
  if (number >= 1000) return `${tenths.format(number / 1000)} s`;
  if (number >= 10) return `${whole.format(number)} ms`;
  return `${number.toFixed(number >= 1 ? 1 : 2)} ms`;
});

export const bytes = (value) => known(value, (number) => {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let unit = 0;
  while (number >= 1000 && unit < units.length - 1) {
    number /= 1000;
    unit += 1;
  }
  return `${(unit > 0 && number < 100 ? tenths : whole).format(number)} ${units[unit]}`;
});

export const share = (value) => known(value, (number) => {
  if (number === 0) return '0 %';
  return number < 0.001 ? '< 0.1 %' : `${tenths.format(number * 100)} %`;
});

export const age = (value) => known(value, (seconds) => {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
});

export const clock = (date) => date.toTimeString().slice(0, 8);

export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

/** No longer than so many characters. */
export const short = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

/** What an agent is called: by its label, or by the beginning of its id. */
export const agentName = (agent) => agent.name ?? agent.agent.slice(0, 8);
