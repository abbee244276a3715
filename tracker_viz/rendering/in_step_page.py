"""A page that plays the videos of several runs in step: one slider of training steps for all. Plain
HTML and JavaScript, nothing fetched.

Every video has a timeline of its own, because runs have other schedules; so each one comes with the
step of each of its pictures.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from tracker_viz.rendering.theme import theme as resolved_theme


@dataclass(frozen=True, slots=True)
class Player:
    """One run's video.

    Attributes:
        label: what tells the run from the others.
        source: the video's address, relative to the page's.
        steps: training step of each picture, rising.
        starts_s: when in the video each of these pictures begins.
    """

    label: str
    source: str
    steps: tuple[int, ...]
    starts_s: tuple[float, ...]


def in_step_page(
    title: str,
    videos: Mapping[str, Sequence[Player]],
    *,
    theme: str = "dark",
    findings: Sequence[str] = (),
) -> str:
    """Return the page's HTML.

    Args:
        videos: layout -> the runs' videos of it; the first layout is shown, or ``overview`` where
            it is among them.
        findings: sentences above the videos: what a comparison of the runs found.
    """
    colors = resolved_theme(theme)
    described = {
        "title": title,
        "findings": list(findings),
        "videos": {
            layout: [asdict(player) for player in players] for layout, players in videos.items()
        },
    }
    page = _PAGE.replace(
        "%TITLE%", html.escape(title).replace("%", "&#37;")
    )  # a title may read "%DESCRIPTION%"
    for name in ("ground", "panel", "text", "dim", "faint", "accent"):
        page = page.replace(f"%{name.upper()}%", getattr(colors, name))
    # "</script>" inside the description would end it
    return page.replace("%DESCRIPTION%", json.dumps(described).replace("<", "\\u003c"))


_PAGE = r"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>%TITLE%</title>
<style>
  html, body { margin: 0; height: 100%; background: %GROUND%; color: %TEXT%; font-family: "DejaVu Sans", system-ui, sans-serif; }
  body { display: flex; flex-direction: column; }
  header { display: flex; align-items: center; gap: 8px 12px; padding: 8px 16px; background: %PANEL%; font-size: 14px; }
  header b { font-size: 17px; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; max-width: 24em; }
  #slider { flex: 1; min-width: 6em; accent-color: %ACCENT%; }
  button, select { font: inherit; color: inherit; background: %GROUND%; border: 1px solid %FAINT%; border-radius: 6px; padding: 4px 8px; }
  button { cursor: pointer; min-width: 6.5em; }
  #step { min-width: 7em; text-align: right; font-size: 17px; font-variant-numeric: tabular-nums; }
  label { color: %DIM%; white-space: nowrap; }
  label select { color: %TEXT%; }
  /* Where it is narrow, as in the artifact viewer of MLflow, the slider has a row of its own. */
  @media (max-width: 900px) {
    header { flex-wrap: wrap; padding: 8px 10px; }
    header b { flex: 1; max-width: none; }
    #slider { order: 1; flex: 1 0 100%; margin: 2px 0; }
    main { padding: 8px 10px !important; gap: 8px !important; }
  }
  details { padding: 6px 16px; font-size: 15px; line-height: 1.45; max-width: 80em; }
  summary { color: %DIM%; cursor: pointer; }
  ul { margin: 4px 0; padding-left: 1.2em; }
  main { flex: 1; overflow: auto; display: grid; gap: 10px; padding: 10px 16px; align-content: start; }
  figure { margin: 0; }
  figcaption { padding: 2px 2px 4px; font-size: 15px; display: flex; justify-content: space-between; gap: 12px; }
  figcaption span { color: %DIM%; font-variant-numeric: tabular-nums; }
  video { width: 100%; display: block; background: %PANEL%; }
</style>
</head>
<body>
<header>
  <b id="heading"></b>
  <button id="play" aria-label="play or pause">&#9654; play</button>
  <input id="slider" type="range" min="0" value="0" aria-label="training step">
  <span id="step"></span>
  <label>layout <select id="layout"></select></label>
  <label>columns <select id="columns"></select></label>
</header>
<details id="found" open hidden><summary>What was found</summary><ul></ul></details>
<main></main>
<script type="application/json" id="description">%DESCRIPTION%</script>
<script>
'use strict';
const { title, findings, videos } = JSON.parse(document.getElementById('description').textContent);
const ids = ['heading', 'slider', 'play', 'layout', 'columns'];
const [heading, slider, button, layouts, columns] = ids.map((id) => document.getElementById(id));
const main = document.querySelector('main');
heading.textContent = heading.title = title;
const found = document.getElementById('found');
found.hidden = !findings.length;
found.querySelector('ul').replaceChildren(...findings.map((finding) => {
  return Object.assign(document.createElement('li'), { textContent: finding });
}));
// In MLflow's viewer the page is a blob of its own, and only the origin says where the UI is.
const base = location.protocol === 'file:' ? location.href : location.origin;
let players = [], steps = [], at = 0, begun = null;

/** Set up the videos of a layout, at the step that is shown. */
function open(layout) {
  const step = steps[at] ?? 0;
  players = videos[layout].map((player) => ({ ...player }));
  steps = [...new Set(players.flatMap((player) => player.steps))].sort((a, b) => a - b);
  slider.max = steps.length - 1;
  main.replaceChildren(...players.map(figureOf));
  const choices = Array.from({ length: Math.min(6, players.length) }, (_, n) => n + 1);
  columns.replaceChildren(...choices.map((n) => new Option(n, n)));
  columns.value = choices.reduce((best, n) => widthIn(n) > widthIn(best) ? n : best);
  arrange();
  show(pictureAt({ steps }, step));
}

/** How wide all videos can be without scrolling. */
const widthIn = (n) => Math.min(main.clientWidth / n, (main.clientHeight / Math.ceil(players.length / n) - 40) * 16 / 9);

function figureOf(player) {
  const figure = document.createElement('figure'), caption = figure.appendChild(document.createElement('figcaption'));
  caption.appendChild(document.createElement('b')).textContent = player.label;
  player.note = caption.appendChild(document.createElement('span'));
  player.video = figure.appendChild(document.createElement('video'));
  player.video.muted = true; player.video.playsInline = true; player.video.preload = 'auto';
  player.video.addEventListener('error', () => { player.failed = true; player.note.textContent = 'the video cannot be played'; });
  player.video.addEventListener('loadeddata', () => seek(player));
  player.video.addEventListener('seeked', () => { player.seeking = false; if (player.wanted !== player.shown) seek(player); });
  player.video.src = new URL(player.source, base);
  return figure;
}

/** Index of the last picture at or before a step. */
function pictureAt(player, step) {
  let low = 0, high = player.steps.length - 1;
  while (low < high) { const middle = (low + high + 1) >> 1; if (player.steps[middle] <= step) low = middle; else high = middle - 1; }
  return low;
}

/** Show the wanted picture; one seek at a time, the last wish counts. */
function seek(player) {
  if (player.seeking || player.video.readyState < 1 || player.wanted === undefined) return;
  player.shown = player.wanted; player.seeking = true;
  const start = player.starts_s[player.shown], next = player.starts_s[player.shown + 1] ?? player.video.duration;
  player.video.currentTime = start + Math.min(0.02, (next - start) / 2);
}

function show(index) {
  at = Math.max(0, Math.min(steps.length - 1, index));
  slider.value = at;
  const step = steps[at];
  document.getElementById('step').textContent = 'step ' + step.toLocaleString('en');
  for (const player of players) {
    const picture = pictureAt(player, step), last = player.steps.length - 1;
    player.wanted = picture;
    if (!player.failed) player.note.textContent = player.steps[0] > step ? 'begins at step ' + player.steps[0].toLocaleString('en')
      : picture === last && step > player.steps[last] ? 'ended at step ' + player.steps[last].toLocaleString('en')
      : player.steps[picture] === step ? '' : 'as of step ' + player.steps[picture].toLocaleString('en');
    if (player.wanted !== player.shown) seek(player);
  }
}

const seconds = () => Math.min(60, Math.max(6, steps.length / 4));  // how long all steps take when played
function play(now) {
  if (begun === null) return;
  const index = Math.floor((now - begun) / 1000 / seconds() * steps.length);
  if (index !== at) show(index);
  if (index >= steps.length - 1) pause(); else requestAnimationFrame(play);
}
function pause() { begun = null; button.innerHTML = '&#9654; play'; }
button.addEventListener('click', () => {
  if (begun !== null) return pause();
  if (at >= steps.length - 1) show(0);
  begun = performance.now() - at / steps.length * seconds() * 1000; button.innerHTML = '&#10074;&#10074; pause';
  requestAnimationFrame(play);
});
slider.addEventListener('input', () => { pause(); show(Number(slider.value)); });
document.addEventListener('keydown', (event) => {
  if (['INPUT', 'SELECT'].includes(event.target.tagName)) return;
  if (event.key === 'ArrowRight') { pause(); show(at + 1); }
  if (event.key === 'ArrowLeft') { pause(); show(at - 1); }
  if (event.key === ' ' && event.target !== button) { event.preventDefault(); button.click(); }
});
const arrange = () => { main.style.gridTemplateColumns = `repeat(${columns.value}, minmax(0, 1fr))`; };
columns.addEventListener('change', arrange);
layouts.replaceChildren(...Object.keys(videos).map((layout) => new Option(layout, layout)));
layouts.value = 'overview' in videos ? 'overview' : Object.keys(videos)[0];
layouts.parentElement.hidden = Object.keys(videos).length < 2;
layouts.addEventListener('change', () => { pause(); open(layouts.value); });
open(layouts.value);
</script>
</body>
</html>
"""
