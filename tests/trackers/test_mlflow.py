"""MLflow through its real client: the contract on the embedded store and on a server, and what is MLflow's own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.utils.file_utils import local_file_uri_to_path

from tracker_viz.errors import ConfigError, RunNotFoundError, TrackerError
from tracker_viz.trackers import connect, index, join, mlflow_service
from tracker_viz.trackers import mlflow as adapter
from tracker_viz.trackers.base import MetricPoint
from tracker_viz.trackers.mlflow import MlflowTracker
from tracker_viz.trackers.outbox import Destination, Outbox
from tracker_viz.trackers.testing import TrackerContract, make_capture, write_captures
from tracker_viz.types import CaptureRef, RunRef


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "TRACKER_VIZ_MLFLOW_UI_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")


@pytest.fixture(scope="session")
def embedded(tmp_path_factory):
    """One SQLite store for all tests that need any: making its tables takes seconds."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('embedded') / 'mlflow.db'}"
    MlflowTracker(uri, "contract").create_run(name="first", config={}).finish("finished")
    return uri


class MlflowContract(TrackerContract):
    def stored_metrics(self, ref):
        run = self.client.get_run(ref.path)
        return {name: {point.step: point.value for point in self.client.get_metric_history(ref.path, name)} for name in run.data.metrics}

    def stored_summary(self, ref):
        run = self.client.get_run(ref.path)
        return run.data.tags | run.data.metrics

    def truncate(self, ref, capture):
        os.truncate(self.artifacts(ref) / "captures" / capture.file_name, capture.nbytes // 2)

    def missing_ref(self):
        return RunRef("mlflow", "0" * 32)

    def check_video(self, ref, video):
        for name in ("heads.webm", "videos/heads/step_00000100.webm"):
            assert (self.artifacts(ref) / name).read_bytes() == video.read_bytes()

    def stored_table(self, ref, name):
        tagged = json.loads(self.client.get_run(ref.path).data.tags["mlflow.loggedArtifacts"])
        assert tagged == [{"path": f"tables/{name}.json", "type": "table"}]
        table = json.loads((self.artifacts(ref) / f"tables/{name}.json").read_text())
        return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]

    def stored_key_frames(self, ref, layout):
        stored = {}
        for picture in sorted((self.artifacts(ref) / "images").glob(f"{layout}+step+*.png")):
            stored.setdefault(int(picture.name.split("+")[2]), []).append(picture.read_bytes())
        assert self.client.get_run(ref.path).data.tags["mlflow.loggedImages"] == "True"
        return stored

    def stored_inputs(self, ref):
        data = self.client.get_run(ref.path).data
        inputs = json.loads(data.tags["tracker_viz.inputs"])
        for each in map(RunRef.parse, inputs):
            shown = f"[{each.path[:8]}](#/runs/{each.path})" if each.scheme == "mlflow" else f"`{each}`"
            assert shown in data.tags["mlflow.note.content"]
        return inputs


class TestEmbeddedStore(MlflowContract):
    @pytest.fixture
    def tracker(self, embedded):
        self.client = MlflowClient(embedded)
        return MlflowTracker(embedded, "contract")

    @pytest.fixture
    def reader(self, tracker):
        return connect("mlflow", **tracker.options)

    def artifacts(self, ref):
        return Path(local_file_uri_to_path(self.client.get_run(ref.path).info.artifact_uri))


class TestServer(MlflowContract):
    @pytest.fixture
    def tracker(self, mlflow_server):
        self.client = MlflowClient(mlflow_server.uri)
        self.artifacts = lambda ref: mlflow_server.stored(ref.path)
        return MlflowTracker(mlflow_server.uri, "contract")

    @pytest.fixture
    def reader(self, tracker):
        return connect("mlflow", **tracker.options)


@pytest.fixture
def run(embedded):
    run = MlflowTracker(embedded, "contract").create_run(name="a", config={})
    yield run
    run.finish("finished")


