"""Score raw captures and cut them to size, on their way from the recorder into the spool.

    recorder ──raw capture──▶ outbox's queue ──Scores.score_and_cut──▶ spool ──▶ trackers

The outbox calls ``score_and_cut`` on its writer thread. When training ends, ``deliver`` gives the
runs the results over all captures: summary, table of heads, file of scores.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from tracker_viz import capture_file
from tracker_viz.delivery import Outbox
from tracker_viz.metrics import (
    SCORE_FILE,
    Alarm,
    Alarms,
    Scorer,
    ScoreSeries,
    head_table,
    run_summary,
    run_tags,
    score_bytes,
)
from tracker_viz.trackers import Run, pull
from tracker_viz.types import Capture, CaptureHeader, CapturePath, CaptureRef, RunRef

log = logging.getLogger(__name__)

HEAD_TABLE = "head_roles"


@dataclass(frozen=True, slots=True)
class EarlierCaptures:
    """The captures that a run held before this process joined it.

    Attributes:
        where: the run that holds the first capture.
        refs: of every capture, ordered by step.
        scored: every capture with its scores only.
        first: the first capture, whole.
        last: the last one's header.
    """

    where: RunRef
    refs: tuple[CaptureRef, ...]
    scored: tuple[Capture, ...]
    first: Capture
    last: CaptureHeader


class Scores:
    """Scores of one run: of the captures that pass through, and of those from before a resume.

    Args:
        max_mb: size of one capture in megabytes.
        on_alarm: called with every alarm, on the writer thread; None: nobody looks for any. What it
            raises is logged.
    """

    def __init__(self, max_mb: float, on_alarm: Callable[[Alarm], object] | None = None) -> None:
        from tracker_viz.capture import Budget

        self._alarms = Alarms() if on_alarm is not None else None
        self._on_alarm = on_alarm

        self._budget = Budget(max_mb)
        self._scorer = Scorer()
        self._earlier_refs: dict[int, CaptureRef] = {}
        self._probe: Mapping[str, Any] = {}
        self._probe_labels: tuple[str, ...] = ()

    def score_and_cut(self, capture: Capture) -> Capture:
        """Return the capture with its scores, cut to ``max_mb``. The scores come first: they need
        all of the attention."""
        scored = self._scorer(capture)
        alarms = self._alarms_of(scored)
        if alarms:
            described = [alarm.description() for alarm in alarms]
            scored = replace(scored, model={**scored.model, "alarms": described})
        kept = self._budget.fit(scored)
        self._probe, self._probe_labels = kept.probe, kept.labels.get("probe", ())
        return kept

    def _alarms_of(self, scored: Capture) -> list[Alarm]:
        """Return the alarms that begin with a capture, after logging them and calling ``on_alarm``.
        Nothing here may end the writer's thread."""
        if self._alarms is None or self._on_alarm is None:
            return []
        try:
            alarms = self._alarms(scored)
        except Exception:
            log.exception("looking for alarms failed: there are none in this run")
            self._alarms = None
            return []
        for alarm in alarms:
            log.warning("alarm: %s", alarm.sentence)
            try:
                self._on_alarm(alarm)
            except Exception:
                log.exception("on_alarm= failed; training goes on")
        return alarms

    def resume(self, earlier: EarlierCaptures) -> None:
        """Continue a run: measure change from its first capture, and keep the scores of all."""
        from tracker_viz.capture import sample

        side = earlier.first.model.get("cut", {}).get("weight_side")
        sampled = None
        if side is not None:
            sampled = partial(sample, side=side)
        self._scorer = Scorer(earlier.first, sampled=sampled, earlier=earlier.scored)
        self._budget.resume(earlier.last.labels, earlier.scored)
        self._earlier_refs = {ref.step: ref for ref in earlier.refs}
        self._probe, self._probe_labels = earlier.last.probe, earlier.last.labels.get("probe", ())

    def like_new(self) -> Scores:
        """Return the same stage without any captures."""
        return Scores(self._budget.max_mb, self._on_alarm)

    def series(self) -> ScoreSeries:
        return self._scorer.series()

    def deliver(self, outbox: Outbox) -> None:
        """Give the runs the summary, the table of heads and the file of all scores. Call it once
        every capture is written."""
        series = self.series()
        outbox.set_summary({**run_summary(series), **run_tags(series)})
        rows = head_table(series)
        if rows:
            refs = self._earlier_refs | outbox.written
            outbox.put_table(rows, HEAD_TABLE)
            outbox.put_file(score_bytes(series, refs, self._probe, self._probe_labels), SCORE_FILE)


def earlier_captures(
    outbox: Outbox, spools: Mapping[RunRef, Run] | None = None
) -> EarlierCaptures | None:
    """Read the captures that the spool and the runs hold together; None where they hold none.

    A backlog may be on its way to a run at this moment; its delivery waits until all is read. The
    spool comes first, because its captures need no download. Damaged captures are left out.

    Args:
        spools: run -> another spool from which it was recorded.
    """
    sources: list[tuple[RunRef, Run]] = [(outbox.run.ref, outbox.run), *(spools or {}).items()]
    sources += [(run.ref, run) for run in outbox.runs if run.online]
    found: dict[int, CapturePath] = {}
    holders: dict[int, RunRef] = {}
    with outbox.hold_captures():
        for where, run in sources:
            refs = [ref for ref in run.list_captures() if ref.step not in found]
            for capture in pull(run, refs=refs).captures:
                found[capture.ref.step] = capture
                holders[capture.ref.step] = where
        if not found:
            return None

        captures = [found[step] for step in sorted(found)]
        last = capture_file.read_header(captures[-1].path)
        score_names = [name for name in last.arrays if name.startswith("scores.")]
        return EarlierCaptures(
            where=holders[captures[0].ref.step],
            refs=tuple(capture.ref for capture in captures),
            scored=tuple(capture_file.read(capture.path, score_names) for capture in captures),
            first=capture_file.read(captures[0].path),
            last=last,
        )
