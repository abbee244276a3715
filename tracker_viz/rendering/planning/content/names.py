"""Read what names and labels of arrays say: blocks, heads, kinds of matrices, rows of the probe."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tracker_viz.errors import LayoutError
from tracker_viz.rendering.planning.plan_builder import PlanBuilder
from tracker_viz.rendering.series import Series


def probe_row(series: Series, number: int) -> Mapping[str, Any]:
    """Return what the captures say about a row of the probe; empty where they say nothing."""
    rows = series.last.probe.get("rows") or []
    if number >= len(rows):
        return {}
    row: Mapping[str, Any] = rows[number]
    return row


def probe_rows(
    builder: PlanBuilder, wanted: str | int | None, n_rows: int | None
) -> list[tuple[int | None, str]]:
    """Return (index, title) of the probe rows that are wanted, all if ``wanted`` is None.

    Args:
        n_rows: of the arrays that are shown; None where these have no axis of rows, as the index
            then is.
    """
    if n_rows is None:
        return [(None, "")]
    labels = builder.series.labels("probe", n_rows)
    titles = [row_title(label, len(labels)) for label in labels]
    if wanted is None:
        return list(enumerate(titles))
    row = wanted
    if isinstance(wanted, str) and wanted in labels:
        row = labels.index(wanted)
    if not isinstance(row, int) or not 0 <= row < len(labels):
        raise LayoutError(
            f"layout {builder.layout.name!r}: the captures have the probe rows "
            f"{', '.join(labels)}; got probe={wanted!r}"
        )
    return [(row, titles[row])]


def row_title(label: str, n_rows: int) -> str:
    """Return what a row of the probe is called; empty where the only one has no name."""
    if not label.isdigit():
        return f"{label} tokens"
    return f"probe {label}" if n_rows > 1 else ""


def head_numbers(series: Series, name: str) -> tuple[int, ...]:
    """Return the numbers of the heads (or channels) in the array ``name`` of attention or mixing
    maps, in its order: all of a block, or those that fitted into a capture."""
    axis = name.removesuffix(".attn.pattern") + ".head"
    if name.endswith(".mixer.mixing"):
        kind = series.arrays[name].axes[-3]
        axis = f"{name.removesuffix('.mixer.mixing')}.mixing_{kind}"
    labels = series.labels(axis, series.arrays[name].shape[-3])
    numbers = []
    for position, label in enumerate(labels):
        digits = re.sub(r"\D", "", label)
        numbers.append(int(digits or position))
    return tuple(numbers)


def block_of(name: str) -> int:
    """Return the number of the block that an array belongs to."""
    match = re.match(r"blocks\.(\d+)\.", name)
    if not match:
        raise LayoutError(f"arrays of a block are named 'blocks.<i>.<what>'; got {name!r}")
    return int(match[1])


def kind_of(name: str) -> str:
    """Return an array's name within its block: ``blocks.3.mlp.w_up`` -> ``mlp.w_up``."""
    return name.split(".", 2)[2]