def copy_database(uri, path):
    """A database whose tables are made already, which saves seconds; new experiments lie beside the copy."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(uri.removeprefix("sqlite:///"), path)


def stored(run):
    return MlflowClient(run.environment["tracking_uri"]).get_run(run.ref.path)


# -- which service ----------------------------------------------------------------------------------------------


def test_without_settings_the_store_is_a_database_where_the_program_was_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert MlflowTracker().options == {"tracking_uri": f"sqlite:///{tmp_path}/mlflow.db", "experiment": "Default"}
    assert list(tmp_path.iterdir()) == [], "making a tracker touches nothing"


def test_mlflows_own_settings_are_followed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example/")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    assert MlflowTracker().options == {"tracking_uri": "https://mlflow.example", "experiment": "mine"}
    assert MlflowTracker("sqlite:///here.db", "other").options == {"tracking_uri": f"sqlite:///{tmp_path}/here.db", "experiment": "other"}


def test_the_embedded_stores_artifacts_lie_beside_its_database_whatever_the_working_directory(tmp_path, monkeypatch, embedded):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    copy_database(embedded, tmp_path / "home/mlflow.db")
    run = MlflowTracker(f"sqlite:///{tmp_path}/home/mlflow.db", "e").create_run(name="a", config={})
    run.put_captures(write_captures([0], tmp_path / "source"))
    (found,) = (tmp_path / "home/mlruns").glob("*/*/artifacts/captures/step-00000000.safetensors")
    assert run.fetch(run.list_captures()[0], tmp_path / "pulled") == found, "a local store is read in place"
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "./mlruns", "/tmp/mlruns"])
def test_the_file_store_is_refused_with_the_way_out(uri):
    with pytest.raises(ConfigError, match="migrate-filestore"):
        MlflowTracker(uri)


def test_an_option_that_does_not_exist_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"tracking_url.*did you mean 'tracking_uri'"):
        connect("mlflow", tracking_url="http://127.0.0.1:1")


def test_looking_for_a_run_in_the_wrong_directory_makes_no_database(tmp_path):
    with pytest.raises(RunNotFoundError, match="tracking_uri="):
        MlflowTracker(f"sqlite:///{tmp_path}/mlflow.db").open_run(RunRef("mlflow", "0" * 32))
    assert list(tmp_path.iterdir()) == []


def test_four_processes_that_use_a_new_store_first_all_succeed(tmp_path):
    program = """
    import sys
    from tracker_viz.trackers.mlflow import MlflowTracker
    tracker = MlflowTracker(sys.argv[1], "e")
    print("ready", flush=True)
    sys.stdin.readline()
    run = tracker.create_run(name="a", config={"lr": 0.1})
    run.set_summary({"done": 1.0})
    run.finish("finished")
    """
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program), uri],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    assert [racer.stdout.readline() for racer in racers] == ["ready\n"] * 4
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    ended = [racer.communicate(timeout=240) for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 4, ended
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    assert [(run.info.status, run.data.metrics["done"]) for run in runs] == [("FINISHED", 1.0)] * 4


# -- runs -------------------------------------------------------------------------------------------------------


def test_a_deleted_run_is_not_opened_nor_written_to(embedded, tmp_path):
    run = MlflowTracker(embedded, "contract").create_run(name="a", config={})
    MlflowClient(embedded).delete_run(run.ref.path)
    for attempt in (
        lambda: MlflowTracker(embedded).open_run(run.ref),
        lambda: run.put_captures(write_captures([0], tmp_path)),
        lambda: run.info(),
    ):
        with pytest.raises(RunNotFoundError, match=f"mlflow runs restore --run-id {run.ref.path}"):
            attempt()
    with pytest.raises(TrackerError):
        run.log_metrics([MetricPoint(0, {"loss": 1.0})])


def test_a_deleted_experiment_takes_no_new_runs(embedded):
    tracker = MlflowTracker(embedded, "to delete")
    run = tracker.create_run(name="a", config={})
    client = MlflowClient(embedded)
    client.delete_experiment(client.get_experiment_by_name("to delete").experiment_id)
    with pytest.raises(TrackerError, match="mlflow experiments restore"):
        tracker.create_run(name="b", config={})
    with pytest.raises(RunNotFoundError, match="was deleted"):
        tracker.open_run(run.ref)


def test_params_keep_mlflows_limits_and_take_any_number_and_name(run):
    many = {f"p{number}": number for number in range(250)}
    odd = {"long": "x" * 9000, "bad/../name": 1, "sp@ce ü": 2, "list": [1, 2], "none": None}
    run.log_config({"many": many, **odd})
    run.log_config({"many": {"p0": "changed"}})
    params = stored(run).data.params
    assert params["many.p249"] == "249"
    assert params["many.p0"] == "0", "MLflow's parameters never change"
    assert len(params["long"]) == 6000
    assert (params["bad/name"], params["sp_ce ü"], params["list"], params["none"]) == ("1", "2", "[1, 2]", "None")


def test_thousands_of_metrics_go_in_batches_and_twice_is_once(run):
    points = [
        MetricPoint(step, {f"attn/score{number:03d}": step + number for number in range(250)}, time=1.7e9 + step) for step in range(5)
    ]
    run.log_metrics(points)
    run.log_metrics(points)
    history = MlflowClient(run.environment["tracking_uri"]).get_metric_history(run.ref.path, "attn/score249")
    assert [(point.step, point.value) for point in history] == [(step, step + 249) for step in range(5)]


def test_a_finished_run_keeps_its_times_whatever_is_added(embedded, tmp_path):
    run = MlflowTracker(embedded, "contract").create_run(name="a", config={})
    run.finish("failed")
    before = stored(run).info
    later = MlflowTracker(embedded).open_run(run.ref, ours=True)
    later.put_captures(write_captures([0], tmp_path))
    later.log_metrics([MetricPoint(0, {"loss": 1.0})])
    later.set_summary({"best": 1.0})
    later.put_video(write_captures([1], tmp_path)[0].path, layout="heads", last_step=0)
    later.finish("failed")
    after = stored(run).info
    assert (after.status, after.start_time, after.end_time) == (before.status, before.start_time, before.end_time)


def test_children_are_found_over_more_than_one_page(embedded, monkeypatch):
    monkeypatch.setattr(adapter, "RUNS_A_PAGE", 2)
    tracker = MlflowTracker(embedded, "sweep")
    parent = tracker.create_run(name="parent", config={})
    children = [tracker.create_run(name=f"child {number}", config={}, parent=parent.ref).ref for number in range(5)]
    assert parent.children() == children


# -- joining ----------------------------------------------------------------------------------------------------


@pytest.fixture
def fluent(embedded, monkeypatch):
    """The fluent interface, set to the embedded store for one test."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(embedded)
    yield mlflow
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(before)


