"""Damaged files by the hundred thousand, for every reader of stored files: errors of ours or none,
in bounded time and memory."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path

from damaged_files import KINDS, Kind, damaged
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from fault_trials.forks import forked, peak_mb
from fault_trials.tally import Tallies
from tracker_viz.errors import TrackerVizError

EXAMPLES_A_ROUND = 250
# A reader that takes more is ended: it counts as another error.
MAX_MEMORY = 4 << 30


def fuzz(n_examples: int, directory: Path) -> None:
    """Try so many files in all, in rounds: every kind of file has its share."""
    tallies = Tallies("fuzz")
    share = -(-n_examples // len(KINDS))
    while any(tallies.row(kind.name).counts["examples"] < share for kind in KINDS):
        for kind in KINDS:
            tally = tallies.row(kind.name)
            if tally.counts["examples"] >= share:
                continue
            place = directory / "fuzz"
            place.mkdir(exist_ok=True)
            number = tally.counts["examples"]
            ended = forked(lambda kind=kind, n=number, p=place: _round(kind, n, p), place / "log")
            found = {"examples": EXAMPLES_A_ROUND, "other errors": 1}
            if ended.failed:
                print((place / "log").read_text()[-3000:], flush=True)
            else:
                found = json.loads((place / "found").read_text())
            tally.largest("longest, ms", found.pop("longest, ms", 0.0))
            tally.largest("more memory, MB", found.pop("more memory, MB", 0.0))
            tally.counts.update(found)
            tallies.keep(kind.name, tally)
            (place / "log").unlink()
        print({name: row.counts["examples"] for name, row in tallies.rows().items()}, flush=True)


def _round(kind: Kind, number: int, place: Path) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    path = place / kind.name
    path.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, float] = {"examples": 0, "refused": 0, "longest, ms": 0.0}
    path.write_bytes(kind.whole)
    before_mb = peak_mb()

    @seed(number)
    @settings(
        max_examples=EXAMPLES_A_ROUND,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def read(data: st.DataObject) -> None:
        path.write_bytes(data.draw(damaged(kind)))
        began = time.perf_counter()
        try:
            kind.read(path)
        except TrackerVizError:
            found["refused"] += 1
        took_ms = 1000 * (time.perf_counter() - began)
        found["examples"] += 1
        found["longest, ms"] = max(found["longest, ms"], took_ms)

    read()
    found["more memory, MB"] = peak_mb() - before_mb
    (place / "found").write_text(json.dumps(found))
