// The overview: all maps of a step, or of two steps beside each other.

function overview() {
  return stages(() => {
    const parts = [];
    const attention = make('div', { class: 'attention' });
    const side = make('div', { class: 'side' });
    run.rows.forEach((row, place) => {
      const panel = heads.length > MOST_TILES ? manyHeads(place) : headGrid(place);
      parts.push(panel);
      attention.append(panel.element);
    });
    if (run.rows.length < 2) attention.classList.add('one');
    for (const panel of [...scoreCards(), ...matrixGrids()]) {
      parts.push(panel);
      side.append(panel.element);
    }
    const isSided = attention.children.length && side.children.length;
    const element = make('div', { class: isSided ? 'overview sided' : 'overview' });
    if (heads.length > MOST_TILES) element.classList.add('many');
    if (attention.children.length) element.append(attention);
    if (side.children.length) element.append(side);
    if (!element.children.length) element.append('There is nothing to show.');
    return {
      element,
      paint: (index) => parts.forEach((part) => part.paint(index)),
      leave: () => parts.forEach((part) => part.leave?.()),
      placed: () => parts.forEach((part) => part.placed?.()),
    };
  });
}

/** A part of the page; `axes` and `hint`: how it is read. */
function section(title, axes, hint, ...children) {
  const heading = make('h2', {}, `${title} `, make('span', { class: 'dim axes' }, axes), ' ',
    make('span', { class: 'dim' }, hint));
  return make('section', { class: 'section' }, heading, ...children);
}

/** The roles that any head ever has, in their colors. */
function roleLegend() {
  const legend = make('div', { class: 'roles' });
  const taken = new Set(run.events.map((event) => event.role));
  for (const name of roles?.names ?? []) {
    if (!run.taken.includes(name) && !taken.has(name)) continue;
    const swatch = make('i', { class: 'swatch', style: `background: ${run.roles[name].color}` });
    legend.append(make('span', {}, swatch, roleWords(name)));
  }
  return legend;
}

/** All heads of one attention row, a tile for each. */
function headGrid(row) {
  const columns = Math.max(...blocksOfHeads.map(([, numbers]) => numbers.length));
  const grid = make('div', { class: 'heads', role: 'group', 'aria-label': 'heads, in rows of blocks',
    style: `--columns: ${columns}; --rows: ${blocksOfHeads.length}` });
  if (columns > 6) grid.classList.add('dense');
  const isRegular = blocksOfHeads.every(([, numbers]) => numbers.every((n, at) => n === at));
  if (run.sharing > 1 && isRegular) sharedHeads(grid, columns);
  const tiles = [];
  for (const [block, numbers] of blocksOfHeads) {
    grid.append(make('span', { class: 'label' }, String(block)));
    for (let column = 0; column < columns; column++) {
      const map = headMaps[row].get(`${block}.${numbers[column]}`);
      if (!map) { grid.append(make('span')); continue; }
      const tile = mapTile(map, headName(map.id));
      if (!run.rows[row].isMeasured) tile.element.classList.add('elsewhere');
      tiles.push(tile);
      grid.append(tile.element);
    }
  }
  if (isRegular && columns > 1) {
    grid.append(make('span'));
    for (let head = 0; head < columns; head++)
      grid.append(make('span', { class: 'label top-label' }, String(head)));
  }
  rove(grid, columns);
  const first = tiles[0].map;
  const pooled = first.pool > 1 ? ` · each cell is the largest of ${first.pool} × ${first.pool}` : '';
  return {
    element: section(run.rows[row].title, 'block ↓ head →', HOW_TO_READ + pooled, roleLegend(), grid, scaleBar(first.scale)),
    paint: (index) => tiles.forEach((tile) => tile.paint(index)),
  };
}

/** A bracket above every group of heads that share keys and values. */
function sharedHeads(grid, columns) {
  grid.append(make('span'));
  for (let head = 0; head < columns; head += run.sharing)
    grid.append(make('span', { class: 'shared', title: 'these heads share keys and values',
      style: `grid-column: span ${Math.min(run.sharing, columns - head)}` }, 'shared k, v'));
}

/** A map that opens large when it is pressed. */
function mapTile(map, name) {
  const canvas = make('canvas'), words = make('i');
  const label = make('span', { class: 'name' }, name, words);
  const element = make('button', { class: 'tile', 'data-map': map.id, 'aria-label': name,
    style: `--aspect: ${map.columns} / ${map.rows}`, onclick: () => open(map.id) }, canvas);
  if (map.kind === 'heads') element.append(label);
  let role = '', index = 0;
  hover(canvas, map, () => index);
  return {
    element, map,
    paint(at) {
      index = at;
      paint(canvas, map, capturesOf[at]);
      if (map.kind !== 'heads') return;
      const event = state.event ?? eventAt(at);
      element.classList.toggle('turning', at === state.at && !!event?.heads.includes(map.id));
      const now = roleOf(map.id, at) ?? '';
      if (now === role) return;
      role = now;
      element.classList.toggle('has-role', !!role);
      element.style.setProperty('--role', role ? run.roles[role].color : 'inherit');
      element.setAttribute('aria-label', role ? `${name}, ${roleWords(role)}` : name);
      words.textContent = roleWords(role);
    },
  };
}

/** One of a grid's tiles takes the Tab key; arrow keys go from there to the others. */
function rove(grid, columns) {
  const tiles = [...grid.querySelectorAll('.tile')];
  tiles.forEach((tile, place) => { tile.tabIndex = place ? -1 : 0; });
  const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
  grid.addEventListener('keydown', (event) => {
    const place = tiles.indexOf(event.target);
    const next = tiles[place + (moves[event.key] ?? NaN)];
    if (place < 0 || !(event.key in moves)) return;
    event.preventDefault();
    event.stopPropagation();
    if (next) focusTile(next);
  });
}

function focusTile(tile) {
  for (const other of tile.parentElement.querySelectorAll('.tile')) other.tabIndex = -1;
  tile.tabIndex = 0;
  tile.focus();
}
