"""Capturing: a model that trains -> Captures. Needs torch; knows no tracker and draws nothing."""

from __future__ import annotations

from tracker_viz.capture.budget import fit
from tracker_viz.capture.checkpoints import capture_checkpoints, find_checkpoints, load_checkpoint
from tracker_viz.capture.discover.limits import context_length, learned_positions, vocab_size
from tracker_viz.capture.distributed import is_main_process
from tracker_viz.capture.probe import Decode, Probe, as_probe, make_probe
from tracker_viz.capture.recorder import Recorder
from tracker_viz.capture.schedule import Schedule

__all__ = [
    "Decode",
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
    "vocab_size",
]
