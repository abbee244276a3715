"""A spool that goes away, is deleted, or is left by a kill: nothing is lost, and nothing is called
done that is not."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
import pytest
from local_runs import only_run, steps_at

from tracker_viz import files
from tracker_viz.delivery import Destination, Outbox, push, spool_writer
from tracker_viz.errors import ConfigError, TransientTrackerError
from tracker_viz.files import read_lines, remove_torn, temporary_directory, torn_prefix
from tracker_viz.trackers.local import LocalRun
from tracker_viz.trackers.mlflow.run import MlflowRun
from tracker_viz.trackers.testing import make_capture


def away(*_, **__):
    raise TransientTrackerError("connection refused")


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def dead_prefix():
    """How the half-written files of a process that has ended are called."""
    program = "from tracker_viz.files import torn_prefix; print(torn_prefix())"
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def test_a_spool_that_is_away_for_a_while_loses_no_capture(tmp_path, there, monkeypatch):
    put_captures, stored, gone = LocalRun.put_captures, threading.Event(), threading.Event()

    def slow(run, captures):
        put_captures(run, captures)
        stored.set()
        gone.wait(60)

    monkeypatch.setattr(LocalRun, "put_captures", slow)
    outbox = Outbox(tmp_path / "spool", [there], name="a")
    for step in range(4):
        outbox.submit(make_capture(step))
    outbox.flush()
    assert stored.wait(60)
    (tmp_path / "spool").rename(tmp_path / "unmounted")
    gone.set()
    wait_until(lambda: "is not there" in str(outbox._uploaders[0].status().error))
    assert not (tmp_path / "spool").exists(), "nothing is made in its place"
    (tmp_path / "unmounted").rename(tmp_path / "spool")
    report = outbox.close()
    assert report.complete
    assert report.deliveries[0].damaged == ()
    assert steps_at(only_run(tmp_path / "there")) == [0, 1, 2, 3]


def test_a_run_is_not_called_complete_while_its_spool_is_away(tmp_path, there, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(LocalRun, "put_captures", away)
        outbox = Outbox(tmp_path / "spool", [there], name="a")
        outbox.submit(make_capture(0))
        outbox.flush()
        (tmp_path / "spool").rename(tmp_path / "unmounted")
        report = outbox.close(timeout_s=0.3)
    assert not report.complete
    assert report.deliveries[0].left == 1
    (tmp_path / "unmounted").rename(tmp_path / "spool")
    assert push(tmp_path / "spool").complete
    assert steps_at(only_run(tmp_path / "there")) == [0]


def test_a_spool_that_was_deleted_in_mid_run_is_made_again_with_its_destinations(
    tmp_path, there, monkeypatch, caplog
):
    monkeypatch.setattr(spool_writer, "DISK_RETRY_S", 0.01)
    monkeypatch.setattr(spool_writer, "DISK_PATIENCE_S", 0.05)
    with monkeypatch.context() as patch:
        patch.setattr(LocalRun, "put_captures", away)
        outbox = Outbox(tmp_path / "spool", [there], name="a", config={"lr": 0.1})
        outbox.submit(make_capture(0))
        outbox.flush()
        shutil.rmtree(tmp_path / "spool")
        outbox.submit(make_capture(1))
        report = outbox.close(timeout_s=0.3)
    assert not report.complete
    assert "was deleted, with all captures" in caplog.text
    assert push(tmp_path / "spool").complete
    run = only_run(tmp_path / "there")
    assert steps_at(run) == [1]
    assert outbox.run.info().config == {"lr": 0.1}


def test_a_spool_that_does_not_say_where_its_captures_go_is_refused_with_the_way(tmp_path):
    with Outbox(tmp_path / "spool", name="a") as outbox:
        outbox.submit(make_capture(0))
    assert push(tmp_path / "spool").complete, "one that is a run itself has nowhere to go"
    (tmp_path / "spool/run.json").write_text('{"state": "running"}')
    with pytest.raises(ConfigError, match=r"push spool=\S+/spool into=mlflow"):
        push(tmp_path / "spool")
    (tmp_path / "spool/run.json").unlink()
    with pytest.raises(ConfigError, match="into=mlflow"):
        push(tmp_path / "spool")
    options = {"local": {"directory": str(tmp_path / "there")}}
    assert push(tmp_path / "spool", into="local", options=options).complete
    assert steps_at(only_run(tmp_path / "there")) == [0]


def test_what_is_left_for_a_run_that_was_deleted_goes_into_a_new_one(
    tmp_path, mlflow_store, monkeypatch, caplog
):
    client = mlflow.MlflowClient(mlflow_store)
    destination = Destination("mlflow", {"tracking_uri": mlflow_store})
    outbox = Outbox(tmp_path / "spool", [destination], name="a")
    outbox.submit(make_capture(0))
    wait_until(lambda: outbox._uploaders[0].status().sent == 1)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowRun, "put_captures", away)
        outbox.submit(make_capture(1))
        outbox.close(timeout_s=0.3)
    (lost,) = outbox.runs
    client.delete_run(lost.ref.path)

    (delivery,) = push(tmp_path / "spool").deliveries
    assert delivery.refused
    assert "into=mlflow" in delivery.error

    report = push(tmp_path / "spool", into="mlflow")
    assert report.complete
    (ref,) = [delivery.ref for delivery in report.deliveries]
    assert ref != lost.ref
    run = MlflowRun(client, mlflow_store, client.get_run(ref.path), ours=False, ui_url=None)
    assert steps_at(run) == [1]
    assert "only the former run has 1 capture of this spool" in caplog.text
    assert push(tmp_path / "spool").complete, "and it stays there"

    artifacts = urlsplit(client.get_run(ref.path).info.artifact_uri).path
    torn = f"{artifacts}/captures/{dead_prefix()}x.partial"
    open(torn, "w").close()
    push(tmp_path / "spool")
    assert not os.path.exists(torn), "what a kill left is not shown among the artifacts"


def test_a_spool_with_nothing_left_makes_no_run_and_says_where_its_captures_are(
    tmp_path, mlflow_store, caplog
):
    client = mlflow.MlflowClient(mlflow_store)
    destination = Destination("mlflow", {"tracking_uri": mlflow_store})
    with Outbox(tmp_path / "spool", [destination], name="a") as outbox:
        for step in range(2):
            outbox.submit(make_capture(step))
    (ref,) = outbox.refs
    report = push(tmp_path / "spool", into="mlflow")
    assert report.complete
    assert [(delivery.ref, delivery.sent) for delivery in report.deliveries] == [(ref, 2)]
    assert f"nothing is left to upload into mlflow: 2 captures went into {ref}" in caplog.text

    client.delete_run(ref.path)
    (delivery,) = push(tmp_path / "spool", into="mlflow").deliveries
    assert delivery.refused
    assert "Captures that were in it only are gone, too" in delivery.error
    experiments = [each.experiment_id for each in client.search_experiments()]
    assert not client.search_runs(experiments), "no run was created instead"


KILLED = """
    import os, signal, sys
    from tracker_viz import files
    from tracker_viz.delivery import Destination, Outbox, spool
    from tracker_viz.trackers.testing import make_capture

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    at = sys.argv[3]
    if at == "unlink":
        spool.Spool.remove_delivered = die
    if at == "metrics":
        log = spool.LocalRun.log_metrics
        spool.LocalRun.log_metrics = lambda run, points: (
            die() if run.directory.name == "spool" else log(run, points)
        )
    replace = os.replace
    def replaced(source, target):
        if at in str(target) and str(target).endswith(".safetensors"):
            die()
        replace(source, target)
    os.replace = replaced
    outbox = Outbox(sys.argv[1], [Destination("local", {"directory": sys.argv[2]})], name="killed")
    outbox.submit(make_capture(0))
    outbox.close()
