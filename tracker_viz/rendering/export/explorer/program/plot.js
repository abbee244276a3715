// One map with names along its sides.

/**
 * A canvas of cells with names along its sides, whose cells can be pointed at, touched, and reached
 * with the arrow keys.
 *
 * `left`, `bottom`: names of rows and columns; those are left out that have no room.
 * `widest`: pixels of a cell at most; `tallest`: part of the window's height that it may take.
 * `describe(row, column, index)`: what a cell says; `press(row, column)`: what it does.
 */
function plot(options) {
  const { rows, columns } = options;
  const canvas = make('canvas', { tabindex: 0, role: 'application',
    'aria-label': `${options.label}: arrow keys go from cell to cell` });
  const names = draw('svg', { 'aria-hidden': 'true' });
  const [rowBand, columnBand, cellMark, ring] = ['row', 'column', 'cell', 'ring'].map((name) =>
    make('div', { class: name === 'ring' ? 'ring' : `cursor ${name}`, hidden: '' }));
  const numbers = draw('svg', { class: 'numbers', 'aria-hidden': 'true' });
  const inner = make('div', { class: 'inner' }, canvas, names, numbers, ring, rowBand, columnBand,
    cellMark);
  const element = make('div', { class: 'plot' }, inner);
  let index = null, place = { cellWidth: 1, cellHeight: 1, x: 0, y: 0 }, cursor = null;

  layOutFor(element, (width) => {
    place = placed(options, width);
    const height = rows * place.cellHeight, wide = columns * place.cellWidth;
    canvas.style.cssText = `left: ${place.x}px; top: ${place.y}px; width: ${wide}px; `
      + `height: ${height}px`;
    ring.style.cssText = canvas.style.cssText;
    inner.style.width = `${place.x + wide + 4}px`;
    inner.style.height = `${place.y + height + place.below}px`;
    nameSides(names, options, place);
    if (index !== null) paint(index);
    if (cursor) mark(...cursor);
  });

  /** Print each cell's value where the cells have the room. */
  function printNumbers() {
    numbers.replaceChildren();
    if (place.cellWidth < 30 || place.cellHeight < 16) return;
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        const { text, color } = options.number(row, column, index);
        if (textWidth(text) > place.cellWidth - 2) continue;
        numbers.append(draw('text', { x: place.x + (column + 0.5) * place.cellWidth,
          y: place.y + (row + 0.5) * place.cellHeight, fill: color, 'text-anchor': 'middle',
          'dominant-baseline': 'central' }, text));
      }
    }
  }

  function mark(row, column) {
    cursor = [row, column];
    const { x, y, cellWidth, cellHeight } = place;
    const boxes = [[rowBand, x, y + row * cellHeight, columns * cellWidth, cellHeight],
      [columnBand, x + column * cellWidth, y, cellWidth, rows * cellHeight],
      [cellMark, x + column * cellWidth - 1, y + row * cellHeight - 1, cellWidth + 2,
        cellHeight + 2]];
    for (const [box, left, top, width, height] of boxes) {
      box.hidden = false;
      box.style.cssText = `left: ${left}px; top: ${top}px; width: ${Math.max(2, width)}px; `
        + `height: ${Math.max(2, height)}px`;
    }
    rowBand.hidden = columnBand.hidden = !options.hasBands;
  }

  function unmark() {
    cursor = null;
    for (const box of [rowBand, columnBand, cellMark]) box.hidden = true;
  }

  function cellUnder(event) {
    const area = canvas.getBoundingClientRect();
    return [clamp(Math.floor((event.clientY - area.top) / area.height * rows), 0, rows - 1),
      clamp(Math.floor((event.clientX - area.left) / area.width * columns), 0, columns - 1)];
  }

  function point(row, column, where) {
    mark(row, column);
    options.pointed?.(row, column);
    tip(() => options.describe(row, column, index), where);
  }

  canvas.addEventListener('pointermove', (event) => {
    if (event.pointerType === 'mouse' || event.buttons) point(...cellUnder(event), event);
  });
  canvas.addEventListener('pointerleave', (event) => {
    if (event.pointerType !== 'mouse') return;
    hideTip();
    if (!options.hasBands) unmark();
  });
  canvas.addEventListener('click', (event) => {
    const cell = cellUnder(event);
    if (options.press) options.press(...cell);
    else point(...cell, event);
  });
  canvas.addEventListener('keydown', (event) => {
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    if (event.key === 'Enter' && cursor && options.press) options.press(...cursor);
    if (!(event.key in moves)) return;
    event.preventDefault();
    event.stopPropagation();
    const [down, right] = cursor ? moves[event.key] : [0, 0];
    const [row, column] = cursor ?? [0, 0];
    const next = [clamp(row + down, 0, rows - 1), clamp(column + right, 0, columns - 1)];
    const area = canvas.getBoundingClientRect();
    point(...next, { clientX: area.left + (next[1] + 1) * place.cellWidth,
      clientY: area.top + (next[0] + 1) * place.cellHeight });
  });
  canvas.addEventListener('blur', () => { if (!options.hasBands) { unmark(); hideTip(); } });

  function paint(at) {
    index = at;
    options.paintCanvas(canvas, at);
    // Smaller than its cells it is smoothed, or it would drop some.
    const scale = place.cellWidth * columns / canvas.width * devicePixelRatio;
    canvas.style.imageRendering = scale < 1 ? 'auto' : 'pixelated';
    if (options.number) printNumbers();
  }

  return {
    element, mark, paint,
    ring(color, isHere) {
      ring.hidden = !color;
      ring.classList.toggle('elsewhere', !isHere);
      element.style.setProperty('--role', color);
    },
  };
}

