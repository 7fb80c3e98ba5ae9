// The dashboard: reads the node's events, keeps what they say, and has it drawn.

import { html, keyed, say, set, svg } from './draw.js';
import { Picture } from './picture.js';
import { Refused, ask, follow } from './stream.js';
import { changed, noted, story } from './story.js';
import { Tables } from './tables.js';
import * as text from './text.js';

const TOKEN = 'adit-token';
const EVENTS = 'api/v1/events';
const RECENT = 'api/v1/recent';

/** How many events the small plots go back, and how many sentences are kept. */
const PLOTTED = 90;
const TOLD = 60;

/** How many sentences of before the page was opened there are at most. */
const EARLIER = 20;

/** Waits between two tries to connect, in milliseconds. */
const RETRY = [500, 5000];

const at = (id) => document.getElementById(id);

const tables = new Tables();
const picture = new Picture((table, search) => {
  tables.show(table, search);
  at('tables').scrollIntoView({ block: 'nearest' });
});

let state = null;
let connected = false;
/** When the connection was lost, until it is back. */
let lost = null;
let due = false;
const plotted = [];
const told = [];

/** Draws at the next frame, once for all that has come until then; a page that nobody sees draws nothing. */
function draw() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    at('main').hidden = false;
    say(at('where'), `cluster ${state.cluster}, as the node ${state.node} sees it`);
    tiles();
    picture.draw(state);
    tables.update(state);
    keyed(at('story'), told, telling, () => {});
  });
}

function heard(name, data) {
  if (name === 'end') throw new Error(data.error);
  if (name !== 'changes') return;
  if (!connected) found();
  const before = state;
  state = changed(before, data);
  for (const [level, sentence] of story(before, state)) tell(level, sentence);
  if (!before) earlier();
  plotted.push(state.rates);
  if (plotted.length > PLOTTED) plotted.shift();
  document.title = `${state.cluster} · adit`;
  draw();
}

let number = 0;
function sentenceOf(level, sentence, time) {
  number += 1;
  return { key: number, level, sentence, time };
}

function tell(level, sentence) {
  told.unshift(sentenceOf(level, sentence, text.clock(new Date())));
  told.length = Math.min(told.length, TOLD);
}

/** Tells what has happened before the page was opened. Without it, the list only begins later. */
async function earlier() {
  const opened = Date.now();
  let events;
  try {
    ({ events } = await ask(RECENT, sessionStorage.getItem(TOKEN)));
  } catch {
    return;
  }
  const now = Date.now();
  // What is younger comes by the stream as well.
  const before = events.filter((event) => event.age_s * 1000 > now - opened).slice(0, EARLIER);
  for (const event of before) {
    const time = event.age_s < 86400 ? text.clock(new Date(now - event.age_s * 1000)) : `${text.age(event.age_s)} ago`;
    told.push(sentenceOf(...noted(event), time));
  }
  told.length = Math.min(told.length, TOLD);
  draw();
}

function telling({ level, sentence, time }) {
  const item = html('li', { class: level });
  item.append(html('time', {}, time), ` ${sentence}`);
  return item;
}

function found() {
  if (lost) tell('good', `the connection is back after ${text.age((Date.now() - lost) / 1000)}`);
  [connected, lost] = [true, null];
  at('banner').hidden = true;
  document.body.classList.remove('lost');
  say(set(at('live'), { class: 'good' }), 'live');
}

/** Says that what is shown is not how it is now. */
function lose(why) {
  connected = false;
  lost ??= new Date();
  const since = text.clock(lost);
  const shown = state ? ` What is shown is as of ${since}.` : '';
  say(at('banner'), `Connection lost at ${since}, trying again: ${why}.${shown}`);
  at('banner').hidden = false;
  document.body.classList.add('lost');
  say(set(at('live'), { class: 'bad' }), 'not connected');
  document.title = 'connection lost · adit';
}

