"""Captures on their way into a run -> the same with their scores, cut to their size; and what is known of all of them at the end."""

from __future__ import annotations

from functools import partial
from typing import Any

from tracker_viz import capture_file
from tracker_viz.metrics import Scorer, ScoreSeries, head_table, run_summary, run_tags
from tracker_viz.pipeline.score_file import SCORE_FILE, score_bytes
from tracker_viz.trackers.outbox import Outbox
from tracker_viz.trackers.pull import pull
from tracker_viz.types import Capture, CaptureRef

HEAD_TABLE = "head_roles"


class Scores:
    """The scores of one run: of the captures that come by here, and of those from before the run was resumed.

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
        """Go on from the run's first capture, from which change is measured, and from the scores of all; what is gone is left out."""
        from tracker_viz.capture.budget import sample

        for run in [*outbox.runs, outbox.run]:
            found = pull(run).captures
            if found:
                header = capture_file.read_header(found[-1].path)
                names = [name for name in header.arrays if name.startswith("scores.")]
                earlier = [capture_file.read(capture.path, names) for capture in found]
                first = capture_file.read(found[0].path)
                side = first.model.get("cut", {}).get("weight_side")
                self._scorer = Scorer(first, sampled=None if side is None else partial(sample, side=side), earlier=earlier)
                self._earlier = {capture.ref.step: capture.ref for capture in found}
                self._probe, self._rows = dict(header.probe), header.labels.get("probe", ())
                return

    def series(self) -> ScoreSeries:
        return self._scorer.series()

    def deliver(self, outbox: Outbox) -> None:
        """Give the summary, the table of heads and the file of all scores to the runs, once every capture is written."""
        series = self.series()
        outbox.set_summary({**run_summary(series), **run_tags(series)})
        if rows := head_table(series):
            outbox.put_table(rows, HEAD_TABLE)
            outbox.put_file(score_bytes(series, self._earlier | outbox.written, self._probe, self._rows), SCORE_FILE)