def test_an_active_fluent_run_is_joined_and_left_running(fluent, tmp_path, embedded):
    with fluent.start_run() as theirs:
        with Outbox(tmp_path / "spool", [Destination("mlflow")], name="ignored") as outbox:
            outbox.put(make_capture(0))
        assert outbox.refs == [RunRef("mlflow", theirs.info.run_id)]
        assert mlflow.active_run().info.run_id == theirs.info.run_id
        run = join(theirs)
        assert run.info().state == "running"
        assert [ref.step for ref in run.list_captures()] == [0]
        assert "loss" not in stored(run).data.metrics, "the loop's own metrics are its own to log"
    assert stored(run).info.status == "FINISHED"


def test_a_run_of_another_service_is_not_joined(fluent, tmp_path, caplog):
    with fluent.start_run():
        assert MlflowTracker(f"sqlite:///{tmp_path}/other.db").active_run() is None
    assert "is not joined" in caplog.text
    assert MlflowTracker().active_run() is None


def test_an_experiment_that_was_set_fluently_takes_the_runs(fluent, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "")
    monkeypatch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)
    experiment = fluent.set_experiment("set fluently")
    run = MlflowTracker().create_run(name="a", config={})
    assert stored(run).info.experiment_id == experiment.experiment_id


def test_only_runs_are_joined():
    with pytest.raises(ConfigError, match=r"mlflow\.start_run"):
        MlflowTracker().join(mlflow.MlflowClient)


# -- captures ---------------------------------------------------------------------------------------------------


def test_a_thousand_captures_are_listed_at_once_from_a_server(mlflow_server, tmp_path):
    run = MlflowTracker(mlflow_server.uri, "contract").create_run(name="big", config={})
    run.put_captures(write_captures([0], tmp_path))
    captures = mlflow_server.stored(run.ref.path) / "captures"
    refs = [CaptureRef(step, f"step-{step:08d}.safetensors", 3, "0" * 64) for step in range(1, 1001)]
    for ref in refs:
        (captures / ref.file_name).write_bytes(b"abc")
        (captures / "index" / index.entry_name(ref)).write_text(index.entry_text(ref, 1.0))
    assert [ref.step for ref in run.list_captures()] == list(range(1001))
    assert run.missing(refs) == []
    run.finish("finished")


