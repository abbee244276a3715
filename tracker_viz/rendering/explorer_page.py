"""The explorer's page: plain HTML and JavaScript, everything inline, nothing fetched."""

PAGE = r"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>%TITLE%</title>
<style>
  html, body { margin: 0; height: 100%; overflow: hidden; font-family: "DejaVu Sans", system-ui, sans-serif; }
  body { display: flex; flex-direction: column; }
  #stage { flex: 1; min-height: 0; display: flex; align-items: center; justify-content: center; }
  #picture { max-width: 100%; max-height: 100%; display: block; cursor: crosshair; }
  #controls { display: flex; align-items: center; gap: 12px; padding: 8px 16px; font-size: 14px; position: relative; z-index: 3; }
  #controls input { flex: 1; accent-color: var(--accent); }
  #controls button { font: inherit; color: inherit; background: var(--panel); border: 1px solid var(--faint); border-radius: 6px;
                     padding: 4px 14px; cursor: pointer; }
  #step { min-width: 9em; text-align: right; font-variant-numeric: tabular-nums; }
  #tip { position: fixed; pointer-events: none; display: none; padding: 6px 10px; border-radius: 6px; font-size: 13px; white-space: pre;
         background: var(--panel); border: 1px solid var(--faint); box-shadow: 0 4px 16px #0006; z-index: 3; }
  #large { position: fixed; inset: 0; display: none; align-items: center; justify-content: center; flex-direction: column; gap: 12px;
           padding: 0 16px 52px; text-align: center; z-index: 2; }
  #large canvas { image-rendering: pixelated; cursor: crosshair; }
  #large b { font-size: 20px; }
</style>
</head>
<body>
<div id="stage"><canvas id="picture" tabindex="0" aria-label="heatmaps of one capture"></canvas></div>
<div id="controls">
  <button id="play" aria-label="play or pause">&#9654; play</button>
  <input id="slider" type="range" min="0" value="0" aria-label="capture">
  <span id="step"></span>
</div>
<div id="tip"></div>
<div id="large"><b></b><canvas></canvas><span>Esc or a click beside it closes; the slider and the arrow keys still work</span></div>
<script type="application/json" id="description">%DESCRIPTION%</script>
<script>
'use strict';
const run = JSON.parse(document.getElementById('description').textContent);
const root = document.documentElement, theme = run.theme;
for (const [name, color] of Object.entries(theme)) root.style.setProperty('--' + name, color);
document.body.style.background = theme.ground; document.body.style.color = theme.text;
document.getElementById('large').style.background = theme.ground + 'f2';
const picture = document.getElementById('picture'), slider = document.getElementById('slider');
const tip = document.getElementById('tip'), large = document.getElementById('large');
picture.width = run.width; picture.height = run.height; slider.max = run.steps.length - 1;
const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
let at = 0, offset = 0, opened = null, pointed = null, timer = null, captures = [], background;
for (const map of run.maps) {
  map.offset = offset; offset += map.rows * map.columns;
  const bits = map.hidden && bytesOf(map.hidden);
  map.isHidden = bits ? (cell) => bits[cell >> 3] >> (cell & 7) & 1 : () => 0;
  map.canvas = new OffscreenCanvas(map.columns, map.rows);
}
const perCapture = offset;

async function start() {
  const stream = new Blob([bytesOf(CELLS)]).stream().pipeThrough(new DecompressionStream('deflate'));
  const all = new Uint8Array(await new Response(stream).arrayBuffer());
  for (let i = 0; i < run.steps.length; i++) {
    const cells = all.slice(i * perCapture, (i + 1) * perCapture);
    if (i) for (let c = 0; c < perCapture; c++) cells[c] += captures[i - 1][c];
    captures.push(cells);
  }
  background = new Image();
  background.src = 'data:image/png;base64,' + BACKGROUND;
  await background.decode();
  show(0);
  document.body.dataset.ready = 'yes';
}

function colors(map) {
  const image = new ImageData(map.columns, map.rows), cells = captures[at], table = run.scales[map.scale].colors;
  const panel = rgb(theme.panel), broken = rgb(theme.nonfinite);
  for (let cell = 0, p = 0; cell < map.rows * map.columns; cell++, p += 4) {
    const level = cells[map.offset + cell];
    const color = map.isHidden(cell) ? panel : level === 255 ? broken : null;
    for (let c = 0; c < 3; c++) image.data[p + c] = color ? color[c] : table[level * 3 + c];
    image.data[p + 3] = 255;
  }
  map.canvas.getContext('2d').putImageData(image, 0, 0);
  return map.canvas;
}

function show(index) {
  at = Math.max(0, Math.min(run.steps.length - 1, index));
  slider.value = at;
  document.getElementById('step').textContent = 'step ' + run.steps[at].toLocaleString('en') +
    (run.left ? ' (' + run.left + ' captures left out)' : '');
  const g = picture.getContext('2d');
  g.imageSmoothingEnabled = false;
  g.drawImage(background, 0, 0);
  for (const map of run.maps) {
    g.drawImage(colors(map), ...map.box);
    const role = map.head && run.held[at][map.head];
    if (role) {
      const w = run.roleLine, [x, y, width, height] = map.box;
      g.strokeStyle = run.roles[role]; g.lineWidth = w;
      g.strokeRect(x - 1 - w / 2, y - 1 - w / 2, width + 2 + w, height + 2 + w);
    }
  }
  g.fillStyle = theme.text; g.textBaseline = 'alphabetic';
  for (const r of run.readouts) {
    g.font = 'bold ' + r.size + 'px "DejaVu Sans Mono", monospace';
    g.fillText(r.texts[at], r.x, r.baseline);
  }
  if (run.timeline) {
    const [, y, , height] = run.timeline.box;
    g.fillRect(run.timeline.x[at] - 1, y, 3, height);
  }
  if (opened) drawLarge();
  if (pointed) tip.textContent = describe(...pointed);
}

