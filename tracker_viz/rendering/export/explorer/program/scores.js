// Small maps of scores, and tiles of weights.

function scoreCards() {
  const shown = scores.filter((part) => part.isShown);
  const groups = [['Scores of heads', 'block ↓ head →', 'score'],
    ['Weights', 'block ↓ matrix →', 'summary'], ['Further maps', '', 'panel']];
  return groups.map(([title, axes, kind]) => cardGroup(title, axes,
    shown.filter((part) => part.kind === kind))).filter(Boolean);
}

/** Cards of one kind, below them the scales that several of them share; null without any. */
function cardGroup(title, axes, parts) {
  if (!parts.length) return null;
  const cards = parts.map(scoreCard), isWide = parts[0].columns > 48;
  const list = make('div', { class: isWide ? 'cards wide' : 'cards' },
    ...cards.map((card) => card.element));
  const isAlone = ({ scale }) => parts.filter((part) => part.scale === scale).length === 1;
  const shared = new Set(parts.filter((part) => !isAlone(part)).map(({ scale }) => scale));
  parts.forEach((part, at) => {
    if (isAlone(part)) cards[at].element.append(scaleBar(part.scale));
  });
  return {
    element: section(title, axes, list, ...[...shared].map(scaleBar)),
    paint: (index) => cards.forEach((card) => card.paint(index)),
  };
}

function scoreCard(part) {
  const role = run.roles[part.role];
  const color = part.kind === 'score' && role ? role.color : null;
  const swatch = make('i', { class: 'swatch', style: `background: ${color}`,
    hidden: color ? null : '' });
  const names = part.columnNames;
  const shown = part.kind === 'panel' ? names?.map(visible) : names;
  const isOfHeads = part.kind === 'score';
  const cellWords = (row, column) => {
    if (isOfHeads) return headName(`${row}.${column}`);
    if (part.kind === 'summary') return `block ${row}, ${names[column]}`;
    return `row ${row}, column ${column}${names ? ` ${JSON.stringify(names[column])}` : ''}`;
  };
  const map = plot({
    label: part.title, rows: part.rows, columns: part.columns, widest: 38, tallest: 0.4,
    left: Array.from({ length: part.rows }, (_, block) => String(block)),
    bottom: shown ?? Array.from({ length: part.columns }, (_, head) => String(head)),
    isTurned: !!names,
    paintCanvas: (canvas, index) => paint(canvas, part, scoresOf[index]),
    number(row, column, index) {
      const cell = cellAt(part, row, column), scale = run.scales[part.scale];
      if (cell < 0) return { text: '', color: 'none' };
      const level = scoresOf[index]?.[cell] ?? 0;
      return { text: shortText(scale, level), color: inkOn(scale.pixels[level]) };
    },
    describe(row, column, index) {
      const cell = cellAt(part, row, column), scale = run.scales[part.scale];
      const value = cell < 0 ? 'nothing here' : valueText(scale, scoresOf[index][cell]);
      return `${cellWords(row, column)} · ${part.title}: ${value}`;
    },
    press: isOfHeads ? (row, column) => {
      if (heads.includes(`${row}.${column}`)) open(`${row}.${column}`);
    } : null,
  });
  map.element = make('figure', { class: 'card' }, make('h3', {}, swatch, part.title), map.element);
  return map;
}

/** Weight matrices, one grid for each way to show them. */
function matrixGrids() {
  return [...new Set(matrices.map((map) => map.section))].map((title) =>
    matrixGrid(title, matrices.filter((map) => map.section === title)));
}

/** A tile for each matrix: blocks stand beside each other where they are more than the matrices. */
function matrixGrid(title, maps) {
  const kinds = [...new Set(maps.map((map) => map.title))];
  const blocks = [...new Set(maps.map((map) => map.block))];
  const isWide = blocks.length > kinds.length;
  const [down, along] = isWide ? [kinds, blocks] : [blocks, kinds];
  const grid = make('div', { class: 'matrices', role: 'group', 'aria-label': title,
    style: `--columns: ${along.length}` });
  grid.append(make('span'), ...along.map((name) =>
    make('span', { class: 'label top-label' }, String(name))));
  const tiles = [];
  for (const left of down) {
    grid.append(make('span', { class: 'label' }, String(left)));
    for (const top of along) {
      const [kind, block] = isWide ? [left, top] : [top, left];
      const map = maps.find((each) => each.block === block && each.title === kind);
      if (!map) { grid.append(make('span')); continue; }
      const tile = mapTile(map, `${kind}, block ${block}`);
      tiles.push(tile);
      grid.append(tile.element);
    }
  }
  rove(grid, along.length);
  return {
    element: section(title, isWide ? 'matrix ↓ block →' : 'block ↓ matrix →', grid,
      scaleBar(maps[0].scale), make('p', { class: 'hint' }, `Each map: ${maps[0].axes}.`)),
    paint: (index) => tiles.forEach((tile) => tile.paint(index)),
  };
}

function scaleBar(key) {
  const scale = run.scales[key];
  const stops = Array.from(scale.pixels.subarray(0, LAST_LEVEL + 1), css); // all: a scale may have a jump
  const ticks = make('div', { class: 'ticks' });
  for (const [position, text] of scale.ticks) {
    const side = position < 0.02 ? 'first' : position > 0.98 ? 'last' : '';
    ticks.append(make('span', { class: side, style: `left: ${100 * position}%` }, text));
  }
  return make('div', { class: 'scale' }, scale.title,
    make('div', { class: 'bar', style: `background: linear-gradient(to right, ${stops})` }), ticks);
}