def test_a_capture_without_its_entry_is_not_listed(run, tmp_path):
    captures = write_captures([0, 1], tmp_path)
    run.put_captures(captures[:1])
    MlflowClient(run.environment["tracking_uri"]).log_artifact(run.ref.path, str(captures[1].path), "captures")
    assert run.list_captures() == [captures[0].ref]
    assert run.missing([capture.ref for capture in captures]) == [captures[1].ref]


def test_a_link_out_of_the_store_is_not_followed(run, tmp_path):
    (capture,) = write_captures([0], tmp_path)
    run.put_captures([capture])
    inside = run.fetch(capture.ref, tmp_path / "pulled")
    inside.unlink()
    inside.symlink_to(capture.path)
    with pytest.raises(TrackerError, match="leads out"):
        run.fetch(capture.ref, tmp_path / "pulled")


# -- links and the note -----------------------------------------------------------------------------------------


def test_links_of_a_server_lead_to_its_artifact_page(mlflow_server):
    run = MlflowTracker(mlflow_server.uri, "contract").create_run(name="a", config={})
    experiment = stored(run).info.experiment_id
    page = f"{mlflow_server.uri}/#/experiments/{experiment}/runs/{run.ref.path}"
    assert run.url() == f"{page}?workflowType=machine_learning"
    assert run.url("videos/heads/a b.webm") == f"{page}/artifacts/videos/heads/a%20b.webm?workflowType=machine_learning"
    assert run.ui_command is None
    run.finish("finished")


def test_links_of_the_embedded_store_say_what_has_to_run(run, embedded):
    assert run.url("heads.webm").startswith("http://127.0.0.1:5000/#/experiments/")
    assert run.ui_command == f"mlflow ui --backend-store-uri {embedded}"


def test_links_follow_the_address_of_the_ui(embedded, monkeypatch):
    told = connect("mlflow", tracking_uri=embedded, experiment="contract", ui_url="https://u:pw@ml.example/prefix/").create_run(
        name="a", config={}
    )
    assert told.url().startswith("https://ml.example/prefix/#/experiments/")
    assert told.ui_command is None
    monkeypatch.setenv("TRACKER_VIZ_MLFLOW_UI_URL", "https://other.example")
    assert MlflowTracker(embedded).open_run(told.ref).url().startswith("https://other.example/#/")


def test_the_runs_note_lists_its_videos_and_never_overwrites_a_persons(run, tmp_path):
    client = MlflowClient(run.environment["tracking_uri"])
    (tmp_path / "a.webm").write_bytes(b"video")
    for layout in ("heads", "overview"):
        run.put_video(tmp_path / "a.webm", layout=layout, last_step=7)
    note = stored(run).data.tags["mlflow.note.content"]
    for layout in ("heads", "overview"):
        assert f"[{layout}](#{run.url(f'{layout}.webm').partition('#')[2]})" in note
    client.set_tag(run.ref.path, "mlflow.note.content", note + "my own remark")
    run.put_video(tmp_path / "a.webm", layout="mlp", last_step=7)
    assert stored(run).data.tags["mlflow.note.content"] == note + "my own remark"
    assert run.set_note("ours") is False


def test_the_note_shows_the_animation_and_the_heads_that_took_a_role(run, tmp_path):
    (tmp_path / "heads.webp").write_bytes(b"RIFF")
    (tmp_path / "heads.html").write_text("<p>")
    (tmp_path / "table.csv").write_text(
        "head,role,onset_step,margin\nL00H00,,,\nL00H01,previous_token,320,0.41\nL01H02,induction,560,0.87\n"
    )
    run.put_file(tmp_path / "heads.webp", "heads.webp")
    run.put_file(tmp_path / "heads.html", "heads.html")
    run.put_file(tmp_path / "table.csv", "head_roles.csv")
    run.put_file(tmp_path / "heads.html", "elsewhere/not-noted.html")
    note = stored(run).data.tags["mlflow.note.content"]
    assert f"![heads](get-artifact?path=heads.webp&run_uuid={run.ref.path})" in note
    assert "Page to explore: [heads](#/experiments/" in note
    assert note.index("| L01H02 | induction | 560 | 0.87 |") < note.index("| L00H01 | previous token | 320 | 0.41 |")
    assert "L00H00" not in note
    assert "not-noted" not in note


# -- secrets ----------------------------------------------------------------------------------------------------


