"""MLflow through its real client: the contract on the embedded store and on a server, and what is
MLflow's own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from uuid import uuid4

import pytest
from mlflow import MlflowClient
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow_contract import FilesInADirectory

from tracker_viz.errors import ConfigError, RunNotFoundError, TrackerError
from tracker_viz.trackers import capture_index, connect
from tracker_viz.trackers.mlflow import search
from tracker_viz.trackers.mlflow.tracker import MlflowTracker
from tracker_viz.trackers.run_config import RunConfig
from tracker_viz.trackers.testing import write_captures
from tracker_viz.trackers.values import MetricPoint
from tracker_viz.types import CaptureRef, RunRef


class TestEmbeddedStore(FilesInADirectory):
    @pytest.fixture
    def tracker(self, embedded):
        self.client = MlflowClient(embedded)
        return MlflowTracker(embedded, "contract")

    @pytest.fixture
    def reader(self, tracker):
        return connect("mlflow", **tracker.options)

    def artifacts(self, ref):
        return Path(local_file_uri_to_path(self.client.get_run(ref.path).info.artifact_uri))


class TestServer(FilesInADirectory):
    @pytest.fixture
    def tracker(self, mlflow_server):
        self.client = MlflowClient(mlflow_server.uri)
        self.artifacts = lambda ref: mlflow_server.stored(ref.path)
        return MlflowTracker(mlflow_server.uri, "contract")

    @pytest.fixture
    def reader(self, tracker):
        return connect("mlflow", **tracker.options)


def stored(run):
    return MlflowClient(run.environment["tracking_uri"]).get_run(run.ref.path)


# -- which service ---------------------------------------------------------------------------------


def test_without_settings_the_store_is_a_database_where_the_program_was_started(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert MlflowTracker().options == {
        "tracking_uri": f"sqlite:///{tmp_path}/mlflow.db",
        "experiment": "Default",
    }
    assert list(tmp_path.iterdir()) == [], "making a tracker touches nothing"


def test_mlflows_own_settings_are_followed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example/")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    assert MlflowTracker().options == {
        "tracking_uri": "https://mlflow.example",
        "experiment": "mine",
    }
    assert MlflowTracker("sqlite:///here.db", "other").options == {
        "tracking_uri": f"sqlite:///{tmp_path}/here.db",
        "experiment": "other",
    }


def test_the_embedded_stores_artifacts_lie_beside_its_database_whatever_the_working_directory(
    tmp_path, monkeypatch, embedded
):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "home").mkdir()
    shutil.copy(
        embedded.removeprefix("sqlite:///"), tmp_path / "home/mlflow.db"
    )  # whose tables are made already
    run = MlflowTracker(f"sqlite:///{tmp_path}/home/mlflow.db", "e").create_run(name="a", config={})
    run.put_captures(write_captures([0], tmp_path / "source"))
    (found,) = (tmp_path / "home/mlruns").glob("*/*/artifacts/captures/step-00000000.safetensors")
    assert run.fetch(run.list_captures()[0], tmp_path / "pulled") == found, (
        "a local store is read in place"
    )
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "./mlruns", "/tmp/mlruns"])
def test_the_file_store_is_refused_with_the_way_out(uri):
    with pytest.raises(ConfigError, match="migrate-filestore"):
        MlflowTracker(uri)


@pytest.mark.parametrize("uri", ["foo://x", "http://", "https:/ml.example"])
def test_an_address_that_mlflow_does_not_take_is_refused_with_those_that_it_takes(uri):
    with pytest.raises(
        ConfigError, match=f"http://.*sqlite:////.*postgresql://.*databricks.*; got '{uri}'"
    ):
        MlflowTracker(uri)


def test_an_address_of_the_ui_that_no_link_can_be_made_of_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match=r"ui_url must look like 'https?://.*; got 'nonsense'"):
        MlflowTracker(ui_url="nonsense")
    monkeypatch.setenv("TRACKER_VIZ_MLFLOW_UI_URL", "ml.example")
    with pytest.raises(
        ConfigError,
        match=r"TRACKER_VIZ_MLFLOW_UI_URL must look like 'https?://.*; got 'ml.example'",
    ):
        MlflowTracker()


def test_an_option_that_does_not_exist_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"tracking_url.*did you mean 'tracking_uri'"):
        connect("mlflow", tracking_url="http://127.0.0.1:1")


def test_looking_for_a_run_in_the_wrong_directory_makes_no_database(tmp_path):
    with pytest.raises(RunNotFoundError, match="tracking_uri="):
        MlflowTracker(f"sqlite:///{tmp_path}/mlflow.db").open_run(RunRef("mlflow", "0" * 32))
    assert list(tmp_path.iterdir()) == []


def test_two_processes_that_use_a_new_store_first_both_succeed(tmp_path):
    program = """
    import sys
    from tracker_viz.trackers.mlflow.tracker import MlflowTracker
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
        for _ in range(2)
    ]
    assert [racer.stdout.readline() for racer in racers] == ["ready\n"] * 2
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    ended = [racer.communicate(timeout=240) for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 2, ended
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    assert [(run.info.status, run.data.metrics["done"]) for run in runs] == [("FINISHED", 1.0)] * 2


# -- runs ------------------------------------------------------------------------------------------


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
    assert run.info().config["none"] == "None"
    run.log_config({"many": {"p0": "changed"}})
    params = stored(run).data.params
    assert params["many.p249"] == "249"
    assert params["many.p0"] == "0", "MLflow's parameters never change"
    assert len(params["long"]) == 6000
    assert (params["bad/name"], params["sp_ce ü"], params["list"]) == ("1", "2", "[1, 2]")
    assert "none" not in params


def test_thousands_of_metrics_go_in_batches_and_twice_is_once(run, monkeypatch):
    log_batch, sent = MlflowClient.log_batch, []

    def count(client, run_id, metrics=(), **more):
        sent.append(len(metrics))
        return log_batch(client, run_id, metrics=metrics, **more)

    monkeypatch.setattr(MlflowClient, "log_batch", count)
    points = [
        MetricPoint(
            step,
            {f"attn/score{number:03d}": step + number for number in range(250)},
            time=1.7e9 + step,
        )
        for step in range(5)
    ]
    run.log_metrics(points)
    assert sent == [1000, 250]
    run.log_metrics(points)
    history = MlflowClient(run.environment["tracking_uri"]).get_metric_history(
        run.ref.path, "attn/score249"
    )
    assert [(point.step, point.value) for point in history] == [
        (step, step + 249) for step in range(5)
    ]


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
    assert (after.status, after.start_time, after.end_time) == (
        before.status,
        before.start_time,
        before.end_time,
    )


def test_children_are_found_over_more_than_one_page(embedded, monkeypatch):
    monkeypatch.setattr(search, "RUNS_A_PAGE", 2)
    monkeypatch.setattr(search, "EXPERIMENTS_A_PAGE", 1)
    parent = MlflowTracker(embedded, "sweep").create_run(name="parent", config={})
    children = []
    for number in range(5):
        # Three experiments, the first of which has more than a page of runs.
        tracker = MlflowTracker(embedded, f"jobs {max(0, number - 2)}")
        made = tracker.create_run(name=f"child {number}", config={}, parent=parent.ref)
        children.append(made.ref)
    assert parent.children() == children


# -- captures --------------------------------------------------------------------------------------


def test_a_thousand_captures_are_listed_at_once_from_a_server(mlflow_server, tmp_path):
    run = MlflowTracker(mlflow_server.uri, "contract").create_run(name="big", config={})
    run.put_captures(write_captures([0], tmp_path))
    captures = mlflow_server.stored(run.ref.path) / "captures"
    refs = [
        CaptureRef(step, f"step-{step:08d}.safetensors", 3, "0" * 64) for step in range(1, 1001)
    ]
    for ref in refs:
        (captures / ref.file_name).write_bytes(b"abc")
        (captures / "index" / capture_index.entry_name(ref)).write_text(
            capture_index.entry_text(ref, 1.0)
        )
    assert [ref.step for ref in run.list_captures()] == list(range(1001))
    assert run.missing(refs) == []
    run.finish("finished")


def test_a_capture_without_its_entry_is_not_listed(run, tmp_path):
    captures = write_captures([0, 1], tmp_path)
    run.put_captures(captures[:1])
    MlflowClient(run.environment["tracking_uri"]).log_artifact(
        run.ref.path, str(captures[1].path), "captures"
    )
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


def test_a_server_whose_artifacts_are_a_directory_elsewhere_is_refused_before_training(
    mlflow_server, tmp_path
):
    client = MlflowClient(mlflow_server.uri)
    experiment = client.create_experiment(
        "not proxied", artifact_location="file:///nowhere/on/this/machine"
    )
    with pytest.raises(TrackerError, match="--serve-artifacts"):
        MlflowTracker(mlflow_server.uri, "not proxied").create_run(name="a", config={})
    assert [run.info.status for run in client.search_runs([experiment])] == ["FAILED"]
    assert not Path("/nowhere").exists()
    made = client.create_run(experiment)
    run = MlflowTracker(mlflow_server.uri).open_run(RunRef("mlflow", made.info.run_id))
    for attempt in (lambda: run.put_captures(write_captures([0], tmp_path)), run.list_captures):
        with pytest.raises(TrackerError, match="--serve-artifacts"):
            attempt()
    assert not Path("/nowhere").exists()
    client.set_terminated(made.info.run_id)


def test_parameters_are_what_was_chosen_and_the_whole_configuration_is_a_file(embedded, tmp_path):
    config = RunConfig(
        {"seed": 1, "path": None, "tags": [], "model": {"d": 8, "eps": 1e-5}}, ["model.eps"]
    )
    run = MlflowTracker(embedded, "contract").create_run(name="a", config=config)
    run.finish("finished")
    stored = MlflowClient(embedded).get_run(run.ref.path).data
    assert stored.params == {"seed": "1", "model.d": "8"}
    whole = run.get_file("config.json", tmp_path)
    assert json.loads(whole.read_text()) == config
    assert run.info().config == {
        "seed": "1",
        "path": "None",
        "tags": "[]",
        "model.d": "8",
        "model.eps": "1e-05",
    }


def test_the_users_tags_are_set_on_the_run_under_legal_names(embedded):
    tags = {"team": "a", "why?": "b" * 9000}
    run = MlflowTracker(embedded, "contract").create_run(name="a", config={}, tags=tags)
    seen = MlflowClient(embedded).get_run(run.ref.path).data.tags
    assert (seen["team"], seen["why_"]) == ("a", "b" * 8000)


def test_tags_that_only_we_read_are_not_in_sight(embedded):
    key = uuid4().hex
    run = MlflowTracker(embedded, "contract").create_run(name="a", config={"a": 1}, key=key)
    run.link_inputs([run.ref])
    seen = MlflowClient(embedded).get_run(run.ref.path).data.tags
    assert {name for name in seen if not name.startswith("mlflow.")} == {"tracker_viz.version"}
    again = MlflowTracker(embedded, "contract").create_run(name="a", config={}, key=key)
    assert again.ref == run.ref
    run.finish("finished")


def test_a_run_that_an_earlier_version_made_with_the_same_key_is_found(embedded):
    key = uuid4().hex
    run = MlflowTracker(embedded, "contract").create_run(name="a", config={})
    MlflowClient(embedded).set_tag(run.ref.path, "tracker_viz.key", key)
    again = MlflowTracker(embedded, "contract").create_run(name="a", config={}, key=key)
    assert again.ref == run.ref
    run.finish("finished")


def test_the_loss_is_the_first_chart_of_the_page(run, embedded):
    run.log_metrics([MetricPoint(3, {"loss": 0.5, "attn/induction_max": 0.1})])
    names = MlflowClient(embedded).get_run(run.ref.path).data.metrics
    assert names.keys() >= {"loss", "_training/loss"}
    groups = sorted(name.rpartition("/")[0] for name in names if "/" in name)
    assert groups[0] == "_training"


def test_an_alarm_is_a_tag_and_a_line_of_the_note(run):
    for _ in range(2):
        run.alert("logit", 40, "step 40: the largest attention logit is 134 (L2H1), beyond 100")
    run.alert("not_finite", 60, "step 60: NaN or infinity on the probe, first in blocks.2.attn")
    run_id = run.ref.path
    tags = run._client.get_run(run_id).data.tags
    assert tags["tracker_viz.alarm.logit"].startswith("step 40")
    note = tags["mlflow.note.content"]
    assert note.count("**Alarm:**") == 2
    assert "first in blocks.2.attn" in note


def test_a_clock_that_jumped_back_leaves_no_old_summary_in_sight(run, embedded, monkeypatch):
    run.set_summary({"tracker_viz/loss": 2.0, "state": "old"})
    now_s = time.time()
    monkeypatch.setattr(time, "time", lambda: now_s - 86_400)
    for loss in (1.0, 3.0):
        run.set_summary({"tracker_viz/loss": loss, "state": "new"})
        data = MlflowClient(embedded).get_run(run.ref.path).data
        assert (data.metrics["tracker_viz/loss"], data.tags["state"]) == (loss, "new")
