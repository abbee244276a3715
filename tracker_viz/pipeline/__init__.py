"""Join the other packages into what users call; no other package does.

    inspect        model ──▶ what watch would capture, in words
    watch          model ──recorder──▶ scores, budget ──▶ spool ──▶ every tracker
    backfill       saved checkpoints ──▶ the same
    load_captures  a run ──▶ Captures
    render         a run ──▶ captures here ──▶ frames ──▶ video ──▶ the same run
    follow         a run that goes on ──▶ frames of what is new ──▶ a longer video ──▶ the same run
    live           a run that goes on ──▶ a page on this machine
    render_sweep   every run of a sweep ──▶ the same ──▶ a page that plays their videos in step
    compare        several runs ──▶ one video, pictures and a table ──▶ the run above them
    compare_steps  two captures ──▶ what changed, ranked, and its picture ──▶ the same run
    verify         a run, its checkpoints ──▶ losses without heads ──▶ verdicts ──▶ the same run
    push           a spool ──▶ its trackers

Users call these (as ``tv.watch``, ``tv.render``, ...), and so do ``train.py``, the jobs and the
integrations. torch is imported when something is watched, seaborn and OpenCV when something is
drawn, a tracker's SDK when that tracker is used.
"""

from tracker_viz.delivery import push
from tracker_viz.pipeline.backfill import backfill
from tracker_viz.pipeline.compare import CompareResult, compare
from tracker_viz.pipeline.comparing.compare_steps import StepsResult, compare_steps
from tracker_viz.pipeline.follow import follow
from tracker_viz.pipeline.inspect import inspect
from tracker_viz.pipeline.live import live
from tracker_viz.pipeline.load import load_captures, open_run, pulled_captures
from tracker_viz.pipeline.options import (
    DEFAULT_THEME,
    FORMAT_VALUES,
    Appearance,
    ComparisonOptions,
    FollowOptions,
    Format,
    PictureOptions,
    ThemeName,
    VerifyOptions,
    VideoOptions,
)
from tracker_viz.pipeline.recording.outbox import new_directory
from tracker_viz.pipeline.recording.watcher import Watcher
from tracker_viz.pipeline.render import RenderResult, render, render_command
from tracker_viz.pipeline.results.delivering import Picture
from tracker_viz.pipeline.results.in_step import put_sweep_page
from tracker_viz.pipeline.sweep import SweepResult, render_sweep
from tracker_viz.pipeline.verify import VerifyResult, verify
from tracker_viz.pipeline.watch import watch

__all__ = [
    "DEFAULT_THEME",
    "FORMAT_VALUES",
    "Appearance",
    "CompareResult",
    "ComparisonOptions",
    "FollowOptions",
    "Format",
    "Picture",
    "PictureOptions",
    "RenderResult",
    "StepsResult",
    "SweepResult",
    "ThemeName",
    "VerifyOptions",
    "VerifyResult",
    "VideoOptions",
    "Watcher",
    "backfill",
    "compare",
    "compare_steps",
    "follow",
    "inspect",
    "live",
    "load_captures",
    "new_directory",
    "open_run",
    "pulled_captures",
    "push",
    "put_sweep_page",
    "render",
    "render_command",
    "render_sweep",
    "verify",
    "watch",
]