function drawLarge() {
  const canvas = large.querySelector('canvas'), map = opened;
  const scale = Math.max(1, Math.floor(Math.min(innerWidth * 0.9 / map.columns, (innerHeight - 52) * 0.78 / map.rows)));
  canvas.width = map.columns * scale; canvas.height = map.rows * scale;
  const g = canvas.getContext('2d');
  g.imageSmoothingEnabled = false;
  g.drawImage(colors(map), 0, 0, canvas.width, canvas.height);
  const role = map.head && run.held[at][map.head];
  large.querySelector('b').textContent = map.name + (role ? ' \u00b7 ' + role.replaceAll('_', ' ') : '') +
    ' \u00b7 step ' + run.steps[at].toLocaleString('en');
  large.style.display = 'flex';
}

function describe(map, row, column) {
  const cell = row * map.columns + column, level = captures[at][map.offset + cell], scale = run.scales[map.scale];
  const value = map.isHidden(cell) ? 'nothing here' : level === 255 ? 'not finite' : '\u2248 ' + scale.values[level];
  const tokens = run.tokens[map.probe], names = map.names;
  const where = names ? names[0][row] + ', ' + names[1][column]
    : tokens && map.pool === 1 ? JSON.stringify(tokens[row]) + ' (' + row + ') looks at ' +
    JSON.stringify(tokens[column]) + ' (' + column + ')' : 'row ' + row + ', column ' + column;
  return map.name + '\n' + where + ': ' + value + '\n' + scale.title;
}

/** Says what is at [map, row, column], beside the pointer, until it leaves; the value is that of the step that is shown. */
function hover(event, found) {
  pointed = found;
  tip.style.display = found ? 'block' : 'none';
  if (!found) return;
  tip.textContent = describe(...found);
  tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 6) + 'px';
  tip.style.top = Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 6) + 'px';
}

function under(event) {
  const area = picture.getBoundingClientRect();
  const x = (event.clientX - area.left) * run.width / area.width, y = (event.clientY - area.top) * run.height / area.height;
  for (const map of run.maps) {
    const [left, top, width, height] = map.box;
    if (x >= left && x < left + width && y >= top && y < top + height)
      return [map, Math.floor((y - top) / height * map.rows), Math.floor((x - left) / width * map.columns)];
  }
  const t = run.timeline;
  if (t && x >= t.box[0] && x < t.box[0] + t.box[2] && y >= t.box[1] && y < t.box[1] + t.box[3])
    return t.x.reduce((best, place, i) => Math.abs(place - x) < Math.abs(t.x[best] - x) ? i : best, 0);
  return null;
}

picture.addEventListener('mousemove', (e) => { const f = under(e); hover(e, Array.isArray(f) ? f : null); });
for (const canvas of [picture, large.querySelector('canvas')]) canvas.addEventListener('mouseleave', (e) => hover(e, null));
picture.addEventListener('click', (e) => {
  const found = under(e);
  if (typeof found === 'number') { pause(); show(found); }
  else if (found) { opened = found[0]; hover(e, null); drawLarge(); }
});
large.addEventListener('click', (e) => { if (e.target.tagName !== 'CANVAS') close(); });
large.querySelector('canvas').addEventListener('mousemove', (e) => {
  const area = e.target.getBoundingClientRect();
  hover(e, [opened, Math.min(opened.rows - 1, Math.floor((e.clientY - area.top) / area.height * opened.rows)),
            Math.min(opened.columns - 1, Math.floor((e.clientX - area.left) / area.width * opened.columns))]);
});
function close() { opened = null; large.style.display = 'none'; hover(null, null); }
function pause() { clearInterval(timer); timer = null; document.getElementById('play').innerHTML = '&#9654; play'; }
document.getElementById('play').addEventListener('click', () => {
  if (timer) return pause();
  if (at === run.steps.length - 1) show(0);
  document.getElementById('play').innerHTML = '&#10074;&#10074; pause';
  timer = setInterval(() => { at < run.steps.length - 1 ? show(at + 1) : pause(); }, 250);
});
slider.addEventListener('input', () => { pause(); show(+slider.value); });
addEventListener('keydown', (e) => {
  if (e.key === 'Escape') close();
  if (e.target === slider) return;
  if (e.key === 'ArrowRight') { pause(); show(at + 1); }
  if (e.key === 'ArrowLeft') { pause(); show(at - 1); }
});
addEventListener('resize', () => { if (opened) drawLarge(); });
const BACKGROUND = '%BACKGROUND%';
const CELLS = '%CELLS%';
start().catch((error) => { document.getElementById('stage').textContent = 'This browser cannot open the page: ' + error; });
</script>
</body>
</html>
"""
