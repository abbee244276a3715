"""``tracker-viz push``: what a crashed or offline run left in its spool -> the run. The work is
``pipeline.push``'s."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig
from tqdm import tqdm

from tracker_viz import pipeline
from tracker_viz.errors import TransientTrackerError
from tracker_viz.jobs.application import application, typed
from tracker_viz.jobs.report import say_what_is_left


@dataclass(frozen=True)
class PushSettings:
    """The keys of ``conf/push.yaml``."""

    spool: str
    timeout_s: float | None = None
    tracker: dict[str, Any] = field(default_factory=dict)


@application(config_name="push")
def main(cfg: DictConfig) -> None:
    settings = typed(PushSettings, cfg)
    with tqdm(desc="uploading", unit=" captures", file=sys.stderr, leave=False, delay=0.5) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        report = pipeline.push(
            settings.spool, options=settings.tracker, timeout_s=settings.timeout_s, progress=advance
        )
    say_what_is_left(report)
    if report.command:
        raise TransientTrackerError(
            "not everything could be uploaded; nothing is lost, try again later"
        )
