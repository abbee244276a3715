"""Measure the cost of uploading captures to W&B, against a stand-in server with a delay.

    python benchmarks/wandb_upload.py [--captures 200] [--megabytes 1] [--delay-ms 100]

Compares these ways in one process; their ratios count. Each takes a capture every 10 ms and writes
it to the disk. Time runs from the first capture until the server has confirmed the last.

* ``one artifact``: the plain client, with all files in one artifact at the end. Nothing is faster,
  but the run has no captures while it trains.
* ``outbox``: through the spool, in chunks, while training goes on. ``after the last`` is the part
  that remained when training ended.
* ``chunks``: what ``push`` does with a full spool, without any overlap. It is compared with the
  upload alone of ``one artifact``.
* ``one a step``: the plain client, with one version per capture, estimated from a few.
* ``put``: how long the training thread waited for each capture.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from measuring import import_from_tests

from tracker_viz import capture_file
from tracker_viz.delivery import Destination, Outbox
from tracker_viz.types import Capture, CapturePath, capture_step

N_ONE_A_STEP = 8
STEP_S = 0.01  # one training step


@dataclass(frozen=True, slots=True)
class Upload:
    """The seconds of an upload from the first capture on, and from the last one on."""

    total_s: float
    after_last_s: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--captures", type=int, default=200)
    parser.add_argument("--megabytes", type=float, default=1.0)
    parser.add_argument("--delay-ms", type=float, default=100.0)
    options = parser.parse_args()
    wandb_server = import_from_tests("trackers", "wandb_server")
    with (
        tempfile.TemporaryDirectory(prefix="wandb-upload-") as folder,
        wandb_server.WandbServer(delay_s=options.delay_ms / 1000) as server,
    ):
        directory = Path(folder)
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            del os.environ[name]
        os.environ.update(server.environment(directory))
        os.environ["WANDB_SILENT"] = "true"
        captures = make_captures(options.captures, int(options.megabytes * (1 << 20)))
        print(
            f"{options.captures} captures of {options.megabytes} MB, {options.delay_ms:.0f} ms a "
            "request"
        )
        compare(captures, directory)

        import wandb

        wandb.teardown()
        assert not server.refused, server.refused
        n_stored = sum(len(artifact.files) for artifact in server.artifacts(server.runs[-1].path))
        assert n_stored == len(captures), n_stored


def compare(captures: Sequence[Capture], directory: Path) -> None:
    """Upload the captures in all ways, and print what each took."""
    # The first way also starts the client's service process, so it is one that is only estimated.
    few = captures[:N_ONE_A_STEP]
    step = as_artifacts(few, directory / "steps", n_artifacts=len(few))
    step_s = step.total_s * len(captures) / len(few)
    one = as_artifacts(captures, directory / "one", n_artifacts=1)
    chunks_s = in_chunks(directory / "one")
    outbox, put_s = through_outbox(captures, directory / "spool")

    print_way("one artifact", one.total_s)
    print_way("outbox", outbox.total_s, one.total_s, "one artifact (promise: 3)")
    print_way("  after the last", outbox.after_last_s, one.total_s, "one artifact")
    upload = f"one artifact's upload, {one.after_last_s:.1f} s (promise: 3)"
    print_way("chunks", chunks_s, one.after_last_s, upload)
    print_way("one a step", step_s, one.total_s, f"one artifact (estimated from {len(few)})")
    put_ms = sorted(1e3 * seconds for seconds in put_s)
    print(
        f"  {'put':<16}  {statistics.median(put_ms):7.3f} ms median, "
        f"{put_ms[int(0.95 * len(put_ms))]:.3f} p95, {put_ms[-1]:.3f} longest (promise: 5)"
    )


def print_way(name: str, seconds: float, base_s: float | None = None, base: str = "") -> None:
    """Print the seconds of one way, and its ratio to another."""
    line = f"  {name:<16}  {seconds:7.1f} s"
    if base_s is not None:
        line += f"   {seconds / base_s:5.2f} x {base}"
    print(line)


def make_captures(n_captures: int, nbytes: int) -> list[Capture]:
    """Return captures of random numbers, all different."""
    rng = np.random.default_rng(0)
    noise = rng.random(nbytes // 2).astype(np.float16)
    return [
        Capture(step, {"blocks.0.attn.w_q": np.roll(noise, step)}, metrics={"loss": 1.0})
        for step in range(n_captures)
    ]


def through_outbox(captures: Sequence[Capture], spool: Path) -> tuple[Upload, list[float]]:
    """Upload with the outbox; also return how long the training thread waited for each capture."""
    outbox = Outbox(spool, [Destination("wandb")], name="benchmark")
    put_s = []
    began = time.perf_counter()
    for capture in captures:
        submitted = time.perf_counter()
        outbox.submit(capture)
        put_s.append(time.perf_counter() - submitted)
        time.sleep(STEP_S)
    outbox.flush()
    ended = time.perf_counter()
    report = outbox.close(timeout_s=600)
    assert report.complete, report
    now = time.perf_counter()
    return Upload(now - began, now - ended), put_s


def as_artifacts(captures: Sequence[Capture], directory: Path, *, n_artifacts: int) -> Upload:
    """Upload with the plain client."""
    import wandb

    began = time.perf_counter()
    run = wandb.init(project="plain", settings=wandb.Settings(silent=True, console="off"))
    refs = []
    for capture in captures:
        refs.append(capture_file.write(capture, directory / capture.file_name))
        time.sleep(STEP_S)
    written = time.perf_counter()
    for names in np.array_split([ref.file_name for ref in refs], n_artifacts):
        artifact = wandb.Artifact(f"plain-{run.id}", type="capture")
        for name in names:
            path = str(directory / name)
            artifact.add_file(path, name=str(name), policy="immutable", skip_cache=True)
        run.log_artifact(artifact)
        artifact.wait()
    run.finish()
    now = time.perf_counter()
    return Upload(now - began, now - written)


def in_chunks(directory: Path) -> float:
    """Return the seconds of uploading files in chunks, with the run's start and end."""
    from tracker_viz.trackers.wandb.tracker import WandbTracker

    captures = []
    for path in sorted(directory.iterdir()):
        captures.append(CapturePath(capture_file.file_ref(path, capture_step(path.name)), path))
    began = time.perf_counter()
    run = WandbTracker().create_run(name="chunks", config={})
    for first in range(0, len(captures), run.chunk.captures):
        run.put_captures(captures[first : first + run.chunk.captures])
    run.finish("finished")
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
