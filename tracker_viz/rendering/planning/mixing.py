"""Find the mixing maps that a panel of attention shows beside it: those of blocks whose token mixer
has no softmax, signed, on a scale with 0 in its middle."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from tracker_viz.rendering.layout import Attention
from tracker_viz.rendering.measuring import ValueRange
from tracker_viz.rendering.planning.content import (
    Heads,
    Matrices,
    block_of,
    head_numbers,
    probe_rows,
)
from tracker_viz.rendering.planning.plan_builder import Measured, PlanBuilder
from tracker_viz.rendering.sources import HeadMap

# Share of the cells of any capture that stay within the scale: a few large entries would leave the
# others dark.
_WITHIN = 0.995


def resolve_mixing(builder: PlanBuilder, panel: Attention) -> list[Heads]:
    """Return one Heads for every probe row that the panel shows; none without mixing maps."""
    series, layout = builder.series, builder.layout.name
    names = sorted(series.names("blocks.*.mixer.mixing"), key=block_of)
    if not names:
        return []
    arrays = [series.require(name, layout) for name in names]
    length = arrays[0].shape[-1]
    indices = [(block_of(name), head_numbers(series, name)) for name in names]
    since = {
        "value": "",
        "step": " · change since the previous capture",
        "change": f" · change since step {series.steps[0]:,}",
    }[panel.show]
    scale = f"mixing_{panel.show}"
    of_channels = any("channel" in array.axes for array in arrays)
    notes = ("each map one of many channels",) if of_channels else ()
    found = []
    for probe, label in probe_rows(builder, panel.probe, arrays[0].shape[0]):
        blocks = []
        for name, array in zip(names, arrays, strict=True):
            maps = range(array.shape[-3])
            blocks.append([HeadMap(name, probe, head, length, show=panel.show) for head in maps])
        parts = [f"Mixing{since}", *([label] if label else [])]
        title = " · ".join(parts)
        found.append(Heads(title, scale, blocks, indices, length, True, notes, is_mixing=True))
    options = partial(_options, builder, since)
    builder.add_scale(scale, "mixing", Measured("mixing", _WITHIN, options))
    return found


def _options(builder: PlanBuilder, since: str, reach: ValueRange) -> dict[str, Any]:
    largest = reach.quantile or 1.0
    if since:
        return {
            "title": f"mixing weight{since}",
            "cmap": builder.theme.magnitude,
            "minimum": 0.0,
            "maximum": largest,
            "reached": (0.0, reach.maximum),
        }
    return {
        "title": "mixing weight",
        "cmap": builder.theme.signed,
        "minimum": -largest,
        "maximum": largest,
        "reached": (-reach.maximum, reach.maximum),
    }


def aligned(
    heads: Sequence[Heads], matrices: Sequence[Matrices]
) -> tuple[list[Heads], list[Matrices]]:
    """Return panels whose rows are the same blocks, empty where a panel has nothing of a block:
    hybrids attend in some blocks only, and a row of the picture is one block."""
    panels: list[Heads | Matrices] = [*heads, *matrices]
    numbers = sorted({number for panel in panels for number in panel.block_numbers})
    return [each.of(numbers) for each in heads], [each.of(numbers) for each in matrices]
