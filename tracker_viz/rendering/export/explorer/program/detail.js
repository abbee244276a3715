// One head or matrix, large, and its scores over the run.

function detail(id) {
  const isHead = !id.startsWith('m');
  const order = isHead ? heads : matrices.map((map) => map.id);
  const place = order.indexOf(id);
  const turn = (by) => open(order[(place + by + order.length) % order.length]);
  const header = detailHeader(id, isHead, turn);
  const maps = isHead ? headMaps.map((row) => row.get(id)).filter(Boolean) : [matrices[place]];
  const two = moments().length > 1 || maps.length > 1;
  const large = maps.flatMap((map) => moments().map((_, at) => ({ at, ...largeMap(map) })));
  const pictures = make('div', { class: two ? 'pictures two' : 'pictures' },
    ...large.map((each) => each.element));
  const side = make('div', { class: 'aside' });
  const body = make('div', { class: two ? 'body two' : 'body' }, pictures, side);
  const curves = isHead && (run.curves.length || headScores.length) ? scoreCurves(id) : null;
  if (curves) {
    side.append(curves.roles);
    body.append(curves.others);
  }
  // Beside one map there is room for what it says; below each of several otherwise.
  if (!two) side.append(...large.map((each) => each.words));
  else large.forEach((each) => each.element.append(each.words));
  return {
    element: make('section', { class: 'detail' }, header.element, header.meaning, body),
    turn,
    paint(indices) {
      header.paint();
      large.forEach((each) => each.paint(indices[each.at], indices.length > 1));
      curves?.paint(indices);
    },
  };
}

/** The name of what is opened, the role that a head has, and the ways to the others. */
function detailHeader(id, isHead, turn) {
  const title = make('h2', { 'aria-live': 'polite' });
  const meaning = make('p', { class: 'meaning dim' });
  const word = isHead ? 'head' : 'matrix';
  const back = make('button', { class: 'turn-back', title: 'previous (p)',
    'aria-label': `previous ${word}`, onclick: () => turn(-1) },
  '‹', make('span', { class: 'word' }, ` previous ${word}`));
  const forward = make('button', { class: 'turn-forward', title: 'next (n)',
    'aria-label': `next ${word}`, onclick: () => turn(1) },
  make('span', { class: 'word' }, `next ${word} `), '›');
  const all = make('button', { title: 'back to all maps (Esc)', onclick: close }, '← all');
  const matrix = matrices.find((map) => map.id === id);
  const name = isHead ? headName(id) : `${matrix.title} · block ${matrix.block}`;
  return {
    element: make('nav', { 'aria-label': 'maps' }, all, title, back, forward),
    meaning,
    paint() {
      const role = isHead ? roleOf(id, state.at) : null;
      meaning.textContent = [role && meaningWords(id, role.name), run.ablations[id]]
        .filter(Boolean).join(' · ');
      // Only what differs is written: a screen reader says it once.
      if (title.textContent === (role ? `${name} · ${borderWords(role)}` : name)) return;
      title.textContent = role ? `${name} · ` : name;
      if (role) title.append(make('span', { class: 'of-role',
        style: `--role: ${run.roles[role.name].color}` }, borderWords(role)));
    },
  };
}

/** What a role means, and since when the head has it at the step that is shown. */
function meaningWords(id, role) {
  let first = state.at;
  while (first > 0 && roleOf(id, first - 1)?.name === role) first--;
  const { shape, meaning } = run.roles[role];
  return `${shape}: ${meaning} · since step ${number(run.steps[first])}`;
}

/** Tokens as they can be told apart: blanks and line ends are seen. */
function visible(token) {
  const shown = token.replaceAll('\n', '↵').replaceAll('\t', '⇥').replaceAll(' ', '␣');
  return shown || '∅';
}

