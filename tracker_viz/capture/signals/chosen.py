"""Make the signals of one pass of the probe, from the names that the user chose."""

from __future__ import annotations

from collections.abc import Callable, Collection

from tracker_viz.capture.discover.model_info import ModelStructure
from tracker_viz.capture.probe import Probe
from tracker_viz.capture.signals.composition import Composition
from tracker_viz.capture.signals.head_writes import HeadWrites
from tracker_viz.capture.signals.lens import LogitLens
from tracker_viz.capture.signals.max_logits import MaxLogits
from tracker_viz.capture.signals.probe_loss import ProbeLoss
from tracker_viz.capture.signals.residual import ResidualStream
from tracker_viz.capture.signals.signal import Signal
from tracker_viz.capture.signals.value_norms import ValueNorms

_SIGNALS: dict[str, Callable[[Probe, ModelStructure], Signal]] = {
    "composition": Composition,
    "head_writes": HeadWrites,
    "lens": lambda probe, _structure: LogitLens(probe),
    "max_logit": lambda _probe, _structure: MaxLogits(),
    "probe_loss": lambda probe, structure: ProbeLoss(probe, structure.vocabulary),
    "residual": lambda _probe, _structure: ResidualStream(),
    "value_weighted": ValueNorms,
}
# Those that a capture holds by default: the cheap ones.
DEFAULT_SIGNALS = ("max_logit", "probe_loss", "residual")
SIGNALS = tuple(_SIGNALS)


def chosen_signals(names: Collection[str], probe: Probe, structure: ModelStructure) -> list[Signal]:
    """Return new signals for one pass of ``probe``."""
    return [_SIGNALS[name](probe, structure) for name in SIGNALS if name in names]
