"""Matrices that captures hold as they are drawn, or that were found when a picture was planned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tracker_viz.capture_file import ArrayKey
from tracker_viz.rendering.sources.moment import Moment


@dataclass(frozen=True, slots=True)
class ScoreMap:
    """One score of every head or weight matrix: [block, head] or [block, projection]; NaN where
    there is none.

    ``compares``: ``previous`` of a score that the first capture cannot have yet.
    """

    name: str
    shape: tuple[int, int]
    compares: Literal["first", "previous"] | None = None

    blends = False

    @property
    def needs(self) -> tuple[ArrayKey, ...]:
        return (self.name,)

    def values(self, moment: Moment) -> NDArray[Any]:
        return moment.arrays[self.name]


@dataclass(frozen=True, slots=True)
class RouterMap:
    """Probabilities of one router on one row of the probe: [expert, token], each cell the maximum
    of ``pool`` neighboring experts."""

    name: str
    probe: int
    experts: int
    tokens: int
    pool: int = 1

    blends = True
    compares: Literal["first", "previous"] | None = None

    @property
    def needs(self) -> tuple[ArrayKey, ...]:
        return ((self.name, self.probe),)

    @property
    def shape(self) -> tuple[int, int]:
        return -(-self.experts // self.pool), self.tokens

    def values(self, moment: Moment) -> NDArray[Any]:
        of_experts = moment.arrays[self.name, self.probe].T
        if self.pool == 1:
            return of_experts
        return np.maximum.reduceat(of_experts, np.arange(0, self.experts, self.pool), axis=0)


@dataclass(frozen=True, slots=True, eq=False)
class CodedMap:
    """Numbers of colors that were found from the whole run: ``codes`` uint16 [capture, row,
    column]."""

    codes: NDArray[np.uint16]

    needs: tuple[ArrayKey, ...] = ()
    blends = False
    compares: Literal["first", "previous"] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[1], self.codes.shape[2]

    def values(self, moment: Moment) -> NDArray[np.float16]:
        """Return the codes as float16, which holds whole numbers up to 2,048 exactly."""
        return self.codes[moment.index].astype(np.float16)


@dataclass(frozen=True, slots=True, eq=False)
class HeldMap:
    """Numbers that were taken from all captures when the picture was planned: ``held`` float16
    [capture, row, column]."""

    held: NDArray[np.float16]

    needs: tuple[ArrayKey, ...] = ()
    blends = True
    compares: Literal["first", "previous"] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.held.shape[1], self.held.shape[2]

    def values(self, moment: Moment) -> NDArray[np.float16]:
        return self.held[moment.index]
