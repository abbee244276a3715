// The address, the keys, and how the page begins.

function writeHash() {
  if (!isAlone || timer !== null || !root.dataset.ready) return;
  const parts = new URLSearchParams({ step: run.steps[state.at] });
  if (state.open !== null) parts.set(state.open.startsWith('m') ? 'map' : 'head', state.open);
  if (state.pin !== null) parts.set('with', run.steps[state.pin]);
  const hash = `#${parts}`;
  if (hash === location.hash) return;
  // A sandboxed frame may have no address of its own.
  try { history.replaceState(null, '', hash); } catch { /* then it is not kept */ }
}

/** Take step, opened map and compared step from the address, where it names any of these. */
function readHash() {
  const parts = new URLSearchParams(location.hash.slice(1));
  if (!['step', 'head', 'map', 'with'].some((name) => parts.has(name))) return;
  const index = (name) => parts.has(name) && Number.isFinite(Number(parts.get(name)))
    ? nearest(Number(parts.get(name)), (step) => step) : null;
  const id = parts.get('head') ?? parts.get('map');
  state.open = heads.includes(id) || matrices.some((map) => map.id === id) ? id : null;
  state.pin = index('with');
  if (index('step') === null) return;
  state.at = index('step');
  state.event = null;
}

let isByPointer = false;
root.addEventListener('pointerdown', (event) => {
  isByPointer = true;
  if (!event.target.closest('canvas')) hideTip();
}, true);
root.addEventListener('keydown', (event) => {
  if (event.key === 'Tab') isByPointer = false;
}, true);

function onKey(event) {
  const { target, key } = event;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (target !== document.body && !root.contains(target)) return;
  if (target.matches('select, input')) return;
  if (key === ' ') {
    // A button that the keyboard went to is pressed by Space; one that was clicked no more.
    if (target.matches('button') && !isByPointer) return;
    event.preventDefault();
    if (event.type === 'keydown' && !event.repeat) play();
    return;
  }
  if (event.type !== 'keydown') return;
  const far = target === timeline ? { Home: 0, End: last, PageUp: state.at - 10,
    PageDown: state.at + 10, ArrowUp: state.at + 1, ArrowDown: state.at - 1 } : {};
  const by = { ArrowLeft: -1, ArrowRight: 1 }[key];
  if (by && event.shiftKey && state.pin !== null) {
    state.pin = clamp(state.pin + by, 0, last);
    seek(state.at);
  } else if (by) seek(state.at + by);
  else if (key in far) seek(far[key]);
  else if (key === 'Escape') close();
  else if (key === 'n' || key === 'p') view.turn?.(key === 'n' ? 1 : -1);
  else if (key === 'c') $('.pin').click();
  else return;
  event.preventDefault();
}
// Space on a button presses it when the key comes up.
const keys = isAlone ? document : root;
keys.addEventListener('keydown', onKey);
keys.addEventListener('keyup', (event) => { if (event.key === ' ') onKey(event); });

function connect() {
  const { theme } = run;
  for (const [name, color] of Object.entries(theme)) root.style.setProperty(`--${name}`, color);
  root.style.setProperty('--scheme', isDark(theme.ground) ? 'dark' : 'light');
  root.classList.toggle('alone', isAlone);
  $('h1').textContent = run.title;
  $('.model').textContent = run.subtitle;
  const left = run.leftOut
    ? ` ${number(run.leftOut)} captures are left out, to keep the page small.` : '';
  $('.summary').textContent = run.summary;
  if (left) $('.summary').append(make('span', { class: 'dim' }, left));
  $('.events').append(...eventButtons);
  $('.events').hidden = $('.caption').hidden = !eventButtons.length;
  for (const speed of [0.25, 0.5, 1, 2, 4])
    $('.speed').append(make('option', { value: speed }, `${speed} ×`));
  $('.speed').value = 1;
  timeline.setAttribute('aria-valuemax', last);
  if (!last) for (const name of ['back', 'play', 'forward', 'loop', 'pin', 'speed'])
    $(`.${name}`).disabled = true;
  $('.back').addEventListener('click', () => seek(state.at - 1));
  $('.forward').addEventListener('click', () => seek(state.at + 1));
  $('.play').addEventListener('click', play);
  $('.loop').addEventListener('click', ({ currentTarget: button }) =>
    button.setAttribute('aria-pressed', button.getAttribute('aria-pressed') !== 'true'));
  $('.pin').addEventListener('click', () =>
    compare(state.pin === null ? (state.at ? 0 : last) : null));
  let isPin = false;
  dragAlong(timeline, (x) => {
    if (isPin) state.pin = nearest(x, line.across);
    show(isPin ? state.at : nearest(x, line.across));
  }, (x) => {
    const away = (index) => Math.abs(line.across(run.steps[index]) - x);
    isPin = state.pin !== null && away(state.pin) < 12 && away(state.pin) < away(state.at);
  });
  new ResizeObserver(drawTimeline).observe(timeline);
  addEventListener('resize', measureRoom);
  if (isAlone) addEventListener('hashchange', () => { readHash(); rebuild(); });
}

let dockHeight = 0;

/** Say in --room how many pixels of height are left for all rows of heads. */
function measureRoom() {
  dockHeight = $('.dock').offsetHeight;
  const room = innerHeight - $('.top').offsetHeight - dockHeight - 100;
  root.style.setProperty('--room', `${Math.max(0, room)}px`);
}

function failed(error) {
  $('main').replaceChildren(make('p', { class: 'failed' },
    `This browser cannot open the page: ${error}`));
}

try {
  const start = run.start === null ? null : run.events[run.start];
  state.at = start ? start.last : last;
  state.open = run.opened;
  state.event = start;
  if (isAlone) readHash();
  const unpacked = [unpack($('script.scores'), scoreCells), load(state.at)];
  connect();
  [scoresOf] = await Promise.all(unpacked);
  fillKey();
  showDock();
  measureRoom();
  rebuild();
  if (state.open !== run.opened) $('.detail')?.scrollIntoView();
} catch (error) {
  failed(error);
}
