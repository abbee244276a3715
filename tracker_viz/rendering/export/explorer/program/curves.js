// The scores of the head that is opened, over the run.

let allCurves = null;  // the bytes of all heads' curves, once a head was opened

/** Every score of a head: what it is, and its values by capture. */
async function curvesOf(id) {
  const place = run.curvesOf.indexOf(id), [count, length] = [run.curves.length, run.steps.length];
  // Of very many heads the page has whole curves of some only, and of all what their cells say.
  if (place < 0) return headScores.map((part) => ({ ...part, low: 0, high: 1, digits: 2,
    values: run.steps.map((_, index) => scoreNumber(part, id, index)) }));
  const bytes = await (allCurves ??= arrived('script.curves').then(inflated));
  const ranges = new DataView(bytes.buffer), start = 8 * run.curvesOf.length * count;
  return run.curves.map((score, at) => {
    const number = place * count + at, first = start + number * length;
    const low = ranges.getFloat32(8 * number, true), high = ranges.getFloat32(8 * number + 4, true);
    let level = 0;
    const values = Array.from(bytes.subarray(first, first + length), (change) => {
      level = level + change & 255;
      return level > LAST_LEVEL ? NaN : low + (high - low) * level / LAST_LEVEL;
    });
    return { ...score, values, digits: digitsOf(low, high, score.high === 1 ? 2 : 6) };
  });
}

/** As many digits behind the point as the levels between two values tell apart; three in all. */
function digitsOf(low, high, most) {
  if (high === low) return 2;
  const apart = -Math.ceil(Math.log10((high - low) / LAST_LEVEL));
  const inAll = 2 - Math.floor(Math.log10(Math.max(Math.abs(low), Math.abs(high))));
  return clamp(Math.min(apart, inAll), 0, most);
}

function scoreNumber(part, id, index) {
  const level = scoreLevel(part, id, index);
  return level > LAST_LEVEL ? NaN : run.scales[part.scale].numbers[level];
}

/** Roles in one chart; every other score in a small one; variants where they are asked for. */
function scoreCurves(id) {
  const roles = make('section', { class: 'curves section' },
    make('h2', {}, 'Scores over the run'));
  const others = make('section', { class: 'curves others', 'aria-label': 'other scores' });
  let charts = [];
  const paint = (indices) => charts.forEach((chart) => chart.paint(indices));
  curvesOf(id).then((curves) => {
    const ofRoles = curves.filter(({ role }) => role);
    const small = curves.filter(({ role, isVariant }) => !role && !isVariant).map(smallChart);
    const variants = curves.filter(({ isVariant }) => isVariant).map(smallChart);
    charts = [...ofRoles.length ? [roleChart(id, ofRoles)] : [], ...small, ...variants];
    if (ofRoles.length) roles.append(charts[0].element);
    others.append(...small.map((each) => each.element));
    if (curves.some(({ chance }) => Number.isFinite(chance)))
      others.append(make('p', { class: 'hint' }, 'Dashed: the score of even attention.'));
    if (variants.length) others.append(make('details', {},
      make('summary', {}, `${variants.length} more: the same scores over other rows`),
      make('div', { class: 'others' }, ...variants.map((each) => each.element))));
    paint(moments());
  }).catch(failed);
  return { roles, others, paint };
}

const curveText = (curve, index) => Number.isNaN(curve.values[index]) ? 'not finite'
  : curve.values[index].toFixed(curve.digits).replace('-', '−');
const curveTexts = (curve, indices) =>
  indices.map((index) => curveText(curve, index)).join(' → ');

/** Curves over the run's steps, with the playhead; `level`: a value with a line across, `words`
    at it. */
function curveChart(curves, { low, high, ticks, level, words }) {
  const up = (value) => 100 - 100 * clamp((value - low) / (high - low || 1), 0, 1);
  const svg = draw('svg', { viewBox: '0 0 1000 100', preserveAspectRatio: 'none',
    'aria-hidden': 'true' });
  if (level !== null && level !== undefined)
    svg.append(draw('path', { d: `M0 ${up(level)}H1000`, class: 'level' }));
  for (const curve of curves)
    svg.append(draw('path', { stroke: curve.color, 'stroke-width': curve.width,
      d: pathThrough(curve.values.map((value, at) => [1000 * share(run.steps[at]), up(value)])) }));
  const playheads = [draw('path', { class: 'playhead' }), draw('path', { class: 'playhead pinned' })];
  svg.append(...playheads);
  dragAlong(svg, (x) => show(nearest(x, (step) => share(step) * svg.clientWidth)));
  const labels = ticks.map(([value, text]) => make('span', { style: `top: ${up(value)}%` }, text));
  if (words) labels.push(make('span', { class: 'level', style: `top: ${up(level)}%` }, words));
  return {
    element: make('div', { class: 'chart' }, svg, ...labels),
    // Of two steps the first one is pinned.
    paint: (indices) => indices.toReversed().forEach((index, at) =>
      playheads[at].setAttribute('d', `M${1000 * share(run.steps[index])} 0V100`)),
  };
}

/** The scores of roles, those that the head ever has as thick lines, the highest first. */
function roleChart(id, curves) {
  const held = new Set(bordersOf.flatMap((_, row) =>
    run.steps.map((_, index) => roleOf(id, index, row)?.name)));
  const peak = ({ role, values }) =>
    (held.has(role) ? 2 : 0) + Math.max(...values.filter((value) => !Number.isNaN(value)), 0);
  const drawn = curves.toSorted((one, other) => peak(other) - peak(one)).map((curve) => ({
    ...curve, color: run.roles[curve.role].color, width: held.has(curve.role) ? 3.5 : 1.5 }));
  const { enter } = run.roles[curves[0].role];
  const chart = curveChart(drawn.toReversed(), { low: 0, high: 1, level: enter,
    ticks: [[0, '0'], [0.5, '.5'], [1, '1']], words: 'a role from here on' });
  const values = drawn.map(() => make('b'));
  const list = drawn.map(({ role, title, color }, at) => make('li',
    { class: held.has(role) ? 'held' : null, title: run.roles[role].meaning },
    make('i', { class: 'swatch', style: `background: ${color}` }), title, values[at]));
  const steps = make('div', { class: 'steps' }, make('span', {}, number(run.steps[0])),
    make('span', {}, last ? number(run.steps[last]) : ''));
  return {
    element: make('div', { class: 'of-roles' }, chart.element, steps, make('ul', {}, ...list)),
    paint(indices) {
      chart.paint(indices);
      values.forEach((value, at) => { value.textContent = curveTexts(drawn[at], indices); });
    },
  };
}

/** One score by itself; a dashed line says what chance is. */
function smallChart(curve) {
  const { title, meaning, low, high, chance } = curve;
  const most = Math.max(...curve.values.filter((value) => !Number.isNaN(value)), -Infinity);
  const tick = (value) =>
    String(Number(value.toPrecision(value < 1 ? 2 : 3))).replace('-', '−');
  const top = `${most > high ? '≥' : ''}${tick(high)}`;
  const chart = curveChart([{ ...curve, color: run.theme.accent, width: 2 }], { low, high,
    level: chance, ticks: [[high, top], [low, tick(low)]] });
  const value = make('b');
  return {
    element: make('figure', { class: 'mini' }, make('figcaption', {}, title, value), chart.element,
      make('p', { class: 'hint' }, meaning)),
    paint(indices) {
      chart.paint(indices);
      value.textContent = curveTexts(curve, indices);
    },
  };
}