def test_no_secret_is_stored_or_shown(tmp_path, embedded, caplog):
    config = {"wandb": {"api_key": "s3cret"}, "db": "postgresql://me:s3cret@host/db", "n_tokens": 5, "tokens": 6}
    destination = Destination("mlflow", {"tracking_uri": embedded, "experiment": "contract"})
    with Outbox(tmp_path / "spool", [destination], name="a", config=config) as outbox:
        pass
    params = stored(outbox.runs[0]).data.params
    assert params == {"wandb.api_key": "***", "db": "postgresql://host/db", "n_tokens": "5", "tokens": "6"}
    assert "s3cret" not in (tmp_path / "spool/run.json").read_text() + caplog.text


def test_a_password_in_the_address_stays_in_memory(tmp_path, caplog, capsys):
    secret = Destination("mlflow", {"tracking_uri": "http://me:s3cret@127.0.0.1:9", "experiment": "e"})
    outbox = Outbox(tmp_path / "spool", [secret], name="a", start_timeout_s=5)
    report = outbox.close(timeout_s=0.1)
    printed = capsys.readouterr()
    everything = (tmp_path / "spool/run.json").read_text() + caplog.text + printed.out + printed.err + str(report)
    assert "127.0.0.1:9" in everything
    assert "s3cret" not in everything


def test_an_address_without_its_password_finds_it_in_the_environment(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:s3cret@mlflow.example")
    assert MlflowTracker("https://mlflow.example")._uri == "https://me:s3cret@mlflow.example"
    assert MlflowTracker("https://other.example")._uri == "https://other.example"


def test_errors_of_artifact_stores_clients_get_our_names():
    class ClientError(Exception):
        __module__ = "botocore.exceptions"

        def __init__(self, message):
            super().__init__(message)
            self.response = {"ResponseMetadata": {"HTTPStatusCode": 503}}

    with pytest.raises(TrackerError, match="ClientError") as caught, mlflow_service.mlflow_errors("http://host", "store captures"):
        raise ClientError("slow down")
    assert type(caught.value).__name__ == "TransientTrackerError"


# -- Hydra ------------------------------------------------------------------------------------------------------

HYDRA_JOB = """
    import hydra, mlflow, sys
    from tracker_viz.trackers.mlflow import MlflowTracker

    @hydra.main(version_base=None, config_path=None, config_name=None)
    def main(config):
        tracker = MlflowTracker(experiment="hydra")
        run = tracker.create_run(name="ours", config={})
        run.finish("finished")
        mlflow.set_tracking_uri(tracker.options["tracking_uri"])
        mlflow.set_experiment("hydra")
        with mlflow.start_run(run_name="fluent"):
            pass

    main()
"""


def test_runs_made_under_hydra_carry_its_overrides_and_share_one_database(tmp_path, embedded):
    copy_database(embedded, tmp_path / "mlflow.db")
    (tmp_path / "job.py").write_text(textwrap.dedent(HYDRA_JOB))
    overrides = ["+lr=0.1,0.2", "+password=s3cret", "hydra.job.chdir=true", "hydra.sweep.dir=sweeps/first"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_TRACKING")}
    done = subprocess.run([sys.executable, "job.py", "-m", *overrides], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.rglob("mlflow.db"))) == 1, "one database where the sweep was started, not one per job"
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("hydra").experiment_id])
    tags = sorted((run.info.run_name, *(run.data.tags[f"hydra.{name}"] for name in ("job.num", "overrides", "sweep.id"))) for run in runs)
    assert tags == [
        (name, str(number), f"+lr={lr}\n+password=***", "sweeps/first")
        for name in ("fluent", "ours")
        for number, lr in enumerate(("0.1", "0.2"))
    ]


def test_a_server_whose_artifacts_are_a_directory_elsewhere_is_told_apart(mlflow_server, tmp_path):
    client = MlflowClient(mlflow_server.uri)
    experiment = client.create_experiment("not proxied", artifact_location="file:///nowhere/on/this/machine")
    run = MlflowTracker(mlflow_server.uri, "not proxied").create_run(name="a", config={})
    assert stored(run).info.experiment_id == experiment
    for attempt in (lambda: run.put_captures(write_captures([0], tmp_path)), run.list_captures):
        with pytest.raises(TrackerError, match="--serve-artifacts"):
            attempt()
    assert not Path("/nowhere").exists()
    run.finish("failed")
