// The player: timeline, caption, buttons.

/** Where a step is between the first and the last one of the run, 0..1. */
function share(step) {
  const { steps } = run.curve ?? run, first = steps[0], span = steps[steps.length - 1] - first;
  return span ? (step - first) / span : 0.5;
}

/** The capture whose place `across(step)` is nearest to x. */
function nearest(x, across) {
  let best = 0;
  run.steps.forEach((step, index) => {
    if (Math.abs(across(step) - x) < Math.abs(across(run.steps[best]) - x)) best = index;
  });
  return best;
}

/** Call `move(x)` with where the pointer is on an element, while it is pressed there. */
function dragAlong(element, move, begin = () => {}) {
  const x = (event) => event.clientX - element.getBoundingClientRect().left;
  element.addEventListener('pointerdown', (event) => {
    element.setPointerCapture(event.pointerId);
    pause();
    begin(x(event));
    move(x(event));
  });
  element.addEventListener('pointermove', (event) => {
    if (element.hasPointerCapture(event.pointerId)) move(x(event));
  });
}

const timeline = $('.timeline');
const line = { across: () => 0, marks: {} };

/** Draw what does not change on the timeline: the curve, the events, steps below. */
function drawTimeline() {
  const svg = $('.timeline svg'), { clientWidth: width, clientHeight: height } = timeline;
  if (!width) return;
  const top = 9, bottom = height - 15, left = 1, right = width - 2;
  line.across = (step) => left + (right - left) * share(step);
  line.top = top; line.bottom = bottom;
  svg.replaceChildren(draw('rect', { x: 0, y: top, width, height: bottom - top,
    fill: run.theme.panel }));
  const curve = draw('path', { d: curvePath(Infinity), fill: 'none', stroke: run.theme.dim,
    'stroke-width': 1.5, opacity: 0.7 });
  line.marks.played = draw('path', { fill: 'none', stroke: run.theme.accent, 'stroke-width': 2.5 });
  svg.append(curve, line.marks.played);
  for (const event of run.events) {
    const [from, to] = [line.across(event.firstStep), line.across(event.lastStep)];
    svg.append(draw('path', { stroke: event.color, 'stroke-width': 4, fill: 'none',
      d: `M${Math.min(from, to - 3)} 4H${to}` }), draw('path', { stroke: event.color,
      'stroke-width': 1.5, d: `M${to} 4V${bottom}` }));
  }
  for (const step of run.steps)
    svg.append(draw('path', { d: `M${line.across(step)} ${bottom}v3`, stroke: run.theme.dim }));
  for (const step of run.missing)
    svg.append(draw('path', { d: `M${line.across(step)} ${bottom}v4`, 'stroke-width': 2,
      stroke: run.theme.nonfinite }));
  for (const step of roundSteps(Math.max(2, Math.floor(width / 90)))) {
    const half = textWidth(number(step)) / 2, x = clamp(line.across(step), half, width - half);
    svg.append(draw('text', { x, y: height - 2, 'text-anchor': 'middle' }, number(step)));
  }
  if (run.curve?.name)
    svg.append(draw('text', { x: 6, y: bottom - 5 }, run.curve.name));
  line.marks.pin = draw('path', { stroke: run.theme.text, 'stroke-width': 2,
    'stroke-dasharray': '3 3' });
  line.marks.head = draw('path', { stroke: run.theme.text, 'stroke-width': 2.5 });
  line.marks.dot = draw('circle', { r: 5, fill: run.theme.accent, stroke: run.theme.text });
  svg.append(line.marks.pin, line.marks.head, line.marks.dot);
  moveHeads();
}

/** At most so many round steps between the first and the last one. */
function roundSteps(most) {
  const { steps } = run.curve ?? run, first = steps[0], span = steps[steps.length - 1] - first;
  if (!span) return [first];
  let spacing = 1, factor = 0;
  while (span / spacing > most - 1) spacing *= [2, 2.5, 2][factor++ % 3];
  const start = Math.ceil(first / spacing);
  return Array.from({ length: Math.floor((first + span) / spacing) - start + 1 },
    (_, at) => (start + at) * spacing);
}

/** A path through points (x, y); it breaks where y is not finite. */
function pathThrough(points) {
  let path = '', isDown = false;
  for (const [x, y] of points) {
    const isFinite = Number.isFinite(y);
    if (isFinite) path += `${isDown ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(1)}`;
    isDown = isFinite;
  }
  return path;
}

