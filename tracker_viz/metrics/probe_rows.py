"""Describe the probe batch for the scores: which row repeats what, and what unspecialized attention
looks like.

In: ``Capture.probe``, as the recorder wrote it. Out: one ``ProbeRow`` per row of the batch. Called
by ``heads``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tracker_viz.errors import ProbeError

RowKind = Literal["repeated", "text"]

# Queries 0 and 1 are left out of most scores: the first token can attend to itself only, and for
# the second one "the previous token" and "the first token" are the same key.
FIRST_QUERY = 2
# Below this period "what followed the token last time" is the token itself or one nearby, which
# unspecialised attention finds, too.
MIN_PERIOD = 3


@dataclass(frozen=True, slots=True)
class ProbeRow:
    """One sequence of the probe batch.

    Attributes:
        kind: ``repeated`` (copies of the same random tokens) or ``text`` (anything else).
        length: number of positions.
        period: number of tokens in one copy; 0 in a text row.
        start: position where the first copy begins (1 after a beginning-of-sequence token); 0 in a
            text row.
    """

    kind: RowKind
    length: int
    period: int = 0
    start: int = 0

    def __post_init__(self) -> None:
        if self.kind == "text":
            return
        if self.kind != "repeated":
            raise ProbeError(f"a probe row is of kind 'repeated' or 'text'; got {self.kind!r}")
        if self.period < 1 or self.start < 0 or self.start + self.period >= self.length:
            raise ProbeError(
                "a repeated row needs the beginning of a second copy: 1 <= period < length - "
                "start; "
                f"got period {self.period}, start {self.start}, length {self.length}"
            )


def probe_rows(probe: Mapping[str, Any]) -> tuple[ProbeRow, ...]:
    """The rows that ``Capture.probe`` describes, in the order of the ``probe`` axis.

    Raises:
        ProbeError: ``length`` or ``rows`` is missing, or a row does not say what it must.
    """
    try:
        length = int(probe["length"])
        rows = probe["rows"]
        return tuple(
            ProbeRow(row["kind"], length, int(row["period"]), int(row["start"]))
            if row["kind"] == "repeated"
            else ProbeRow(row["kind"], length)
            for row in rows
        )
    except (KeyError, TypeError) as error:
        raise ProbeError(
            "scoring heads needs Capture.probe = {'length': T, 'rows': [...]} with rows like "
            "{'kind': 'repeated', 'period': p, 'start': s} "
            f"or {{'kind': 'text'}}; got {dict(probe)!r} ({error!r})"
        ) from error


def scored_rows(probe: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what scores are measured on, JSON-like: of every row of the probe ``kind``,
    ``length``, ``ids`` where it has them, and ``period`` and ``start`` where it repeats."""
    names = ("kind", "period", "start", "ids")
    return [
        {"length": int(probe["length"])} | {name: row[name] for name in names if name in row}
        for row in probe["rows"]
    ]


def uniform_attention(length: int) -> NDArray[np.float32]:
    """Attention that knows nothing but causality: float32 [query, key], ``A[i, j] = 1 / (i + 1)``
    for ``j <= i``."""
    return np.tril(
        np.broadcast_to(1.0 / np.arange(1, length + 1, dtype=np.float32)[:, None], (length, length))
    )
