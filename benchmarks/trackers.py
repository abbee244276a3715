"""What sending captures to a tracker costs the training thread, and how long sending and pulling take.

    python benchmarks/trackers.py [--captures 50] [--kib 1024] [--latency-ms 20]

Compares, on the embedded store, a server on this machine, and the same server ``--latency-ms`` away (a TCP link that holds every
byte back): ``MlflowClient.log_artifact`` and ``log_batch`` called on the training thread, and our outbox. Times are of this machine,
now; the ratio between two rows of one table says more than any row.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "trackers"))

from mlflow import MlflowClient  # noqa: E402
from mlflow.entities import Metric  # noqa: E402
from mlflow_server import QUIET, MlflowServer  # noqa: E402

from tracker_viz import capture_file  # noqa: E402
from tracker_viz.trackers.mlflow import MlflowTracker  # noqa: E402
from tracker_viz.trackers.outbox import Destination, Outbox  # noqa: E402
from tracker_viz.trackers.pull import pull  # noqa: E402
from tracker_viz.trackers.slow_link import SlowLink  # noqa: E402
from tracker_viz.types import Capture  # noqa: E402

STEP_S = 0.2  # a capture every few training steps; real schedules are ten times sparser


def captures(n: int, kib: int) -> Iterator[Capture]:
    """Captures of about ``kib`` KiB with 20 metrics each."""
    rng = np.random.default_rng(0)
    for step in range(n):
        maps = rng.random((kib * 512 // 4096, 64, 64)).astype(np.float16)
        metrics = {f"attn/score{number}/max": float(number) for number in range(20)}
        yield Capture(step, {"blocks.0.attn.pattern": maps}, {"blocks.0.attn.pattern": ("head", "query", "key")}, metrics=metrics)


def on_the_training_thread(uri: str, made: list[Capture], directory: Path) -> dict[str, float]:
    """What somebody would write by hand."""
    client = MlflowClient(uri)
    run = MlflowTracker(uri, "benchmark").create_run(name="by hand", config={})
    blocked_s = []
    began = time.perf_counter()
    for capture in made:
        time.sleep(STEP_S)
        before = time.perf_counter()
        path = directory / capture.file_name
        capture_file.write(capture, path)
        client.log_artifact(run.ref.path, str(path), "captures")
        client.log_batch(
            run.ref.path, [Metric(name, value, int(time.time() * 1000), capture.step) for name, value in capture.metrics.items()]
        )
        blocked_s.append(time.perf_counter() - before)
    run.finish("finished")
    return figures(blocked_s, time.perf_counter() - began)


def through_the_outbox(uri: str, made: list[Capture], directory: Path) -> dict[str, float]:
    blocked_s = []
    began = time.perf_counter()
    with Outbox(directory / "spool", [Destination("mlflow", {"tracking_uri": uri, "experiment": "benchmark"})], name="outbox") as outbox:
        for capture in made:
            time.sleep(STEP_S)
            before = time.perf_counter()
            outbox.put(capture)
            blocked_s.append(time.perf_counter() - before)
    took = figures(blocked_s, time.perf_counter() - began)
    assert outbox.close().complete
    run = MlflowTracker(uri).open_run(outbox.refs[0])
    began = time.perf_counter()
    assert len(run.list_captures()) == len(made)
    took["list_s"] = time.perf_counter() - began
    for name in ("pull_s", "pull_again_s"):
        began = time.perf_counter()
        assert len(pull(run, directory / "cache").captures) == len(made)
        took[name] = time.perf_counter() - began
    return took


def figures(blocked_s: list[float], total_s: float) -> dict[str, float]:
    ordered = sorted(blocked_s)
    return {
        "blocked_median_ms": 1000 * statistics.median(ordered),
        "blocked_p99_ms": 1000 * ordered[int(0.99 * (len(ordered) - 1))],
        "blocked_total_s": sum(ordered),
        "until_uploaded_s": total_s,
    }


@contextmanager
def places(directory: Path, latency_ms: float) -> Iterator[dict[str, str]]:
    server = MlflowServer(directory / "server").start()
    try:
        with SlowLink(("127.0.0.1", server.port), one_way_s=latency_ms / 2000) as link:
            yield {
                "embedded SQLite": f"sqlite:///{directory / 'mlflow.db'}",
                "server": server.uri,
                f"server, {latency_ms:g} ms away": link.uri,
            }
    finally:
        server.kill()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--captures", type=int, default=50)
    options.add_argument("--kib", type=int, default=1024)
    options.add_argument("--latency-ms", type=float, default=20.0)
    options.add_argument("--json", type=Path, help="also write the figures there")
    chosen = options.parse_args()
    os.environ.update(QUIET)
    logging.disable(logging.INFO)
    made = list(captures(chosen.captures, chosen.kib))
    ways: dict[str, Callable[[str, list[Capture], Path], dict[str, float]]] = {
        "on the training thread": on_the_training_thread,
        "through the outbox": through_the_outbox,
    }
    table: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch, places(Path(scratch), chosen.latency_ms) as found:
        for place, uri in found.items():
            MlflowTracker(uri, "benchmark").create_run(name="warm-up", config={}).finish("finished")
            for number, (way, measure) in enumerate(ways.items()):
                directory = Path(scratch, f"{len(table)}-{number}")
                directory.mkdir()
                table.setdefault(place, {})[way] = measure(uri, made, directory)
    print(f"{chosen.captures} captures of {chosen.kib} KiB, 20 metrics each, one every {1000 * STEP_S:.0f} ms\n")
    print(f"{'':24} {'':24} blocked per capture          training   until       list   pull   pull")
    print(f"{'':24} {'':24} median      99 %             blocked    uploaded                  again")
    for place, by_way in table.items():
        for way, took in by_way.items():
            pulled = "".join(f"{took[name]:6.2f}s" for name in ("list_s", "pull_s", "pull_again_s") if name in took)
            print(
                f"{place:24} {way:24} {took['blocked_median_ms']:8.3f} ms {took['blocked_p99_ms']:8.3f} ms     "
                f"{took['blocked_total_s']:7.2f} s {took['until_uploaded_s']:8.1f} s   {pulled}"
            )
        by_hand, ours = by_way.values()
        print(f"{'':24} the training thread waits {by_hand['blocked_total_s'] / ours['blocked_total_s']:,.0f} times less\n")
    if chosen.json:
        chosen.json.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
