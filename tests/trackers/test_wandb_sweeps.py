"""Sweeps in W&B: real Hydra multiruns, one job after the other and with joblib, as a group of runs;
and what is made of them."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from wandb_server.fixtures import train, wandb_server, wandb_service  # noqa: F401

import tracker_viz as tv
from tracker_viz.demo.model import Decoder, ModelConfig
from tracker_viz.errors import RunActiveError, TransientTrackerError
from tracker_viz.pipeline import compare, render_sweep
from tracker_viz.trackers.sweep import PARENTS
from tracker_viz.trackers.testing import write_captures
from tracker_viz.trackers.wandb.tracker import WandbTracker
from tracker_viz.types import RunRef

SMALL = {"size": "960x540", "hold_s": 0.2, "seconds_per_capture": 0.1}
TRAIN = Path(__file__).parents[2] / "train.py"

# Somebody's Hydra application; a test fills in what is done with the model.
SCRIPT = """
import hydra, torch, wandb
import tracker_viz as tv

@hydra.main(version_base="1.3", config_path=".", config_name="theirs")
def main(cfg):
    torch.manual_seed(cfg.x)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
    encoder = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    model = torch.nn.Sequential(torch.nn.Embedding(16, 8), encoder)
    options = {{"probe": torch.arange(12)[None], "run": "wandb", "spool": "spool"}}
    {body}

main()
"""
FAILING = SCRIPT.format(
    body="""
    with tv.watch(model, name=f"x={cfg.x}", every=1, **options) as recorder:
        for step in range(4):
            recorder.step(step, loss=1.0)
            if cfg.x == 1 and step == 2:
                raise RuntimeError("this job fails")
"""
)
OWN_RUNS = SCRIPT.format(
    body="""
    run = wandb.init(project="theirs", name=f"x={cfg.x}", group="")
    with tv.watch(model, **options) as recorder:
        recorder.step(0, loss=1.0)
    run.finish()
"""
)
CONFIG = """
x: 0
tracker: {wandb: {project: theirs}}
hydra:
  job: {chdir: true}
  callbacks: {sweep: {_target_: tracker_viz.integrations.hydra.SweepCallback, name: ablation}}