"""


@pytest.mark.parametrize("at", ["unlink", "metrics", "/spool/captures/", "/there/"])
def test_what_a_kill_leaves_behind_is_removed_by_the_next_push(tmp_path, at):
    program = [sys.executable, "-c", textwrap.dedent(KILLED)]
    killed = subprocess.run([*program, str(tmp_path / "spool"), str(tmp_path / "there"), at])
    assert killed.returncode == -signal.SIGKILL
    assert [*tmp_path.rglob("spool/captures/index/*")], "no capture is there before its entry"
    assert push(tmp_path / "spool").complete
    left = [*tmp_path.rglob("*.partial"), *(tmp_path / "spool").rglob("step-*")]
    assert left == []
    kept = [] if "/spool/" in at else [0]
    assert steps_at(only_run(tmp_path / "there")) == kept
    for directory in (tmp_path / "spool", only_run(tmp_path / "there").directory):
        assert [line["step"] for line in read_lines(directory / "metrics.jsonl")] == kept


def test_half_written_files_of_processes_at_work_stay(tmp_path):
    ours = tmp_path / f"{torn_prefix()}a.partial"
    dead = tmp_path / f"{dead_prefix()}b.partial"
    elsewhere = tmp_path / ".00000000-1-c.partial"
    old = tmp_path / ".d.partial"
    for file in (ours, elsewhere, old):
        file.touch()
    dead.mkdir()
    os.utime(old, (0, 0))
    remove_torn(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([ours, elsewhere])


def test_temporary_directories_of_killed_processes_go_with_the_next_one(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead = dead_prefix()[1:]  # <host>-<process>-
    left, young = tmp_path / f"tracker_viz-{dead}a", tmp_path / f"tracker_viz-{dead}b"
    ours = tmp_path / f"tracker_viz-{torn_prefix()[1:]}c"
    theirs = tmp_path / "tracker_viz-theirs"
    for directory in (left, young, ours, theirs):
        directory.mkdir()
        if directory != young:
            os.utime(directory, (0, 0))
    files._remove_left_behind.cache_clear()
    with temporary_directory() as directory:
        assert set(tmp_path.iterdir()) == {young, ours, theirs, directory}
    assert not directory.exists()


@pytest.mark.parametrize("scheme", ["local", "mlflow"])
def test_a_run_whose_disk_is_away_for_a_while_gets_its_captures_afterwards(
    tmp_path, there, mlflow_store, scheme
):
    in_mlflow = Destination("mlflow", {"tracking_uri": mlflow_store})
    outbox = Outbox(tmp_path / "spool", [{"local": there, "mlflow": in_mlflow}[scheme]], name="a")
    outbox.submit(make_capture(0))
    wait_until(lambda: outbox._uploaders[0].status().sent == 1)
    # Metrics follow a capture; only then is it removed, and nothing more is written.
    wait_until(lambda: not list((tmp_path / "spool" / "captures").glob("step-*")))
    (run,) = outbox.runs
    if scheme == "local":
        disk = run.directory
    else:
        info = mlflow.MlflowClient(mlflow_store).get_run(run.ref.path).info
        disk = Path(urlsplit(info.artifact_uri).path)
    disk.rename(tmp_path / "unmounted")
    if scheme == "local":
        disk.mkdir()  # what it was mounted on
    outbox.submit(make_capture(1))
    wait_until(lambda: "is not there" in str(outbox._uploaders[0].status().error))
    if scheme == "local":
        assert list(disk.iterdir()) == []
        disk.rmdir()
    (tmp_path / "unmounted").rename(disk)
    assert outbox.close().complete
    assert steps_at(run) == [0, 1]
