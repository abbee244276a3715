"""Ten thousand captures in one run: is the ten-thousandth as cheap as the first?"""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path

from fault_trials.forks import forked
from fault_trials.kills import started
from fault_trials.stores import Store
from fault_trials.tally import Tallies, Tally
from tracker_viz.delivery import Destination, Outbox
from tracker_viz.trackers import connect
from tracker_viz.trackers.download import pull
from tracker_viz.trackers.testing import make_capture


def try_many(name: str, n_captures: int, directory: Path) -> None:
    tallies = Tallies("many")
    if tallies.row(name).counts["captures"] >= n_captures:
        return
    with started(name, directory) as store:
        place = directory / "many"
        place.mkdir()
        ended = forked(lambda: _record(store, n_captures, place), place / "log")
        assert not ended.failed, (place / "log").read_text()[-3000:]
        found = json.loads((place / "found").read_text())
        tally = Tally(most=found)
        tally.counts["captures"] = n_captures
        tallies.keep(name, tally)


def _record(store: Store, n_captures: int, place: Path) -> None:
    destination = Destination(store.scheme, store.options("many"))
    tenth = n_captures // 10
    took_s: list[float] = []
    after_a_tenth_mb = 0.0
    began = time.perf_counter()
    with Outbox(place / "spool", [destination], name="many") as outbox:
        for step in range(n_captures):
            capture = make_capture(step)
            submitted = time.perf_counter()
            outbox.submit(capture)
            took_s.append(time.perf_counter() - submitted)
            if step % 100 == 99:
                outbox.flush()
            if step == tenth:
                after_a_tenth_mb = _resident_mb()
        report = outbox.close(timeout_s=1200.0)
    assert report.complete, report
    delivered_s = time.perf_counter() - began
    run = connect(store.scheme, **store.options("many")).open_run(outbox.refs[0])
    began = time.perf_counter()
    refs = run.list_captures()
    listing_s = time.perf_counter() - began
    pulled = pull(run, place / "cache")
    pulling_s = time.perf_counter() - began - listing_s
    assert len(pulled.captures) == len(refs)
    found = {
        "listed": len(refs),
        "first tenth, us each": 1e6 * sum(took_s[:tenth]) / tenth,
        "last tenth, us each": 1e6 * sum(took_s[-tenth:]) / tenth,
        "longest, ms": 1000 * max(took_s),
        "delivered, s": delivered_s,
        "listing, ms": 1000 * listing_s,
        "pulling, s": pulling_s,
        "memory after a tenth, MB": after_a_tenth_mb,
        "in the end, MB": _resident_mb(),
    }
    (place / "found").write_text(json.dumps(found))


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6
