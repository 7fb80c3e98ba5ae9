// What has happened between two states of the cluster, in words.

import { agentState } from './tables.js';
import { agentName, count, plural } from './text.js';

/** So many of a kind are named one by one. */
const NAMED = 3;

/** What is shown, after an event: everything anew, or what has changed. */
export function changed(state, event) {
  const { node, cluster, rates, more } = event;
  const next = { node, cluster, rates, more };
  for (const kind of ['nodes', 'links', 'endpoints', 'agents']) {
    const rows = new Map(event.full || !state ? [] : state[kind]);
    for (const key of event.gone[kind]) rows.delete(key);
    for (const row of event[kind]) rows.set(row.key, row);
    next[kind] = rows;
  }
  return next;
}

const LEVELS = {
  linked: 'good', node_linked: 'good', reload: 'good', link_refused: 'bad', node_gone: 'bad', reload_refused: 'bad',
};

/** A sentence of what the node itself has noted, with what it is. */
export function noted({ what, who, why, times }) {
  const often = times > 1 ? `, ${count(times)} times` : '';
  return [LEVELS[what] ?? 'note', `${who}: ${what.replaceAll('_', ' ')}${often}: ${why}`];
}

/** Sentences, each with what it is: `plain`, `good`, `note` or `bad`. */
export function story(before, after) {
  if (!before) return [['plain', `looking at the cluster ${after.cluster} through the node ${after.node}`]];
  return [
    ...nodes(before.nodes, after.nodes),
    ...comings(before.agents, after.agents, (agent) => `the agent ${agentName(agent)}`, 'agent', ['is linked', 'are linked'], ['is gone', 'are gone']),
    ...comings(before.endpoints, after.endpoints, (endpoint) => `the endpoint ${endpoint.endpoint}`, 'endpoint', ['is served', 'are served'],
      ['is served no more', 'are served no more']),
    ...answers(before.agents, after.agents),
  ];
}

function* nodes(before, after) {
  for (const [key, node] of after) {
    const was = before.get(key);
    if (!was) {
      yield ['good', node.unlinked ? `${key} is seen by other nodes alone` : `${key} has joined, ${node.phase}`];
      continue;
    }
    if (was.phase !== node.phase) yield [node.phase === 'ready' ? 'good' : 'note', phase(key, node)];
    if (was.suspect !== node.suspect) yield node.suspect ? ['bad', `${key} does not answer`] : ['good', `${key} answers again`];
    else if (!was.silent && node.silent && !node.suspect) yield ['note', node.silent];
  }
  for (const [key, was] of before) {
    if (!after.has(key)) yield was.phase === 'draining' ? ['note', `${key} has left`] : ['bad', `${key} is gone`];
  }
}

function phase(key, node) {
  if (node.phase !== 'draining') return `${key} is ${node.phase}`;
  const has = [node.agent_links && plural(node.agent_links, 'agent'), node.flows && plural(node.flows, 'open flow')].filter(Boolean);
  return `${key} is draining${has.length ? `: it has ${has.join(' and ')}` : ''}`;
}

function* comings(before, after, name, what, come, gone) {
  const missing = (from, to) => [...from].filter(([key]) => !to.has(key)).map(([, row]) => row);
  for (const [rows, level, [one, many]] of [[missing(after, before), 'good', come], [missing(before, after), 'note', gone]]) {
    if (rows.length <= NAMED) for (const row of rows) yield [level, `${name(row)} ${one}`];
    else yield [level, `${plural(rows.length, what)} ${many}`];
  }
}

function* answers(before, after) {
  const turned = [...after.values()].filter((agent) => before.has(agent.key) && before.get(agent.key).suspect !== agent.suspect);
  const all = [[true, 'bad', ['does not answer', 'do not answer']], [false, 'good', ['answers again', 'answer again']]];
  for (const [suspect, level, says] of all) {
    const agents = turned.filter((agent) => agent.suspect === suspect);
    const which = (agent) => (agentState(agent) === 'partly silent' ? 'a link of the agent' : 'the agent');
    if (agents.length <= NAMED) for (const agent of agents) yield [level, `${which(agent)} ${agentName(agent)} ${says[0]}`];
    else yield [level, `${plural(agents.length, 'agent')} ${says[1]}${suspect ? ', or a link of each' : ''}`];
  }
}
