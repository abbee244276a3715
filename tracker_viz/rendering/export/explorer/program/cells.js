// Cells: bytes of each capture, unpacked when they are needed; where each map's are; and their
// colors and texts.

// Codes of a cell: a position on its color scale, or why it has none. cells.py has the same.
const LAST_LEVEL = 253, BLANK = 254, NONFINITE = 255;

function bytesOf(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const binary = atob(text), bytes = new Uint8Array(binary.length);
  for (let at = 0; at < bytes.length; at++) bytes[at] = binary.charCodeAt(at);
  return bytes;
}

/** The bytes that an element holds, which is then no longer needed. */
async function inflated(element) {
  const packed = new Blob([bytesOf(element.textContent)]);
  element.remove();
  const stream = packed.stream().pipeThrough(new DecompressionStream('deflate'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Unpack one element's captures, each of `size` cells, which are differences to the one before. */
async function unpack(element, size) {
  const all = await inflated(element);
  for (let at = size; at < all.length; at++) all[at] += all[at - size];
  const captures = [];
  for (let at = 0; size && at < all.length; at += size) captures.push(all.subarray(at, at + size));
  return captures;
}

const chunks = Array.from({ length: Math.ceil(run.steps.length / run.perChunk) }, () => ({}));
const capturesOf = new Array(run.steps.length);  // cells of the maps, by capture, once unpacked
let scoresOf = [];  // cells of roles and scores, by capture

/** An element that the browser may not have read yet, because it stands behind the script. */
async function arrived(selector) {
  if (!$(selector) && document.readyState === 'loading')
    await new Promise((done) => document.addEventListener('DOMContentLoaded', done, { once: true }));
  return $(selector);
}

/** Have the maps of a capture unpacked. */
function load(index) {
  const number = Math.floor(index / run.perChunk), chunk = chunks[number];
  chunk.loading ??= arrived(`script.maps[data-number="${number}"]`)
    .then((element) => unpack(element, mapCells))
    .then((captures) => {
      const first = number * run.perChunk, end = Math.min(first + run.perChunk, run.steps.length);
      for (let at = first; at < end; at++)
        capturesOf[at] = captures[at - first] ?? new Uint8Array(0);
    });
  return chunk.loading;
}

/** Colors of a scale's levels as the 32 bits of a canvas's pixel. */
function colorsOf(scale) {
  const rgb = bytesOf(scale.colors), colors = new Uint32Array(256);
  for (let level = 0; level <= LAST_LEVEL; level++)
    colors[level] = pixel(rgb[3 * level], rgb[3 * level + 1], rgb[3 * level + 2]);
  colors[BLANK] = panelPixel;
  colors[NONFINITE] = pixel(...rgbOf(run.theme.nonfinite));
  return colors;
}
const pixel = (red, green, blue) => (255 << 24 | blue << 16 | green << 8 | red) >>> 0;
const rgbOf = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
const css = (color) => `rgb(${color & 255} ${color >> 8 & 255} ${color >> 16 & 255})`;
const panelPixel = pixel(...rgbOf(run.theme.panel));
const isDark = (hex) => rgbOf(hex).reduce((sum, part) => sum + part) < 384;

for (const scale of Object.values(run.scales)) {
  scale.pixels = colorsOf(scale);
  scale.numbers = scale.values.map((text) => Number(text.replace('−', '-')));
}

/** Black or white, whichever is read on a color. */
function inkOn(color) {
  const light = 0.3 * (color & 255) + 0.59 * (color >> 8 & 255) + 0.11 * (color >> 16 & 255);
  return light > 128 ? '#000' : '#fff';
}

/** A level as a number of two digits or so. */
function shortText(scale, level) {
  if (level === BLANK) return '–';
  if (level === NONFINITE) return 'NaN';
  const value = scale.numbers[level], largest = Math.abs(scale.numbers[LAST_LEVEL]);
  if (Math.abs(value) >= 100 || largest < 0.1) return scale.values[level];
  return value.toFixed(Math.abs(value) < 9.95 ? 2 : 1).replace(/^(-?)0(?=\.)/, '$1');
}

/** Say a level as a value: a clipped one is only known to be at least so large. */
function valueText(scale, level) {
  if (level === BLANK) return 'no capture before this one';
  if (level === NONFINITE) return 'not finite';
  const [below, above] = scale.clipped;
  if (level === LAST_LEVEL && above) return `at least ${scale.values[level]}`;
  if (level === 0 && below) return `at most ${scale.values[0]}`;
  return `≈ ${scale.values[level]}`;
}

const headMaps = run.rows.map(() => new Map());  // for each attention row: head -> its map
const matrices = [];
let mapCells = 0;
for (const part of run.maps) {
  if (part.kind === 'heads') addHeads(part);
  else {
    matrices.push(Object.assign(part, { offset: mapCells, id: `m${matrices.length}` }));
    mapCells += part.rows * part.columns;
  }
}

function addHeads(part) {
  const { side } = part, size = part.causal ? side * (side + 1) / 2 : side * side;
  for (const [block, numbers] of part.heads) {
    for (const head of numbers) {
      const id = `${block}.${head}`, other = headMaps[part.row].get(id);
      const map = { ...part, id, block, head, rows: side, columns: side, offset: mapCells };
      if (!other || other.pool > map.pool) headMaps[part.row].set(id, map);
      if (!other) map.isInMosaic = true; else map.coarse = other.coarse ?? other;
      mapCells += size;
    }
  }
}

const scores = [];
const bordersOf = [];  // for each attention row: the part with its heads' roles
let scoreCells = 0;
for (const part of run.scores) {
  part.offset = scoreCells;
  scoreCells += part.rows * part.columns;
  if (part.kind === 'roles') bordersOf[part.row] = part;
  else scores.push(part);
  if (part.hidden) {
    const bits = bytesOf(part.hidden);
    part.isHidden = (cell) => bits[cell >> 3] >> (cell & 7) & 1;
  }
}

const headScores = scores.filter((part) => part.kind === 'score');
const blocksOfHeads = blockRows();
const heads = blocksOfHeads.flatMap(([block, numbers]) => numbers.map((n) => `${block}.${n}`));

/** [[block, [head, ...]], ...] of all heads that the page knows. */
function blockRows() {
  const grid = bordersOf[0] ?? headScores[0];
  if (!run.rows.length && grid) {
    const numbers = Array.from({ length: grid.columns }, (_, head) => head);
    return Array.from({ length: grid.rows }, (_, block) => [block, numbers]);
  }
  // Blocks may differ in how they mix tokens: each is on the attention rows of its kind only.
  const blocks = new Map();
  for (const part of run.maps.filter(({ kind }) => kind === 'heads'))
    for (const [block, numbers] of part.heads)
      blocks.set(block, [...new Set([...blocks.get(block) ?? [], ...numbers])]);
  return [...blocks].sort(([one], [other]) => one - other)
    .map(([block, numbers]) => [block, numbers.sort((one, other) => one - other)]);
}

/** Number of a map's cell among the bytes of a capture; -1 where a causal head cannot look. */
function cellAt(map, row, column) {
  if (map.isHidden?.(row * map.columns + column)) return -1;
  if (!map.causal) return map.offset + row * map.columns + column;
  return column > row ? -1 : map.offset + row * (row + 1) / 2 + column;
}

/** Paint a map's cells on a canvas, one pixel for each. */
function paint(canvas, map, cells) {
  const pixels = pixelsOf(canvas, map.columns, map.rows);
  paintCells(pixels, map.columns, 0, map, cells);
  canvas.getContext('2d').putImageData(canvas.picture, 0, 0);
}

function pixelsOf(canvas, width, height) {
  if (!canvas.picture || canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
    canvas.picture = new ImageData(width, height);
  }
  return new Uint32Array(canvas.picture.data.buffer);
}

/** Put a map into `pixels`, rows of `width`, from the pixel `start` on. */
function paintCells(pixels, width, start, map, cells) {
  const colors = run.scales[map.scale].pixels;
  let cell = map.offset;
  for (let row = 0; row < map.rows; row++) {
    const first = start + row * width, end = map.causal ? row + 1 : map.columns;
    for (let column = 0; column < end; column++) pixels[first + column] = colors[cells[cell++]];
    for (let column = end; column < map.columns; column++) pixels[first + column] = panelPixel;
  }
  if (map.isHidden)
    for (let at = 0; at < map.rows * map.columns; at++)
      if (map.isHidden(at)) pixels[start + at] = panelPixel;
}

const ELSEWHERE = 128;  // added to the code of a role that a head has on other rows only

/** The role of a head at a capture, and whether it has it on this attention row; or null. */
function roleOf(id, index, row = 0) {
  const part = bordersOf[row];
  if (!part) return null;
  const code = scoreLevel(part, id, index);
  if (!code) return null;
  return { name: part.names[code % ELSEWHERE - 1], isHere: code < ELSEWHERE };
}

/** A role and where a head has it, as text. */
function borderWords(role) {
  if (!role) return '';
  return roleWords(role.name) + (role.isHere ? '' : ', on other rows');
}

/** The roles that heads ever have, or that events are about, in the order of the run's. */
function takenRoles() {
  const taken = new Set(run.events.map((event) => event.role));
  for (const { offset, rows, columns, names } of bordersOf)
    for (const cells of scoresOf)
      for (let at = offset; at < offset + rows * columns; at++)
        if (cells[at]) taken.add(names[cells[at] % ELSEWHERE - 1]);
  return Object.keys(run.roles).filter((name) => taken.has(name));
}

/** Whether any head has its role on other rows of the probe than an attention row's. */
function hasDashes(row) {
  if (!bordersOf[row]) return false;
  const { offset, rows, columns } = bordersOf[row];
  return scoresOf.some((cells) =>
    cells.subarray(offset, offset + rows * columns).some((code) => code > ELSEWHERE));
}

function scoreLevel(part, id, index) {
  const [block, head] = id.split('.').map(Number);
  return scoresOf[index][part.offset + block * part.columns + head];
}
