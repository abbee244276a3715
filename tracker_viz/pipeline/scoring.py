"""Captures on their way into a run -> the same with their scores, cut to their size; and what is
known of all of them at the end."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from tracker_viz import capture_file
from tracker_viz.delivery.outbox import Outbox
from tracker_viz.metrics import (
    SCORE_FILE,
    Scorer,
    ScoreSeries,
    head_table,
    run_summary,
    run_tags,
    score_bytes,
)
from tracker_viz.trackers.download import pull
from tracker_viz.types import Capture, CaptureHeader, CapturePath, CaptureRef

HEAD_TABLE = "head_roles"


class Scores:
    """The scores of one run: of the captures that come by here, and of those from before the run
    was resumed.

    Args:
        max_mb: size of one capture.
    """

    def __init__(self, max_mb: float) -> None:
        self._max_mb = max_mb
        self._scorer = Scorer()
        self._earlier: dict[int, CaptureRef] = {}
        self._probe: dict[str, Any] = {}
        self._rows: tuple[str, ...] = ()

    def prepare(self, capture: Capture) -> Capture:
        """What ``Outbox`` does with a capture before it writes it."""
        from tracker_viz.capture import fit

        kept = fit(self._scorer(capture), self._max_mb)
        self._probe, self._rows = dict(kept.probe), kept.labels.get("probe", ())
        return kept

    def resume(self, outbox: Outbox) -> None:
        """Go on from the run's first capture, from which change is measured, and from the scores of
        all; what is gone is left out."""
        from tracker_viz.capture.budget import sample

        with outbox.hold_captures():
            found = _earlier(outbox)
        if found:
            side = found.first.model.get("cut", {}).get("weight_side")
            sampled = None if side is None else partial(sample, side=side)
            self._scorer = Scorer(found.first, sampled=sampled, earlier=found.scored)
            self._earlier = {ref.step: ref for ref in found.refs}
            self._probe, self._rows = dict(found.last.probe), found.last.labels.get("probe", ())

    def series(self) -> ScoreSeries:
        return self._scorer.series()

    def deliver(self, outbox: Outbox) -> None:
        """Give the summary, the table of heads and the file of all scores to the runs, once every
        capture is written."""
        series = self.series()
        outbox.set_summary({**run_summary(series), **run_tags(series)})
        if rows := head_table(series):
            outbox.put_table(rows, HEAD_TABLE)
            outbox.put_file(
                score_bytes(series, self._earlier | outbox.written, self._probe, self._rows),
                SCORE_FILE,
            )


@dataclass(frozen=True, slots=True)
class _Earlier:
    """Captures from before the run was resumed: all of them with their scores only, the first one
    whole, and what the last one says."""

    refs: list[CaptureRef]
    scored: list[Capture]
    first: Capture
    last: CaptureHeader


def _earlier(outbox: Outbox) -> _Earlier | None:
    """What the spool and the runs have together: a backlog may be on its way from the one to the
    others at this moment.

    The runs are asked after the spool, so that what left it before is found in them.
    """
    found: dict[int, CapturePath] = {}
    for run in [outbox.run, *outbox.runs]:
        refs = [ref for ref in run.list_captures() if ref.step not in found]
        found |= {capture.ref.step: capture for capture in pull(run, refs=refs).captures}
    if not found:
        return None
    captures = [found[step] for step in sorted(found)]
    last = capture_file.read_header(captures[-1].path)
    names = [name for name in last.arrays if name.startswith("scores.")]
    scored = [capture_file.read(capture.path, names) for capture in captures]
    return _Earlier(
        [capture.ref for capture in captures], scored, capture_file.read(captures[0].path), last
    )
