"""Captures survive when an MLflow server, its files, its runs or the training process are hurt."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from mlflow import MlflowClient
from outages import until_met
from urllib3.connectionpool import HTTPConnectionPool

from tracker_viz import capture_file
from tracker_viz.delivery import Destination, Outbox, push
from tracker_viz.errors import CaptureFileError, RunNotFoundError, TrackerError
from tracker_viz.trackers.download import cache_directory, pull
from tracker_viz.trackers.mlflow.artifacts import ArtifactStore
from tracker_viz.trackers.mlflow.run import MlflowRun
from tracker_viz.trackers.mlflow.tracker import MlflowTracker
from tracker_viz.trackers.testing import make_capture, write_captures
from tracker_viz.types import RunRef


@pytest.fixture
def far(server_link):
    return Destination("mlflow", {"tracking_uri": server_link.uri, "experiment": "faults"})


def runs_of(mlflow_server, spool):
    """Runs on the server that were made for one spool."""
    client = MlflowClient(mlflow_server.uri)
    experiment = client.get_experiment_by_name("faults")
    return (
        client.search_runs([experiment.experiment_id], f"attributes.run_name = '{spool.name}'")
        if experiment
        else []
    )


def assert_holds(mlflow_server, spool, steps, *, state="FINISHED", size=8):
    """Exactly one run, exactly these captures, byte for byte, and each metric once."""
    (run,) = runs_of(mlflow_server, spool)
    assert run.info.status == state
    opened = MlflowTracker(mlflow_server.uri).open_run(RunRef("mlflow", run.info.run_id))
    pulled = pull(opened, spool.parent / f"{spool.name}-cache")
    assert [capture.ref.step for capture in pulled.captures] == list(steps)
    assert not pulled.damaged
    for capture in pulled.captures:
        assert capture.path.read_bytes() == capture_file.to_bytes(
            make_capture(capture.ref.step, size=size)
        )
    history = MlflowClient(mlflow_server.uri).get_metric_history(run.info.run_id, "loss")
    assert sorted(point.step for point in history) == list(steps)


@pytest.fixture
def spool(tmp_path, request):
    return tmp_path / f"{request.node.name[:60]}-{os.getpid()}-{time.time_ns()}"


def test_a_server_that_is_down_at_the_start_gets_everything_when_it_comes(
    far, server_link, mlflow_server, spool, monkeypatch
):
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES")
    server_link.cut()
    with Outbox(spool, [far], name=spool.name, start_timeout_s=60) as outbox:
        assert outbox._uploaders[0].status().error, (
            "known to be away, not given up on: MLflow's own retries take four minutes"
        )
        assert outbox.refs == []
        for step in range(3):
            outbox.submit(make_capture(step))
        outbox.flush()
        server_link.restore()
    assert outbox.close().complete
    assert_holds(mlflow_server, spool, range(3))


def test_a_server_that_goes_away_in_the_middle_and_comes_back_has_everything_once(
    far, server_link, mlflow_server, spool
):
    with Outbox(spool, [far], name=spool.name) as outbox:
        for step in range(12):
            if step == 4:
                server_link.cut()
            if step == 9:
                until_met(outbox)
                server_link.restore()
            outbox.submit(make_capture(step))
    assert outbox.close().complete
    assert_holds(mlflow_server, spool, range(12))


def test_a_server_that_stays_away_is_left_to_push(far, server_link, mlflow_server, spool, caplog):
    outbox = Outbox(spool, [far], name=spool.name)
    outbox.submit(make_capture(0))
    outbox.flush()
    server_link.cut()
    outbox.submit(make_capture(1))
    report = outbox.close(timeout_s=1.0)
    assert not report.complete
    assert report.command in caplog.text
    server_link.restore()
    assert push(spool).complete
    assert push(spool).complete
    assert_holds(mlflow_server, spool, range(2))


def test_a_server_that_was_never_there_gets_its_run_from_push(
    far, server_link, mlflow_server, spool
):
    server_link.cut()
    with Outbox(spool, [far], name=spool.name, config={"lr": 0.1}) as outbox:
        outbox.submit(make_capture(0))
        report = outbox.close("failed", timeout_s=0.5)
    assert report.deliveries[0].left == 1
    server_link.restore()
    assert push(spool).complete
    assert_holds(mlflow_server, spool, [0], state="FAILED")
    assert runs_of(mlflow_server, spool)[0].data.params == {"lr": "0.1"}


def test_an_upload_that_broke_half_way_is_never_listed_and_is_repeated(
    far, server_link, mlflow_server, spool
):
    size = 700
    outbox = Outbox(spool, [far], name=spool.name)
    outbox.submit(make_capture(0, size=size))
    outbox.flush()
    while outbox._uploaders[0].status().left:
        time.sleep(0.02)
    server_link.cut_after_bytes = 500_000
    outbox.submit(make_capture(1, size=size))
    while server_link.cut_after_bytes >= 0:
        time.sleep(0.02)
    server_link.cut_after_bytes = None
    seen = MlflowTracker(mlflow_server.uri).open_run(outbox.refs[0])
    assert [ref.step for ref in seen.list_captures()] == [0]
    server_link.restore()
    assert outbox.close().complete
    assert_holds(mlflow_server, spool, range(2), size=size)


def test_a_file_that_was_cut_on_the_server_is_named_left_out_and_mended_by_push(
    far, mlflow_server, spool, tmp_path
):
    with Outbox(spool, [far], name=spool.name, keep_captures=True) as outbox:
        for step in range(3):
            outbox.submit(make_capture(step))
    os.truncate(
        mlflow_server.stored(outbox.refs[0].path) / "captures/step-00000001.safetensors", 77
    )
    pulled = pull(MlflowTracker(mlflow_server.uri).open_run(outbox.refs[0]), tmp_path / "cache")
    assert [capture.ref.step for capture in pulled.captures] == [0, 2]
    ((ref, error),) = pulled.damaged.items()
    assert ref.step == 1
    assert "77 bytes" in str(error)
    assert "push" in str(error)
    assert f"({outbox.refs[0]})" in str(error)
    assert push(spool).complete
    assert_holds(mlflow_server, spool, range(3))


def test_a_file_that_was_removed_on_the_server_is_named(mlflow_server, tmp_path):
    run = MlflowTracker(mlflow_server.uri, "faults").create_run(name="removed", config={})
    (capture,) = write_captures([0], tmp_path / "source")
    run.put_captures([capture])
    (mlflow_server.stored(run.ref.path) / "captures" / capture.ref.file_name).unlink()
    with pytest.raises(CaptureFileError, match="is gone"):
        run.fetch(capture.ref, tmp_path / "pulled")
    assert run.missing([capture.ref]) == [capture.ref]
    run.finish("finished")


def test_a_run_that_is_deleted_while_training_is_told_and_gets_the_rest_after_its_return(
    far, mlflow_server, spool, caplog
):
    client = MlflowClient(mlflow_server.uri)
    outbox = Outbox(spool, [far], name=spool.name)
    run_id = outbox.refs[0].path
    client.delete_run(run_id)
    outbox.submit(make_capture(0))
    outbox.flush()
    report = outbox.close(timeout_s=60)
    assert f"mlflow runs restore --run-id {run_id}" in report.deliveries[0].error
    client.restore_run(run_id)
    assert push(spool).complete
    assert_holds(mlflow_server, spool, [0])


def test_an_experiment_deleted_while_training_is_named_and_its_run_gets_the_rest_when_it_is_back(
    far, mlflow_server, spool
):
    client = MlflowClient(mlflow_server.uri)
    far = Destination("mlflow", {**far.options, "experiment": "deleted while training"})
    outbox = Outbox(spool, [far], name=spool.name)
    experiment_id = client.get_run(outbox.refs[0].path).info.experiment_id
    client.delete_experiment(experiment_id)
    outbox.submit(make_capture(0))
    report = outbox.close(timeout_s=60)
    assert (
        f"mlflow experiments restore --experiment-id {experiment_id}" in report.deliveries[0].error
    )
    client.restore_experiment(experiment_id)
    assert push(spool).complete
    assert [
        ref.step
        for ref in MlflowTracker(mlflow_server.uri).open_run(outbox.refs[0]).list_captures()
    ] == [0]


def test_a_server_that_hangs_holds_neither_training_nor_its_end_up(
    far, server_link, mlflow_server, spool, asking
):
    """It answers nobody before training and ``close`` are through: whatever waited for it would
    never end."""
    with Outbox(spool, [far], name=spool.name) as outbox:
        server_link.one_way_s = 3600.0
        asking.clear()
        for step in range(30):
            outbox.submit(make_capture(step))
        report = outbox.close(timeout_s=1.0)
    assert asking
    assert threading.current_thread() not in asking
    assert report.deliveries[0].left == 30
    server_link.cut()
    server_link.one_way_s = 0.0
    server_link.restore()
    assert push(spool).complete
    assert_holds(mlflow_server, spool, range(30))


def test_an_answer_that_comes_after_the_end_changes_nothing_in_the_spool(
    far, server_link, mlflow_server, spool
):
    """Another process may have the spool by then: a capture that vanished under its hands stopped
    its upload."""
    outbox = Outbox(spool, [far], name=spool.name)
    server_link.one_way_s = 3600.0
    for step in range(3):
        outbox.submit(make_capture(step))
    assert outbox.close(timeout_s=0.5).deliveries[0].left == 3
    server_link.one_way_s = 0.0
    for thread in threading.enumerate():
        if thread.name == "tracker_viz-upload-mlflow":
            thread.join(60)
            assert not thread.is_alive()
    assert [ref.step for ref in outbox.run.list_captures()] == [0, 1, 2]
    assert push(spool).complete
    assert_holds(mlflow_server, spool, range(3))


def test_a_run_that_does_not_exist_is_refused_before_training(server_link, spool):
    with pytest.raises(RunNotFoundError, match="right service"):
        Outbox(
            spool,
            [
                Destination(
                    "mlflow", {"tracking_uri": server_link.uri}, ref=RunRef("mlflow", "0" * 32)
                )
            ],
            name="a",
        )


def test_an_address_without_an_mlflow_server_is_refused_before_training(spool, tmp_path):
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
        text=True,
    ) as other:
        port = other.stdout.readline().split()[5]
        try:
            with pytest.raises(TrackerError, match="an MLflow server"):
                Outbox(
                    spool,
                    [Destination("mlflow", {"tracking_uri": f"http://127.0.0.1:{port}"})],
                    name="a",
                )
        finally:
            other.kill()


TRAINING = """
    import sys
    from tracker_viz.delivery import Destination, Outbox
    from tracker_viz.trackers.testing import make_capture

    options = {"tracking_uri": sys.argv[2], "experiment": "faults"}
    outbox = Outbox(sys.argv[1], [Destination("mlflow", options)], name=sys.argv[3])
    print(*outbox.refs, flush=True)
    for step in range(1000):
        outbox.submit(make_capture(step))
        outbox.flush()
        print(step, flush=True)
