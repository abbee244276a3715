"""The W&B adapter, by the real client against the stand-in: first the contract of every tracker,
then what is W&B's own."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb_server import WandbServer
from wandb_server.fixtures import train, wandb_server, wandb_service  # noqa: F401

from tracker_viz.delivery import Destination, Outbox
from tracker_viz.errors import ConfigError, RunActiveError, TrackerError, TransientTrackerError
from tracker_viz.trackers.download import pull
from tracker_viz.trackers.testing import TrackerContract, make_capture, write_captures
from tracker_viz.trackers.values import MetricPoint
from tracker_viz.trackers.wandb import session
from tracker_viz.trackers.wandb.artifacts import from_text
from tracker_viz.trackers.wandb.run import WandbRun
from tracker_viz.trackers.wandb.service import WandbService, translated
from tracker_viz.trackers.wandb.snapshot import merged_definitions
from tracker_viz.trackers.wandb.tracker import WandbTracker
from tracker_viz.types import CaptureRef, RunRef


class TestWandbTracker(TrackerContract):
    @pytest.fixture(autouse=True)
    def server(self, wandb_server):
        self.server = wandb_server

    @pytest.fixture
    def tracker(self, server):
        return WandbTracker()

    @pytest.fixture
    def reader(self, server):
        return WandbTracker(base_url=self.server.base_url)

    def stored_metrics(self, ref: RunRef) -> dict[str, dict[int, float]]:
        stored: dict[str, dict[int, float]] = {}
        for row in self.server.run(ref.path).history:
            for name, value in row.items():
                if not name.startswith(("_", "tracker_viz/")):
                    stored.setdefault(name, {})[row["tracker_viz/step"]] = value
        return stored

    def stored_summary(self, ref: RunRef) -> dict[str, float | str]:
        return self.server.run(ref.path).summary

    def truncate(self, ref: RunRef, capture: CaptureRef) -> None:
        for artifact in self.server.artifacts(ref.path):
            if entry := artifact.entries.get(capture.file_name):
                artifact.contents[entry["digest"]] = artifact.contents[entry["digest"]][:-10]

    def missing_ref(self) -> RunRef:
        return RunRef("wandb", "tester/tracker_viz/nothing")

    def check_video(self, ref: RunRef, video: Path) -> None:
        run = self.server.run(ref.path)
        shown = run.summary["tracker_viz/heads"]
        assert shown["sha256"] == hashlib.sha256(video.read_bytes()).hexdigest()
        assert run.files[shown["path"]] == video.read_bytes()
        assert [media["sha256"] for media in run.values("tracker_viz/heads")][-1] == shown["sha256"]
        assert run.values("tracker_viz/render") == [1, 2]

    def stored_table(self, ref: RunRef, name: str) -> list[dict[str, Any]]:
        run = self.server.run(ref.path)
        shown = json.loads(run.files[run.summary[f"tracker_viz/tables/{name}"]["path"]])
        return [dict(zip(shown["columns"], row, strict=True)) for row in shown["data"]]

    def stored_key_frames(
        self, ref: RunRef, layout: str, steps: list[int]
    ) -> dict[int, list[bytes]]:
        run, key = self.server.run(ref.path), f"tracker_viz/frames/{layout}"
        stored: dict[int, list[bytes]] = {}
        for row in run.history:
            if key in row:
                stored.setdefault(row["tracker_viz/step"], []).append(run.files[row[key]["path"]])
        return stored

    def stored_inputs(self, ref: RunRef) -> list[str]:
        run = self.server.run(ref.path)
        used = {
            f"wandb:{self.server.state.artifacts[artifact_id].run}"
            for artifact_id in run.input_artifacts
        }
        return [*used, *run.config["tracker_viz"]["value"]["inputs"]]


# -- what is W&B's own -----------------------------------------------------------------------------


@pytest.fixture
def tracker(wandb_server):
    return WandbTracker()


def ours(key):
    return key.startswith("tracker_viz/")


def plain_config(run):
    return {key: value["value"] for key, value in run.config.items()}


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "heads.webm"
    path.write_bytes(b"\x1aE\xdf\xa3" + bytes(range(200)))
    return path


@pytest.mark.parametrize("state", ["finished", "failed", "killed", "crashed"])
def test_a_video_changes_nothing_of_a_run_but_what_is_ours(
    wandb_server, tracker, video, monkeypatch, state
):
    theirs = train(
        wandb_server,
        exit_code={"finished": 0, "failed": 1, "killed": 255, "crashed": 1}[state],
        name="a name",
        notes="a note",
        tags=["one", "two"],
        group="a group",
        job_type="a job",
    )
    if state == "crashed":
        theirs.last_state = "running"
        theirs.crash()
    before = copy.deepcopy(theirs)
    assert before.state == state
    assert "training step 3" in "".join(before.logs)
    if state == "finished":
        # Another process renders; its environment must not leak into the run. The client reads it
        # once.
        wandb.teardown()
        for name in ("NAME", "NOTES", "RUN_GROUP", "JOB_TYPE", "TAGS", "PROGRAM"):
            monkeypatch.setenv(f"WANDB_{name}", "of-the-render-job")
    tracker.open_run(RunRef("wandb", theirs.path)).put_video(video, layout="heads", last_step=3)

    if state == "crashed":
        # as it will be when it was silent long enough again: it was not declared finished
        theirs.crash()
    assert theirs.state == before.state
    definitions = before.config["_wandb"]["value"].pop("m")
    assert theirs.config["_wandb"]["value"].pop("m")[: len(definitions)] == definitions
    assert plain_config(theirs) == plain_config(before)
    assert {
        key: value for key, value in theirs.summary.items() if not ours(key) and key != "_step"
    } == {key: value for key, value in before.summary.items() if key != "_step"}
    assert theirs.history[: len(before.history)] == before.history
    assert [
        {key for key in row if not key.startswith("_")}
        for row in theirs.history[len(before.history) :]
    ] == [{"tracker_viz/heads", "tracker_viz/render"}]
    for stream in ("output.log", "wandb-events.jsonl"):
        assert theirs.lines[stream] == before.lines[stream]
    kept = set(before.files) - {"wandb-summary.json"}  # W&B's own copy of the summary
    assert {name: theirs.files[name] for name in kept} == {
        name: before.files[name] for name in kept
    }
    assert theirs.display_name == before.display_name
    assert theirs.attributes == before.attributes
    if state == "finished":
        wandb.teardown()


def test_a_video_that_is_made_again_is_a_new_version_on_the_same_key(wandb_server, tracker, video):
    theirs = train(wandb_server, steps=2)
    for contents in (b"first", b"second", b"third"):
        video.write_bytes(contents)
        tracker.open_run(RunRef("wandb", theirs.path)).put_video(video, layout="heads", last_step=3)
    media = theirs.values("tracker_viz/heads")
    assert [theirs.files[version["path"]] for version in media] == [b"first", b"second", b"third"]
    assert theirs.values("tracker_viz/render") == [1, 2, 3]
    steps = [row["_step"] for row in theirs.history]
    assert steps == sorted(set(steps))
    assert theirs.summary["tracker_viz/heads"] == media[-1]


def test_a_run_that_another_process_writes_is_refused_and_left_alone(wandb_server, tracker, video):
    theirs = train(wandb_server, steps=1)
    theirs.last_state, theirs.heartbeat_at = "running", time.time()
    before = copy.deepcopy(theirs)
    run = tracker.open_run(RunRef("wandb", theirs.path))
    for write in (
        lambda: run.put_video(video, layout="heads", last_step=3),
        lambda: run.set_summary({"a": 1}),
        lambda: run.log_metrics([MetricPoint(1, {"a": 1.0})]),
    ):
        with pytest.raises(RunActiveError, match="five minutes"):
            write()
    assert theirs == before
    assert run.info().state == "running"
    assert run.put_file(video, "videos/heads.webm").endswith(
        "/files/videos/heads.webm"
    )  # a file disturbs nobody


def test_the_training_process_puts_its_own_video_while_its_run_is_going(
    wandb_server, tracker, video
):
    run = tracker.create_run(name="own", config={})
    tracker.open_run(run.ref).put_video(video, layout="heads", last_step=3)
    assert run.info().state == "running"
    run.put_video(video, layout="heads", last_step=4)
    run.finish("finished")
    assert wandb_server.run(run.ref.path).values("tracker_viz/render") == [1, 2]
    assert (
        wandb_server.run(run.ref.path).files[
            wandb_server.run(run.ref.path).summary["tracker_viz/heads"]["path"]
        ]
        == video.read_bytes()
    )


def test_captures_are_versions_of_one_artifact_and_leave_no_copy_with_the_user(
    wandb_server, tracker, tmp_path
):
    captures = write_captures(list(range(6)), tmp_path / "source", size=64)
    run = tracker.create_run(name="own", config={})
    run.put_captures(captures[:4])
    run.put_captures(captures[4:])
    first, second = wandb_server.artifacts(run.ref.path, "tracker-viz-capture")
    assert first.collection == second.collection == f"captures-{run.ref.path.split('/')[-1]}"
    assert first.files == {
        capture.ref.file_name: capture.path.read_bytes() for capture in captures[:4]
    }
    copies = [
        path
        for path in Path(os.environ["WANDB_DIR"]).rglob("*")
        if path.is_file() and path.stat().st_size >= captures[0].ref.nbytes
    ]
    assert [path for path in copies if path.suffix not in {".log", ".wandb"}] == []
    run.finish("finished")


def test_captures_that_the_client_gave_up_are_uploaded_again(
    wandb_server, tracker, tmp_path, monkeypatch
):
    wait, log_artifact = wandb.Artifact.wait, wandb.Run.log_artifact
    failures, logged = [ValueError("error 500")], []

    def give_up_once(artifact, timeout=None):
        if failures:
            raise failures.pop()
        return wait(artifact, timeout)

    def note_and_log(sdk_run, artifact):
        logged.append(artifact)
        return log_artifact(sdk_run, artifact)

    monkeypatch.setattr(wandb.Artifact, "wait", give_up_once)
    monkeypatch.setattr(wandb.Run, "log_artifact", note_and_log)
    run = tracker.create_run(name="own", config={})
    captures = write_captures([0], tmp_path / "source")
    with pytest.raises(TransientTrackerError):
        run.put_captures(captures)
    run.put_captures(captures)
    assert len(logged) == 2
    assert run.list_captures() == [captures[0].ref]
    run.finish("finished")


def test_a_run_is_previewed_while_it_is_going_and_a_second_pull_downloads_nothing(
    wandb_server, tracker, tmp_path
):
    captures = write_captures(list(range(20)), tmp_path / "source")
    run = tracker.create_run(name="own", config={})
    run.put_captures(captures[:12])
    reader = WandbTracker().open_run(run.ref)
    wandb_server.awaited["GET artifact-file"] = 8
    pulled = pull(reader, tmp_path / "cache")
    assert [capture.path.read_bytes() for capture in pulled.captures] == [
        capture.path.read_bytes() for capture in captures[:12]
    ]
    assert wandb_server.most_in_flight["GET artifact-file"] == 8
    downloads = wandb_server.counts()["GET artifact-file"]
    run.put_captures(captures[12:])
    assert len(pull(reader, tmp_path / "cache").captures) == 20
    assert wandb_server.counts()["GET artifact-file"] - downloads == 8
    pull(WandbTracker().open_run(run.ref), tmp_path / "cache")
    assert wandb_server.counts()["GET artifact-file"] - downloads == 8
    run.finish("finished")


def test_charts_of_our_metrics_use_the_training_step(wandb_server, tracker):
    run = tracker.create_run(name="own", config={})
    run.log_metrics([MetricPoint(7, {"attn/induction_max": 0.5})])
    run.finish("finished")
    definitions = wandb_server.run(run.ref.path).config["_wandb"]["value"]["m"]
    rule = next(definition for definition in definitions if definition.get("2") == "*")
    assert definitions[rule["5"] - 1]["1"] == "tracker_viz/step"


def test_definitions_that_are_added_keep_pointing_at_their_step_metric():
    old = [{"1": "epoch"}, {"2": "val/*", "5": 1}]
    new = [{"1": "tracker_viz/heads", "5": 3}, {"1": "epoch"}, {"1": "tracker_viz/render"}]
    assert merged_definitions(old, new) == [
        *old,
        {"1": "tracker_viz/heads", "5": 4},
        {"1": "tracker_viz/render"},
    ]
    assert merged_definitions(old, old) == old


def test_training_goes_on_in_its_own_run(wandb_server, tracker, tmp_path):
    def train_on(steps):
        with Outbox(tmp_path / "spool", [Destination("wandb")], name="own") as outbox:
            known = outbox.captured_steps
            for step in steps:
                outbox.submit(make_capture(step))
            outbox.flush()
        assert outbox.runs[0].info().state == "finished"
        return known, outbox.refs[0]

    _, ref = train_on([0, 1])
    before = copy.deepcopy(wandb_server.run(ref.path))
    known, again = train_on([2, 3])
    assert (known, again) == ({0, 1}, ref)
    run = wandb_server.run(ref.path)
    assert [row["tracker_viz/step"] for row in run.history] == [0, 1, 2, 3]
    assert run.history[:2] == before.history
    assert [capture.step for capture in tracker.open_run(ref).list_captures()] == [0, 1, 2, 3]
    assert {entry.get("1") or entry.get("2") for entry in run.config["_wandb"]["value"]["m"]} == {
        "tracker_viz/step",
        "*",
    }
    assert plain_config(run) == plain_config(before)


def test_a_run_that_its_maker_did_not_get_to_note_is_gone_on_with(wandb_server, tracker):
    for step in range(2):
        run = tracker.create_run(name="own", config={"lr": 0.1}, key="a1" * 16)
        run.log_metrics([MetricPoint(step, {"loss": 2.0 - step})])
        run.finish("finished")  # as W&B would for a process that died: it is no longer at work
    stored = wandb_server.run(run.ref.path)
    assert stored.values("loss") == [2.0, 1.0]
    assert [row["_step"] for row in stored.history] == [0, 1]


def test_all_but_captures_is_logged_offline_and_arrives_by_wandb_sync(
    wandb_server, tracker, video, tmp_path, monkeypatch
):
    (tmp_path / "page.html").write_text("<p>report</p>")
    with monkeypatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        run = tracker.create_run(name="offline", config={"lr": 0.1})
        assert not run.online
        assert str(run.ref).startswith("wandb:_/tracker_viz/")
        assert run.info().config == {"lr": 0.1}
        run.log_metrics([MetricPoint(3, {"loss": 2.0})])
        run.set_summary({"induction": 0.5})
        run.put_video(video, layout="heads", last_step=3)
        run.put_file(tmp_path / "page.html", "reports/page.html")
        with pytest.raises(TransientTrackerError, match="wandb sync"):
            run.put_captures(write_captures([3], tmp_path / "source"))
        run.finish("finished")
        with pytest.raises(TransientTrackerError, match="WANDB_MODE=offline"):
            tracker.open_run(
                RunRef("wandb", train(wandb_server, steps=1, mode="online").path)
            ).set_summary({"a": 1})
    (directory,) = Path(os.environ["WANDB_DIR"]).glob(
        f"wandb/offline-run-*-{run.ref.path.split('/')[-1]}"
    )
    done = subprocess.run(
        [Path(sys.executable).parent / "wandb", "sync", str(directory)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    opened = tracker.open_run(run.ref)
    stored = wandb_server.run(opened.ref.path)
    assert str(opened.ref) == f"wandb:tester/{run.ref.path.removeprefix('_/')}"
    assert stored.values("loss") == [2.0]
    assert stored.summary["induction"] == 0.5
    assert stored.files[stored.summary["tracker_viz/heads"]["path"]] == video.read_bytes()
    assert opened.get_file("reports/page.html", tmp_path / "back").read_text() == "<p>report</p>"
    assert opened.info().state == "finished"


def test_charts_that_did_not_arrive_are_named_with_the_command_that_brings_them(
    wandb_server, monkeypatch
):
    monkeypatch.setitem(session._BOUNDED, "finish_timeout", 1.0)
    with WandbServer() as other:
        run = WandbTracker(base_url=other.base_url).create_run(name="cut off", config={})
        run.log_metrics([MetricPoint(0, {"loss": 2.0})])
        other.stop()
        with pytest.raises(TrackerError, match=r": wandb sync .*") as cut_off:
            run.finish("finished")
        other.start()
        words = shlex.split(str(cut_off.value).rpartition(": wandb ")[2])
        environment = os.environ | {"WANDB_BASE_URL": other.base_url}
        done = subprocess.run(
            [Path(sys.executable).parent / "wandb", *words],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert (other.run(run.ref.path).values("loss"), other.run(run.ref.path).state) == (
            [2.0],
            "finished",
        )


def test_an_html_page_gets_a_panel_of_its_own(wandb_server, tracker, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<p>two runs, side by side</p>")
    run = tracker.create_run(name="own", config={})
    run.put_file(page, "reports/comparison.html")
    run.finish("finished")
    stored = wandb_server.run(run.ref.path)
    assert stored.files["reports/comparison.html"] == page.read_bytes()
    assert (
        stored.files[stored.summary["tracker_viz/reports/comparison_html"]["path"]]
        == page.read_bytes()
    )


def test_a_refused_key_is_not_taken_for_an_outage(wandb_server, monkeypatch):
    monkeypatch.setattr("wandb_server.httpd.API_KEY", "another key")
    with pytest.raises(TrackerError, match="wandb login") as refused:
        WandbTracker().open_run(RunRef("wandb", "tester/theirs/any"))
    assert not isinstance(refused.value, TransientTrackerError)


def test_without_a_key_nobody_is_asked_for_one(wandb_server, monkeypatch):
    WandbService(
        None
    ).require_credentials()  # those of another server, which must not be sent to this one
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(
        TrackerError, match=r"no W&B credentials for http://elsewhere\.invalid.*wandb login"
    ):
        WandbTracker(base_url="http://elsewhere.invalid").create_run(name="a", config={})


def test_a_server_that_is_away_is_told_from_a_refusal(wandb_server, monkeypatch):
    monkeypatch.setattr("tracker_viz.trackers.wandb.service.API_TIMEOUT_S", 1)
    with WandbServer() as away:
        away.stop()
        with pytest.raises(TransientTrackerError, match="is away"):
            WandbTracker(base_url=away.base_url).open_run(RunRef("wandb", "tester/theirs/any"))


def test_a_run_on_another_server_does_not_move_the_users_own_runs_there(wandb_server, video):
    with WandbServer() as other:
        run = WandbTracker(base_url=other.base_url).create_run(name="elsewhere", config={})
        run.finish("finished")
        WandbTracker(base_url=other.base_url).open_run(run.ref).put_video(
            video, layout="heads", last_step=3
        )
        assert train(wandb_server, steps=1).state == "finished"
        assert [run.project for run in other.runs] == ["tracker_viz"]


def test_a_server_that_goes_away_is_waited_for(wandb_server, monkeypatch):
    monkeypatch.setattr("tracker_viz.trackers.wandb.service.API_TIMEOUT_S", 5)
    path = train(wandb_server, steps=1).path
    with WandbServer() as other:
        other.state = other.graphql.state = (
            wandb_server.state
        )  # another address of the same service
        run = WandbTracker(base_url=other.base_url).open_run(RunRef("wandb", path))
        other.stop()
        with pytest.raises(TransientTrackerError, match="is away"):
            run.info()
        other.start()
        assert run.info().state == "finished"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"project": "a/b"}, "project must be"),
        ({"entity": ""}, "entity must be"),
        ({"base_url": "api.wandb.ai"}, "base_url must look like"),
        ({"settings": {"colsole": "off"}}, "colsole"),
    ],
)
def test_options_that_cannot_be_are_refused_at_once(options, message):
    with pytest.raises(ConfigError, match=message):
        WandbTracker(**options)


def test_wandb_disabled_in_a_directory_switches_it_off(tmp_path):
    """The command writes a settings file, which the client reads once in a process."""
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_MODE"}
    script = "from tracker_viz import trackers; print(trackers.switched_off('wandb'))"

    def switch(**more):
        environment_now = environment | {"WANDB_DIR": str(tmp_path)} | more
        words = [sys.executable, "-c", script]
        done = subprocess.run(
            words, cwd=tmp_path, env=environment_now, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert switch() == "None"
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "settings").write_text("[default]\nmode = disabled\n")
    assert switch().startswith("'wandb disabled'")
    assert switch(WANDB_MODE="offline") == "None"


def test_disabled_mode_is_refused_with_the_way_out(wandb_server, tracker, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with pytest.raises(TrackerError, match="WANDB_MODE=disabled"):
        tracker.create_run(name="a", config={})


@pytest.mark.parametrize(
    "line",
    [
        "../x 1 " + "0" * 64,
        "step-00000001.safetensors -1 " + "0" * 64,
        "step-00000001.safetensors 1 zz",
        "step",
        "x y z w",
    ],
)
def test_metadata_that_names_no_capture_is_refused(line):
    with pytest.raises(ConfigError):
        from_text(line)


def test_links_lead_to_where_people_look_and_commands_carry_the_address(monkeypatch):
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    run = WandbRun(WandbService("https://wandb.mylab.org"), RunRef("wandb", "me/proj/abc"))
    assert (
        run.url("reports/a b.html")
        == "https://wandb.mylab.org/me/proj/runs/abc/files/reports/a%20b.html"
    )
    assert run.environment == {"base_url": "https://wandb.mylab.org"}
    cloud = WandbRun(WandbService("https://api.wandb.ai"), RunRef("wandb", "me/proj/abc"))
    assert cloud.url().endswith("/me/proj/runs/abc")
    assert "://api." not in cloud.url()


def test_a_command_carries_the_clients_own_address_where_the_environment_names_another(monkeypatch):
    cloud = wandb.Settings.model_fields["base_url"].default
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    monkeypatch.setattr(
        wandb.setup().settings, "base_url", cloud
    )  # other tests' runs were elsewhere
    assert WandbService(cloud).environment == {}
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.mylab.org")
    assert WandbService(cloud).environment == {"base_url": cloud}
    assert WandbService(None).environment == {"base_url": "https://wandb.mylab.org"}


def test_a_line_that_breaks_while_a_run_starts_is_an_outage():
    said = (
        "Error initializing run: read tcp 127.0.0.1:5->127.0.0.1:6: read: connection reset by peer"
    )
    with pytest.raises(TransientTrackerError, match="is away"), translated("http://wandb.example"):
        raise wandb.errors.Error(said)
