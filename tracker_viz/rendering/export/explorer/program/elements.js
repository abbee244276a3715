// The page, its data, and how elements are made.

const root = document.currentScript?.closest('.tracker-viz')
  ?? document.querySelector('.tracker-viz:not([data-begun])');
root.dataset.begun = 'yes';
const $ = (selector) => root.querySelector(selector);
const run = JSON.parse($('.description').textContent);
const last = run.steps.length - 1;
// Part of another page, as in a notebook, it leaves that page's address and keys alone.
const isAlone = document.body.firstElementChild === root;
// More heads than this are shown as one map each of roles and of attention.
const MOST_TILES = 256;
const SVG = $('svg').namespaceURI;

/** Make an element; `attributes` that start with "on" are listeners, other children are text. */
function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// Steps with commas: a browser's own number formats take longer to load than a page of one head.
const number = (value) => String(value).replace(/\B(?=(\d{3})+$)/g, ',');
const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
const headName = (id) => `L${id.replace('.', 'H')}`;
const roleWords = (role) => role ? run.roles[role].label : '';
