// The tables below the picture: one at a time, sorted, searched, and no longer than anybody reads.

import { html, keyed, say, set } from './draw.js';
import * as text from './text.js';

/** So many rows are shown; the rest is found by searching. */
const SHOWN = 100;

const join = (names) => (names.length ? names.join(', ') : text.NONE);

/** A node's phase, or what is worse. */
export function nodeState(node) {
  if (node.unlinked) return 'unlinked';
  return node.suspect ? 'silent' : node.phase;
}

/** The state of an agent, of whose links to several nodes one that is silent is not all. */
export function agentState(agent) {
  if (!agent.suspect) return agent.state ?? 'up';
  return agent.nodes.length > 1 ? 'partly silent' : 'silent';
}

/** A column: its title, its text in a row, and what it is sorted by if that is a number. */
const words = (title, say, state) => ({ title, say, state, by: say });
const number = (title, value, say = text.count) => ({ title, say: (row) => say(value(row)), by: (row) => value(row) ?? -1, number: true });

const TABLES = {
  nodes: ['Nodes', [
    words('Node', (node) => (node.this ? `${node.key} (this node)` : node.key)),
    words('State', nodeState, nodeState),
    number('Agents', (node) => node.agent_links),
    number('Open flows', (node) => node.flows),
    number('Requests/s', (node) => node.rates?.requests_s, text.rate),
    number('Errors/s', (node) => node.rates?.errors_s, text.rate),
    number('Half within', (node) => node.rates?.p50_ms, text.ms),
    number('99 % within', (node) => node.rates?.p99_ms, text.ms),
    number('To agents/s', (node) => node.rates?.sent_bytes_s, text.bytes),
    number('From agents/s', (node) => node.rates?.received_bytes_s, text.bytes),
    number('Up', (node) => node.up_s, text.age),
    words('Address', (node) => node.address ?? text.NONE),
    words('Says', (node) => node.silent ?? (node.version ? `adit ${node.version}` : text.NONE)),
  ]],
  endpoints: ['Endpoints', [
    words('Endpoint', (endpoint) => endpoint.endpoint),
    words('Tenant', (endpoint) => endpoint.tenant),
    words('Kind', (endpoint) => endpoint.kind),
    number('Agents', (endpoint) => endpoint.agents),
    number('Not answering', (endpoint) => endpoint.suspects),
    number('Opened/s', (endpoint) => endpoint.opened_s, text.rate),
    number('Open flows', (endpoint) => endpoint.flows),
    words('Nodes', (endpoint) => join(endpoint.nodes)),
    words('Hosts', (endpoint) => join(endpoint.hosts)),
  ]],
  agents: ['Agents', [
    words('Agent', (agent) => text.agentName(agent)),
    words('Tenant', (agent) => agent.tenant),
    words('State', agentState, agentState),
    words('Nodes', (agent) => join(agent.nodes)),
    words('Endpoints', (agent) => {
      const rest = agent.endpoints_total - agent.endpoints.length;
      return join(rest ? [...agent.endpoints, `and ${text.count(rest)} more`] : agent.endpoints);
    }),
    number('Open flows', (agent) => agent.flows),
    number('Round trip', (agent) => agent.rtt_ms, text.ms),
    words('From', (agent) => join(agent.addresses)),
    words('Id', (agent) => agent.agent),
  ]],
  links: ['Links between nodes', [
    words('Nodes', (link) => link.nodes.join(' and ')),
    words('State', (link) => (link.suspect ? 'silent' : 'up'), (link) => (link.suspect ? 'silent' : 'up')),
    number('Round trip', (link) => link.rtt_ms, text.ms),
    number('Lost', (link) => link.loss, text.share),
    number('Traffic/s', (link) => link.bytes_s, text.bytes),
  ]],
};

const byText = new Intl.Collator('en', { numeric: true }).compare;

/** Sorted by a column, down or up. */
export function sorted(rows, column, down) {
  const order = column.number ? (a, b) => column.by(a) - column.by(b) : (a, b) => byText(column.by(a), column.by(b));
  return rows.sort((a, b) => (down ? order(b, a) : order(a, b)) || byText(a.key, b.key));
}

/** What a row is found by: all that it shows. A row is never changed, so this is put together once. */
const found = new WeakMap();
function haystack(row, columns) {
  if (!found.has(row)) found.set(row, columns.map((column) => column.say(row)).join(' ').toLowerCase());
  return found.get(row);
}

