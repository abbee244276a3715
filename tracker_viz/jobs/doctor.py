"""``tracker-viz doctor``: test what works on this machine, and print the fix for what does not.

Chromium, a GPU and a tracker's server are optional; the most important checks come first.
"""

from __future__ import annotations

import importlib.metadata
import os
import resource
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from tracker_viz import __version__, trackers
from tracker_viz.cores import usable_cores
from tracker_viz.errors import TrackerVizError
from tracker_viz.files import temporary_directory
from tracker_viz.jobs.application import application
from tracker_viz.jobs.settings.config import Settings
from tracker_viz.trackers import default_cache
from tracker_viz.video import ENCODERS, write_video

PACKAGES = (
    "torch",
    "mlflow",
    "wandb",
    "hydra-core",
    "omegaconf",
    "numpy",
    "seaborn",
    "matplotlib",
    "safetensors",
    "av",
)
# package -> the extra that installs it, and what does not work without
EXTRAS = {
    "torch": ("torch", "no capturing here; rendering and comparing work without it"),
    "mlflow": ("mlflow", "its runs cannot be reached"),
    "wandb": ("wandb", "its runs cannot be reached"),
    "av": ("hq", "no H.264 and no lossless video"),
}
PYTHONS = ((3, 11), (3, 14))
FREE_BYTES = 2 << 30
OPEN_FILES = 1024

Outcome = Literal["ok", "note", "fail"]
_SIGNS: dict[Outcome, str] = {"ok": "✓", "note": "·", "fail": "✗"}


class DoctorSettings(Settings):
    """Tests what tracker_viz needs on this machine, and prints the fix for what does not work. Exit
    code 1: something required does not work."""

    tracking_uri: str | None = None
    """Address of MLflow; null: the one that training would use."""

    base_url: str | None = None
    """Address of W&B; null: the one that training would use."""

    timeout_s: float = Field(3.0, gt=0)
    """Longest time to wait for a server's answer, in seconds."""


@dataclass(frozen=True)
class Finding:
    """The result of one check. ``note``: optional; ``fail``: something that tracker_viz promises
    does not work."""

    outcome: Outcome
    name: str
    detail: str
    fix: str = ""

    def __str__(self) -> str:
        line = f"{_SIGNS[self.outcome]} {self.name:<20}{self.detail}"
        return f"{line}\n  {'':<20}fix: {self.fix}" if self.fix else line


@application(DoctorSettings, name="doctor")
def main(settings: DoctorSettings) -> None:
    failed = 0
    for finding in examine(settings):
        print(finding, flush=True)
        failed += finding.outcome == "fail"
    if failed:
        checks = "1 check" if failed == 1 else f"{failed} checks"
        raise TrackerVizError(f"{checks} failed")


def examine(settings: DoctorSettings) -> Iterator[Finding]:
    """Yield the result of every check, the most important first."""
    yield python()
    yield from packages()
    yield from encoders()
    yield from tracker_findings(settings)
    yield cores()
    yield graphics_card()
    yield free_space("disk here", Path.cwd())
    yield free_space("disk for downloads", default_cache())
    yield open_files()


def python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    first, beyond = (".".join(map(str, bound)) for bound in PYTHONS)
    if PYTHONS[0] <= sys.version_info[:2] < PYTHONS[1]:
        return Finding("ok", "python", f"{version}, tracker_viz {__version__}")
    return Finding(
        "fail",
        "python",
        version,
        f"use Python {first} or later, below {beyond}: Hydra 1.3 breaks on {beyond}",
    )


def packages() -> Iterator[Finding]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            yield missing(package)
    found = [f"{name} {version}" for name, version in versions.items()]
    yield Finding("ok", "packages", ", ".join(found))


def missing(package: str) -> Finding:
    if package not in EXTRAS:
        return Finding("fail", package, "not installed", f"pip install {package}")
    extra, without = EXTRAS[package]
    fix = f"pip install 'tracker-viz[{extra}]'"
    return Finding("note", package, f"not installed: {without}", fix)


def encoders() -> Iterator[Finding]:
    """Write a short video with each encoder and read it back. All of them need OpenCV, which may
    lack libGL."""
    frame = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    for encoder in ENCODERS:
        if encoder == "auto":
            continue
        needed = encoder == "opencv"
        try:
            with temporary_directory() as directory:
                written = write_video(
                    3,
                    lambda index: frame,
                    directory / "doctor",
                    duration_s=0.1,
                    encoder=encoder,
                )
        except TrackerVizError as error:
            yield Finding(
                "fail" if needed else "note", f"video: {encoder}", "does not work here", str(error)
            )
        else:
            yield Finding(
                "ok",
                f"video: {encoder}",
                f"{written.codec} in {written.path.suffix}, written and read back",
            )


def tracker_findings(settings: DoctorSettings) -> Iterator[Finding]:
    """Check that each installed tracker could be written to."""
    addresses = {"tracking_uri": settings.tracking_uri, "base_url": settings.base_url}
    for scheme in trackers.schemes():
        if scheme != "local":
            yield tracker(scheme, addresses, settings.timeout_s)


def tracker(scheme: str, addresses: Mapping[str, str | None], timeout_s: float) -> Finding:
    """Check that one tracker could be written to. ``addresses``: option -> value; those that it
    does not have are ignored."""
    try:
        known = trackers.tracker_class(scheme).option_names()
        options = {name: value for name, value in addresses.items() if name in known}
        found = trackers.connect(scheme, **options).health(timeout_s)
    except TrackerVizError as error:
        return Finding("note", scheme, "cannot be used", str(error))
    return Finding("ok" if found.usable else "note", scheme, found.detail, found.fix)


def cores() -> Finding:
    usable = usable_cores()
    load = os.getloadavg()[0]
    detail = f"{usable} usable, {load:.1f} busy"
    if load > usable and "GOMP_SPINCOUNT" not in os.environ:
        return Finding(
            "note",
            "cores",
            detail,
            "on a busy machine GOMP_SPINCOUNT=0 makes CPU training several times faster "
            "(train.py sets it)",
        )
    return Finding("ok", "cores", detail)


def graphics_card() -> Finding:
    try:
        import torch
    except ImportError as error:
        return Finding(
            "note",
            "gpu",
            f"torch cannot be imported ({error}): rendering works without it, capturing does not",
            "pip install 'tracker-viz[torch]'",
        )
    if torch.cuda.is_available():
        return Finding("ok", "gpu", torch.cuda.get_device_name())
    return Finding("ok", "gpu", "none; none is needed")


def free_space(name: str, path: Path) -> Finding:
    while not path.exists():
        path = path.parent
    free = shutil.disk_usage(path).free
    detail = f"{free / 1e9:.0f} GB free at {path}"
    if not os.access(path, os.W_OK):
        return Finding(
            "fail",
            name,
            f"{path} cannot be written",
            "start from another directory, or set XDG_CACHE_HOME for downloads",
        )
    if free < FREE_BYTES:
        return Finding(
            "note",
            name,
            detail,
            "a hundred captures take up to 1 GB: make room, or set capture.max_mb lower",
        )
    return Finding("ok", name, detail)


def open_files() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return Finding("ok", "open files", "no limit")
    if soft < OPEN_FILES:
        return Finding("note", "open files", f"at most {soft}", f"ulimit -n {OPEN_FILES}")
    return Finding("ok", "open files", f"at most {soft}")