"""


def test_a_killed_training_process_is_finished_by_push(far, mlflow_server, server_link, spool):
    program = [
        sys.executable,
        "-c",
        textwrap.dedent(TRAINING),
        str(spool),
        server_link.uri,
        spool.name,
    ]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("mlflow:")
        said = [int(process.stdout.readline()) for _ in range(40)]
        process.send_signal(signal.SIGKILL)
        said += [int(line) for line in process.stdout.read().split("\n")[:-1] if line]
    report = push(spool)
    assert report.complete
    n_captures = report.deliveries[0].sent
    assert n_captures in {said[-1] + 1, said[-1] + 2}
    assert_holds(mlflow_server, spool, range(n_captures), state="KILLED")


def test_a_kill_between_making_the_run_and_noting_it_leaves_one_run(
    far, mlflow_server, spool, monkeypatch
):
    create_run = MlflowTracker.create_run

    def make_it_and_fail(tracker, **described):
        create_run(tracker, **described)
        raise TrackerError("killed here")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowTracker, "create_run", make_it_and_fail)
        with pytest.raises(TrackerError):
            Outbox(spool, [far], name=spool.name)
    with Outbox(spool, [far], name=spool.name) as outbox:
        outbox.submit(make_capture(0))
    assert outbox.close().complete
    assert_holds(mlflow_server, spool, [0])


def test_an_answer_that_is_lost_on_its_way_leaves_one_run(far, mlflow_server, spool, monkeypatch):
    """MLflow's client repeats what it asked for, and the server makes another run."""
    ask, lost = HTTPConnectionPool._make_request, iter([True])

    def asked(pool, connection, method, url, *arguments, **options):
        answer = ask(pool, connection, method, url, *arguments, **options)
        if url.endswith("runs/create") and next(lost, False):
            raise ConnectionResetError(104, "Connection reset by peer")
        return answer

    monkeypatch.setattr(HTTPConnectionPool, "_make_request", asked)
    with Outbox(spool, [far], name=spool.name) as outbox:
        outbox.submit(make_capture(0))
    assert outbox.close().complete
    assert next(lost, None) is None
    assert_holds(mlflow_server, spool, [0])


