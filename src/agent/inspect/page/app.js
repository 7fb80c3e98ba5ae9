// The inspector's page. The agent tells of changes by a number; what is shown is asked for anew then, with the filter that
// holds. Whatever an exchange holds becomes text, never markup.
'use strict';

const $ = (id) => document.getElementById(id);
const AGAIN_AFTER = 1000;

let exchanges = [];
let chosen = null; // The number of the exchange at the right.
let shown = null; // That exchange, as it was shown last.
let editing = false;
let started = null; // When the agent was: exchanges of another run have the same numbers.
let asking = false, askAgain = false;

/// An element with attributes and children; texts become text.
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith('on')) element.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function tell(text) {
  $('told').textContent = text;
  $('told').classList.add('shown');
  clearTimeout(tell.timer);
  tell.timer = setTimeout(() => $('told').classList.remove('shown'), 4000);
}

/// Asks the agent. An error is its own sentence.
async function ask(path, options) {
  const response = await fetch(path, options);
  if (response.ok) return response;
  let error = `${response.status} ${response.statusText}`;
  try {
    error = (await response.json()).error;
  } catch { /* It was none of the agent's. */ }
  throw new Error(error);
}

/// What fails is told.
async function attempt(work) {
  try {
    await work();
  } catch (error) {
    tell(error instanceof TypeError ? 'The agent does not answer.' : error.message);
  }
}

// The list.

function filter() {
  const query = new URLSearchParams();
  for (const name of ['text', 'method', 'status']) {
    const value = $(name).value.trim();
    if (value) query.set(name, value);
  }
  const text = query.toString();
  return text && `?${text}`;
}

/// Asks for the list and, if it has changed, for the exchange that is shown. One at a time; what changes meanwhile is asked
/// for behind it.
async function refresh() {
  // Nobody looks; what has changed is asked for when somebody does.
  if (document.hidden) return;
  if (asking) {
    askAgain = true;
    return;
  }
  asking = true;
  try {
    do {
      askAgain = false;
      const list = await (await ask(`/api/exchanges${filter()}`)).json();
      if (started !== null && started !== list.started) choose(null);
      ({ started, exchanges } = list);
      drawList(list.endpoints);
      await refreshChosen();
    } while (askAgain);
  } catch (error) {
    if (!(error instanceof TypeError)) tell(error.message);
  } finally {
    asking = false;
  }
}

async function refreshChosen() {
  if (chosen === null || editing) return;
  const summary = exchanges.find((exchange) => exchange.id === chosen);
  if (shown && shown.id === chosen && summary && summary.revision === shown.revision) return;
  const id = chosen;
  const response = await fetch(`/api/exchanges/${id}`);
  if (id !== chosen || editing) return;
  if (response.ok) {
    shown = await response.json();
    if (id === chosen && !editing) drawExchange();
  } else if (shown && shown.id === id) {
    choose(null);
  }
}

const kind = (exchange) => (exchange.status ? `s${Math.floor(exchange.status / 100)}` : '');
const took = (ms) => (ms === null ? '…' : ms < 10 ? `${ms.toFixed(1)} ms` : ms < 10000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);
const clock = (time) => new Date(time).toLocaleTimeString([], { hour12: false });

