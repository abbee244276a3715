"""Others on this machine read captures of a spool that deletes them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from local_runs import steps_at

from tracker_viz.delivery import Destination, Outbox, TappedSpool, taps
from tracker_viz.trackers.testing import make_capture


def test_captures_that_were_delivered_and_deleted_stay_for_a_reader(tmp_path, there):
    with Outbox(tmp_path / "spool", [there], name="a") as outbox:
        with TappedSpool(outbox.directory) as tapped:
            for step in range(3):
                outbox.submit(make_capture(step))
            outbox.close()
            assert steps_at(outbox.run) == []
            refs = tapped.list_captures()
            assert [ref.step for ref in refs] == [0, 1, 2]
            assert tapped.fetch(refs[1], tmp_path).read_bytes()
            assert tapped.info().state == "finished"
            tapped.release(refs[:2])
            assert steps_at(tapped) == [2]
        assert not (outbox.directory / taps.TAPS).exists()


def test_a_reader_may_come_first_and_takes_what_is_there_when_it_comes_last(tmp_path):
    early = TappedSpool(tmp_path / "spool")
    with early, Outbox(tmp_path / "spool", name="a") as outbox:
        assert early.list_captures() == []
        outbox.submit(make_capture(1))
        outbox.flush()
        assert steps_at(early) == [1]
    with TappedSpool(tmp_path / "spool") as late:
        assert steps_at(late) == [1]


def test_a_reader_that_came_first_has_what_a_tracker_took_at_once(tmp_path):
    there = Destination("local", {"directory": str(tmp_path / "there")})
    with TappedSpool(tmp_path / "spool") as early:
        with Outbox(tmp_path / "spool", [there], name="a") as outbox:
            outbox.submit(make_capture(1))
        assert outbox.run.list_captures() == []
        assert steps_at(early) == [1]


def test_a_reader_to_whom_no_training_came_leaves_nothing_behind(tmp_path):
    with TappedSpool(tmp_path / "spool") as early:
        assert early.list_captures() == []
    assert not (tmp_path / "spool").exists()


def test_a_reader_that_reads_nothing_does_not_fill_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(taps, "MOST_WAITING", 2)
    with Outbox(tmp_path / "spool", name="a") as outbox, TappedSpool(outbox.directory) as tapped:
        for step in range(5):
            outbox.submit(make_capture(step))
        outbox.flush()
        assert steps_at(tapped) == [0, 1]
    assert steps_at(outbox.run) == [0, 1, 2, 3, 4]


def test_taps_of_killed_readers_are_removed_and_a_killed_training_is_known(tmp_path):
    with Outbox(tmp_path / "spool", name="a") as outbox:
        outbox.submit(make_capture(0))
        outbox.flush()
        with TappedSpool(outbox.directory) as tapped:
            assert tapped.info().state == "running"
            dead = subprocess.Popen([sys.executable, "-c", ""])
            dead.wait()
            holder = outbox.directory / ".holder.json"
            held = json.loads(holder.read_text())
            holder.write_text(json.dumps(held | {"pid": dead.pid}))
            assert tapped.info().state == "killed"
            host = tapped.directory.name.rpartition("-")[0]
            of_dead = tapped.directory.with_name(f"{host}-{dead.pid}")
            of_dead.mkdir()
    with Outbox(tmp_path / "spool", name="a"):
        assert not of_dead.exists()
        assert os.getpid() != dead.pid
