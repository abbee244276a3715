"""Say what every source is: which arrays of a capture it reads, and how it turns a Moment into a
matrix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from tracker_viz.capture_file import ArrayKey

Show = Literal["change", "value", "step"]
COMPARES: Mapping[Show, Literal["first", "previous"] | None] = {
    "value": None,
    "change": "first",
    "step": "previous",
}


@dataclass(frozen=True, slots=True)
class Moment:
    """Everything that can be drawn at one capture: its arrays, its index in the run, and the arrays
    of the run's first and of the previous capture where a source asks."""

    arrays: Mapping[ArrayKey, NDArray[Any]]
    first: Mapping[ArrayKey, NDArray[Any]]
    previous: Mapping[ArrayKey, NDArray[Any]]
    index: int = 0

    def compared(self, show: Show) -> Mapping[ArrayKey, NDArray[Any]]:
        """Return the arrays of the capture that a change or a step starts from."""
        return self.first if show == "change" else self.previous


class Source(Protocol):
    """The origin of a box's values.

    Attributes:
        needs: what is read from the capture: names of arrays, or (name, row) for one row of an
            array's first axis.
        compares: "first" or "previous" when the same arrays of that capture are read too, else
            None.
        blends: values between two captures may be interpolated; False for scores.
        shape: (rows, columns) of the matrix that ``values`` returns.
    """

    @property
    def needs(self) -> tuple[ArrayKey, ...]: ...
    @property
    def compares(self) -> Literal["first", "previous"] | None: ...
    @property
    def blends(self) -> bool: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    def values(self, moment: Moment) -> NDArray[Any]: ...


class Reader(Protocol):
    """Whatever reads arrays of a capture: a Source, or a part of the explorer's page."""

    @property
    def needs(self) -> tuple[ArrayKey, ...]: ...
    @property
    def compares(self) -> Literal["first", "previous"] | None: ...


def needs_of(
    readers: Iterable[Reader], compares: Literal["first", "previous"] | None = None
) -> list[ArrayKey]:
    """Return the arrays that some readers need, each once; those of another capture if
    ``compares`` names it."""
    needs: dict[ArrayKey, None] = {}
    for reader in readers:
        if compares in (None, reader.compares):
            needs |= dict.fromkeys(reader.needs)
    return list(needs)
