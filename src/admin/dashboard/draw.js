// Elements, made once and changed in place. Text is set as text: names are chosen by others.

const SVG = 'http://www.w3.org/2000/svg';

export function svg(tag, attributes = {}) {
  return set(document.createElementNS(SVG, tag), attributes);
}

export function html(tag, attributes = {}, text = '') {
  return say(set(document.createElement(tag), attributes), text);
}

/** Sets what is different; null takes an attribute away. */
export function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null) element.removeAttribute(name);
    else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
  }
  return element;
}

export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
  return element;
}

const made = new WeakMap();

/** Has a parent hold an element for each item, in their order: one that is there already is kept. */
export function keyed(parent, items, make, update) {
  const before = made.get(parent) ?? new Map();
  const now = new Map();
  let place = parent.firstElementChild;
  for (const item of items) {
    const element = before.get(item.key) ?? make(item);
    before.delete(item.key);
    now.set(item.key, element);
    update(element, item);
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
  }
  for (const element of before.values()) element.remove();
  made.set(parent, now);
}
