"""Measure what sending captures to MLflow costs the training thread, and how long it takes.

    python benchmarks/trackers.py [--captures 50] [--kib 1024] [--latency-ms 20] [--many 1000]

Compares ``MlflowClient.log_artifact`` and ``log_batch``, called on the training thread, with the
outbox: on the embedded store, on a server on this machine, and on the same server over a TCP link
that adds a latency. Then sends ``--many`` small captures over that link and pulls them, one at a
time and as ``pull`` does. All times are of this machine; ratios between two rows say more.

Writes trackers.json and trackers.md beside this file.
"""

from __future__ import annotations

import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measuring import import_from_tests, options_parser, table, timed, wrapped, write_results

from tracker_viz import capture_file
from tracker_viz.delivery import Destination, Outbox
from tracker_viz.trackers import Run, download
from tracker_viz.types import Capture

STEP_S = 0.2  # a capture every few training steps; real schedules are ten times sparser
DIRECT, OUTBOX = "on the training thread", "through the outbox"
PAGE = """
# What MLflow costs the training thread

Measured by `python benchmarks/trackers.py` with {captures} captures of {kib} KiB, each with 20
metrics, one every {step_ms:.0f} ms. *Blocked* is how long the training thread waits for one
capture. *Uploaded* is when the last one had arrived.

{places}

{waits}

Of the captures sent through the outbox to the server {latency_ms:g} ms away, 99 % block for less
than 1 ms: **{below}**.

{many:,} captures of 16 KiB, with the server {latency_ms:g} ms away, are sent in {sent_s:.1f} s and
listed in {listed_s:.2f} s. They are pulled in {pulled_one_at_a_time_s:.1f} s one at a time, and in
{pulled_s:.1f} s with {at_once} at once, which is {faster:.1f} times faster. If all of them are
there already, pulling takes {pulled_again_s:.2f} s.
"""


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--captures", type=int, default=50)
    parser.add_argument("--kib", type=int, default=1024)
    parser.add_argument("--latency-ms", type=float, default=20.0)
    parser.add_argument("--many", type=int, default=1000)
    options = parser.parse_args()
    logging.disable(logging.INFO)
    settings = {
        "captures": options.captures,
        "kib": options.kib,
        "latency_ms": options.latency_ms,
        "many": options.many,
        "step_ms": 1000 * STEP_S,
        "at_once": download.DOWNLOADS_IN_FLIGHT,
    }
    write_results("trackers", {"settings": settings} | measure(settings), report, options.output)


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Send the captures both ways to every place, and many small ones to the slow server."""
    made = list(captures(settings["captures"], settings["kib"]))
    ways: dict[str, Callable[[str, list[Capture], Path], dict[str, float]]] = {
        DIRECT: on_the_training_thread,
        OUTBOX: through_the_outbox,
    }
    found: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch, places(Path(scratch), settings) as uris:
        # The first import of MLflow reads the environment that was set for the server.
        from tracker_viz.trackers.mlflow.tracker import MlflowTracker

        for place, uri in uris.items():
            found[place] = {}
            MlflowTracker(uri, "benchmark").create_run(name="warm-up", config={}).finish("finished")
            for way, measure_way in ways.items():
                directory = Path(tempfile.mkdtemp(dir=scratch))
                found[place][way] = measure_way(uri, made, directory)
        slowest = list(uris.values())[-1]
        many_s = send_and_pull_many(slowest, settings["many"], Path(scratch, "many"))
    return {"places": found, "many": many_s}


@contextmanager
def places(directory: Path, settings: dict[str, Any]) -> Iterator[dict[str, str]]:
    """Yield the address of every store, by its name; the slowest is last."""
    mlflow_server = import_from_tests("trackers", "mlflow_server")
    slow_link = import_from_tests("trackers", "slow_link")
    os.environ.update(mlflow_server.QUIET)
    latency_ms = settings["latency_ms"]
    server = mlflow_server.MlflowServer(directory / "server").start()
    try:
        address = ("127.0.0.1", server.port)
        with slow_link.SlowLink(address, one_way_s=latency_ms / 2000) as link:
            yield {
                "embedded SQLite": f"sqlite:///{directory / 'mlflow.db'}",
                "server": server.uri,
                f"server, {latency_ms:g} ms away": link.uri,
            }
    finally:
        server.kill()


def captures(n: int, kib: int) -> Iterator[Capture]:
    """Yield captures of about ``kib`` KiB with 20 metrics each."""
    rng = np.random.default_rng(0)
    for step in range(n):
        maps = rng.random((kib * 512 // 4096, 64, 64)).astype(np.float16)
        metrics = {f"attn/score{number}/max": float(number) for number in range(20)}
        yield Capture(
            step,
            {"blocks.0.attn.pattern": maps},
            {"blocks.0.attn.pattern": ("head", "query", "key")},
            metrics=metrics,
        )


def on_the_training_thread(uri: str, made: list[Capture], directory: Path) -> dict[str, float]:
    """Write captures and log them with MLflow's own client."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    from tracker_viz.trackers.mlflow.tracker import MlflowTracker

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
        now_ms = int(time.time() * 1000)
        points = [
            Metric(name, value, now_ms, capture.step) for name, value in capture.metrics.items()
        ]
        client.log_batch(run.ref.path, points)
        blocked_s.append(time.perf_counter() - before)
    run.finish("finished")
    return figures(blocked_s, time.perf_counter() - began)


