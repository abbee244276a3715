"""The contract: metrics, summaries, files and videos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tracker_viz.errors import ConfigError, TrackerError
from tracker_viz.trackers.base import Run
from tracker_viz.trackers.testing.supplied import Supplied
from tracker_viz.trackers.tracker import Tracker
from tracker_viz.trackers.values import MetricPoint

HOSTILE_PATHS = [
    "../escaped.txt",
    "/etc/escaped.txt",
    "a/../../b.txt",
    "a\\b.txt",
    "%2e%2e/b.txt",
    ".hidden",
    "a//b.txt",
    "",
    "captures/x.txt",
]


class ResultTests(Supplied):
    """Metrics, summaries, files and videos reach the run."""

    def test_metrics_reach_the_native_charts_at_their_training_step(self, run: Run) -> None:
        points = []
        for step in (0, 4, 2):
            values = {"loss": 1 / (1 + step), "attn/induction_max": step / 8}
            points.append(MetricPoint(step, values, time=1.7e9 + step))
        run.log_metrics(points[:1])
        run.log_metrics(points[1:])
        run.finish("finished")
        stored = self.stored_metrics(run.ref)
        assert stored[self.metric_key("loss")] == pytest.approx({0: 1.0, 4: 0.2, 2: 1 / 3})
        assert stored[self.metric_key("attn/induction_max")] == pytest.approx(
            {0: 0.0, 4: 0.5, 2: 0.25}
        )

    def test_the_summary_is_overwritten_by_name(self, run: Run) -> None:
        run.set_summary({"best_head": "L0H1", "induction": 0.5})
        run.set_summary({"induction": 0.75})
        run.finish("finished")
        stored = self.stored_summary(run.ref)
        assert (str(stored["best_head"]), float(stored["induction"])) == ("L0H1", 0.75)

    def test_an_alarm_may_be_told_twice(self, run: Run) -> None:
        for _ in range(2):
            run.alert("logit", 4, "step 4: the largest attention logit is 134 (L2H1)")
        run.finish("failed")

    def test_files_come_back_as_they_were_put_last(
        self, run: Run, reader: Tracker, tmp_path: Path
    ) -> None:
        report = tmp_path / "report.html"
        for text in ("first", "second"):
            report.write_text(text)
            run.put_file(report, "reports/heads.html")
        run.put_file(report, "notes.txt")
        opened = reader.open_run(run.ref)
        assert opened.get_file("reports/heads.html", tmp_path / "back").read_text() == "second"
        assert "notes.txt" in opened.list_files()
        assert not any("heads.html" in name or name == "reports" for name in opened.list_files())

    def test_a_file_that_is_not_there_is_reported(self, run: Run, tmp_path: Path) -> None:
        with pytest.raises(TrackerError, match="nothing"):
            run.get_file("reports/nothing.html", tmp_path / "back")

    @pytest.mark.parametrize("artifact", HOSTILE_PATHS)
    def test_only_plain_relative_paths_are_written_or_read(
        self, run: Run, tmp_path: Path, artifact: str
    ) -> None:
        (tmp_path / "file.txt").write_text("harmless")
        with pytest.raises(ConfigError):
            run.put_file(tmp_path / "file.txt", artifact)
        with pytest.raises(ConfigError):
            run.get_file(artifact, tmp_path / "back")
        assert not (tmp_path / "back").exists()

    @pytest.mark.parametrize("state", ["finished", "failed"])
    def test_a_video_for_a_run_that_ended_leaves_the_run_as_it_was(
        self, start: Callable[..., Run], reader: Tracker, tmp_path: Path, state: str
    ) -> None:
        run = start()
        run.log_metrics([MetricPoint(3, {"loss": 2.0})])
        run.set_summary({"induction": 0.5})
        run.finish(state)  # type: ignore[arg-type]
        before, metrics = reader.open_run(run.ref).info(), self.stored_metrics(run.ref)
        video = tmp_path / "made.webm"
        for contents in (b"first", b"second, longer"):
            video.write_bytes(contents)
            link = reader.open_run(run.ref).put_video(video, layout="heads", last_step=100)
            assert "://" in link
        assert reader.open_run(run.ref).info() == before
        after = self.stored_metrics(run.ref)
        assert {name: after[name] for name in metrics} == metrics
        assert float(self.stored_summary(run.ref)["induction"]) == 0.5
        self.check_video(run.ref, video)
