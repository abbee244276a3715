"""A run as one HTML page without network: the picture of a Renderer, with a slider over its
captures, values under the pointer and heads that open large. Works in the sandboxed frame of a
tracker's artifact viewer.

The page holds the background once, and for every capture the cells as bytes: positions on their
colour scales in 255 steps (255 itself is "not finite"), as differences to the capture before,
deflated.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.errors import RenderError
from tracker_viz.rendering.content import block_of, head_numbers, kind_of, matrix_title
from tracker_viz.rendering.explorer_page import PAGE
from tracker_viz.rendering.header import format_metric
from tracker_viz.rendering.plan import Plan
from tracker_viz.rendering.renderer import Renderer
from tracker_viz.rendering.scales import ColorScale, short_number
from tracker_viz.rendering.series import Series, si_number
from tracker_viz.rendering.sources import HeadMap, Mosaic, ScoreMap, Source, WeightSummary
from tracker_viz.rendering.stills import png, with_suffix, write_whole

_NONFINITE = 255
_LEVELS = 255  # 0..254


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
        n = max(2, int(len(indices) * max_bytes / len(page) * 0.95))
        indices = np.unique(np.linspace(0, len(renderer) - 1, n).round().astype(int)).tolist()


def explorer_page(renderer: Renderer, indices: list[int]) -> bytes:
    """The page, in UTF-8, with the captures at ``indices``."""
    plan, series = renderer.plan, renderer.series
    cells, roles, previous = [], [], None
    for index in indices:
        values = renderer.values(index)
        coded = np.concatenate(
            [
                encode(values[heatmap.name], plan.scales[heatmap.scale]).reshape(-1)
                for heatmap in plan.heatmaps
            ]
        )
        cells.append(
            (coded - previous if previous is not None else coded).tobytes()
        )  # uint8: wraps, and so does the page
        previous = coded
        held = plan.roles.held[index] if plan.roles.held else {}
        roles.append({f"{block}.{head}": role for (block, head), role in held.items()})
    description = {
        "title": series.title,
        "width": plan.width,
        "height": plan.height,
        "theme": {
            name: getattr(plan.theme, name)
            for name in ("ground", "panel", "text", "dim", "faint", "accent", "nonfinite")
        },
        "roles": {role: plan.theme.roles[role] for role in plan.roles.names},
        "roleLine": plan.roles.line_px,
        "steps": [series.steps[index] for index in indices],
        "left": len(renderer) - len(indices),
        "readouts": [_readout(renderer, readout, indices) for readout in plan.readouts],
        "held": roles,
        "scales": {key: _scale(scale) for key, scale in plan.scales.items()},
        "maps": _maps(plan, series),
        "timeline": _timeline(renderer, indices),
        "tokens": _tokens(renderer),
    }
    parts = {
        "BACKGROUND": base64.b64encode(png(renderer.background)).decode(),
        "CELLS": base64.b64encode(zlib.compress(b"".join(cells), 9)).decode(),
        # last: a title or a token may read "%CELLS%", and stays what it is
        "DESCRIPTION": json.dumps(description, separators=(",", ":"), allow_nan=False).replace(
            "<", "\\u003c"
        ),
    }
    page = PAGE.replace("%TITLE%", _escaped(series.title))
    for name, text in parts.items():
        page = page.replace(f"%{name}%", text)
    return page.encode()


def encode(values: NDArray[np.float16], scale: ColorScale) -> NDArray[np.uint8]:
    """Positions on the colour scale as 0..254; 255 where a value is not finite."""
    finite = np.isfinite(values)
    positions = np.nan_to_num(
        np.asarray(scale.mpl_norm()(np.where(finite, values, 0).astype(np.float32)), np.float64)
    )
    return np.where(finite, np.rint(np.clip(positions, 0, 1) * (_LEVELS - 1)), _NONFINITE).astype(
        np.uint8
    )


def _scale(scale: ColorScale) -> dict[str, Any]:
    norm, cmap = scale.mpl_norm(), scale.mpl_cmap()
    positions = np.linspace(0, 1, _LEVELS)
    values = np.asarray(norm.inverse(positions), np.float64) * scale.unit
    return {
        "title": scale.label,
        "colors": np.floor(cmap(positions)[:, :3] * 255 + 0.5).astype(int).reshape(-1).tolist(),
        "values": [short_number(float(value)) for value in values],
    }


def _maps(plan: Plan, series: Series) -> list[dict[str, Any]]:
    maps = []
    for heatmap in plan.heatmaps:
        source = heatmap.source
        rows, columns = source.shape
        hidden = (
            None
            if heatmap.mask is None
            else base64.b64encode(
                np.packbits(heatmap.mask.reshape(-1), bitorder="little").tobytes()
            ).decode()
        )
        box = heatmap.box
        maps.append(
            {
                "name": heatmap.name,
                "box": [box.x, box.y, box.width, box.height],
                "rows": rows,
                "columns": columns,
                "scale": heatmap.scale,
                "head": f"{heatmap.head[0]}.{heatmap.head[1]}" if heatmap.head else None,
                "hidden": hidden,
                "probe": source.probe if isinstance(source, HeadMap) else None,
                "pool": source.pool if isinstance(source, HeadMap) else 1,
                "names": _names(source, series),
            }
        )
    return maps


def _names(source: Source, series: Series) -> tuple[list[str], list[str]] | None:
    """What every row and every column is called, where these are blocks and their heads or
    matrices; None where they are not."""
    rows, columns = source.shape
    blocks = [f"block {row}" for row in range(rows)]
    if isinstance(source, ScoreMap):
        if source.name.startswith("scores.head."):
            return blocks, [f"head {column}" for column in range(columns)]
        return blocks, [matrix_title(kind) for kind in series.labels("projection", columns)]
    if isinstance(source, WeightSummary):
        kinds = [
            next(name for name in column if name) for column in zip(*source.names, strict=True)
        ]
        return blocks, [matrix_title(kind_of(name)) for name in kinds]
    if isinstance(source, Mosaic):
        pitch = source.cells + source.gap
        first = [next(each for each in row if each) for row in source.maps]
        widest = max(source.maps, key=lambda row: sum(each is not None for each in row))
        heads = [head_numbers(series, each.name)[each.head] for each in widest if each]
        return [f"block {block_of(first[row // pitch].name)}" for row in range(rows)], [
            f"head {heads[column // pitch]}" for column in range(columns)
        ]
    return None


def _readout(renderer: Renderer, readout: Any, indices: list[int]) -> dict[str, Any]:
    series = renderer.series
    texts = []
    for index in indices:
        if readout.quantity == "step":
            texts.append(f"{series.steps[index]:,}")
        elif readout.quantity == "tokens":
            texts.append(si_number(series.tokens_seen[index] or 0))
        else:
            texts.append(format_metric(series.metrics[index].get(readout.quantity, math.nan)))
    return {"x": readout.x, "baseline": readout.baseline, "size": readout.size_px, "texts": texts}


def _timeline(renderer: Renderer, indices: list[int]) -> dict[str, Any] | None:
    timeline = renderer.plan.timeline
    if timeline is None:
        return None
    box = timeline.box
    return {
        "box": [box.x, box.y, box.width, box.height],
        "x": [round(timeline.x(renderer.series.steps[index]), 1) for index in indices],
    }


def _tokens(renderer: Renderer) -> list[list[str]]:
    rows = renderer.series.last.probe.get("rows") or []
    return [[str(token) for token in row.get("tokens", ())] for row in rows]


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("%", "&#37;")
