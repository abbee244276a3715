// Small maps of scores, and tiles of weights.

function scoreCards() {
  const shown = scores.filter((part) => part.isShown);
  const groups = [['Scores of heads', 'block ↓ head →', shown.filter((p) => p.kind === 'score')],
    ['Weights', 'block ↓ matrix →', shown.filter((p) => p.kind !== 'score')]];
  return groups.filter(([, , parts]) => parts.length).map(([title, axes, parts]) => {
    const cards = parts.map(scoreCard), isWide = parts[0].columns > 48;
    const list = make('div', { class: isWide ? 'cards wide' : 'cards' },
      ...cards.map((card) => card.element));
    const scales = [...new Set(parts.map((part) => part.scale))];
    const shared = scales.length === 1 ? [scaleBar(scales[0])] : [];
    if (!shared.length) cards.forEach((card, at) => card.element.append(scaleBar(parts[at].scale)));
    return {
      element: section(title, axes, '', list, ...shared),
      paint: (index) => cards.forEach((card) => card.paint(index)),
      leave: () => cards.forEach((card) => card.leave()),
      placed: () => cards.forEach((card) => card.placed()),
    };
  });
}

function scoreCard(part) {
  const role = roles?.names.find((name) => roleWords(name) === part.title);
  const color = part.kind === 'score' && role ? run.roles[role].color : null;
  const swatch = make('i', { class: 'swatch', style: `background: ${color}`,
    hidden: color ? null : '' });
  const names = part.columnNames;
  const isOfHeads = part.kind === 'score';
  const columnWords = (column) => names ? names[column] : `head ${column}`;
  const map = plot({
    label: part.title, rows: part.rows, columns: part.columns, widest: 44, tallest: 0.4,
    left: Array.from({ length: part.rows }, (_, block) => String(block)),
    bottom: names ?? Array.from({ length: part.columns }, (_, head) => String(head)),
    isTurned: !!names,
    paintCanvas: (canvas, index) => paint(canvas, part, scoresOf[index]),
    number(row, column, index) {
      const cell = cellAt(part, row, column), scale = run.scales[part.scale];
      if (cell < 0) return { text: '', color: 'none' };
      const level = scoresOf[index]?.[cell] ?? 0;
      return { text: level === 255 ? 'NaN' : shortText(scale, level), color: inkOn(scale.pixels[level]) };
    },
    describe(row, column, index) {
      const cell = cellAt(part, row, column), scale = run.scales[part.scale];
      const value = cell < 0 ? 'nothing here' : valueText(scale, scoresOf[index][cell]);
      const who = isOfHeads ? headName(`${row}.${column}`) : `block ${row}, ${columnWords(column)}`;
      return `${who} · ${part.title}: ${value}`;
    },
    press: isOfHeads ? (row, column) => {
      if (heads.includes(`${row}.${column}`)) open(`${row}.${column}`);
    } : null,
  });
  map.element = make('figure', { class: 'card' }, make('h3', {}, swatch, part.title), map.element);
  return map;
}

/** Weight matrices in rows of blocks, one grid for each way to show them. */
function matrixGrids() {
  return [...new Set(matrices.map((map) => map.section))].map((title) => {
    const maps = matrices.filter((map) => map.section === title);
    const kinds = [...new Set(maps.map((map) => map.title))];
    const grid = make('div', { class: 'matrices', role: 'group', 'aria-label': title,
      style: `--columns: ${kinds.length}` });
    grid.append(make('span'), ...kinds.map((kind) =>
      make('span', { class: 'label top-label' }, kind)));
    const tiles = [];
    for (const block of [...new Set(maps.map((map) => map.block))]) {
      grid.append(make('span', { class: 'label' }, String(block)));
      for (const kind of kinds) {
        const map = maps.find((each) => each.block === block && each.title === kind);
        if (!map) { grid.append(make('span')); continue; }
        const tile = mapTile(map, `${kind}, block ${block}`);
        tiles.push(tile);
        grid.append(tile.element);
      }
    }
    rove(grid, kinds.length);
    return {
      element: section(title, 'block ↓ matrix →', `each map: ${maps[0].axes}`, grid,
        scaleBar(maps[0].scale)),
      paint: (index) => tiles.forEach((tile) => tile.paint(index)),
    };
  });
}

function scaleBar(key) {
  const scale = run.scales[key];
  const stops = Array.from({ length: 17 }, (_, at) => css(scale.pixels[Math.round(at * 254 / 16)]));
  const ticks = make('div', { class: 'ticks' });
  for (const [position, text] of scale.ticks) {
    const side = position < 0.02 ? 'first' : position > 0.98 ? 'last' : '';
    ticks.append(make('span', { class: side, style: `left: ${100 * position}%` }, text));
  }
  return make('div', { class: 'scale' }, scale.title,
    make('div', { class: 'bar', style: `background: linear-gradient(to right, ${stops})` }), ticks);
}
