// The picture: nodes in a column with arcs for the links between them, then agents, then endpoints.
//
// `plan` says what is where and is pure; `Picture` draws it. What is too much for a picture is drawn as groups: the tables
// have everything.

import { keyed, say, set, svg } from './draw.js';
import { agentState, nodeState } from './tables.js';
import * as text from './text.js';

const NODE = { wide: 224, high: 54, step: 84 };
const SMALL = { wide: 176, high: 30, step: 38 };
const GAP = 84;
const TOP = 34;

/** How far the arc between two neighbours goes out; between others, so many times as far as they are apart. */
const ARC = 60;

/** More nodes than this have no room for an arc each: then only those of this node and those in trouble are drawn. */
const ARCS = 8;
const NODES = 24;

/** More agents or endpoints than this are drawn as groups, or as the busiest. */
const SINGLE = 12;
const GROUPS = 10;

const byName = new Intl.Collator('en', { numeric: true }).compare;
const sum = (rows) => rows.reduce((flows, row) => flows + row.flows, 0);

/** A link that somebody should look at. */
const inTrouble = (link) => link.suspect || link.loss >= 0.01;

/** The most interesting nodes first: this one, those that are not as they should be, then by name. */
function nodesOf(state) {
  const all = [...state.nodes.values()];
  const rank = (node) => (node.this ? 0 : nodeState(node) === 'ready' ? 2 : 1);
  const kept = all.length > NODES ? all.sort((a, b) => rank(a) - rank(b)).slice(0, NODES) : all;
  return kept.sort((a, b) => byName(a.key, b.key));
}

/** Agents, or groups of those that are linked to the same nodes. */
function agentsOf(state) {
  const all = [...state.agents.values()];
  if (all.length <= SINGLE) {
    const single = all.map((agent) => ({
      key: agent.key, label: text.agentName(agent), flows: agent.flows, state: agentState(agent), nodes: agent.nodes, agents: [agent],
      open: ['agents', agent.agent],
    }));
    return single.sort((a, b) => byName(a.label, b.label) || byName(a.key, b.key));
  }
  const groups = new Map();
  for (const agent of all) {
    const key = agent.nodes.join(' ');
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(agent);
  }
  const largest = [...groups].sort((a, b) => b[1].length - a[1].length || (a[0] < b[0] ? -1 : 1));
  const shown = largest.length > GROUPS ? largest.slice(0, GROUPS - 1) : largest;
  const rest = largest.slice(shown.length).flatMap(([, agents]) => agents);
  if (rest.length) shown.push(['', rest]);
  return shown.map(([key, agents]) => ({
    key: `group ${key}`, label: text.plural(agents.length, 'agent'), flows: sum(agents), agents,
    state: agents.every((agent) => agentState(agent) === 'silent') ? 'silent' : 'up', nodes: [...new Set(agents.flatMap((agent) => agent.nodes))], open: ['agents', key],
  }));
}

/** Endpoints, or the busiest of them and how many more there are. */
function endpointsOf(state) {
  const all = [...state.endpoints.values()];
  const busy = (a, b) => b.flows - a.flows || b.agents - a.agents || (a.key < b.key ? -1 : 1);
  const shown = all.length > SINGLE ? all.sort(busy).slice(0, GROUPS) : all;
  const items = shown.map((endpoint) => ({
    key: endpoint.key, label: endpoint.endpoint, flows: endpoint.flows, state: endpoint.suspects === endpoint.agents ? 'silent' : 'up',
    open: ['endpoints', endpoint.endpoint], kind: endpoint.kind,
  }));
  if (shown.length < all.length) {
    const rest = all.slice(shown.length);
    items.push({ key: 'more', label: `and ${text.count(rest.length)} more`, flows: sum(rest), state: 'up', open: ['endpoints', ''] });
  }
  return items;
}