function size(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  if (bytes < 1e6) return `${(bytes / 1e3).toFixed(1)} kB`;
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

function status(exchange) {
  if (exchange.status) return make('span', { class: `status ${kind(exchange)}` }, String(exchange.status), exchange.state === 'failed' ? ' ✕' : '');
  if (exchange.state === 'failed') return make('span', { class: 'status failed' }, 'failed');
  return make('span', { class: 'status pending' }, '…');
}

function drawList(endpoints) {
  const several = new Set([...endpoints.map((endpoint) => endpoint.name), ...exchanges.map((exchange) => exchange.endpoint)]).size > 1;
  const lines = exchanges.map((exchange) => {
    const more = [
      several ? exchange.endpoint : '',
      exchange.replay_of ? `replay of #${exchange.replay_of}` : '',
      exchange.state === 'open' ? 'open' : '',
      exchange.error || '',
    ].filter(Boolean).join(' · ');
    return make('li', {
      role: 'option', id: `x${exchange.id}`, 'data-id': exchange.id, 'aria-selected': exchange.id === chosen ? 'true' : 'false',
      onclick: () => choose(exchange.id),
    },
    make('span', { class: 'method' }, exchange.method || '–'),
    make('span', { class: 'target', title: exchange.target || '' }, exchange.target || 'the service was not reached'),
    status(exchange),
    make('span', { class: 'took' }, took(exchange.duration_ms)),
    make('span', { class: 'when' }, clock(exchange.began)),
    make('span', { class: 'more' }, more || ' '),
    make('span', { class: 'took' }, exchange.status ? size(exchange.response_bytes) : ''));
  });
  const at = $('left').scrollTop;
  $('list').replaceChildren(...lines);
  $('left').scrollTop = at;
  $('list').setAttribute('aria-activedescendant', chosen === null ? '' : `x${chosen}`);
  $('har').href = `/api/har${filter()}`;
  drawEmpty(endpoints);
}

function drawEmpty(endpoints) {
  $('empty').hidden = exchanges.length > 0;
  if (exchanges.length) return;
  if (filter()) {
    $('empty').textContent = 'No exchange is as the filter asks.';
    return;
  }
  const served = endpoints.map((endpoint) => make('li', {},
    make('code', {}, endpoint.name), ` from ${endpoint.service}`,
    endpoint.inspected ? '' : ' (not looked at: it does not speak HTTP/1.1)'));
  $('empty').replaceChildren('No request has come yet. Served here:', make('ul', {}, ...served));
}

function choose(id, scroll) {
  if (id !== chosen) editing = false;
  chosen = id;
  if (!shown || shown.id !== id) shown = null;
  for (const line of $('list').children) line.setAttribute('aria-selected', String(Number(line.dataset.id) === id));
  $('list').setAttribute('aria-activedescendant', id === null ? '' : `x${id}`);
  if (scroll && $(`x${id}`)) $(`x${id}`).scrollIntoView({ block: 'nearest' });
  if (id === null) {
    $('exchange').hidden = true;
    $('nothing').hidden = false;
  } else {
    attempt(refreshChosen);
  }
}

function move(step) {
  if (!exchanges.length) return;
  const at = exchanges.findIndex((exchange) => exchange.id === chosen);
  const next = at < 0 ? 0 : Math.min(Math.max(at + step, 0), exchanges.length - 1);
  choose(exchanges[next].id, true);
}

// One exchange.

/// A text, its masks set apart.
function masked(text) {
  return text.split(/(\[secret-\d+\])/).map((part, index) => (index % 2 ? make('span', { class: 'mask' }, part) : part));
}

function headers(message) {
  const rows = message.headers.map(([name, value]) => make('tr', {}, make('td', {}, name), make('td', {}, ...masked(value))));
  return make('table', {}, ...rows);
}

/// Text as it reads best: JSON on lines of its own.
function pretty(body) {
  if (/json/.test(body.type) || /^\s*[[{]/.test(body.text)) {
    try {
      return JSON.stringify(JSON.parse(body.text), null, 2);
    } catch { /* It is none, or only its beginning. */ }
  }
  return body.text;
}

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
}

/// Bytes as an editor for bytes shows them, the first of them.
function hex(bytes, most = 1024) {
  const lines = [];
  for (let at = 0; at < Math.min(bytes.length, most); at += 16) {
    const part = [...bytes.subarray(at, at + 16)];
    const numbers = part.map((byte) => byte.toString(16).padStart(2, '0')).join(' ').padEnd(48);
    const text = part.map((byte) => (byte > 31 && byte < 127 ? String.fromCharCode(byte) : '.')).join('');
    lines.push(`${at.toString(16).padStart(6, '0')}  ${numbers} ${text}`);
  }
  if (bytes.length > most) lines.push(`… ${bytes.length - most} more`);
  return lines.join('\n');
}

function bodyOf(message) {
  const body = message.body;
  const parts = [];
  if (!body.length) {
    parts.push(make('p', { class: 'facts' }, body.complete ? 'No body.' : 'No byte of a body so far.'));
    return parts;
  }
  const facts = [size(body.length), body.type || 'no content type'];
  if (body.base64 !== null) facts.push('binary');
  if (body.cut) facts.push(`cut: the first ${size(body.kept)} are kept`);
  if (!body.complete) facts.push('not at its end');
  parts.push(make('p', { class: 'facts' }, facts.join(' · ')));
  if (body.text !== null) parts.push(make('pre', {}, ...masked(pretty(body))));
  else parts.push(make('pre', {}, hex(bytesOf(body.base64))));
  return parts;
}

/// Where the time went.
function timings(exchange) {
  const { sent_ms: sent, answered_ms: answered, ended_ms: ended } = exchange.times;
  const send = Math.min(sent ?? answered ?? ended ?? 0, answered ?? Infinity);
  const parts = [['send', 'request sent', send]];
  if (answered !== null) parts.push(['wait', 'waited', answered - send]);
  if (answered !== null && ended !== null) parts.push(['receive', 'response received', ended - answered]);
  const whole = parts.reduce((sum, part) => sum + part[2], 0) || 1;
  const bar = parts.map(([name, , ms]) => {
    const part = make('span', { class: name });
    part.style.flexGrow = String(ms / whole);
    return part;
  });
  const legend = parts.map(([name, label, ms]) => make('span', {}, make('i', { class: name }), `${label} ${took(ms)}`));
  return [make('div', { class: 'bar' }, ...bar), make('p', { class: 'legend' }, ...legend)];
}

function drawExchange() {
  const exchange = shown;
  const parts = [make('h2', {}, exchange.method ? `${exchange.method} ${exchange.target}` : 'The service was not reached')];
  const facts = [`#${exchange.id}`, `${exchange.endpoint} from ${exchange.service}`, clock(exchange.began)];
  if (exchange.client) facts.push(`client ${exchange.client}`);
  if (exchange.replay_of) facts.push(`replay of #${exchange.replay_of}`);
  facts.push(exchange.state);
  parts.push(make('p', { class: 'facts' }, facts.join(' · ')));
  if (exchange.error) parts.push(make('p', { class: 'error' }, exchange.error));
  if (exchange.carried) {
    parts.push(make('p', { class: 'facts' }, `carried ${size(exchange.carried.to_service)} to the service and ${size(exchange.carried.from_service)} from it`));
  }
  if (exchange.request) {
    parts.push(make('div', { class: 'acts' },
      make('button', { id: 'replay', class: 'main', onclick: replay }, 'Send again'),
      make('button', { id: 'edit', onclick: edit }, 'Edit and send'),
      make('button', { id: 'curl', onclick: copy }, 'Copy as curl')));
    parts.push(...timings(exchange));
    parts.push(make('h3', {}, 'Request'), headers(exchange.request), ...bodyOf(exchange.request));
  } else {
    parts.push(make('p', { class: 'facts' }, 'The node sends a request only once the service is connected, so this one is not known here. Its client is answered 502, unless another agent serves it.'));
  }
  if (exchange.response) {
    const said = `${exchange.status} ${exchange.response.reason}`;
    const own = exchange.response.own ? make('span', { class: 'soft' }, 'by the agent, not the service') : null;
    parts.push(make('h3', {}, 'Response', make('span', { class: `status ${kind(exchange)}` }, said), own));
    parts.push(headers(exchange.response));
    if (exchange.status === 101) parts.push(make('p', { class: 'facts' }, 'What a connection carries after it has switched protocols is not shown.'));
    else parts.push(...bodyOf(exchange.response));
  } else if (exchange.request && exchange.state === 'waiting') {
    parts.push(make('h3', {}, 'Response'), make('p', { class: 'facts' }, 'The service has not answered yet.'));
  }
  const before = $('right').dataset.id === String(exchange.id) ? $('right').scrollTop : 0;
  $('exchange').replaceChildren(...parts);
  $('exchange').hidden = false;
  $('nothing').hidden = true;
  $('right').dataset.id = exchange.id;
  $('right').scrollTop = before;
}

// What can be done with it.

async function send(edits) {
  const id = shown.id;
  await attempt(async () => {
    const response = await ask(`/api/exchanges/${id}/replay`, {
      method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(edits),
    });
    const sent = (await response.json()).id;
    editing = false;
    tell(`Sent again as #${sent}.`);
    choose(sent, true);
    await refresh();
  });
}

function replay() {
  if (shown && shown.request) send({});
}

function copy() {
  if (!shown || !shown.request) return;
  attempt(async () => {
    const command = await (await ask(`/api/exchanges/${shown.id}/curl`)).text();
    try {
      await navigator.clipboard.writeText(command);
      tell('Copied as a curl command.');
    } catch {
      // Not every browser lets a page write to the clipboard.
      $('exchange').prepend(make('pre', { id: 'command', tabindex: '0' }, command));
      tell('The browser keeps the clipboard from this page: copy the command at the top.');
    }
  });
}

/// What is of a connection is not for editing: the agent sees to it.
const OF_CONNECTION = ['connection', 'content-length', 'expect', 'http2-settings', 'keep-alive', 'proxy-connection', 'te', 'trailer', 'transfer-encoding', 'upgrade'];

function edit() {
  if (!shown || !shown.request) return;
  editing = true;
  const { request } = shown;
  const lines = request.headers.filter(([name]) => !OF_CONNECTION.includes(name)).map(([name, value]) => `${name}: ${value}`).join('\n');
  const method = make('input', { id: 'edit-method', value: shown.method, spellcheck: 'false' });
  const target = make('input', { id: 'edit-target', value: shown.target, spellcheck: 'false' });
  const fields = make('textarea', { id: 'edit-headers', spellcheck: 'false', rows: '8' });
  fields.value = lines;
  const isText = request.body.text !== null;
  const body = make('textarea', { id: 'edit-body', spellcheck: 'false', rows: '12', disabled: isText ? null : '' });
  body.value = isText ? request.body.text : `binary, ${request.body.length} bytes: sent as it was`;
  const before = { headers: lines, body: body.value };
  const sendEdited = () => {
    const edits = { method: method.value.trim(), target: target.value.trim() };
    if (fields.value !== before.headers) {
      edits.headers = fields.value.split('\n').filter((line) => line.trim()).map((line) => {
        const at = line.indexOf(':');
        return at < 0 ? [line.trim(), ''] : [line.slice(0, at).trim(), line.slice(at + 1).trim()];
      });
    }
    if (isText && body.value !== before.body) {
      // A text area has lines end by LF alone, whatever they ended by.
      const { text } = request.body;
      const byCrlf = text.includes('\r\n') && !/(^|[^\r])\n/.test(text);
      edits.body = byCrlf ? body.value.replaceAll('\n', '\r\n') : body.value;
    }
    send(edits);
  };
  const facts = [];
  if (shown.masked) facts.push('A mask such as [secret-1] is sent as what it stands for.');
  if (request.body.cut) facts.push(`The body is cut: only the first ${size(request.body.kept)} are here, and it is sent only if it is edited.`);
  $('exchange').replaceChildren(
    make('h2', {}, `Send #${shown.id} again, edited`),
    make('div', { class: 'edit' },
      make('div', { class: 'first' }, make('label', {}, 'Method', method), make('label', {}, 'Path and query', target)),
      make('label', {}, 'Headers, one a line', fields),
      make('label', {}, 'Body', body),
      facts.length ? make('p', { class: 'facts' }, facts.join(' ')) : null,
      make('div', { class: 'acts' },
        make('button', { id: 'send', class: 'main', onclick: sendEdited }, 'Send'),
        make('button', { id: 'cancel', onclick: leave }, 'Cancel'),
        make('span', { class: 'facts' }, 'Ctrl+Enter sends, Escape cancels'))));
  edit.send = sendEdited;
  (isText ? body : target).focus();
}

function leave() {
  editing = false;
  drawExchange();
  attempt(refreshChosen);
  $('list').focus();
}

// Keys.

document.addEventListener('keydown', (event) => {
  const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
  if (editing && event.key === 'Escape') return void leave();
  if (editing && event.key === 'Enter' && event.ctrlKey) return void edit.send();
  if (event.target.id === 'text' && ['Escape', 'Enter', 'ArrowDown'].includes(event.key)) {
    if (event.key === 'Escape') $('text').value = '';
    event.preventDefault();
    refresh();
    return void $('list').focus();
  }
  if (typing || editing || event.ctrlKey || event.metaKey || event.altKey) return;
  const act = {
    ArrowDown: () => move(1), ArrowUp: () => move(-1), j: () => move(1), k: () => move(-1), Home: () => move(-Infinity), End: () => move(Infinity),
    '/': () => $('text').focus(), r: replay, e: edit, c: copy,
  }[event.key];
  if (act) {
    event.preventDefault();
    act();
  }
});

for (const name of ['text', 'method', 'status']) $(name).addEventListener('input', refresh);
$('clear').addEventListener('click', () => attempt(async () => {
  await ask('/api/exchanges', { method: 'DELETE' });
  editing = false;
  choose(null);
  await refresh();
}));

// Live.

/// Listens for changes, for ever. A browser tries again by itself after some failures and not after others, so this does.
function listen() {
  const events = new EventSource('/api/events');
  events.onmessage = () => {
    $('lost').hidden = true;
    refresh();
  };
  events.onerror = () => {
    events.close();
    $('lost').hidden = false;
    setTimeout(listen, AGAIN_AFTER);
  };
}

document.addEventListener('visibilitychange', refresh);
listen();
