"""Hold the probe and its rows: which tokens, of what kind, and which rows are hidden."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from tracker_viz.capture.spelling import Speller


@dataclass(frozen=True, slots=True)
class ProbeRow:
    """Describe one row of the probe.

    Attributes:
        tokens: text of every token; empty in a hidden row.
        period, start: in a repeated row, positions ``start``.. hold copies of the same ``period``
            tokens (the last may be cut short).
        hidden: scored, and never drawn.
    """

    kind: Literal["repeated", "text"]
    tokens: tuple[str, ...]
    period: int | None = None
    start: int | None = None
    hidden: bool = False

    def __repr__(self) -> str:
        words = f"{self.kind}, {len(self.tokens)} tokens"
        if self.hidden:
            words = f"{self.kind}, hidden"
        return f"ProbeRow({words})"

    def description(self) -> dict[str, Any]:
        """Return the row as ``Capture.probe`` holds it, JSON-like, without its ids."""
        described: dict[str, Any] = {"kind": self.kind}
        if self.kind == "repeated":
            described |= {"period": self.period, "start": self.start}
        if self.hidden:
            described["hidden"] = True
        return {**described, "tokens": list(self.tokens)}


@dataclass(frozen=True, slots=True)
class Probe:
    """The tokens of the probe, and a description of each row. The rows that are drawn come first.

    Attributes:
        input_ids: int64 [probe, position], on the CPU.
        spell: token id -> its text, also of tokens that the probe does not hold.
    """

    input_ids: Tensor
    rows: tuple[ProbeRow, ...]
    spell: Speller = field(default_factory=lambda: Speller(None), compare=False, repr=False)

    def __repr__(self) -> str:
        names = ", ".join(self.labels[: self.n_drawn])
        return f"Probe({names}: {self.length} tokens; {self.n_hidden} hidden rows)"

    @property
    def length(self) -> int:
        return int(self.input_ids.shape[1])

    @property
    def n_drawn(self) -> int:
        """Number of rows that are not hidden."""
        return sum(not row.hidden for row in self.rows)

    @property
    def n_hidden(self) -> int:
        return len(self.rows) - self.n_drawn

    @property
    def labels(self) -> tuple[str, ...]:
        """A short name of every row, each once: ``repeated``, ``text``, ``text 2``."""
        counts: dict[str, int] = {}
        names = []
        for row in self.rows:
            counts[row.kind] = counts.get(row.kind, 0) + 1
            names.append(row.kind if counts[row.kind] == 1 else f"{row.kind} {counts[row.kind]}")
        return tuple(names)

    def description(self) -> dict[str, Any]:
        """Return the probe as ``Capture.probe`` holds it, JSON-like."""
        rows = []
        for row, ids in zip(self.rows, self.input_ids.tolist(), strict=True):
            rows.append({**row.description(), "ids": ids})
        return {"length": self.length, "rows": rows}

    def with_score_rows(self, most: int) -> Probe:
        """Return the probe with at most ``most`` hidden rows of each kind."""
        hidden = [index for turn, index in self._hidden_by_turn() if turn < most]
        return self._with_only(hidden)

    def with_hidden(self, most: int) -> Probe:
        """Return the probe with at most ``most`` hidden rows, of each kind in turn."""
        return self._with_only(self._hidden_in_turn(most))

    def rows_with_hidden(self, most: int) -> list[int]:
        """Return numbers of the rows that are drawn, and of at most ``most`` hidden ones, of each
        kind in turn; in order."""
        return [*range(self.n_drawn), *sorted(self._hidden_in_turn(most))]

    def _hidden_in_turn(self, most: int) -> list[int]:
        return [index for _, index in sorted(self._hidden_by_turn())[:most]]

    def _hidden_by_turn(self) -> list[tuple[int, int]]:
        """Return (how many hidden rows of its kind come before it, its index) of hidden rows."""
        counts: dict[str, int] = {}
        found = []
        for index, row in enumerate(self.rows):
            if row.hidden:
                found.append((counts.get(row.kind, 0), index))
                counts[row.kind] = counts.get(row.kind, 0) + 1
        return found

    def _with_only(self, hidden: Collection[int]) -> Probe:
        if len(hidden) == self.n_hidden:
            return self
        kept = [*range(self.n_drawn), *sorted(hidden)]
        rows = tuple(self.rows[index] for index in kept)
        return replace(self, input_ids=self.input_ids[kept], rows=rows)


def with_hidden_rows(drawn: Probe, hidden: Sequence[tuple[Tensor, ProbeRow]]) -> Probe:
    """Return the probe with hidden rows, each as its ids, int64 [position], and its description."""
    if not hidden:
        return drawn
    ids = torch.stack([ids for ids, _ in hidden])
    rows = tuple(row for _, row in hidden)
    together = torch.cat([drawn.input_ids, ids])
    return replace(drawn, input_ids=together, rows=drawn.rows + rows)