/** What stands where. */
export function plan(state) {
  const nodes = nodesOf(state);
  const places = new Map(nodes.map((node, place) => [node.key, place]));
  const links = [...state.links.values()].filter(({ nodes: [a, b] }) => places.has(a) && places.has(b))
    .filter((link) => nodes.length <= ARCS || inTrouble(link) || link.nodes.includes(state.node));
  const span = ({ nodes: [a, b] }) => Math.abs(places.get(a) - places.get(b));
  const reach = (link) => Math.min(span(link), ARCS) * ARC;
  const left = links.length ? Math.max(...links.map(reach)) + 44 : 4;
  const dense = nodes.length > ARCS;
  const step = dense ? 46 : NODE.step;
  const high = dense ? 36 : NODE.high;
  const agents = agentsOf(state);
  const endpoints = endpointsOf(state);
  const tallest = Math.max(nodes.length * step, agents.length * SMALL.step, endpoints.length * SMALL.step);
  const column = (items, x, wide, each, tall) => items.map((item, place) => ({
    ...item, x, wide, high: tall, y: TOP + (tallest - items.length * each) / 2 + place * each + (each - tall) / 2,
  }));
  const xs = [left, left + NODE.wide + GAP, left + NODE.wide + GAP + SMALL.wide + GAP];
  const placed = {
    nodes: column(nodes.map((node) => ({ ...node, open: ['nodes', node.key] })), xs[0], NODE.wide, step, high),
    agents: column(agents, xs[1], SMALL.wide, SMALL.step, SMALL.high),
    endpoints: column(endpoints, xs[2], SMALL.wide, SMALL.step, SMALL.high),
  };
  const middle = (box) => box.y + box.high / 2;
  const nodeAt = new Map(placed.nodes.map((node) => [node.key, node]));
  const arcs = links.map((link) => {
    const [from, to] = link.nodes.map((node) => nodeAt.get(node));
    return { ...link, x: left, from: middle(from), to: middle(to), out: reach(link), named: !dense || inTrouble(link), trouble: inTrouble(link) };
  });
  const shown = new Set(endpoints.map((endpoint) => endpoint.key));
  const served = new Map(placed.endpoints.map((endpoint) => [endpoint.key, endpoint]));
  const ways = [];
  for (const agent of placed.agents) {
    for (const node of agent.nodes) {
      const from = nodeAt.get(node);
      if (from) ways.push(way(`${node} > ${agent.key}`, from, agent, agent.flows, from.suspect || agent.state === 'silent'));
    }
    const keys = agent.agents.flatMap((one) => one.endpoints.map((endpoint) => `${one.tenant}/${endpoint}`));
    for (const key of new Set(keys.map((one) => (shown.has(one) ? one : 'more')))) {
      const to = served.get(key);
      if (to) ways.push(way(`${agent.key} > ${key}`, agent, to, Math.min(agent.flows, to.flows), agent.state === 'silent'));
    }
  }
  return {
    ...placed, arcs, ways, dense, titles: [['Nodes', xs[0]], ['Agents', xs[1]], ['Endpoints', xs[2]]],
    wide: xs[2] + SMALL.wide + 4, high: TOP + Math.max(tallest, NODE.step) + 6, left: state.nodes.size - nodes.length,
  };
}

function way(key, from, to, flows, suspect) {
  const [x1, y1, x2, y2] = [from.x + from.wide, from.y + from.high / 2, to.x, to.y + to.high / 2];
  const bend = (x2 - x1) / 2;
  const line = `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`;
  // Ten times the flows, twice the line.
  return { key, line, suspect, width: 1.2 + Math.min(Math.log10(1 + flows), 3) * 1.2 };
}

/** What a node's box says below its name. */
function nodeLine(node) {
  if (node.suspect) return 'does not answer';
  if (node.silent) return node.unlinked ? 'no link to this node' : 'tells no figures';
  if (node.phase === 'draining') return `${text.plural(node.flows ?? 0, 'flow')}, ${text.plural(node.agent_links ?? 0, 'agent')} left`;
  if (!node.rates) return 'measuring';
  const wait = node.rates.p99_ms === null ? '' : ` · 99 % in ${text.ms(node.rates.p99_ms)}`;
  return `${text.rate(node.rates.requests_s)} requests/s${wait}`;
}

export class Picture {
  #picture = document.getElementById('picture');
  #layers = {};
  #open;
  /** The key of the one thing that Tab comes to. */
  #current = null;

  constructor(open) {
    this.#open = open;
    for (const name of ['titles', 'ways', 'arcs', 'nodes', 'agents', 'endpoints']) {
      this.#layers[name] = svg('g', { class: name });
      this.#picture.append(this.#layers[name]);
    }
    this.#picture.addEventListener('keydown', (event) => this.#key(event));
  }

