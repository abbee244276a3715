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
    };
  });
}

/** A part of the page; `axes`: which way blocks and heads go. */
function section(title, axes, ...children) {
  const heading = make('h2', {}, `${title} `, make('span', { class: 'axes' }, axes));
  return make('section', { class: 'section' }, heading, ...children);
}

/** What a picture of one kind of head looks like, and what it means: an entry for each. */
function fillKey() {
  const taken = run.rows.length ? takenRoles() : [];
  for (const behavior of new Set(taken.map((name) => run.roles[name].behavior))) {
    const names = taken.filter((name) => run.roles[name].behavior === behavior);
    const { color, icon, shape, meaning } = run.roles[names[0]];
    const picture = draw('svg', { viewBox: '0 0 14 14', 'aria-hidden': 'true' },
      draw('path', { d: icon, fill: color }));
    const labels = names.map((name) => make('b', { style: `--role: ${run.roles[name].color}` },
      name === names[0] ? roleWords(name) : '(text)'));
    $('.key').append(make('li', { style: `--role: ${color}`, title: `${shape}: ${meaning}` },
      picture, make('span', {}, ...labels, make('i', {}, meaning))));
  }
  $('.key').hidden = !taken.length;
}

/** How a map of attention is read. */
function readingHint(map, hasDashes) {
  const looks = map.scale === 'indexer' ? 'may look' : 'looks';
  const words = [`Each row of a map is a token, marked at the tokens that it ${looks} at.`];
  if (map.pool > 1) words.push(`Each cell is the largest of ${map.pool} × ${map.pool}.`);
  if (hasDashes) words.push('Dashed: the head has its role on other rows than this one.');
  return make('p', { class: 'hint' }, words.join(' '));
}

/** All heads of one attention row, a tile for each. */
function headGrid(row) {
  const maps = headMaps[row];
  const blocks = blocksOfHeads.filter(([block, numbers]) =>
    numbers.some((head) => maps.has(`${block}.${head}`)));
  const columns = Math.max(...blocks.map(([, numbers]) => numbers.length));
  const grid = make('div', { class: 'heads', role: 'group',
    'aria-label': 'heads, in rows of blocks',
    style: `--columns: ${columns}; --rows: ${blocks.length}` });
  if (columns > 6) grid.classList.add('dense');
  const isRegular = blocks.every(([, numbers]) => numbers.every((n, at) => n === at));
  if (run.sharing > 1 && isRegular) sharedHeads(grid, columns);
  const tiles = [];
  for (const [block, numbers] of blocks) {
    grid.append(make('span', { class: 'label' }, String(block)));
    for (let column = 0; column < columns; column++) {
      const map = maps.get(`${block}.${numbers[column]}`);
      if (!map) { grid.append(make('span')); continue; }
      const tile = mapTile(map, headName(map.id));
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
  return {
    element: section(run.rows[row].title, 'block ↓ head →', grid, scaleBar(first.scale),
      readingHint(first, hasDashes(row))),
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
  let written = '', index = 0;
  hover(canvas, map, () => index);

  function wear(role) {
    const text = borderWords(role);
    if (text === written) return;
    written = text;
    element.classList.toggle('has-role', !!role);
    element.classList.toggle('elsewhere', !!role && !role.isHere);
    element.style.setProperty('--role', role ? run.roles[role.name].color : 'inherit');
    element.setAttribute('aria-label', text ? `${name}, ${text}` : name);
    // Beside a map of text it needs no saying that the role is one on text.
    words.textContent = role?.isHere ? roleWords(role.name).replace(' (text)', '') : '';
  }

  return {
    element, map,
    paint(at) {
      index = at;
      paint(canvas, map, capturesOf[at]);
      if (map.kind !== 'heads') return;
      const event = state.event ?? eventAt(at);
      const isTurning = at === state.at && !!event?.heads.includes(map.id)
        && [event.rows, ''].includes(event.rows && run.rows[map.row].kind);
      element.classList.toggle('turning', isTurning);
      if (isTurning) element.style.setProperty('--event', event.color);
      wear(roleOf(map.id, at, map.row));
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
