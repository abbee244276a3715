"""Describe the probe batch for the scores: the rows that repeat, and uniform attention on them.

``Capture.probe`` comes in, as the recorder wrote it; one ``ProbeRow`` per row of the batch comes
out. Called by ``scorer``.
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
# unspecialized attention finds, too.
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
                f"start; got period {self.period}, start {self.start}, length {self.length}"
            )


def probe_rows(probe: Mapping[str, Any]) -> tuple[ProbeRow, ...]:
    """Return the rows that ``Capture.probe`` describes, in the order of the ``probe`` axis.

    Raises:
        ProbeError: ``length`` or ``rows`` is missing, or a row does not say what it must.
    """
    rows = []
    try:
        length = int(probe["length"])
        for row in probe["rows"]:
            repeat = (row["period"], row["start"]) if row["kind"] == "repeated" else ()
            rows.append(ProbeRow(row["kind"], length, *map(int, repeat)))
    except (KeyError, TypeError) as error:
        raise ProbeError(
            "scoring heads needs Capture.probe = {'length': T, 'rows': [...]} with rows like "
            "{'kind': 'repeated', 'period': p, 'start': s} "
            f"or {{'kind': 'text'}}; got {dict(probe)!r} ({error!r})"
        ) from error
    return tuple(rows)


def scored_rows(probe: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows that scores are measured on, JSON-like: ``kind``, ``length``, ``ids`` where a
    row has them, and ``period`` and ``start`` where it repeats."""
    described = []
    for row in probe["rows"]:
        kept = {name: row[name] for name in ("kind", "period", "start", "ids") if name in row}
        described.append({"length": int(probe["length"])} | kept)
    return described


def uniform_attention(length: int) -> NDArray[np.float32]:
    """Return uniform causal attention: float32 [query, key], ``A[i, j] = 1 / (i + 1)`` for ``j <=
    i``."""
    shares = 1.0 / np.arange(1, length + 1, dtype=np.float32)
    return np.tril(np.broadcast_to(shares[:, None], (length, length)))