function tiles() {
  const { rates } = state;
  const nodes = [...state.nodes.values()];
  const flows = nodes.reduce((all, node) => all + (node.flows ?? 0), 0);
  const ready = nodes.filter((node) => node.phase === 'ready' && !node.suspect).length;
  const all = [
    { key: 'Requests/s', value: text.rate(rates?.requests_s), plot: 'requests_s' },
    { key: 'Errors/s', value: text.rate(rates?.errors_s), plot: 'errors_s', bad: rates?.errors_s > 0 },
    { key: 'Half answered in', value: text.ms(rates?.p50_ms), plot: 'p50_ms' },
    { key: '99 % answered in', value: text.ms(rates?.p99_ms), plot: 'p99_ms' },
    { key: 'To agents/s', value: text.bytes(rates?.sent_bytes_s), plot: 'sent_bytes_s' },
    { key: 'From agents/s', value: text.bytes(rates?.received_bytes_s), plot: 'received_bytes_s' },
    { key: 'Open flows', value: text.count(flows) },
    { key: 'Nodes ready', value: `${text.count(ready)} of ${text.count(nodes.length)}`, bad: ready < nodes.length },
    { key: 'Agents', value: text.count(state.agents.size) },
    { key: 'Endpoints', value: text.count(state.endpoints.size) },
  ];
  keyed(at('tiles'), all, tile, (element, { value, plot, bad }) => {
    set(element, { class: [plot ? 'plotted' : 'plain', bad && 'bad'].filter(Boolean).join(' ') });
    say(element.querySelector('dd'), value);
    if (plot) set(element.querySelector('path'), { d: line(plotted.map((one) => one?.[plot] ?? null)) });
  });
}

function tile({ key, plot }) {
  const element = html('div', { id: `tile-${key.toLowerCase().replace(/[^a-z0-9]+/g, '-')}` });
  element.append(html('dt', {}, key), html('dd'));
  if (plot) {
    const small = svg('svg', { viewBox: `0 0 ${PLOTTED} 24`, preserveAspectRatio: 'none', 'aria-hidden': true });
    small.append(svg('path'));
    element.append(small);
  }
  return element;
}

/** A plot of the last values, with gaps where nothing is known. */
function line(values) {
  const most = Math.max(...values.map((value) => value ?? 0), 1e-9);
  const from = PLOTTED - values.length;
  const points = values.map((value, place) => (value === null ? null : `${from + place} ${(23 - (value / most) * 21).toFixed(1)}`));
  return points.map((point, place) => (point === null ? '' : `${points[place - 1] ? 'L' : 'M'}${point}`)).join('') || null;
}

/** Asks for a token; the answer comes when there is one. */
function login(refused, shown) {
  at('login').hidden = false;
  at('main').hidden = true;
  say(at('live'), 'a token is asked for');
  say(at('refused'), shown ? `The last one is not taken: ${refused.message}.` : '');
  at('token').value = '';
  at('token').focus();
  return new Promise((resolve) => {
    at('login').addEventListener('submit', (event) => {
      event.preventDefault();
      const token = at('token').value.trim();
      // A header takes nothing else, and the browser would only say that the node cannot be reached.
      if (!/^[\x21-\x7e]+$/.test(token)) {
        say(at('refused'), 'That is no token: it has characters that none has.');
        return;
      }
      at('login').hidden = true;
      resolve(token);
    });
  });
}

const wait = (time) => new Promise((resolve) => { setTimeout(resolve, time); });

async function run() {
  let [pause] = RETRY;
  // What was heard last may be long ago, so the first try after that comes soon.
  const listen = (...event) => {
    [pause] = RETRY;
    heard(...event);
  };
  for (;;) {
    const token = sessionStorage.getItem(TOKEN);
    try {
      await follow(EVENTS, token, listen);
      lose('the node has ended the stream');
    } catch (error) {
      if (error instanceof Refused && (error.status === 401 || error.status === 403)) {
        at('banner').hidden = true;
        sessionStorage.setItem(TOKEN, await login(error, Boolean(token)));
        continue;
      }
      // That is all that a browser says of a connection that cannot be made, or breaks.
      lose(error instanceof TypeError ? 'the node cannot be reached' : error.message);
    }
    await wait(pause);
    pause = Math.min(pause * 1.6, RETRY[1]);
  }
}

run();
