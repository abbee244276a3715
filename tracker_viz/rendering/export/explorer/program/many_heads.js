// The overview of too many heads for a tile each.

/** Too many heads for a tile each: a map of their roles, those that tell most, and all small. */
function manyHeads(row) {
  const parts = [];
  const element = make('div', { class: 'section' });
  if (bordersOf[0] && row === 0) {
    const map = roleMap();
    parts.push(map);
    element.append(section('Roles of all heads', 'block ↓ head →', map.element,
      make('p', { class: 'hint' }, 'The stronger the color, the higher the score of the role.')));
  }
  const telling = run.telling.filter((id) => headMaps[row].has(id)).slice(0, 12);
  if (telling.length) {
    const columns = Math.min(4, telling.length);
    const grid = make('div', { class: 'heads zooms', role: 'group', 'aria-label': 'telling heads',
      style: `--columns: ${columns}; --rows: ${Math.ceil(telling.length / columns)}` });
    for (const [place, id] of telling.entries()) {
      if (place % columns === 0) grid.append(make('span'));
      const tile = mapTile(headMaps[row].get(id), headName(id));
      parts.push(tile);
      grid.append(tile.element);
    }
    rove(grid, columns);
    const first = headMaps[row].get(telling[0]);
    element.append(section('Heads to look at', '', grid, readingHint(first, hasDashes(row))));
  }
  const mosaic = mosaicOf(row);
  parts.push(mosaic);
  const scale = run.maps.find((part) => part.kind === 'heads' && part.row === row).scale;
  element.append(section(`${run.rows[row].title} · all heads`, 'block ↓ head →', mosaic.element,
    scaleBar(scale)));
  return {
    element,
    paint: (index) => parts.forEach((part) => part.paint(index)),
  };
}

const widestBlock = () => Math.max(...blocksOfHeads.map(([, numbers]) => numbers.length));
const headIn = (row, column) => {
  const [block, numbers] = blocksOfHeads[row];
  return numbers[column] === undefined ? null : `${block}.${numbers[column]}`;
};

/** A plot whose cells are heads: a cell that is pressed opens its head. */
function headPlot(label, paintCanvas, describe) {
  return plot({
    label, rows: blocksOfHeads.length, columns: widestBlock(), paintCanvas, widest: 60,
    left: blocksOfHeads.map(([block]) => String(block)), tallest: 0.7,
    bottom: Array.from({ length: widestBlock() }, (_, head) => String(head)),
    describe: (row, column, index) => headIn(row, column) && describe(headIn(row, column), index),
    press: (row, column) => { if (headIn(row, column)) open(headIn(row, column)); },
  });
}

/** Which head has which role: hue says which one, strength how much of its attention it spends. */
function roleMap() {
  const ground = rgbOf(run.theme.panel);
  const byRole = {};
  for (const [name, { color, label }] of Object.entries(run.roles))
    byRole[name] = { rgb: rgbOf(color), part: headScores.find(({ title }) => title === label) };
  const paintCanvas = (canvas, index) => {
    const size = 9, width = widestBlock() * size;
    const pixels = pixelsOf(canvas, width, blocksOfHeads.length * size);
    pixels.fill(pixel(...rgbOf(run.theme.ground)));
    for (let row = 0; row < blocksOfHeads.length; row++) {
      for (let column = 0; column < widestBlock(); column++) {
        const id = headIn(row, column);
        if (!id) continue;
        const color = roleColor(byRole, ground, id, index);
        for (let y = 0; y < size - 1; y++)
          pixels.fill(color, (row * size + y) * width + column * size,
            (row * size + y) * width + (column + 1) * size - 1);
      }
    }
    canvas.getContext('2d').putImageData(canvas.picture, 0, 0);
  };
  return headPlot('roles of all heads', paintCanvas, headWords);
}

function roleColor(byRole, ground, id, index) {
  const role = roleOf(id, index);
  if (!role) return pixel(...ground);
  const { rgb, part } = byRole[role.name];
  const level = part ? scoreLevel(part, id, index) : LAST_LEVEL;
  const strength = clamp(0.35 + 0.65 * level / LAST_LEVEL, 0, 1);
  return pixel(...ground.map((from, at) => Math.round(from + (rgb[at] - from) * strength)));
}

/** A head, its role, and its scores. */
function headWords(id, index) {
  const role = roleOf(id, index);
  const lines = headScores.map((part) =>
    `${part.title} ${valueText(run.scales[part.scale], scoreLevel(part, id, index))}`);
  return [headName(id) + (role ? ` · ${borderWords(role)}` : ''), ...lines].join('\n');
}

/** The maps of all heads on one canvas. */
function mosaicOf(row) {
  const maps = new Map([...headMaps[row]].map(([id, map]) => [id, map.coarse ?? map]));
  const { rows: side } = maps.values().next().value, pitch = side + 1;
  const paintCanvas = (canvas, index) => {
    const width = widestBlock() * pitch;
    const pixels = pixelsOf(canvas, width, blocksOfHeads.length * pitch);
    pixels.fill(pixel(...rgbOf(run.theme.ground)));
    for (let y = 0; y < blocksOfHeads.length; y++) {
      for (let x = 0; x < widestBlock(); x++) {
        const map = maps.get(headIn(y, x) ?? '');
        if (map) paintCells(pixels, width, y * pitch * width + x * pitch, map, capturesOf[index]);
      }
    }
    canvas.getContext('2d').putImageData(canvas.picture, 0, 0);
  };
  return headPlot('attention of all heads', paintCanvas, headWords);
}