export class Tables {
  #state = null;
  #open = 'nodes';
  /** For each table, the column that it is sorted by, and whether the largest come first. */
  #order = Object.fromEntries(Object.keys(TABLES).map((name) => [name, [0, false]]));
  #tabs = document.getElementById('tabs');
  #search = document.getElementById('search');
  #panel = document.getElementById('panel');
  #head = document.querySelector('#table thead tr');
  #body = document.querySelector('#table tbody');
  #count = document.getElementById('count');

  constructor() {
    for (const name of Object.keys(TABLES)) {
      const tab = html('button', { id: `tab-${name}`, role: 'tab', type: 'button', 'aria-controls': 'panel' });
      tab.addEventListener('click', () => this.show(name));
      this.#tabs.append(tab);
    }
    this.#tabs.addEventListener('keydown', (event) => this.#move(event));
    this.#search.addEventListener('input', () => this.draw());
    this.#search.addEventListener('keydown', (event) => {
      if (event.key === 'Escape') this.find('');
    });
    document.addEventListener('keydown', (event) => {
      const typing = event.target.closest?.('input, textarea');
      if (event.key === '/' && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
        event.preventDefault();
        this.#search.focus();
        this.#search.select();
      }
    });
    this.show(this.#open);
  }

  /** Opens a table, and searches it if there is something to search for. */
  show(name, search) {
    this.#open = name;
    for (const tab of this.#tabs.children) {
      const open = tab.id === `tab-${name}`;
      set(tab, { 'aria-selected': open, tabindex: open ? 0 : -1 });
    }
    set(this.#panel, { 'aria-labelledby': `tab-${name}` });
    const [, columns] = TABLES[name];
    this.#head.replaceChildren(...columns.map((column, place) => {
      const title = html('button', { type: 'button' }, column.title);
      title.addEventListener('click', () => this.#sort(place));
      const cell = html('th', { scope: 'col', class: column.number ? 'number' : null });
      cell.append(title);
      return cell;
    }));
    // Those of another table have other cells.
    keyed(this.#body, []);
    if (search === undefined) this.draw();
    else this.find(search);
  }

  find(search) {
    this.#search.value = search;
    this.draw();
  }

  update(state) {
    this.#state = state;
    this.draw();
  }

  draw() {
    if (!this.#state) return;
    for (const [name, [title]] of Object.entries(TABLES)) {
      say(document.getElementById(`tab-${name}`), `${title} ${text.count(this.#state[name].size)}`);
    }
    const [title, columns] = TABLES[this.#open];
    const [place, down] = this.#order[this.#open];
    [...this.#head.children].forEach((cell, number) => {
      set(cell, { 'aria-sort': number === place ? (down ? 'descending' : 'ascending') : null });
    });
    const words = this.#search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const all = [...this.#state[this.#open].values()];
    const fit = all.filter((row) => words.every((word) => haystack(row, columns).includes(word)));
    const rows = sorted(fit, columns[place], down).slice(0, SHOWN);
    keyed(this.#body, rows, () => row(columns), (element, of) => fill(element, of, columns));
    say(this.#count, note(title.toLowerCase(), rows.length, fit.length, all.length, this.#state.more));
  }

  #sort(place) {
    const [before, down] = this.#order[this.#open];
    const [, columns] = TABLES[this.#open];
    // Of numbers, the largest are asked for first.
    this.#order[this.#open] = [place, place === before ? !down : Boolean(columns[place].number)];
    this.draw();
  }

  #move(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const names = Object.keys(TABLES);
    const next = names[(names.indexOf(this.#open) + step + names.length) % names.length];
    this.show(next);
    document.getElementById(`tab-${next}`).focus();
  }
}

/** What is said below a table. */
export function note(what, shown, fit, all, more) {
  const rest = more ? ' There are more than the node tells a page of; adit status has them all.' : '';
  if (all === 0) return `No ${what}.${rest}`;
  if (fit === 0) return `None of ${text.count(all)} ${what} is found by this search.${rest}`;
  if (shown < fit) return `Showing ${text.count(shown)} of ${text.count(fit)} ${what}: search to narrow.${rest}`;
  return (fit < all ? `${text.count(fit)} of ${text.count(all)} ${what}.` : '') + rest;
}

function row(columns) {
  const element = html('tr');
  element.append(...columns.map((column) => html('td', { class: column.number ? 'number' : null })));
  return element;
}

function fill(element, row, columns) {
  columns.forEach((column, place) => {
    const cell = element.children[place];
    say(cell, column.say(row));
    if (column.state) set(cell, { class: `state ${column.state(row).replace(' ', '-')}` });
  });
}
