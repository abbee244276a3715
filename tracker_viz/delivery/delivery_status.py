"""How far one destination has come: what its uploader says, and reports are made of."""

from __future__ import annotations

from dataclasses import dataclass

from tracker_viz.notebook import count
from tracker_viz.types import RunRef


@dataclass(frozen=True, slots=True)
class DeliveryStatus:
    """The progress of one destination.

    Attributes:
        sent: captures that it has confirmed, in this process or an earlier one.
        left: captures that wait in the spool for it.
        damaged: steps of which neither it nor the spool has a whole capture.
        error: why something is left, or what failed last; None when all is well.
        is_error_logged: whether the log gives the error already.
        refused: whether the same again would fail for the same reason.
    """

    name: str
    ref: RunRef | None
    url: str | None
    sent: int
    left: int
    damaged: tuple[int, ...]
    error: str | None
    refused: bool = False
    is_error_logged: bool = False

    @property
    def complete(self) -> bool:
        return self.left == 0 and self.error is None

    def __repr__(self) -> str:
        words = f"{self.name}, {count(self.sent, 'capture')} sent, {self.left} left"
        if self.damaged:
            words += f", {len(self.damaged)} damaged"
        return f"DeliveryStatus({words})"
