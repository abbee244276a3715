"""Networks between a training and its tracker, by a proxy; servers that restart; databases that
lost the run."""

from __future__ import annotations

import json
import shutil
import time
from functools import partial
from pathlib import Path

from mlflow import MlflowClient

from fault_trials.forks import Host, forked
from fault_trials.kills import finish, started
from fault_trials.proxy import Proxy
from fault_trials.stores import Store
from fault_trials.tally import Tallies
from fault_trials.training import Noted, train
from tracker_viz.delivery import push
from tracker_viz.types import RunRef

# Fault -> the share of requests that it meets.
FAULTS = {
    "latency": 1.0,
    "reset before": 0.3,
    "reset after": 0.3,
    "truncated": 0.3,
    "lost": 0.2,
    "429": 0.3,
    "503": 0.3,
    "500": 0.3,
    "hang": 1.0,
    "down": 1.0,
}
CLOSE_S = 8.0
DOWN_S = 1.5


def try_networks(name: str, n_trials: int, directory: Path) -> None:
    """Try every fault between trainings and one store, so often each."""
    tallies = Tallies("networks")
    if all(tallies.row(f"{name}: {fault}").counts["trials"] >= n_trials for fault in FAULTS):
        return
    with started(name, directory) as store:
        proxy = Host(Proxy)
        uri = proxy.call("reached", store.address)
        try:
            for fault in FAULTS:
                _try_row(store, name, fault, n_trials, directory, proxy, uri)
        finally:
            proxy.end()


def _try_row(
    store: Store, name: str, fault: str, n_trials: int, directory: Path, proxy: Host, uri: str
) -> None:
    tallies = Tallies("networks")
    row = f"{name}: {fault}"
    tally = tallies.row(row)
    while tally.counts["trials"] < n_trials:
        trial = f"{name} {fault} {tally.counts['trials']}".replace(" ", "-")
        place = directory / trial
        place.mkdir()
        log = place / "log"
        begin = partial(proxy.call, "set", fault, FAULTS[fault], trial)
        end = partial(proxy.call, "set", "none", 0.0, trial)
        outage = Outage(place / "noted", begin, end)
        if fault != "down":
            begin()
        ended = forked(
            lambda place=place, trial=trial: train(
                store, trial, place, uri=uri, step_s=0.05, close_s=CLOSE_S, start_timeout_s=3.0
            ),
            log,
            kill_after_s=300,
            since=outage.look if fault == "down" else None,
        )
        end()
        noted = Noted.read(place / "noted")
        delivered = "left" if any((place / "spool/captures").glob("step-*")) else "delivered"
        tally.counts["trials"] += 1
        tally.counts["delivered under it"] += delivered == "delivered"
        tally.counts["raised into training"] += ended.failed
        tally.largest("longest stall, ms", 1000 * noted.longest_stall_s)
        tally.largest("longest training, s", ended.took_s)
        tally.largest("memory, MB", ended.peak_mb)
        finished = forked(lambda place=place, trial=trial: finish(store, trial, place), log)
        assert not finished.failed, log.read_text()[-3000:]
        found = json.loads((place / "found").read_text())
        tally.counts.update(found)
        tallies.keep(row, tally)
        print(f"{row}: {dict(tally.counts)} {tally.most}", flush=True)
        if ended.failed or found["lost"] or found["doubled"] or found["unfinished"]:
            print(f"see {place}", flush=True)
            shutil.copytree(place, directory.parent / f"kept-{trial}", dirs_exist_ok=True)


class Outage:
    """The server goes once captures are taken, and comes back a moment later."""

    def __init__(self, noted: Path, begin: partial[None], end: partial[None]) -> None:
        self._noted, self._begin, self._end = noted, begin, end
        self._since: float | None = None
        self._over = False

    def look(self) -> bool:
        if self._since is None:
            if self._noted.exists() and "capture 4 " in self._noted.read_text():
                self._begin()
                self._since = time.monotonic()
        elif not self._over and time.monotonic() - self._since > DOWN_S:
            self._over = True
            self._end()
        return False


# -- the server itself -----------------------------------------------------------------------------


def try_restarts(n_trials: int, directory: Path) -> None:
    """Kill ``mlflow server`` while a training uploads, and start it again."""
    tallies, row = Tallies("networks"), "mlflow-server: killed and started again"
    tally = tallies.row(row)
    if tally.counts["trials"] >= n_trials:
        return
    with started("mlflow-server", directory) as store:
        while tally.counts["trials"] < n_trials:
            trial = f"restart-{tally.counts['trials']}"
            place = directory / trial
            place.mkdir()
            outage = Outage(place / "noted", partial(store.stop), partial(lambda: None))
            log = place / "log"
            ended = forked(
                lambda place=place, trial=trial: train(
                    store, trial, place, step_s=0.05, close_s=2.0
                ),
                log,
                kill_after_s=300,
                since=outage.look,
            )
            store.server.start()  # type: ignore[attr-defined]
            finished = forked(lambda place=place, trial=trial: finish(store, trial, place), log)
            assert not finished.failed, log.read_text()[-3000:]
            tally.counts["trials"] += 1
            tally.counts["raised into training"] += ended.failed
            tally.largest("longest training, s", ended.took_s)
            tally.largest("memory, MB", ended.peak_mb)
            noted = Noted.read(place / "noted")
            tally.largest("longest stall, ms", 1000 * noted.longest_stall_s)
            tally.counts.update(json.loads((place / "found").read_text()))
            tallies.keep(row, tally)
            print(f"{row}: {dict(tally.counts)} {tally.most}", flush=True)


def try_lost_database(n_trials: int, directory: Path) -> None:
    """Lose the run in the tracker's database, and push what is left into a new one."""
    tallies, row = Tallies("networks"), "mlflow: lost database"
    tally = tallies.row(row)
    if tally.counts["trials"] >= n_trials:
        return
    with started("mlflow", directory) as store:
        while tally.counts["trials"] < n_trials:
            trial = f"lost-{tally.counts['trials']}"
            place = directory / trial
            place.mkdir()
            log = place / "log"
            forked(
                lambda place=place, trial=trial: train(
                    store, trial, place, keep_captures=True, step_s=0.02
                ),
                log,
                kill_after_s=4.0 + 0.2 * (tally.counts["trials"] % 5),
            )
            found = forked(lambda place=place, trial=trial: _lose(store, trial, place), log)
            assert not found.failed, log.read_text()[-3000:]
            tally.counts["trials"] += 1
            tally.counts.update(json.loads((place / "found").read_text()))
            tallies.keep(row, tally)
            print(f"{row}: {dict(tally.counts)} {tally.most}", flush=True)


def _lose(store: Store, trial: str, place: Path) -> None:
    described = json.loads((place / "spool/run.json").read_text())
    ref = (described["destinations"] or [{}])[0].get("ref")
    if ref:
        client = MlflowClient(store.options(trial)["tracking_uri"])
        client.delete_run(RunRef.parse(ref).path)
        (delivery,) = push(place / "spool").deliveries
        assert delivery.refused, delivery
        assert "into=mlflow" in str(delivery.error), delivery
    options = {store.scheme: store.options(trial)}
    finish(store, trial, place, into=store.scheme, options=options)
