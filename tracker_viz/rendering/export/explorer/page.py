"""Write a run as one HTML page without network: every map of a Renderer's picture, at each step.

The page works in the sandboxed frame of a tracker's artifact viewer. It holds the cells of all maps
as bytes, as differences to the capture before, deflated; the page's own program draws them, and
writes every word beside them as text.
"""

from __future__ import annotations

import base64
import html
import json
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.errors import RenderError
from tracker_viz.metrics import ROLES, Event, role_label, strongest_event
from tracker_viz.rendering.export.explorer.cells import LEVELS, coded_captures
from tracker_viz.rendering.export.explorer.curves import page_curves
from tracker_viz.rendering.export.explorer.parts import PageParts, page_parts
from tracker_viz.rendering.export.images import with_suffix, write_whole
from tracker_viz.rendering.painting.renderer import Renderer
from tracker_viz.rendering.planning.readouts import format_metric
from tracker_viz.rendering.planning.timeline import curve_range, event_color
from tracker_viz.rendering.role_key import ROLE_KEYS, role_pattern
from tracker_viz.rendering.scales import ColorScale, bar_ticks, short_number
from tracker_viz.rendering.series import Series, si_number
from tracker_viz.rendering.storyboard import storyboard
from tracker_viz.rendering.theme import Theme
from tracker_viz.types import HeadId

# Captures are deflated in chunks of about this many bytes: a page unpacks what it shows.
_CHUNK_BYTES = 1 << 20
# The page's program: one function's body, in this order.
_SCRIPTS = (
    "elements",
    "cells",
    "view",
    "overview",
    "many_heads",
    "scores",
    "plot",
    "curves",
    "detail",
    "player",
    "start",
)
_PLACEHOLDER = re.compile(r"%(TITLE|GROUND|STYLE|DESCRIPTION|CELLS|SCRIPT|LATER)%")


def write_explorer(renderer: Renderer, path: Path | str, *, max_bytes: int = 10 << 20) -> Path:
    """Write the page. Where it would be larger than ``max_bytes``, captures are left out evenly,
    and the page says so.

    Raises:
        RenderError: not even two captures fit, or the file cannot be written.
    """
    path = with_suffix(path, (".html",))
    indices = list(range(len(renderer)))
    while True:
        page = explorer_page(renderer, indices)
        if len(page) <= max_bytes:
            return write_whole(page, path)
        if len(indices) <= 2:
            raise RenderError(
                f"{path.name} would have {len(page) / 2**20:.1f} MiB with two captures: choose a "
                "layout with fewer maps, or allow more"
            )
        # 0.95: a margin, because captures do not all deflate alike.
        n = max(2, int(len(indices) * max_bytes / len(page) * 0.95))
        indices = np.unique(np.linspace(0, len(renderer) - 1, n).round().astype(int)).tolist()


