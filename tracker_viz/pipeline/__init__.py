"""The only station that joins the others.

    watch           model ──Recorder──▶ scores, budget ──▶ spool ──▶ every tracker          (while
    training) backfill        saved checkpoints ──▶ the same load_captures   a run ──▶ Captures
    (afterwards, anywhere) render          a run ──▶ captures here ──▶ frames ──▶ video ──▶ the same
    run render_sweep    every run of a sweep ──▶ the same ──▶ a page above them that plays their
    videos in step compare         several runs ──▶ one video, pictures and a table of how they
    compare ──▶ the run above them push            a spool ──▶ what its trackers have not yet

Called by users (as ``tv.watch``, ``tv.render``, ...), by ``train.py``, the jobs and the
integrations. torch is imported when something is watched, seaborn and OpenCV when something is
drawn, a tracker's SDK when that tracker is used.
"""

from tracker_viz.pipeline.checkpoints import Backfilled, backfill
from tracker_viz.pipeline.comparing import CompareResult, compare, compare_runs
from tracker_viz.pipeline.delivering import Picture, Upload
from tracker_viz.pipeline.drawing import (
    FORMATS,
    RenderResult,
    VideoOptions,
    checked_formats,
    render,
    render_command,
    render_run,
)
from tracker_viz.pipeline.in_step import put_sweep_page
from tracker_viz.pipeline.progress import progress_bar
from tracker_viz.pipeline.pulling import TrackerOptions, load_captures, open_run, pulled_captures
from tracker_viz.pipeline.recording import Watcher, new_directory, watch
from tracker_viz.pipeline.sweeping import SweepResult, render_sweep
from tracker_viz.trackers.push import push

__all__ = [
    "FORMATS",
    "Backfilled",
    "CompareResult",
    "Picture",
    "RenderResult",
    "SweepResult",
    "TrackerOptions",
    "Upload",
    "VideoOptions",
    "Watcher",
    "backfill",
    "checked_formats",
    "compare",
    "compare_runs",
    "load_captures",
    "new_directory",
    "open_run",
    "progress_bar",
    "pulled_captures",
    "push",
    "put_sweep_page",
    "render",
    "render_command",
    "render_run",
    "render_sweep",
    "watch",
]