  draw(state) {
    const { nodes, agents, endpoints, arcs, ways, dense, titles, wide, high, left } = plan(state);
    set(this.#picture, { viewBox: `0 0 ${wide} ${high}`, width: wide, height: high });
    const columns = titles.map(([title, x]) => ({ key: title, x }));
    keyed(this.#layers.titles, columns, () => svg('text', { y: 16 }), (element, { key, x }) => say(set(element, { x }), key));
    keyed(this.#layers.ways, ways, () => svg('path'), (path, { line, width, suspect }) => {
      set(path, { d: line, 'stroke-width': width, class: suspect ? 'silent' : null });
    });
    keyed(this.#layers.arcs, arcs, arc, drawArc);
    if (![...nodes, ...agents, ...endpoints].some((box) => box.key === this.#current)) this.#current = nodes[0]?.key ?? null;
    const box = (make, fill) => [
      (item) => this.#box(item, make),
      (element, item) => {
        set(element, { transform: `translate(${item.x} ${item.y})`, tabindex: item.key === this.#current ? 0 : -1, 'data-key': item.key });
        set(element.querySelector('rect'), { width: item.wide, height: item.high });
        element.open = item.open;
        fill(element, item);
      },
    ];
    keyed(this.#layers.nodes, nodes, ...box(nodeBox, (element, node) => fillNode(element, node, dense)));
    keyed(this.#layers.agents, agents, ...box(smallBox, fillSmall));
    keyed(this.#layers.endpoints, endpoints, ...box(smallBox, fillSmall));
    say(document.getElementById('legend'), legend(state, left, dense));
  }

  #box(item, make) {
    const element = svg('g', { class: 'box', role: 'button' });
    element.append(svg('title'), svg('rect', { rx: 6 }), ...make(item));
    element.addEventListener('click', () => this.#open(...element.open));
    return element;
  }

  #key(event) {
    const box = event.target.closest('.box');
    if (!box) return;
    if (event.key === 'Enter' || event.key === ' ') {
      event.preventDefault();
      this.#open(...box.open);
      return;
    }
    const layers = ['nodes', 'agents', 'endpoints'].map((name) => [...this.#layers[name].children]);
    const x = layers.findIndex((boxes) => boxes.includes(box));
    const y = layers[x].indexOf(box);
    const beside = (step) => layers[x + step]?.[Math.min(y, layers[x + step].length - 1)];
    const next = { ArrowDown: layers[x][y + 1], ArrowUp: layers[x][y - 1], ArrowRight: beside(1), ArrowLeft: beside(-1) }[event.key];
    if (!next) return;
    event.preventDefault();
    this.#current = next.dataset.key;
    set(box, { tabindex: -1 });
    set(next, { tabindex: 0 });
    next.focus();
  }
}

function arc() {
  const element = svg('g');
  element.append(svg('title'), svg('path'), svg('text', { class: 'rtt' }), svg('text', { class: 'loss' }));
  return element;
}

function drawArc(element, link) {
  const { x, from, to, out, named, trouble } = link;
  const [title, path, rtt, loss] = element.children;
  // A curve's middle is three quarters of the way out to its two handles.
  const handle = x - out / 0.75;
  set(element, { class: link.suspect ? 'silent' : trouble ? 'losing' : null });
  set(path, { d: `M${x} ${from}C${handle} ${from} ${handle} ${to} ${x} ${to}` });
  const lost = link.loss === null ? 'nothing sent of late' : `${text.share(link.loss)} lost`;
  say(title, `${link.nodes.join(' and ')}: ${link.suspect ? 'does not answer, ' : ''}round trip ${text.ms(link.rtt_ms)}, ${lost}`);
  const at = { x: x - out, y: (from + to) / 2 };
  say(set(rtt, { x: at.x, y: at.y - 1 }), named ? (link.suspect ? 'silent' : text.ms(link.rtt_ms)) : '');
  say(set(loss, { x: at.x, y: at.y + 11 }), named ? `${text.share(link.loss)} lost` : '');
}

function nodeBox() {
  return [svg('text', { class: 'name', x: 12, y: 22 }), svg('text', { class: 'state', y: 22 }), svg('text', { class: 'line', x: 12, y: 41 })];
}

function fillNode(element, node, dense) {
  const [title, , name, state, line] = element.children;
  const is = nodeState(node);
  set(element, { class: `box node ${is}${node.this ? ' this' : ''}`, 'aria-label': `node ${node.key}, ${is}, ${nodeLine(node)}` });
  say(title, `${node.key}${node.this ? ', which tells this page' : ''}: ${is}${node.silent ? `; ${node.silent}` : ''}`);
  say(name, text.short(node.key, 15));
  say(set(state, { x: node.wide - 12 }), is);
  say(line, dense ? '' : nodeLine(node));
}

function smallBox() {
  return [svg('text', { class: 'name', x: 10, y: 20 }), svg('text', { class: 'flows', y: 20 })];
}

function fillSmall(element, item) {
  const [title, , name, flows] = element.children;
  const open = item.flows ? text.plural(item.flows, 'flow') : item.kind ?? '';
  const state = item.state.replace(' ', '-');
  set(element, { class: `box ${state}`, 'aria-label': [item.label, open, item.state === 'up' ? '' : item.state].filter(Boolean).join(', ') });
  say(title, `${item.label}${item.nodes ? `, linked to ${item.nodes.join(', ')}` : ''}${item.state === 'up' ? '' : `: ${item.state}`}`);
  say(name, text.short(item.label, open ? 15 : 22));
  say(set(flows, { x: item.wide - 10 }), open);
}

function legend(state, left, dense) {
  const parts = [];
  if (dense) parts.push('Of so many nodes, links are drawn that this node has or that lose packets.');
  if (left) parts.push(`${text.plural(left, 'more node')}: see the table.`);
  if (state.agents.size > SINGLE) parts.push('Agents that are linked to the same nodes are drawn as one.');
  if (state.endpoints.size > SINGLE) parts.push('Of the endpoints, the busiest are drawn.');
  if (!state.agents.size) parts.push('No agent is linked.');
  return parts.join(' ');
}
