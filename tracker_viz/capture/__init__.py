"""Capture what a model looks like inside while it trains. Needs torch; knows no tracker and draws
nothing."""

from __future__ import annotations

import tracker_viz.capture.needs_torch  # noqa: F401  first: says what to install without torch
from tracker_viz.capture.ablation.losses import Losses, LossMeter
from tracker_viz.capture.ablation.rows import HeldOutRows, repeated_rows
from tracker_viz.capture.budget import Budget, fit, sample
from tracker_viz.capture.camera import Camera
from tracker_viz.capture.checkpoints import (
    capture_checkpoints,
    check_checkpoint,
    find_checkpoints,
    load_checkpoint,
)
from tracker_viz.capture.checks import whole
from tracker_viz.capture.discover.limits import (
    cached_positions,
    context_length,
    learned_positions,
    vocab_size,
)
from tracker_viz.capture.discover.model_info import model_name
from tracker_viz.capture.distributed import unwrapped
from tracker_viz.capture.governor import CostLimit, Governor, cores_are_busy
from tracker_viz.capture.inspection import (
    VECTOR,
    InspectedBlock,
    LeftOut,
    inspected_blocks,
    left_out,
    probe_in_words,
)
from tracker_viz.capture.isolation import Forward
from tracker_viz.capture.options import CaptureOptions
from tracker_viz.capture.probe import Probe, as_probe, make_probe
from tracker_viz.capture.recorder import Recorder, record
from tracker_viz.capture.schedule import Schedule
from tracker_viz.capture.spelling import Decode
from tracker_viz.capture.weights.matrices import Pooling

__all__ = [
    "VECTOR",
    "Budget",
    "Camera",
    "CaptureOptions",
    "CostLimit",
    "Decode",
    "Forward",
    "Governor",
    "HeldOutRows",
    "InspectedBlock",
    "LeftOut",
    "LossMeter",
    "Losses",
    "Pooling",
    "Probe",
    "Recorder",
    "Schedule",
    "as_probe",
    "cached_positions",
    "capture_checkpoints",
    "check_checkpoint",
    "context_length",
    "cores_are_busy",
    "find_checkpoints",
    "fit",
    "inspected_blocks",
    "learned_positions",
    "left_out",
    "load_checkpoint",
    "make_probe",
    "model_name",
    "probe_in_words",
    "record",
    "repeated_rows",
    "sample",
    "unwrapped",
    "vocab_size",
    "whole",
]
