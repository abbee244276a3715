"""Draw rows of repeated random tokens, and cut rows out of a text."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tracker_viz.capture.probe.rows import ProbeRow
from tracker_viz.metrics import MIN_PERIOD


@dataclass(frozen=True, slots=True)
class Draw:
    """Draws rows of repeated random tokens.

    Attributes:
        allowed: int64 [token], to draw from.
        length: of a row.
        bos_id: put before the repetition; None: nothing is.
        is_known: whether the tokenizer has a token: those that it lacks were never trained, and are
            drawn only where there are too few others.
    """

    allowed: Tensor
    length: int
    bos_id: int | None
    generator: torch.Generator
    is_known: Callable[[int], bool]

    @property
    def start(self) -> int:
        return 0 if self.bos_id is None else 1

    @property
    def room(self) -> int:
        """Positions for the repetition."""
        return self.length - self.start

    def repeated(self, period: int) -> Tensor:
        """Draw one row, int64 [length], of ``period`` different tokens over and over."""
        order = torch.randperm(len(self.allowed), generator=self.generator, device="cpu")
        unit = self._known_first(self.allowed[order], period)
        row = unit.repeat(-(-self.length // period))[: self.room]
        if self.bos_id is None:
            return row
        return torch.cat([torch.tensor([self.bos_id], device="cpu"), row])

    def _known_first(self, tokens: Tensor, count: int) -> Tensor:
        known = list(itertools.islice(filter(self.is_known, tokens.tolist()), count))
        if len(known) < count:
            return tokens[:count]
        return torch.tensor(known, dtype=torch.int64, device="cpu")

    def hidden(
        self, count: int, period: int, *, only_shorter: bool
    ) -> list[tuple[Tensor, ProbeRow]]:
        """Return ``count`` rows that take turns among three periods: two others, then ``period``
        itself. Several rows share a period, because a score that is the lowest over many periods
        of one row each would be the lowest of many accidents."""
        longest = min(self.room // 2, len(self.allowed))
        others = _other_periods(period, longest, only_shorter=only_shorter)
        turns = [each for each in (*others, period) if MIN_PERIOD <= each <= longest]
        rows = []
        for index in range(count if turns else 0):
            each = turns[index % len(turns)]
            rows.append(
                (self.repeated(each), ProbeRow("repeated", (), each, self.start, hidden=True))
            )
        return rows


def hidden_text(
    text: Tensor, length: int, bos_id: int | None, count: int
) -> list[tuple[Tensor, ProbeRow]]:
    """Return as many further slices of the text as it has, each behind the BOS where the text
    begins with it."""
    first = text[:1] if bos_id is not None and int(text[0]) == bos_id else text[:0]
    n_new = length - len(first)
    n_slices = min(count, (len(text) - length) // n_new)
    slices = text[length : length + n_slices * n_new].reshape(n_slices, n_new)
    return [(torch.cat([first, each]), ProbeRow("text", (), hidden=True)) for each in slices]


def _other_periods(period: int, longest: int, *, only_shorter: bool) -> list[int]:
    """Return up to two periods that differ from ``period`` by about a quarter of it."""
    quarter = max(1, round(period / 4))
    wanted = [period - quarter, period - 2 * quarter if only_shorter else period + quarter]
    most = min(longest, period) if only_shorter else longest
    possible = [each for each in range(MIN_PERIOD, most + 1) if each != period]
    chosen = [each for each in wanted if each in possible]
    nearest = sorted(possible, key=lambda each: abs(each - period))
    return list(dict.fromkeys([*chosen, *nearest]))[:2]