def explorer_page(renderer: Renderer, indices: Sequence[int]) -> bytes:
    """Return the page, in UTF-8, with the captures at ``indices`` (rising)."""
    series, theme = renderer.series, renderer.plan.theme
    parts = page_parts(renderer, len(indices))
    maps = coded_captures(series, parts.maps, indices)
    scores = coded_captures(series, parts.scores, indices)
    per_chunk = max(1, _CHUNK_BYTES // max(1, maps.shape[1]))
    chunks = [maps[start : start + per_chunk] for start in range(0, len(indices), per_chunk)]
    described = _description(renderer, parts, indices)
    first = _first_capture(described) // per_chunk
    described |= {"perChunk": per_chunk, "firstChunk": first}
    curves = page_curves(series, indices, parts.telling)
    described |= {"curves": curves.described, "curvesOf": curves.heads}
    elements = [_script("maps", _changes(each), number) for number, each in enumerate(chunks)]
    texts = {
        "TITLE": html.escape(series.title),
        "GROUND": theme.ground,
        "STYLE": _own_file("explorer.css"),
        "SCRIPT": "\n".join(_own_file(f"{name}.js") for name in _SCRIPTS),
        # "</script>" inside the description would end it.
        "DESCRIPTION": json.dumps(described, separators=(",", ":"), allow_nan=False).replace(
            "<", "\\u003c"
        ),
        # The page begins before a browser has read the captures that it does not begin with.
        "CELLS": f"{_script('scores', _changes(scores))}\n{elements.pop(first)}",
        "LATER": "\n".join([*elements, _script("curves", curves.packed)]),
    }
    # In one pass: a title or a token may read "%CELLS%", and stays what it is.
    return _PLACEHOLDER.sub(lambda match: texts[match[1]], _own_file("explorer.html")).encode()


def _own_file(name: str) -> str:
    return files(__package__).joinpath("program", name).read_text(encoding="utf-8")


def _first_capture(described: Mapping[str, Any]) -> int:
    """Return the number of the capture that the page begins with: at its strongest event."""
    start = described["start"]
    return len(described["steps"]) - 1 if start is None else int(described["events"][start]["last"])


def _changes(cells: NDArray[np.uint8]) -> bytes:
    """Return captures, each as its difference to the one before."""
    # Differences of uint8 wrap around, and so do the sums on the page that undo them.
    return np.diff(cells, axis=0, prepend=np.zeros_like(cells[:1])).tobytes()


def _script(kind: str, unpacked: bytes, number: int = 0) -> str:
    """Return bytes, deflated, in an element that does not run."""
    packed = base64.b64encode(zlib.compress(unpacked, 4)).decode()
    return f'<script type="text/plain" class="{kind}" data-number="{number}">{packed}</script>'


def _description(renderer: Renderer, parts: PageParts, indices: Sequence[int]) -> dict[str, Any]:
    plan, series = renderer.plan, renderer.series
    kept = np.array(indices)
    events = plan.story.events
    strongest = strongest_event(events)
    colors = ("ground", "panel", "text", "dim", "faint", "accent", "nonfinite")
    return {
        "title": series.title,
        "subtitle": series.subtitle,
        "summary": plan.story.summary,
        "theme": {name: getattr(plan.theme, name) for name in colors},
        "roles": {role: _role(role, plan.theme) for role in plan.roles.names},
        "steps": [series.steps[index] for index in indices],
        "seconds": _seconds(renderer, kept),
        "leftOut": len(series) - len(indices),
        "missing": list(series.missing_steps),
        "readouts": _readouts(renderer, indices),
        "curve": _curve(renderer),
        "events": [_event(renderer, event, kept) for event in events],
        "start": events.index(strongest) if strongest else None,
        "scales": {key: _scale(scale) for key, scale in parts.scales.items()},
        "rows": parts.rows,
        "maps": [part.described() for part in parts.maps],
        "scores": [part.described() for part in parts.scores],
        "telling": _names(parts.telling),
        "drawn": parts.drawn_px,
        "opened": parts.opened,
        "sharing": parts.sharing,
        "ablations": _ablations(series),
    }


def _ablations(series: Series) -> dict[str, str]:
    """Return what the page says of the heads that ``verify`` found to be needed."""
    if series.ablations is None:
        return {}
    texts = {}
    for (head, *others), rise in series.ablations.rises.items():
        if not others:
            [name] = _names([head])
            texts[name] = (
                f"without it the loss rises by {rise:.2f} nats "
                f"(ablation at step {series.ablations.step:,})"
            )
    return texts


def _role(name: str, theme: Theme) -> dict[str, Any]:
    """Describe a role; ``icon`` is the SVG path of a small picture of its map."""
    behavior = name.removesuffix("_text")
    shape, meaning = ROLE_KEYS[behavior]
    cells = np.argwhere(role_pattern(behavior) > 0).tolist()
    return {
        "behavior": behavior,
        "label": role_label(name),
        "color": theme.roles[name],
        "enter": next(role.enter for role in ROLES if role.name == name),
        "shape": shape,
        "meaning": meaning,
        "icon": "".join(f"M{column} {row}h1v1h-1z" for row, column in cells),
    }


def _seconds(renderer: Renderer, kept: NDArray[np.intp]) -> list[float]:
    """Return how long the film stays at each kept capture, with those left out after it."""
    shots = storyboard(renderer.series.steps, story=renderer.plan.story, hold_s=1.5)
    places = np.searchsorted(kept, [shot.index for shot in shots], side="right") - 1
    seconds = np.zeros(len(kept))
    np.add.at(seconds, np.maximum(places, 0), [shot.duration_s for shot in shots])
    return [round(float(each), 3) for each in seconds]


def _readouts(renderer: Renderer, indices: Sequence[int]) -> list[dict[str, Any]]:
    """Return the numbers of the header beside the step."""
    series = renderer.series
    found = []
    for readout in renderer.plan.readouts:
        name = readout.quantity
        if name == "step" or not readout.is_in_header:
            continue
        if name == "tokens":
            texts = [si_number(series.tokens_seen[index] or 0) for index in indices]
        else:
            values = series.metric(name)
            texts = [format_metric(float(values[index])) for index in indices]
        found.append({"name": name, "texts": texts})
    return found


def _curve(renderer: Renderer) -> dict[str, Any] | None:
    """Return the metric over the whole run; None without a timeline."""
    if renderer.plan.timeline is None:
        return None
    series = renderer.series
    metric = ""
    for readout in renderer.plan.readouts:
        if readout.quantity not in ("step", "tokens") and readout.is_in_header:
            metric = readout.quantity
    values = series.metric(metric)
    low, high = curve_range(values)
    ends = []
    if math.isfinite(low):
        ends = [short_number(low), short_number(high)]
    else:
        low, high = 0.0, 1.0
    return {
        "name": metric,
        "steps": list(series.steps),
        "values": [float(value) if math.isfinite(value) else None for value in values],
        "low": low,
        "high": high,
        "ends": ends,
    }


def _event(renderer: Renderer, event: Event, kept: NDArray[np.intp]) -> dict[str, Any]:
    """Describe an event; ``first`` and ``last`` are numbers of the page's captures between which it
    happens."""
    steps = np.array(renderer.series.steps)[kept]
    first = int(np.searchsorted(steps, event.first_step, side="right")) - 1
    last = int(np.searchsorted(steps, event.last_step))
    return {
        "headline": event.headline,
        "pastHeadline": event.past_headline,
        "steps": event.steps_text,
        "text": event.text,
        "caption": event.caption,
        "firstStep": event.first_step,
        "lastStep": event.last_step,
        "first": max(0, first),
        "last": min(last, len(steps) - 1),
        "who": event.who,
        "heads": _names(event.heads),
        "role": event.role,
        "rows": next((role.rows for role in ROLES if role.name == event.role), ""),
        "color": event_color(event, renderer.plan.theme),
        "strength": event.strength,
    }


def _names(heads: Sequence[HeadId]) -> list[str]:
    """Return ``block.head`` of each head."""
    return [f"{block}.{head}" for block, head in heads]


def _scale(scale: ColorScale) -> dict[str, Any]:
    """Return colors and texts of all levels, and the ticks of the color bar."""
    positions = np.linspace(0, 1, LEVELS)
    values = np.asarray(scale.mpl_norm().inverse(positions), np.float64) * scale.unit
    colors = np.floor(scale.mpl_cmap()(positions)[:, :3] * 255 + 0.5).astype(np.uint8)
    return {
        "title": scale.label,
        "colors": base64.b64encode(colors.tobytes()).decode(),
        "values": [short_number(float(value)) for value in values],
        "ticks": [[round(position, 4), text] for position, text in bar_ticks(scale)],
        "clipped": list(scale.clipped),
    }