/** A head or a matrix as large as there is room, and what its cells say. */
function largeMap(map) {
  const isHead = map.kind === 'heads';
  const tokens = isHead ? run.rows[map.row].tokens : [];
  const { period, start } = isHead ? run.rows[map.row] : {};
  const heading = make('h3'), reading = make('p', { class: 'reading', role: 'status' });
  let index = 0, cell = null;
  const picture = plot({
    label: isHead ? headName(map.id) : map.title, rows: map.rows, columns: map.columns,
    left: tokens.map(visible), bottom: tokens.map(visible), isTurned: true, hasBands: true,
    isSquare: isHead, tallest: 0.72, least: run.drawn?.[map.row ?? 0], widest: 24,
    bracket: period ? { period, start, length: tokens.length } : null,
    paintCanvas: (canvas, at) => paint(canvas, map, capturesOf[at]),
    describe: (row, column, at) => describe(map, row, column, at),
    pointed(row, column) { cell = [row, column]; read(); },
  });
  const sentence = tokenSentence(map, tokens, look);

  /** Mark where a token looks most. */
  function look(token) {
    const row = Math.min(map.rows - 1, Math.floor(token / map.pool));
    cell = [row, strongest(map, row, capturesOf[index])];
    picture.mark(...cell);
    read();
  }

  function read() {
    if (cell) {
      reading.textContent = describe(map, ...cell, index);
      sentence.paint(cell[0], capturesOf[index]);
    } else {
      const press = tokens.length ? ', or press a token to see where it looks' : '';
      reading.textContent = `Point at a cell for its value${press}.`;
    }
  }

  const title = isHead ? run.rows[map.row].title : map.section;
  const pooled = map.pool > 1 ? ` · each cell is the largest of ${map.pool} × ${map.pool}` : '';
  const axes = isHead ? `query ↓ key →${pooled}` : map.axes;
  return {
    element: make('div', { class: 'large' }, heading, make('p', { class: 'dim' }, axes),
      picture.element, scaleBar(map.scale)),
    words: make('div', { class: 'words' }, reading, sentence.element),
    paint(at, isCompared) {
      index = at;
      heading.textContent = isCompared ? `${title} · step ${number(run.steps[at])}` : title;
      picture.paint(at);
      const role = isHead ? roleOf(map.id, at, map.row) : null;
      picture.ring(role ? run.roles[role.name].color : '', role?.isHere);
      read();
    },
  };
}

/** Column at which a row of a map looks most: of signed values, that of the largest. */
function strongest(map, row, cells) {
  let best = 0, most = -1;
  for (let column = 0; column < map.columns; column++) {
    const at = cellAt(map, row, column);
    if (at < 0 || cells[at] > LAST_LEVEL) continue;
    const size = Math.abs(run.scales[map.scale].numbers[cells[at]]);
    if (size > most) [best, most] = [column, size];
  }
  return best;
}

/** The tokens as text: one that is pressed colors the others by how much it looks at them. */
function tokenSentence(map, tokens, look) {
  const words = tokens.map((token, at) => make('button', { tabindex: at ? -1 : 0,
    title: `token ${at}: where it looks`, onclick: () => look(at) }, visible(token)));
  const element = make('p', { class: 'sentence', hidden: tokens.length ? null : '' }, ...words);
  element.addEventListener('keydown', (event) => {
    const at = words.indexOf(event.target), by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by === undefined || !words[at + by]) return;
    event.preventDefault();
    event.stopPropagation();
    words[at + by].focus();
    look(at + by);
  });
  return {
    element,
    /** `row`: of the map, whose tokens look. */
    paint: (row, cells) => words.forEach((word, token) => {
      const column = Math.floor(token / map.pool), at = cellAt(map, row, column);
      const color = at < 0 ? panelPixel : run.scales[map.scale].pixels[cells[at]];
      word.setAttribute('aria-pressed', column === row);
      word.classList.toggle('ahead', at < 0);
      word.style.background = css(color);
      word.style.color = inkOn(color);
    }),
  };
}

/** What one cell of a head or a matrix says. */
function describe(map, row, column, index) {
  const at = cellAt(map, row, column), scale = run.scales[map.scale];
  const value = at < 0 ? 'nothing here: a token cannot look ahead'
    : valueText(scale, capturesOf[index][at]);
  if (map.kind !== 'heads') return `row ${row}, column ${column}: ${value} · ${scale.title}`;
  const tokens = run.rows[map.row].tokens;
  const name = (cell) => {
    const from = cell * map.pool, to = Math.min(from + map.pool, tokens.length || Infinity) - 1;
    const text = tokens.slice(from, to + 1).map((token) => JSON.stringify(token)).join(' ');
    return `${text} (${from === to ? from : `${from}–${to}`})`.trim();
  };
  return `${headName(map.id)}: ${name(row)} looks at ${name(column)}: ${value}`;
}