WRITER = """
    import sys
    from tracker_viz.delivery import Destination, Outbox
    from tracker_viz.trackers.testing import make_capture
    from tracker_viz.types import RunRef

    first, uri, ref, spool = int(sys.argv[1]), *sys.argv[2:]
    destination = Destination("mlflow", {"tracking_uri": uri}, ref=RunRef.parse(ref))
    with Outbox(spool, [destination], name="writer") as outbox:
        print("ready", flush=True)
        sys.stdin.readline()
        for step in range(first, 20, 2):
            outbox.submit(make_capture(step, metrics={"attn/induction_max": step / 1000}))
            outbox.flush()
    sys.exit(not outbox.close().complete)
"""


def test_two_processes_may_write_to_one_run_at_once(mlflow_server, tmp_path):
    run = MlflowTracker(mlflow_server.uri, "faults").create_run(name="two writers", config={})
    program = [sys.executable, "-c", textwrap.dedent(WRITER)]
    writers = [
        subprocess.Popen(
            [
                *program,
                str(first),
                mlflow_server.uri,
                str(run.ref),
                str(tmp_path / f"spool-{first}"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for first in (0, 1)
    ]
    assert [writer.stdout.readline() for writer in writers] == ["ready\n"] * 2
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    assert [writer.communicate(timeout=240) and writer.returncode for writer in writers] == [0, 0]
    pulled = pull(run, tmp_path / "cache")
    assert not pulled.damaged
    assert [capture.ref.step for capture in pulled.captures] == list(range(20))
    assert run.info().state == "running", "neither of them made it"
    run.finish("finished")


def test_training_resumes_into_the_same_run_and_skips_what_is_there(far, mlflow_server, spool):
    with Outbox(spool, [far], name=spool.name) as outbox:
        for step in (0, 1):
            outbox.submit(make_capture(step))
    with Outbox(spool, [far], name=spool.name) as again:
        assert again.captured_steps == {0, 1}
        again.submit(make_capture(2))
    assert again.refs == outbox.refs
    assert_holds(mlflow_server, spool, range(3))


def test_on_another_machine_training_resumes_from_the_reference_alone(
    far, mlflow_server, spool, tmp_path
):
    with Outbox(spool, [far], name=spool.name) as outbox:
        outbox.submit(make_capture(0))
        outbox.close("failed")
    resumed = Destination(
        "mlflow", {"tracking_uri": mlflow_server.uri}, ref=outbox.refs[0], ours=True
    )
    with Outbox(tmp_path / "elsewhere", [resumed], name="a") as again:
        assert again.captured_steps == {0}
        again.submit(make_capture(1))
    assert_holds(mlflow_server, spool, range(2))


def test_uploads_from_one_run_go_in_chunks_and_not_one_call_each(far, spool, monkeypatch):
    calls, all_there = [], threading.Event()
    put_captures = MlflowRun.put_captures

    def counted(run, captures):
        calls.append(len(captures))
        assert all_there.wait(60)
        put_captures(run, captures)

    monkeypatch.setattr(MlflowRun, "put_captures", counted)
    with Outbox(spool, [far], name=spool.name) as outbox:
        for step in range(40):
            outbox.submit(make_capture(step))
        outbox.flush()
        all_there.set()
    assert sum(calls) == 40
    assert len(calls) <= 4, (
        "what waits goes together, 16 at a time; the first call may have come before there were so "
        "many"
    )


# -- pulling ---------------------------------------------------------------------------------------

PULLING = """
    import sys, time
    from pathlib import Path
    from tracker_viz.trackers import open_run
    from tracker_viz.trackers.mlflow.run import MlflowRun
    from tracker_viz.trackers.download import pull

    fetch = MlflowRun.fetch
    # However late it is killed, half of them have not come
    def fetch_slowly(run, ref, directory):
        if ref.step >= 20:
            time.sleep(3600)
        return fetch(run, ref, directory)

    MlflowRun.fetch = fetch_slowly
    run = open_run(sys.argv[1], tracking_uri=sys.argv[2])
    pull(run, Path(sys.argv[3]), progress=lambda done, total: print(done, flush=True))
"""


@pytest.fixture
def forty(mlflow_server, tmp_path):
    """A run with forty captures, and their files."""
    run = MlflowTracker(mlflow_server.uri, "faults").create_run(name="forty", config={})
    captures = write_captures(range(40), tmp_path / "source")
    run.put_captures(captures)
    run.finish("finished")
    return run.ref, captures


def test_a_killed_pull_goes_on_where_it_stopped(
    forty, server_link, mlflow_server, tmp_path, monkeypatch
):
    ref, captures = forty
    server_link.one_way_s = 0.05
    program = [
        sys.executable,
        "-c",
        textwrap.dedent(PULLING),
        str(ref),
        server_link.uri,
        str(tmp_path / "cache"),
    ]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        assert [int(process.stdout.readline()) for _ in range(12)] == list(range(1, 13))
        process.kill()
    downloaded, downloads = ArtifactStore.downloaded, []
    monkeypatch.setattr(
        ArtifactStore,
        "downloaded",
        lambda store, *to, **limit: (downloads.append(to), downloaded(store, *to, **limit))[1],
    )
    pulled = pull(MlflowTracker(mlflow_server.uri).open_run(ref), tmp_path / "cache")
    assert [capture.path.read_bytes() for capture in pulled.captures] == [
        capture.path.read_bytes() for capture in captures
    ]
    assert 20 <= len(downloads) <= 28


def test_a_pull_outlives_a_server_that_is_away_for_a_moment(forty, server_link, tmp_path):
    ref, captures = forty
    run = MlflowTracker(server_link.uri).open_run(ref)

    def cut_once(done, total):
        if done == 5:
            server_link.cut()
            threading.Timer(0.3, server_link.restore).start()

    pulled = pull(run, tmp_path / "cache", progress=cut_once)
    assert [capture.path.read_bytes() for capture in pulled.captures] == [
        capture.path.read_bytes() for capture in captures
    ]


def test_ctrl_c_ends_a_pull_from_a_server_that_hangs(forty, server_link, tmp_path):
    ref, _ = forty
    program = [
        sys.executable,
        "-c",
        textwrap.dedent(PULLING),
        str(ref),
        server_link.uri,
        str(tmp_path / "cache"),
    ]
    with subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        server_link.one_way_s = 0.1
        assert int(process.stdout.readline()) == 1
        server_link.one_way_s = 3600.0
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=300)
    assert "KeyboardInterrupt" in error
    server_link.one_way_s = 0.0


def test_what_a_killed_pull_left_half_done_is_removed_by_one_of_the_next_day(
    forty, mlflow_server, tmp_path
):
    ref, _ = forty
    run = MlflowTracker(mlflow_server.uri).open_run(ref)
    directory = cache_directory(ref, tmp_path / "cache")
    old, new, drawing = (
        directory / ".old.partial",
        directory / ".new.partial",
        directory / "videos/heads/.heads.webm.x.partial",
    )
    for torn in (old, new, drawing):
        torn.mkdir(parents=True)
        (torn / "half").write_bytes(b"half")
    for torn in (old, drawing):
        os.utime(torn, (time.time() - 90_000,) * 2)
    assert len(pull(run, tmp_path / "cache").captures) == 40
    assert [torn.exists() for torn in (old, new, drawing)] == [False, True, False]
