"""Capture what a model looks like inside while it trains. Needs torch; knows no tracker and draws
nothing."""

from __future__ import annotations

from tracker_viz.capture.budget import fit
from tracker_viz.capture.camera import Camera
from tracker_viz.capture.checkpoints import capture_checkpoints, find_checkpoints, load_checkpoint
from tracker_viz.capture.checks import whole
from tracker_viz.capture.discover.limits import context_length, learned_positions, vocab_size
from tracker_viz.capture.distributed import is_main_process, unwrapped
from tracker_viz.capture.governor import CostLimit, Governor
from tracker_viz.capture.isolation import Forward
from tracker_viz.capture.options import CaptureOptions
from tracker_viz.capture.probe import Decode, Probe, as_probe, make_probe
from tracker_viz.capture.recorder import Recorder, record
from tracker_viz.capture.schedule import Schedule
from tracker_viz.capture.weights import Pooling

__all__ = [
    "Camera",
    "CaptureOptions",
    "CostLimit",
    "Decode",
    "Forward",
    "Governor",
    "Pooling",
    "Probe",
    "Recorder",
    "Schedule",
    "as_probe",
    "capture_checkpoints",
    "context_length",
    "find_checkpoints",
    "fit",
    "is_main_process",
    "learned_positions",
    "load_checkpoint",
    "make_probe",
    "record",
    "unwrapped",
    "vocab_size",
    "whole",
]