/** The metric's path up to a step. */
function curvePath(until) {
  if (!run.curve) return '';
  const { steps, values, low, high } = run.curve;
  const height = (value) => {
    const part = high > low ? clamp((value - low) / (high - low), 0, 1) : 0.5;
    return value === null ? NaN : line.bottom - 3 - (line.bottom - line.top - 8) * part;
  };
  return pathThrough(steps.map((step, at) => [line.across(step), height(values[at])])
    .filter((_, at) => steps[at] <= until));
}

function moveHeads() {
  const { marks, top, bottom } = line, step = run.steps[state.at], x = line.across(step);
  if (!marks.head) return;
  const path = curvePath(step), tail = path.match(/ ([\d.]+)$/);
  marks.played.setAttribute('d', path);
  marks.head.setAttribute('d', `M${x} ${top - 6}V${bottom + 4}`);
  marks.dot.setAttribute('cx', x);
  marks.dot.setAttribute('cy', tail ? tail[1] : top);
  const pinned = state.pin === null ? null : line.across(run.steps[state.pin]);
  marks.pin.setAttribute('d', pinned === null ? '' : `M${pinned} ${top - 6}V${bottom + 4}`);
}

function showDock() {
  const { at } = state, step = number(run.steps[at]);
  const texts = run.readouts.map(({ name, texts }) => [name, texts[at]]);
  $('.now').replaceChildren(make('b', {}, `step ${step}`), ...texts.map(([name, text]) =>
    make('span', {}, `${name} `, make('i', {}, text))));
  timeline.setAttribute('aria-valuenow', at);
  timeline.setAttribute('aria-valuetext',
    [`step ${step}`, ...texts.map((each) => each.join(' '))].join(', '));
  moveHeads();
  const now = state.event ?? eventAt(at), event = now ?? eventBefore(at);
  const caption = $('.caption');
  caption.classList.toggle('past', !now);
  // Only what differs is written: a screen reader says it once.
  const text = `${event?.text} ${!now}`;
  if (caption.dataset.text !== text) {
    caption.dataset.text = text;
    caption.replaceChildren();
    if (event) caption.append(make('b', { class: now ? 'of-role' : null,
      style: `--role: ${event.color}` },
    now ? `${event.headline} · ${event.steps}` : event.pastHeadline),
    ` ${event.caption}`);
  }
  eventButtons.forEach((button, place) => {
    const isNow = run.events[place] === now;
    // Later: its place is only known once the page is laid out.
    if (isNow && button.getAttribute('aria-pressed') !== 'true')
      requestAnimationFrame(() => bringIntoView(button));
    button.setAttribute('aria-pressed', isNow);
  });
}

/** Scroll the row of buttons to one, and nothing else. */
function bringIntoView(button) {
  const row = button.parentElement;
  if (row) row.scrollLeft = button.offsetLeft - row.offsetLeft - 24;
}

function play() {
  if (timer !== null) return pause();
  if (state.at === last) show(0);
  setPlaying(true);
  timer = setTimeout(turnPage, stayMs());
}

const stayMs = () => 1000 * run.seconds[state.at] / Number($('.speed').value);

async function turnPage() {
  const isOver = state.at === last;
  if (isOver && $('.loop').getAttribute('aria-pressed') !== 'true') return pause();
  const next = isOver ? 0 : state.at + 1;
  await load(next);
  if (timer === null) return;  // paused while it was unpacked
  show(next);
  load(Math.min(last, next + run.perChunk));  // before it is needed
  timer = setTimeout(turnPage, stayMs());
}

function pause() {
  clearTimeout(timer);
  timer = null;
  setPlaying(false);
}

function setPlaying(isPlaying) {
  const path = isPlaying ? 'M3 1h4v14H3zM9 1h4v14H9z' : 'M3 1v14l11-7z';
  $('.play path').setAttribute('d', path);
  $('.play span').textContent = isPlaying ? 'pause' : 'play';
  writeHash();
}

function seek(index, event = null) {
  pause();
  show(index, event);
}

const eventButtons = run.events.map((event) => make('button', { title: event.text,
  style: `--color: ${event.color}`, onclick: () => seek(event.last, event) },
  `${event.steps} `, make('b', {}, event.headline), event.who && ` ${event.who}`));