def through_the_outbox(uri: str, made: list[Capture], directory: Path) -> dict[str, float]:
    """Submit captures to an outbox, then list them and pull them twice."""
    from tracker_viz.trackers.mlflow.tracker import MlflowTracker

    blocked_s = []
    began = time.perf_counter()
    with Outbox(directory / "spool", [destination(uri)], name="outbox") as outbox:
        for capture in made:
            time.sleep(STEP_S)
            before = time.perf_counter()
            outbox.submit(capture)
            blocked_s.append(time.perf_counter() - before)
    took = figures(blocked_s, time.perf_counter() - began)
    assert outbox.close().complete
    run = MlflowTracker(uri).open_run(outbox.refs[0])
    took["list_s"] = timed(lambda: check_listed(run, len(made))).clock_s
    for name in ("pull_s", "pull_again_s"):
        took[name] = timed(lambda: check_pulled(run, directory / "cache", len(made))).clock_s
    return took


def send_and_pull_many(uri: str, n: int, directory: Path) -> dict[str, float]:
    """Return the seconds that ``n`` captures of 16 KiB take from spool to server, and back."""
    from tracker_viz.trackers.mlflow.tracker import MlflowTracker

    began = time.perf_counter()
    with Outbox(directory / "spool", [destination(uri)], name="many") as outbox:
        for capture in captures(n, 16):
            outbox.submit(capture)
        assert outbox.close(timeout_s=1800).complete
    took = {"sent_s": time.perf_counter() - began}
    run = MlflowTracker(uri).open_run(outbox.refs[0])
    took["listed_s"] = timed(lambda: check_listed(run, n)).clock_s
    in_flight = download.DOWNLOADS_IN_FLIGHT
    for name, n_at_once in (("pulled_one_at_a_time_s", 1), ("pulled_s", in_flight)):
        download.DOWNLOADS_IN_FLIGHT = n_at_once
        took[name] = timed(partial(check_pulled, run, directory / name, n)).clock_s
    took["pulled_again_s"] = timed(lambda: check_pulled(run, directory / "pulled_s", n)).clock_s
    return took


def destination(uri: str) -> Destination:
    return Destination("mlflow", {"tracking_uri": uri, "experiment": "benchmark"})


def check_listed(run: Run, n: int) -> None:
    """List the captures of a run, all of which must be there."""
    assert len(run.list_captures()) == n


def check_pulled(run: Run, directory: Path, n: int) -> None:
    """Pull the captures of a run, all of which must arrive."""
    assert len(download.pull(run, directory).captures) == n


def figures(blocked_s: list[float], total_s: float) -> dict[str, float]:
    """Return how long captures blocked the training thread, and when all were uploaded."""
    ordered = sorted(blocked_s)
    return {
        "blocked_median_ms": 1000 * statistics.median(ordered),
        "blocked_p99_ms": 1000 * ordered[int(0.99 * (len(ordered) - 1))],
        "blocked_total_s": sum(ordered),
        "until_uploaded_s": total_s,
    }


def report(found: dict[str, Any]) -> str:
    """Return the page of the results."""
    settings, many_s = found["settings"], found["many"]
    rows, waits = [], []
    for place, ways in found["places"].items():
        for way, took in ways.items():
            rows.append(place_row(place, way, took))
        times_less = ways[DIRECT]["blocked_total_s"] / ways[OUTBOX]["blocked_total_s"]
        waits.append(f"* {place}: the training thread waits {times_less:,.0f} times less.")
    below = "NO"
    if ways[OUTBOX]["blocked_p99_ms"] < 1:
        below = "yes"
    return wrapped(
        PAGE.format(
            **settings,
            **many_s,
            places=table(rows, text=("way",)),
            waits="\n".join(waits),
            below=below,
            faster=many_s["pulled_one_at_a_time_s"] / many_s["pulled_s"],
        )
    )


def place_row(place: str, way: str, took: dict[str, float]) -> dict[str, str]:
    """Return the row of one way to one place; only the outbox's captures are pulled."""
    row = {
        "store": place,
        "way": way,
        "blocked: median": f"{took['blocked_median_ms']:.3f} ms",
        "99 %": f"{took['blocked_p99_ms']:.3f} ms",
        "in all": f"{took['blocked_total_s']:.3f} s",
        "uploaded": f"{took['until_uploaded_s']:.1f} s",
        "listed": "–",
        "pulled": "–",
        "pulled again": "–",
    }
    if "list_s" in took:
        row["listed"] = f"{took['list_s']:.2f} s"
        row["pulled"] = f"{took['pull_s']:.2f} s"
        row["pulled again"] = f"{took['pull_again_s']:.2f} s"
    return row


if __name__ == "__main__":
    main()