"""


def multirun(program, *overrides, server, directory):
    directory.mkdir(exist_ok=True)
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("WANDB_", "HYDRA_", "TRACKER_VIZ_"))
    }
    environment = (
        clean
        | server.environment(directory)
        | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(directory / "cache")}
    )
    (directory / "home").mkdir(exist_ok=True)
    command = [sys.executable, str(program), "-m", *overrides]
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def steps(run):
    return [ref.step for ref in run.list_captures()]


def test_a_multirun_is_a_group_of_runs_each_ended_by_its_own_job(wandb_server, tmp_path):
    """Jobs in processes of their own; below, jobs that share one."""
    overrides = (
        "experiment=smoke",
        "tracker=wandb",
        "seed=0,1",
        "render=false",
        "hydra/launcher=joblib",
    )
    known = set(wandb_server.state.runs)
    code, output = multirun(TRAIN, *overrides, server=wandb_server, directory=tmp_path / "here")
    assert code == 0, output
    made = [run for path, run in wandb_server.state.runs.items() if path not in known]
    (parent,) = [run for run in made if "groupName" not in run.attributes]
    jobs = [run for run in made if run is not parent]
    assert [(run.attributes["groupName"], run.attributes["jobType"]) for run in jobs] == [
        (parent.name, "trial")
    ] * 2
    assert {run.state for run in made} == {"finished"}
    assert {run.config["seed"]["value"] for run in jobs} == {0, 1}
    assert {run.display_name for run in jobs} == {"smoke · seed=0", "smoke · seed=1"}
    assert f"wandb:{parent.path}" in output

    sweep = WandbTracker().open_run(RunRef("wandb", parent.path))
    assert {ref.path for ref in sweep.children()} == {run.path for run in jobs}
    for ref in sweep.children():
        child = WandbTracker().open_run(ref)
        assert child.info().parent == sweep.ref
        assert (len(steps(child)), steps(child)[-1]) == (8, 30)
        (loss,) = {run.summary["loss"] for run in jobs if run.path == ref.path}
        assert loss > 0


def test_a_job_that_fails_is_marked_so_and_hides_no_other(wandb_server, tmp_path):
    (tmp_path / "app.py").write_text(FAILING)
    (tmp_path / "theirs.yaml").write_text(CONFIG)
    known = set(wandb_server.state.runs)
    code, output = multirun(
        tmp_path / "app.py",
        "x=0,1,2",
        server=wandb_server,
        directory=tmp_path,
    )
    assert code != 0
    assert "this job fails" in output
    made = {
        run.display_name: run for path, run in wandb_server.state.runs.items() if path not in known
    }
    states = {name: run.state for name, run in made.items()}
    assert states == {"ablation": "failed", "x=0": "finished", "x=1": "failed", "x=2": "finished"}
    children = WandbTracker().open_run(RunRef("wandb", made["ablation"].path)).children()
    assert {ref.path for ref in children} == {made[name].path for name in ("x=0", "x=1", "x=2")}
    taken = {ref.path: steps(WandbTracker().open_run(ref)) for ref in children}
    assert [taken[made[name].path][-1] for name in ("x=0", "x=1", "x=2")] == [
        4,
        3,
        4,
    ]  # each one's last state


def test_runs_that_the_jobs_make_themselves_are_theirs_and_below_the_sweep(wandb_server, tmp_path):
    """The client hands a run that is open in a process to the next ``wandb.init()`` there."""
    (tmp_path / "app.py").write_text(OWN_RUNS)
    (tmp_path / "theirs.yaml").write_text(CONFIG)
    known = set(wandb_server.state.runs)
    code, output = multirun(
        tmp_path / "app.py",
        "x=0,1",
        server=wandb_server,
        directory=tmp_path,
    )
    assert code == 0, output
    made = {
        run.display_name: run for path, run in wandb_server.state.runs.items() if path not in known
    }
    assert {name: run.state for name, run in made.items()} == {
        "ablation": "finished",
        "x=0": "finished",
        "x=1": "finished",
    }
    children = WandbTracker().open_run(RunRef("wandb", made["ablation"].path)).children()
    assert {ref.path for ref in children} == {made["x=0"].path, made["x=1"].path}
    assert [len(steps(WandbTracker().open_run(ref))) for ref in children] == [2, 2]


# -- what is made of a sweep, and of what ----------------------------------------------------------


@pytest.fixture
def tracker(wandb_server):
    return WandbTracker()


@pytest.fixture
def sweep(tracker, tmp_path):
    """(the parent's reference, those of two finished runs below it, each with two versions of
    captures)."""
    parent = tracker.create_run(name="sweep", config={})
    children = []
    for seed in range(2):
        run = tracker.create_run(name=f"seed {seed}", config={"seed": seed}, parent=parent.ref)
        for chunk in ([0, 1], [2]):
            run.put_captures(write_captures(chunk, tmp_path / f"source-{seed}", seed=seed))
        run.finish("finished")
        children.append(run.ref)
    parent.finish("finished")
    return parent.ref, children


def captures_of(server, refs):
    return {
        artifact.id
        for ref in refs
        for artifact in server.artifacts(ref.path, "tracker-viz-capture")
    }


def watched(scheme, spool, *, n_heads=2, seed=0, steps=4, every=2, tracker_options=None):
    """A small run, captured in this process."""
    torch.manual_seed(seed)
    model = Decoder(
        ModelConfig(
            n_blocks=2,
            n_heads=n_heads,
            n_kv_heads=n_heads,
            d_model=16,
            d_ffn=24,
            context_length=32,
            vocab_size=40,
        )
    )
    with tv.watch(
        model,
        run=scheme,
        probe=torch.arange(10, 22).repeat(2)[None],
        every=every,
        total_steps=steps,
        spool=spool,
        config={"n_heads": n_heads, "seed": seed},
        max_overhead=float("inf"),
        tracker_options=tracker_options,
    ) as watcher:
        for step in range(steps):
            watcher.step(step, loss=3.0 - step / 10)
    return watcher.ref


def test_a_sweep_is_compared_and_the_results_are_a_run_of_its_group(
    wandb_server, tracker, tmp_path, monkeypatch
):
    sweep = tracker.create_run(name="sweep", config={})
    sweep.finish("finished")
    monkeypatch.setenv(PARENTS, str(sweep.ref))
    children = [
        watched("wandb", tmp_path / f"{n_heads}-{seed}", n_heads=n_heads, seed=seed)
        for seed in (0, 1)
        for n_heads in (4, 2)
    ]
    result = compare(
        sweep=sweep.ref,
        video=SMALL,
        output=tmp_path / "out",
        cache=tmp_path / "cache",
        progress=False,
    )
    settings = [f"n_heads={n_heads} seed={seed}" for n_heads in (2, 4) for seed in (0, 1)]
    assert [row["label"].partition(" · ")[2] for row in result.rows] == settings
    made = wandb_server.run(f"{sweep.ref.path}-compare")
    assert (made.attributes["groupName"], made.attributes["jobType"]) == (
        sweep.ref.path.rpartition("/")[2],
        "compare",
    )
    assert made.state == "finished"
    assert {
        "compare/runs.csv",
        "compare/runs.parquet",
        "compare/distances.png",
        "compare/heads.png",
    } <= set(made.files)
    assert {
        "tracker_viz/compare",
        "tracker_viz/tables/compare",
        "tracker_viz/tables/compare_settings",
    } <= made.summary.keys()
    assert set(made.input_artifacts) == captures_of(wandb_server, children)
    assert result.in_step is None


def test_all_runs_of_a_sweep_are_rendered_at_once(wandb_server, tracker, sweep):
    parent, children = sweep
    result = render_sweep(parent, layout="heads", video=SMALL | {"key_frames": 2}, progress=False)
    assert (list(result.rendered), result.failed, result.in_step) == (children, {}, None)
    for ref in children:
        run = wandb_server.run(ref.path)
        assert run.state == "finished"
        assert "tracker_viz/heads" in run.summary


def test_a_run_of_wandb_is_compared_with_one_of_mlflow(wandb_server, tmp_path, mlflow_store):
    """They differ in schedule, length and number of heads; the results go into a run of W&B that
    somebody else made."""
    options = {
        "mlflow": {"tracking_uri": mlflow_store},
        "wandb": {"project": "theirs"},
    }
    refs = [
        watched("wandb", tmp_path / "wandb", n_heads=2, steps=6, every=2, tracker_options=options),
        watched(
            "mlflow", tmp_path / "mlflow", n_heads=4, steps=9, every=3, tracker_options=options
        ),
    ]
    theirs = train(wandb_server)
    result = compare(
        refs,
        axis="progress",
        into=f"wandb:{theirs.path}",
        video=SMALL,
        output=tmp_path / "out",
        cache=tmp_path / "cache",
        tracker_options=options,
        progress=False,
    )
    assert [(row["run"], row["n_heads"], row["steps"]) for row in result.rows] == [
        (str(refs[0]), 2, 6),
        (str(refs[1]), 4, 9),
    ]
    said = " ".join(result.notes)
    for note in (
        "2 x 2 in 1 run, 2 x 4 in 1 run",
        "captured at different steps",
        "end at different steps (6 to 9)",
    ):
        assert note in said
    assert set(theirs.input_artifacts) == captures_of(wandb_server, refs[:1])
    assert theirs.config["tracker_viz"]["value"] == {"inputs": [str(refs[1])]}
    assert "tracker_viz/compare" in theirs.summary


def test_results_about_a_sweep_go_into_one_run_of_its_group(wandb_server, tracker, sweep, tmp_path):
    parent, children = sweep
    before = copy.deepcopy(wandb_server.run(parent.path))
    (tmp_path / "compare.webm").write_bytes(b"\x1aE\xdf\xa3")
    for number in range(2):  # made anew, it is the same run
        run = WandbTracker().open_run(parent).results_run()
        run.put_table([{"run": "seed 0", "onset": number}], "compare")
        run.put_video(tmp_path / "compare.webm", layout="compare", last_step=2)
        run.link_inputs([*children, RunRef("mlflow", f"{number}" * 32)])
        run.finish("finished")
    assert run.ref.path == f"{parent.path}-compare"
    results = wandb_server.run(run.ref.path)
    assert (results.attributes["groupName"], results.attributes["jobType"]) == (
        parent.path.split("/")[-1],
        "compare",
    )
    assert results.display_name == "compare sweep"
    assert results.state == "finished"
    assert results.values("tracker_viz/render") == [1, 2, 3, 4]
    assert set(results.input_artifacts) == captures_of(wandb_server, children)
    assert results.config["tracker_viz"]["value"]["inputs"] == [
        f"mlflow:{'0' * 32}",
        f"mlflow:{'1' * 32}",
    ]
    opened = WandbTracker().open_run(run.ref)
    assert opened.info().parent == parent
    assert opened.children() == []
    assert {ref.path for ref in WandbTracker().open_run(parent).children()} == {
        ref.path for ref in children
    }
    assert wandb_server.run(parent.path) == before


def test_results_that_another_process_writes_are_left_to_it(wandb_server, sweep):
    parent, _ = sweep
    run = WandbTracker().open_run(parent).results_run()
    assert (
        WandbTracker().open_run(parent).results_run().ref == run.ref
    )  # this process may go on with them
    run.finish("finished")
    results = wandb_server.run(run.ref.path)
    results.last_state, results.heartbeat_at = "running", time.time()
    with pytest.raises(RunActiveError, match="still running"):
        WandbTracker().open_run(parent).results_run()


def test_inputs_are_linked_to_a_finished_run_once_and_change_nothing_else_of_it(
    wandb_server, sweep
):
    _, children = sweep
    theirs = train(wandb_server, exit_code=1)
    before = copy.deepcopy(theirs)
    links = wandb_server.counts()["UseArtifact"]
    run = WandbTracker().open_run(RunRef("wandb", theirs.path))
    for inputs in ([children[0]], [children[0], run.ref], children, children):
        run.link_inputs(inputs)
    assert wandb_server.counts()["UseArtifact"] - links == 4  # two versions of each
    linked, theirs.input_artifacts = theirs.input_artifacts, []
    assert set(linked) == captures_of(wandb_server, children)
    assert theirs == before


def test_a_run_is_no_input_of_itself_and_a_link_that_does_not_show_is_missed(
    wandb_server, sweep, monkeypatch
):
    _, children = sweep
    run = WandbTracker().open_run(children[0])
    with monkeypatch.context() as patch:
        forget = lambda asked: {"useArtifact": {"artifact": {name: asked[name] for name in asked}}}  # noqa: E731
        patch.setattr(wandb_server.graphql, "on_UseArtifact", forget)
        with pytest.raises(TransientTrackerError, match="2 of 2 artifacts"):
            run.link_inputs(children)
    run.link_inputs(children)
    assert set(wandb_server.run(children[0].path).input_artifacts) == captures_of(
        wandb_server, children[1:]
    )


def test_inputs_that_this_service_does_not_have_are_named_in_the_config(wandb_server, sweep):
    _, children = sweep
    theirs = train(wandb_server)
    before = copy.deepcopy(theirs)
    run = WandbTracker().open_run(RunRef("wandb", theirs.path))
    elsewhere = [
        RunRef("mlflow", "a" * 32),
        RunRef("wandb", "somebody/else/gone"),
        RunRef("local", "/data/run"),
    ]
    run.link_inputs([*children, *elsewhere[:2]])
    run.link_inputs(elsewhere)
    assert theirs.config.pop("tracker_viz")["value"] == {"inputs": sorted(map(str, elsewhere))}
    assert set(theirs.input_artifacts) == captures_of(wandb_server, children)
    assert {name: value["value"] for name, value in theirs.config.items() if name != "_wandb"} == {
        name: value["value"] for name, value in before.config.items() if name != "_wandb"
    }
    assert (theirs.summary, theirs.history, theirs.state) == (
        before.summary,
        before.history,
        before.state,
    )
    assert run.info().config == {"lr": 0.1, "model.d": 8}


def test_the_config_of_a_run_that_another_process_writes_is_not_touched(wandb_server, sweep):
    _, children = sweep
    theirs = train(wandb_server, steps=1)
    theirs.last_state, theirs.heartbeat_at = "running", time.time()
    before = copy.deepcopy(theirs)
    run = WandbTracker().open_run(RunRef("wandb", theirs.path))
    with pytest.raises(RunActiveError):
        run.link_inputs([RunRef("mlflow", "a" * 32)])
    assert theirs == before
    run.link_inputs(children)  # a link disturbs nobody
    assert set(theirs.input_artifacts) == captures_of(wandb_server, children)
