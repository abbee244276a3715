"""Measure the cost of uploading captures to W&B, against a stand-in server with a delay on every
request. Ratios, measured side by side.

    python benchmarks/wandb_upload.py [--captures 200] [--megabytes 1] [--delay-ms 100]

All of them take a capture each 10 ms and write it to the disk; the time runs from the first capture
until the server has confirmed the last.

* ``one artifact``: the plain client, all files in one single artifact at the end: the fastest there
  is, and useless while training.
* ``outbox``: through the spool, in chunks, beside the training. ``after the last``: what of it was
  left to do when training ended.
* ``chunks``: what ``push`` does with a full spool, nothing overlapping; held against the upload
  alone of ``one artifact``.
* ``one a step``: the plain client, a version per capture, estimated from a few.
* ``put``: how long the training thread stood still for each capture.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "trackers"))
from wandb_server import WandbServer

N_ONE_A_STEP = 8
STEP_S = 0.01  # one training step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--captures", type=int, default=200)
    parser.add_argument("--megabytes", type=float, default=1.0)
    parser.add_argument("--delay-ms", type=float, default=100.0)
    arguments = parser.parse_args()

    with (
        tempfile.TemporaryDirectory(prefix="wandb-upload-") as folder,
        WandbServer(delay_s=arguments.delay_ms / 1000) as server,
    ):
        directory = Path(folder)
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            del os.environ[name]
        os.environ.update(server.environment(directory))
        os.environ["WANDB_SILENT"] = "true"
        captures = make_captures(arguments.captures, int(arguments.megabytes * (1 << 20)))
        # First, so that the start of the client's service process is in neither of the two that are
        # compared.
        step_s, _ = as_artifacts(
            captures[:N_ONE_A_STEP], directory / "steps", n_artifacts=N_ONE_A_STEP
        )
        step_s *= len(captures) / N_ONE_A_STEP
        one_s, one_upload_s = as_artifacts(captures, directory / "one", n_artifacts=1)
        chunks_s = in_chunks(directory / "one")
        outbox_s, tail_s, put_s = through_outbox(captures, directory / "spool")
        import wandb

        wandb.teardown()
        assert not server.refused, server.refused
        n_stored = sum(len(artifact.files) for artifact in server.artifacts(server.runs[-1].path))
        assert n_stored == len(captures), n_stored

    print(
        f"{arguments.captures} captures of {arguments.megabytes} MB, {arguments.delay_ms:.0f} ms a "
        "request"
    )
    print(f"  one artifact      {one_s:7.1f} s")
    print(
        f"  outbox            {outbox_s:7.1f} s   {outbox_s / one_s:5.2f} x one artifact (promise: "
        "3)"
    )
    print(f"    after the last  {tail_s:7.1f} s   {tail_s / one_s:5.2f} x one artifact")
    print(
        f"  chunks            {chunks_s:7.1f} s   {chunks_s / one_upload_s:5.2f} x one artifact's "
        f"upload, {one_upload_s:.1f} s (promise: 3)"
    )
    print(
        f"  one a step        {step_s:7.1f} s   {step_s / one_s:5.2f} x one artifact (estimated "
        f"from {N_ONE_A_STEP})"
    )
    milliseconds = sorted(1e3 * seconds for seconds in put_s)
    print(
        f"  put               {statistics.median(milliseconds):7.3f} ms median, "
        f"{milliseconds[int(0.95 * len(milliseconds))]:.3f} p95, "
        f"{milliseconds[-1]:.3f} longest (promise: 5)"
    )


def make_captures(n_captures: int, nbytes: int) -> list:
    from tracker_viz.types import Capture

    rng = np.random.default_rng(0)
    noise = rng.random(nbytes // 2).astype(np.float16)
    return [
        Capture(step, {"blocks.0.attn.w_q": np.roll(noise, step)}, metrics={"loss": 1.0})
        for step in range(n_captures)
    ]


def through_outbox(captures: list, spool: Path) -> tuple[float, float, list[float]]:
    """Seconds until all is confirmed, those after the last capture, and what each put took of the
    training thread."""
    from tracker_viz.delivery import Destination, Outbox

    outbox = Outbox(spool, [Destination("wandb")], name="benchmark")
    put_s = []
    begin = time.perf_counter()
    for capture in captures:
        at = time.perf_counter()
        outbox.submit(capture)
        put_s.append(time.perf_counter() - at)
        time.sleep(STEP_S)
    outbox.flush()
    ended = time.perf_counter()
    report = outbox.close(timeout_s=600)
    assert report.complete, report
    return time.perf_counter() - begin, time.perf_counter() - ended, put_s


def as_artifacts(captures: list, directory: Path, *, n_artifacts: int) -> tuple[float, float]:
    """Seconds until all is confirmed, by the plain client, and those of the upload alone."""
    import wandb

    from tracker_viz import capture_file

    begin = time.perf_counter()
    run = wandb.init(project="plain", settings=wandb.Settings(silent=True, console="off"))
    refs = []
    for capture in captures:
        refs.append(capture_file.write(capture, directory / capture.file_name))
        time.sleep(STEP_S)
    written = time.perf_counter()
    for names in np.array_split([ref.file_name for ref in refs], n_artifacts):
        artifact = wandb.Artifact(f"plain-{run.id}", type="capture")
        for name in names:
            artifact.add_file(
                str(directory / name), name=str(name), policy="immutable", skip_cache=True
            )
        run.log_artifact(artifact)
        artifact.wait()
    run.finish()
    return time.perf_counter() - begin, time.perf_counter() - written


def in_chunks(directory: Path) -> float:
    """Seconds of uploading files that lie there already, a chunk after the other, with the run's
    start and end."""
    from tracker_viz import capture_file
    from tracker_viz.trackers.wandb.tracker import WandbTracker
    from tracker_viz.types import CapturePath, capture_step

    paths = sorted(directory.iterdir())
    captures = [
        CapturePath(capture_file.file_ref(path, capture_step(path.name)), path) for path in paths
    ]
    begin = time.perf_counter()
    run = WandbTracker().create_run(name="chunks", config={})
    for first in range(0, len(captures), run.chunk.captures):
        run.put_captures(captures[first : first + run.chunk.captures])
    run.finish("finished")
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