const layOuts = new Map();  // element -> what lays it out for its width
const widthOf = new WeakMap();  // the width that it was laid out for
const widths = new ResizeObserver((entries) => entries.forEach(({ target, contentRect }) =>
  layOutIn(target, Math.round(contentRect.width))));

/** Call `layOut(width)` once the element is part of the page, and when its width changes. */
const layOutFor = (element, layOut) => layOuts.set(element, layOut);

/** Lay out the elements of a new view: all are measured first, because each that is changed makes
    the browser lay out the page before the next can be measured. */
function layOutNew() {
  for (const element of layOuts.keys()) if (!element.isConnected) {
    widths.unobserve(element);
    layOuts.delete(element);
  }
  const measured = [...layOuts.keys()].map((element) => [element, element.clientWidth]);
  for (const [element, width] of measured) {
    layOutIn(element, width);
    widths.observe(element);
  }
}

function layOutIn(element, width) {
  // The observer calls once at first, and again for the height that a layout sets.
  if (!width || widthOf.get(element) === width) return;
  widthOf.set(element, width);
  layOuts.get(element)?.(width);
}

const LONGEST_NAME = 120;  // pixels

/** Sizes of a plot in `width` pixels: its cells, where they begin, and what is below them. */
function placed(options, width) {
  const { rows, columns, left, bottom, bracket } = options;
  const aside = bracket ? 22 : 0;
  const longest = Math.min(LONGEST_NAME, 0.22 * width);
  const x = Math.min(longest, Math.max(0, ...left.map(textWidth))) + 8 + aside;
  const turned = Math.min(LONGEST_NAME, Math.max(0, ...bottom.map(textWidth)));
  const below = (options.isTurned ? turned : 14) + 8 + (bracket ? 26 : 0);
  const room = width - x - 4;
  const tall = options.isSquare ? innerHeight - dockHeight - below - 70
    : options.tallest * innerHeight - below;
  const widest = options.widest ?? Infinity;
  let cellWidth = Math.min(room / columns, widest);
  let cellHeight = Math.max(Math.min(cellWidth, tall / rows), 2);
  if (options.isSquare) {
    const least = Math.min(options.least ?? 0, room);
    const side = Math.max(Math.min(room, tall), least, Math.min(room, 180));
    cellWidth = cellHeight = side / columns;
  }
  [cellWidth, cellHeight] = [whole(cellWidth), whole(cellHeight)];
  return { x, y: 4, below, cellWidth, cellHeight, longest };
}

/** Whole pixels of the screen where that costs little: all cells are equally large then. */
function whole(size) {
  const fewer = Math.floor(size * devicePixelRatio) / devicePixelRatio;
  return fewer > 0.88 * size ? fewer : size;
}

const ruler = make('canvas').getContext('2d');
ruler.font = '12px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';
const textWidth = (text) => ruler.measureText(text).width;

/** Shorten a name to what fits into `room` pixels. */
function fitted(text, room) {
  if (textWidth(text) <= room) return text;
  let short = text.slice(0, 40);
  while (short && textWidth(`${short}…`) > room) short = short.slice(0, -1);
  return `${short}…`;
}

function nameSides(svg, options, place) {
  const { left, bottom, isTurned, rows, columns, bracket } = options;
  const { x, y, cellWidth, cellHeight, longest } = place;
  const top = y + rows * cellHeight;
  // Several names may share a cell of a pooled map: these stand at their part of it.
  const down = rows * cellHeight / left.length, across = columns * cellWidth / bottom.length;
  const rowsApart = Math.max(1, Math.ceil(13 / down));
  const wanted = isTurned ? 13 : Math.max(0, ...bottom.map(textWidth)) + 8;
  const columnsApart = Math.max(1, Math.ceil(wanted / across));
  svg.replaceChildren();
  left.forEach((name, at) => {
    if (at % rowsApart) return;
    svg.append(draw('text', { x: x - 6, y: y + (at + 0.5) * down, 'text-anchor': 'end',
      'dominant-baseline': 'central' }, fitted(name, longest)));
  });
  bottom.forEach((name, at) => {
    if (at % columnsApart) return;
    const middle = x + (at + 0.5) * across;
    const turn = { transform: `translate(${middle} ${top + 6}) rotate(-90)`, 'text-anchor': 'end',
      'dominant-baseline': 'central' };
    const flat = { x: middle, y: top + 14, 'text-anchor': 'middle' };
    svg.append(draw('text', isTurned ? turn : flat, fitted(name, LONGEST_NAME)));
  });
  if (bracket) brackets(svg, bracket, { x, y, top, down, across, bottom: place.below });
}

/** Say along both sides which tokens are which copy of the repeated ones. */
function brackets(svg, { start, period, length }, place) {
  const floor = place.top + place.bottom - 8, wall = 11;
  for (let copy = 0; start + copy * period < length; copy++) {
    const from = start + copy * period, to = Math.min(length, from + period);
    const [top, end] = [place.y + from * place.down + 1, place.y + to * place.down - 1];
    const [left, right] = [place.x + from * place.across + 1, place.x + to * place.across - 1];
    const beside = `M${wall + 7} ${top}h-3V${end}h3`, below = `M${left} ${floor - 8}v3H${right}v-3`;
    svg.append(draw('path', { d: beside + below, fill: 'none', stroke: run.theme.dim }));
    const name = [`copy ${copy + 1}`, String(copy + 1)].find((text) =>
      textWidth(text) < Math.min(end - top, right - left));
    if (name) svg.append(
      draw('text', { transform: `translate(${wall} ${(top + end) / 2}) rotate(-90)`,
        'text-anchor': 'middle' }, name),
      draw('text', { x: (left + right) / 2, y: floor + 5, 'text-anchor': 'middle' }, name));
  }
}
