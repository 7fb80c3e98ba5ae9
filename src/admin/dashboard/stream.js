// The stream of events of the node, read with `fetch`: an EventSource could not show a token.

/** The node tells something every few seconds; the connection is lost when it does not for so long. */
const SILENCE = 15_000;

/** The node does not let this page look. */
export class Refused extends Error {
  constructor(status, code, text) {
    super(text);
    this.status = status;
    this.code = code;
  }
}

/** Hands each event to `heard`, with its name and its data, until the stream ends; throws when it breaks. */
export async function follow(path, token, heard) {
  const control = new AbortController();
  let timer = 0;
  const alive = () => {
    clearTimeout(timer);
    timer = setTimeout(() => control.abort(new Error('the node has said nothing for 15 s')), SILENCE);
  };
  alive();
  try {
    const headers = { Accept: 'text/event-stream' };
    if (token) headers.Authorization = `Bearer ${token}`;
    const response = await fetch(path, { headers, cache: 'no-store', signal: control.signal });
    if (!response.ok) throw await refused(response);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = '';
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      alive();
      const events = (rest + value).split('\n\n');
      rest = events.pop();
      for (const event of events) heard(...parsed(event));
    }
  } finally {
    clearTimeout(timer);
    control.abort();
  }
}

/** An event as HTML has them (§9.2.6), of one line of data. */
export function parsed(event) {
  const field = (name) => event.split('\n').find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
  return [field('event'), JSON.parse(field('data') ?? 'null')];
}

/** What the node tells at once, when it is asked for it. */
export async function ask(path, token) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const response = await fetch(path, { headers, cache: 'no-store', signal: AbortSignal.timeout(SILENCE) });
  if (!response.ok) throw await refused(response);
  return response.json();
}

async function refused(response) {
  try {
    const { code, error } = await response.json();
    return new Refused(response.status, code, error);
  } catch {
    return new Refused(response.status, 'unknown', `it answers with the status ${response.status}`);
  }
}
