"""Hold one event of a run, and how every kind of event is written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from tracker_viz.metrics.events.words import steps_text
from tracker_viz.types import HeadId

Tone = Literal["role", "change", "trouble"]

# What happens within this share of a run's captures happens together.
TOGETHER = 1 / 12


@dataclass(frozen=True, slots=True)
class Event(ABC):
    """One thing that happened in a run.

    Attributes:
        first_step: last capture without it.
        last_step: first capture with all of it. Equal to ``first_step`` for one capture.
        heads: (block, head) of the heads that it is about, the strongest first. Of a role: those
            that have it once its strongest head took it.
        role: name of the role; empty for other kinds.
        metric: name of the scalar that moved; ``loss`` beside a role where the loss moved too.
        before, after: value of ``metric`` at the first and the last of ``metric_steps``; NaN
            without a metric.
        metric_steps: the captures that ``before`` and ``after`` were taken at; None: those of the
            event. The loss that falls while heads take a role falls for longer than they need.
        strength: 0..1, how much of the run's story this is: orders events of different kinds.
        holders: of a role: all heads that have it in the end.
        experts: (block, expert) of the experts that it is about, the strongest first.
    """

    kind: ClassVar[str]
    tone: ClassVar[Tone] = "trouble"  # which color it has
    stays: ClassVar[bool] = True  # a state that lasts to the end of the run

    first_step: int
    last_step: int
    heads: tuple[HeadId, ...] = ()
    role: str = ""
    metric: str = ""
    before: float = float("nan")
    after: float = float("nan")
    strength: float = 0.0
    holders: tuple[HeadId, ...] = ()
    experts: tuple[HeadId, ...] = ()
    metric_steps: tuple[int, int] | None = None

    @property
    @abstractmethod
    def headline(self) -> str:
        """The event in two or three words: ``induction``, ``loss falls``."""

    @property
    @abstractmethod
    def caption(self) -> str:
        """The sentence that follows the ``headline``, which names the role already. Its clauses
        stand between ``; ``, the most telling first."""

    @property
    def sentence(self) -> str:
        """The sentence for a reader without the headline."""
        return self.caption

    @property
    def who(self) -> str:
        """Whose it is, in a few characters: ``L1H3``, ``27 heads``; empty for the whole run."""
        return ""

    @property
    def steps_text(self) -> str:
        """``472–508``, or ``472``."""
        return steps_text(self.first_step, self.last_step)

    @property
    def past_headline(self) -> str:
        """The headline once the event is over: ``since 508: induction``, for a state that stays to
        the end, or ``last: loss falls · 3–53``."""
        if self.stays:
            return f"since {self.last_step:,}: {self.headline}"
        return f"last: {self.headline} · {self.steps_text}"

    @property
    def text(self) -> str:
        """The event as one sentence: when and what happened, to which heads, and the loss.

        ``472–508: L1H3 and 3 more heads look back to what followed the same token before
        (induction); loss 3.2 → 1.6 over steps 460–569``
        """
        return f"{self.steps_text}: {self.sentence}"
