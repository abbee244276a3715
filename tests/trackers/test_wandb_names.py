"""Run ids and projects as people have them: whatever W&B's client takes, a run is recorded under
it, found again and shown."""

from __future__ import annotations

import pytest
import wandb
from wandb_server.fixtures import train, wandb_server, wandb_service  # noqa: F401

from tracker_viz import trackers
from tracker_viz.delivery import Outbox
from tracker_viz.errors import ConfigError
from tracker_viz.trackers.download import cache_directory, pull
from tracker_viz.trackers.sweep import PARENTS, parent_runs
from tracker_viz.trackers.testing import make_capture, write_captures
from tracker_viz.trackers.wandb.artifacts import legal_name
from tracker_viz.trackers.wandb.tracker import WandbTracker
from tracker_viz.types import RunRef

LONG = "sweep-of-many-things-" * 6 + "ab"  # 128 characters
IDS = ["gpt2-lr0.001-seed3", "lr=0.001", "exp 1", "a+b@c", "试验-1", "$(x) & [y]!", LONG]
PROJECTS = ["my project", "α-β", "a.b=c", "p" * 128]


@pytest.fixture
def their_run(wandb_server):
    """Open a run as the user's own script does."""
    opened = []

    def open_run(project, run_id):
        settings = wandb.Settings(silent=True, console="off", reinit="create_new")
        opened.append(wandb.init(project=project, id=run_id, settings=settings))
        return opened[-1]

    yield open_run
    for run in opened:
        run.finish()


def steps(run):
    return [ref.step for ref in run.list_captures()]


@pytest.mark.parametrize(
    ("project", "run_id"), [("p", id) for id in IDS] + [(p, "x") for p in PROJECTS]
)
def test_a_run_of_theirs_is_recorded_and_read_back_whatever_its_name(
    wandb_server, their_run, tmp_path, project, run_id
):
    live = their_run(project, run_id)
    with Outbox(tmp_path / "spool", [trackers.join(live)], name="ignored") as outbox:
        for step in range(3):
            outbox.submit(make_capture(step))
        outbox.put_table([{"head": "L00H00", "score": 0.5}], "heads")
        outbox.put_file(b"{}", "notes/a.json")
    assert outbox.close().command is None, outbox.close()
    live.finish()

    ref = RunRef.parse(str(outbox.refs[0]))
    assert ref.path == f"tester/{project}/{run_id}"
    run = WandbTracker(base_url=wandb_server.base_url).open_run(ref)
    assert steps(run) == [0, 1, 2]
    assert len(pull(run, tmp_path / "cache").captures) == 3
    assert run.get_file("notes/a.json", tmp_path / "file").read_bytes() == b"{}"
    assert run.info().state == "finished"

    stored = wandb_server.run(ref.path)
    table = stored.summary["tracker_viz/tables/heads"]
    assert b"L00H00" in stored.files[table["path"]]
    (of_table,) = (
        artifact
        for artifact in wandb_server.artifacts(ref.path)
        if "tracker_viz/tables/heads.table.json" in artifact.files
    )
    assert table["artifact_path"].startswith("wandb-client-artifact://")
    assert b"L00H00" in of_table.files["tracker_viz/tables/heads.table.json"]


@pytest.mark.parametrize("run_id", ["lr=0.001 long", LONG])
def test_a_sweep_whose_parent_has_such_a_name_finds_its_runs_and_its_results(
    wandb_server, tmp_path, run_id
):
    train(wandb_server, id=run_id)
    parent = RunRef("wandb", f"tester/theirs/{run_id}")
    child = WandbTracker().create_run(name="child", config={}, parent=parent)
    child.finish("finished")
    sweep = WandbTracker().open_run(parent)
    assert sweep.children() == [child.ref]

    results = sweep.results_run()
    results.put_file(write_captures([0], tmp_path)[0].path, "report.bin")
    results.finish("finished")
    assert sweep.results_run().ref == results.ref
    assert sweep.children() == [child.ref]


def test_legal_names_stay_as_they_were_and_others_never_meet():
    assert legal_name("captures-", "0a1b2c3d") == "captures-0a1b2c3d"
    assert legal_name("captures-", "gpt2-lr0.001") == "captures-gpt2-lr0.001"
    odd = ["a b", "a+b", "a_b", "a  b", LONG, LONG[:-1] + "c", "试验-1", "试验-2", "\\", "é" * 128]
    names = [legal_name("captures-", run_id, "-x") for run_id in odd]
    assert len(set(names)) == len(odd)
    assert all(len(name) <= 128 for name in names)


@pytest.mark.parametrize("project", ["a/b", "a:b", "a#b", "50%", "p" * 129])
def test_a_project_that_the_client_refuses_is_refused_before_training(project):
    with pytest.raises(ConfigError, match="project must be"):
        WandbTracker(project=project)


def test_jobs_find_the_run_above_them_also_when_its_project_has_spaces(monkeypatch):
    monkeypatch.setenv(PARENTS, '["wandb:me/my project/exp 1", "mlflow:abc"]')
    assert parent_runs() == {
        "wandb": RunRef("wandb", "me/my project/exp 1"),
        "mlflow": RunRef("mlflow", "abc"),
    }


def test_runs_with_odd_names_never_share_their_downloads(tmp_path):
    refs = [
        RunRef("wandb", f"me/p/{run_id}") for run_id in [*IDS, "é" * 128, "é" * 127 + "è", ".."]
    ]
    directories = [cache_directory(ref, tmp_path) for ref in refs]
    assert len(set(directories)) == len(refs)
    for directory in directories:
        directory.mkdir(parents=True)
        assert directory.parent == tmp_path / "wandb" / "me" / "p"
