"""See a language model learn: what its decoder blocks look like inside, logged while it trains, as
a video in your tracker.

    import tracker_viz as tv

    recorder = tv.watch(model, run="mlflow")        # or "wandb"
    for step, batch in enumerate(batches):
        loss = train_step(batch)
        recorder.step(step, loss=loss)
    recorder.close()
    tv.render(recorder)

The names below are the public ones. Importing this package loads none of torch, wandb, mlflow, cv2,
seaborn and hydra: each is imported by the one module that needs it, when that module is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tracker_viz.capture import Schedule, make_probe
    from tracker_viz.delivery.push import push
    from tracker_viz.pipeline.backfill import backfill
    from tracker_viz.pipeline.compare import compare
    from tracker_viz.pipeline.comparing.compare_steps import compare_steps
    from tracker_viz.pipeline.follow import follow
    from tracker_viz.pipeline.inspect import inspect
    from tracker_viz.pipeline.live import live
    from tracker_viz.pipeline.load import load_captures
    from tracker_viz.pipeline.render import render
    from tracker_viz.pipeline.verify import verify
    from tracker_viz.pipeline.watch import watch
    from tracker_viz.types import Capture, CaptureRef, Frame, RunRef

__version__ = "0.1.0"

_PUBLIC = {
    "Capture": "tracker_viz.types",
    "CaptureRef": "tracker_viz.types",
    "Frame": "tracker_viz.types",
    "RunRef": "tracker_viz.types",
    "Schedule": "tracker_viz.capture",
    "backfill": "tracker_viz.pipeline",
    "compare": "tracker_viz.pipeline",
    "compare_steps": "tracker_viz.pipeline",
    "follow": "tracker_viz.pipeline",
    "inspect": "tracker_viz.pipeline",
    "live": "tracker_viz.pipeline",
    "load_captures": "tracker_viz.pipeline",
    "make_probe": "tracker_viz.capture",
    "push": "tracker_viz.pipeline",
    "render": "tracker_viz.pipeline",
    "verify": "tracker_viz.pipeline",
    "watch": "tracker_viz.pipeline",
}
__all__ = [
    "Capture",
    "CaptureRef",
    "Frame",
    "RunRef",
    "Schedule",
    "__version__",
    "backfill",
    "compare",
    "compare_steps",
    "follow",
    "inspect",
    "live",
    "load_captures",
    "make_probe",
    "push",
    "render",
    "verify",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(
            f"module 'tracker_viz' has no attribute {name!r}; it has {', '.join(__all__)}"
        )
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
