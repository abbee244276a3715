// What is shown: the state, the view of it, and the value under the pointer.

/** The strongest event that happens at a capture; null between events. */
function eventAt(index) {
  const now = run.events.filter((event) => event.first < index && index <= event.last);
  return now.reduce((best, event) => !best || event.strength > best.strength ? event : best, null);
}

/** The event that was complete last before a capture; null where there was none. */
function eventBefore(index) {
  const past = run.events.filter((event) => event.last <= index);
  return past.reduce((best, event) => !best || event.last >= best.last ? event : best, null);
}

const state = { at: 0, pin: null, open: null, event: null };
let view = null, timer = null;

/** Show a capture; `event`: one whose caption is shown and whose heads are marked. */
function show(index, event = null) {
  state.at = clamp(index, 0, last);
  state.event = event;
  showDock();
  refresh();
  writeHash();
}

/** Paint the view as soon as its captures are unpacked: at once where they are. */
function refresh() {
  const wanted = moments();
  if (wanted.every((index) => capturesOf[index])) return paintView();
  Promise.all(wanted.map(load)).then(() => { if (view) paintView(); }, failed);
}

const moments = () => state.pin === null ? [state.at] : [state.pin, state.at];

function paintView() {
  if (!moments().every((index) => capturesOf[index])) return;  // another was asked for meanwhile
  view.paint(moments());
  root.dataset.ready = 'yes';
  retip();
}

/** Build the view again: another map is opened, or steps are compared. */
function rebuild() {
  hideTip();
  const focused = focusedPart();
  view = state.open === null ? overview() : detail(state.open);
  $('main').replaceChildren(view.element);
  layOutNew();
  $('.pin').setAttribute('aria-pressed', state.pin !== null);
  show(state.at, state.event);
  if (focused) $(focused)?.focus({ preventScroll: true });
}

/** A selector of the view's part that has the focus, to give it back; null where none has it. */
function focusedPart() {
  const { activeElement: element } = document;
  if (!$('main').contains(element)) return null;
  if (element.dataset.map) return `[data-map="${element.dataset.map}"]`;
  if (element.matches('canvas')) return 'main canvas';
  return element.className ? `main .${element.className}` : 'main nav button';
}

function open(id) {
  if (state.open === null) state.scroll = document.scrollingElement?.scrollTop;
  const isFirst = state.open === null;
  state.open = id;
  rebuild();
  if (isFirst) {
    $('.detail').scrollIntoView({ block: 'start' });
    $('.detail nav button').focus({ preventScroll: true });
  }
}

function close() {
  if (state.open === null) return;
  const id = state.open;
  state.open = null;
  rebuild();
  if (state.scroll !== undefined) document.scrollingElement.scrollTop = state.scroll;
  const tile = root.querySelector(`[data-map="${id}"]`);
  if (tile) focusTile(tile);
}

function compare(index) {
  state.pin = index;
  rebuild();
}

/** The stages of a view: one for the step that is shown, or one for each of two. */
function stages(makeStage) {
  const two = state.pin !== null;
  const made = moments().map(() => makeStage());
  const element = make('div', { class: two ? 'stages two' : 'stages' });
  made.forEach((stage, place) => {
    stage.heading = make('h3', { hidden: two ? null : '' });
    element.append(make('div', { class: 'stage' }, stage.heading, stage.element));
    stage.isPinned = two && place === 0;
  });
  return {
    element,
    paint(indices) {
      made.forEach((stage, place) => {
        const step = `step ${number(run.steps[indices[place]])}`;
        stage.heading.textContent = stage.isPinned ? `${step} · pinned` : step;
        stage.paint(indices[place]);
      });
    },
  };
}

let tipText = null;

function tip(text, { clientX, clientY, pointerType }) {
  const shown = text();
  if (!shown) return hideTip();
  tipText = text;
  const box = $('.tip'), away = pointerType === 'touch' ? 46 : 14;
  box.hidden = false;
  box.textContent = shown;
  const left = clamp(clientX + 14, 6, Math.max(6, innerWidth - box.offsetWidth - 6));
  const below = clientY + away + box.offsetHeight < innerHeight;
  const isAbove = pointerType === 'touch' || !below;
  const top = isAbove ? clientY - away - box.offsetHeight : clientY + away;
  box.style.left = `${left}px`;
  box.style.top = `${Math.max(6, top)}px`;
}

function hideTip() { tipText = null; $('.tip').hidden = true; }
function retip() { if (tipText) $('.tip').textContent = tipText(); }

/** Say what is under the mouse on a tile's canvas. */
function hover(canvas, map, indexNow) {
  canvas.addEventListener('pointermove', (event) => {
    if (event.pointerType !== 'mouse') return;
    const area = canvas.getBoundingClientRect();
    const row = Math.floor((event.clientY - area.top) / area.height * map.rows);
    const column = Math.floor((event.clientX - area.left) / area.width * map.columns);
    const [y, x] = [clamp(row, 0, map.rows - 1), clamp(column, 0, map.columns - 1)];
    tip(() => describe(map, y, x, indexNow()), event);
  });
  canvas.addEventListener('pointerleave', hideTip);
}
