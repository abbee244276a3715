"""Measure what sending captures to MLflow costs the training thread, and how long sending, listing
and pulling take.

    python benchmarks/trackers.py [--captures 50] [--kib 1024] [--latency-ms 20] [--many 1000]

Compares, on the embedded store, a server on this machine, and the same server ``--latency-ms`` away
(a TCP link that holds every byte back): ``MlflowClient.log_artifact`` and ``log_batch`` called on
the training thread, and our outbox. Then sends ``--many`` small captures over that link and pulls
them, one at a time and as ``pull`` does. Times are of this machine, then; the ratio between two
rows of one table says more than any row.
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
from slow_link import SlowLink  # noqa: E402

from tracker_viz import capture_file  # noqa: E402
from tracker_viz.delivery import Destination, Outbox  # noqa: E402
from tracker_viz.trackers import pull as pulling  # noqa: E402
from tracker_viz.trackers.download import pull  # noqa: E402
from tracker_viz.trackers.mlflow.tracker import MlflowTracker  # noqa: E402
from tracker_viz.types import Capture  # noqa: E402

HERE = Path(__file__).parent
STEP_S = 0.2  # a capture every few training steps; real schedules are ten times sparser


def captures(n: int, kib: int) -> Iterator[Capture]:
    """Captures of about ``kib`` KiB with 20 metrics each."""
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
    """Log as somebody would by hand."""
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
            run.ref.path,
            [
                Metric(name, value, int(time.time() * 1000), capture.step)
                for name, value in capture.metrics.items()
            ],
        )
        blocked_s.append(time.perf_counter() - before)
    run.finish("finished")
    return figures(blocked_s, time.perf_counter() - began)


def through_the_outbox(uri: str, made: list[Capture], directory: Path) -> dict[str, float]:
    blocked_s = []
    began = time.perf_counter()
    with Outbox(
        directory / "spool",
        [Destination("mlflow", {"tracking_uri": uri, "experiment": "benchmark"})],
        name="outbox",
    ) as outbox:
        for capture in made:
            time.sleep(STEP_S)
            before = time.perf_counter()
            outbox.submit(capture)
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


def many(uri: str, n: int, directory: Path) -> dict[str, float]:
    """Seconds that ``n`` captures of 16 KiB take from spool to server, and back."""
    took: dict[str, float] = {}
    began = time.perf_counter()
    with Outbox(
        directory / "spool",
        [Destination("mlflow", {"tracking_uri": uri, "experiment": "benchmark"})],
        name="many",
    ) as outbox:
        for capture in captures(n, 16):
            outbox.submit(capture)
        assert outbox.close(timeout_s=1800).complete
    took["sent_s"] = time.perf_counter() - began
    run = MlflowTracker(uri).open_run(outbox.refs[0])
    began = time.perf_counter()
    assert [ref.step for ref in run.list_captures()] == list(range(n))
    took["listed_s"] = time.perf_counter() - began
    in_flight = pulling.DOWNLOADS_IN_FLIGHT
    for name, n_at_once in (("pulled_one_at_a_time_s", 1), ("pulled_s", in_flight)):
        pulling.DOWNLOADS_IN_FLIGHT = n_at_once
        began = time.perf_counter()
        assert len(pull(run, directory / name).captures) == n
        took[name] = time.perf_counter() - began
    began = time.perf_counter()
    assert len(pull(run, directory / "pulled_s").captures) == n
    took["pulled_again_s"] = time.perf_counter() - began
    return took


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--captures", type=int, default=50)
    parser.add_argument("--kib", type=int, default=1024)
    parser.add_argument("--latency-ms", type=float, default=20.0)
    parser.add_argument("--many", type=int, default=1000)
    chosen = parser.parse_args()
    os.environ.update(QUIET)
    logging.disable(logging.INFO)
    made = list(captures(chosen.captures, chosen.kib))
    ways: dict[str, Callable[[str, list[Capture], Path], dict[str, float]]] = {
        "on the training thread": on_the_training_thread,
        "through the outbox": through_the_outbox,
    }
    table: dict[str, dict[str, dict[str, float]]] = {}
    with (
        tempfile.TemporaryDirectory() as scratch,
        places(Path(scratch), chosen.latency_ms) as found,
    ):
        for place, uri in found.items():
            MlflowTracker(uri, "benchmark").create_run(name="warm-up", config={}).finish("finished")
            for number, (way, measure) in enumerate(ways.items()):
                directory = Path(scratch, f"{len(table)}-{number}")
                directory.mkdir()
                table.setdefault(place, {})[way] = measure(uri, made, directory)
        thousand = many(uri, chosen.many, Path(scratch, "many"))
    settings = vars(chosen)
    (HERE / "trackers.json").write_text(
        json.dumps({"settings": settings, "places": table, "many": thousand}, indent=1) + "\n"
    )
    (HERE / "trackers.md").write_text(report(settings, table, thousand))
    print((HERE / "trackers.md").read_text())


def report(
    settings: dict[str, float],
    table: dict[str, dict[str, dict[str, float]]],
    thousand: dict[str, float],
) -> str:
    away = f"{settings['latency_ms']:g} ms away"
    lines = [
        "# What MLflow costs the training thread",
        "",
        (
            f"Written by `python benchmarks/trackers.py`: {settings['captures']} captures of "
            f"{settings['kib']} KiB with 20 metrics each, one"
        ),
        (
            f"every {1000 * STEP_S:.0f} ms. Blocked is what the training thread waits for one "
            "capture; uploaded is when the last had arrived."
        ),
        "",
        (
            "| store | way | blocked: median | 99 % | in all | uploaded | listed | pulled | pulled "
            "again |"
        ),
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for place, by_way in table.items():
        for way, took in by_way.items():
            blocked = (
                f"{took['blocked_median_ms']:.3f} ms | {took['blocked_p99_ms']:.3f} ms | "
                f"{took['blocked_total_s']:.3f} s"
            )
            read = " | ".join(
                f"{took[name]:.2f} s" if name in took else "–"
                for name in ("list_s", "pull_s", "pull_again_s")
            )
            lines.append(
                f"| {place} | {way} | {blocked} | {took['until_uploaded_s']:.1f} s | {read} |"
            )
    lines.append("")
    for place, by_way in table.items():
        by_hand, ours = by_way.values()
        lines.append(
            f"- {place}: the training thread waits "
            f"{by_hand['blocked_total_s'] / ours['blocked_total_s']:,.0f} times less"
        )
    below = "yes" if ours["blocked_p99_ms"] < 1 else "NO"
    sent_s, listed_s, again_s = (
        thousand[name] for name in ("sent_s", "listed_s", "pulled_again_s")
    )
    alone_s, together_s = thousand["pulled_one_at_a_time_s"], thousand["pulled_s"]
    lines += [
        f"- 99 % of captures block for less than 1 ms, {away}: **{below}**",
        "",
        (
            f"{settings['many']} captures of 16 KiB, {away}: sent in {sent_s:.1f} s, listed in "
            f"{listed_s:.2f} s, pulled one at a time in"
        ),
        (
            f"{alone_s:.1f} s, {pulling.DOWNLOADS_IN_FLIGHT} at once in {together_s:.1f} s "
            f"({alone_s / together_s:.1f} times faster), and"
        ),
        f"again, all of them being there, in {again_s:.2f} s.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
