"""Real small runs of two trackers are compared: a video, pictures and a table land where they
belong; what cannot be is said."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import pyarrow.parquet
import pytest
import torch
from torch import nn

import tracker_viz as tv
from tracker_viz.demo.model import Decoder, ModelConfig
from tracker_viz.errors import ConfigError
from tracker_viz.trackers.local import LocalTracker
from tracker_viz.trackers.mlflow.tracker import MlflowTracker

SMALL = ("video.size=960x540", "video.hold_s=0.2", "video.seconds_per_capture=0.1")
SMALL_VIDEO = {"size": "960x540", "hold_s": 0.2, "seconds_per_capture": 0.1}
FILES = {
    *("poster.png", "distances.png", "heads.png"),
    *("runs.csv", "runs.parquet", "settings.csv", "findings.md"),
}


def train(run, *, seed, n_heads=2, steps=6, every=2, length=24, options=None, spool):
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
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    generator = torch.Generator().manual_seed(seed)
    config = {"seed": seed, "model": {"n_heads": n_heads}}
    probe = torch.arange(10, 10 + length // 2).repeat(2)[None]
    with tv.watch(
        model,
        run=run,
        probe=probe,
        every=every,
        total_steps=steps,
        name=f"run {seed}",
        config=config,
        spool=spool,
        max_overhead=float("inf"),
        tracker_options=options,
    ) as watcher:
        for step in range(steps):
            batch = torch.randint(40, (4, 17), generator=generator)
            loss = nn.functional.cross_entropy(
                model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten()
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watcher.step(step, tokens_seen=64 * (step + 1), loss=loss.item())
    return watcher.ref


@pytest.fixture(scope="module")
def store(tmp_path_factory, put_mlflow_store):
    return {"tracking_uri": put_mlflow_store(tmp_path_factory.mktemp("mlflow"))}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, store):
    """Two local runs, and one in MLflow that has more heads, another schedule, and ends later."""
    root = tmp_path_factory.mktemp("runs")
    return [
        train("local", seed=0, spool=root / "a"),
        train("local", seed=1, spool=root / "b"),
        train(
            "mlflow",
            seed=2,
            n_heads=4,
            steps=9,
            every=3,
            options={"mlflow": store},
            spool=root / "c",
        ),
    ]


@pytest.fixture
def sweep(runs, tmp_path):
    """A parent run, two children in the wrong order with captures, and one that failed before its
    first."""
    tracker = LocalTracker(tmp_path / "sweep")
    parent = tracker.create_run(name="a sweep", config={})
    for name, ref in (("a", runs[1]), ("b", runs[0])):
        directory = tmp_path / "sweep" / name
        directory.mkdir()
        (directory / "captures").symlink_to(Path(ref.path) / "captures")
        described = json.loads((Path(ref.path) / "run.json").read_text())
        (directory / "run.json").write_text(json.dumps(described | {"parent": str(parent.ref)}))
    tracker.create_run(name="broken", config={"seed": 7}, parent=parent.ref).finish("failed")
    return parent


def test_runs_of_two_trackers_are_compared_and_the_result_lands_in_the_run_that_was_named(
    tracker_viz, runs, store, tmp_path
):
    listed = f"runs=[{','.join(map(str, runs))}]"
    result = tracker_viz(
        "compare", listed, f"tracking_uri={store['tracking_uri']}", f"into={runs[2]}", *SMALL
    )
    assert result.code == 0, result.err
    header, rule, *rows = result.out.splitlines()[:5]
    assert header.split()[:2] == ["run", "loss"]
    assert set(rule) <= {"─", " "}
    assert [row.split("  ")[0] for row in rows] == [
        "run 0 · n_heads=2 seed=0",
        "run 1 · n_heads=2 seed=1",
        "run 2 · n_heads=4 seed=2",
    ]
    assert (
        "Note: The models differ in blocks x heads (2 x 2 in 2 runs, 2 x 4 in 1 run)" in result.out
    )
    assert "end at different steps (6 to 9)" in result.out
    run = MlflowTracker(**store).open_run(runs[2])
    for name in sorted(FILES):
        assert run.get_file(f"compare/{name}", tmp_path / "back").stat().st_size > 100
    assert run.get_file("compare.webm", tmp_path / "back").stat().st_size > 1000
    assert run.info().state == "finished"
    table = list(csv.DictReader((tmp_path / "back/compare/runs.csv").open()))
    assert [row["run"] for row in table] == [str(ref) for ref in runs]
    assert [row["model.n_heads"] for row in table] == ["2", "2", "4"]
    assert pyarrow.parquet.read_table(tmp_path / "back/compare/runs.parquet").num_rows == 3


def test_a_sweep_is_compared_in_its_parent_without_the_job_that_failed(tracker_viz, sweep):
    assert (
        tracker_viz(
            "render", f"sweep={sweep.ref}", "layout=heads", *SMALL, "video.key_frames=0"
        ).code
        == 1
    )  # for the one that failed
    (sweep.directory / "in_step.html").unlink()
    result = tracker_viz("compare", f"sweep={sweep.ref}", "order=matched", "axis=progress", *SMALL)
    assert result.code == 0, result.err
    assert [line.split("  ")[0] for line in result.out.splitlines()[2:4]] == [
        "run 0 · seed=0",
        "run 1 · seed=1",
    ]
    assert "Runs are compared by progress, the share of each run's own training." in result.out
    assert "No test of the settings: that takes 6 runs, and there are 2." in result.out
    found = (sweep.directory / "compare" / "findings.md").read_text()
    assert found.startswith("# a sweep\n\n* all runs: ")
    assert "Distances of the runs' heads: runs of one setting " in found
    assert "Left out, without captures: broken (failed)." in result.out
    assert {path.name for path in (sweep.directory / "compare").iterdir()} == FILES
    assert (sweep.directory / "compare.webm").read_bytes() == (
        sweep.directory / "videos/compare/step_00000006.webm"
    ).read_bytes()
    assert "Watch it in the run: file://" in result.out
    assert f"The runs' own videos in step: {sweep.url('in_step.html')}" in result.out
    assert (sweep.directory / "in_step.html").is_file()


def test_runs_without_a_run_above_them_are_compared_on_this_machine_only(tracker_viz, runs):
    result = tracker_viz("compare", f"runs=[{runs[0]},{runs[1]}]", "axis=tokens", *SMALL)
    assert result.code == 0, result.err
    assert {path.name for path in Path("compare").iterdir()} == FILES | {"compare.webm"}
    assert "Not uploaded: pass into=<RunRef>" in result.out
    assert "Runs are compared by tokens seen" in result.out
    assert not (Path(runs[0].path) / "compare").exists()


def test_the_video_has_one_picture_for_every_point_at_which_any_run_was_captured(
    runs, store, tmp_path
):
    options = {
        "tracker_options": {"mlflow": store},
        "video": SMALL_VIDEO,
        "progress": False,
        "upload": False,
        "output": tmp_path,
    }
    result = tv.compare([runs[0], runs[2]], **options)
    assert Path(result) == result.video == tmp_path / "compare.webm"
    assert result.axis == "step"
    video = cv2.VideoCapture(str(result))
    n_frames = 0
    while video.grab():
        n_frames += 1
    assert (
        n_frames == len({0, 2, 4, 6} | {0, 3, 6, 9}) + 1
    )  # the writer shows the last picture twice, so that players hold it
    assert (video.get(cv2.CAP_PROP_FRAME_WIDTH), video.get(cv2.CAP_PROP_FRAME_HEIGHT)) == (960, 540)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["runs=[local:a]"], "at least two runs; got 1"),
        ([], r"give runs=[<run>, <run>, ...] or sweep=<parent run>, one of them; got none"),
        (["runs=[local:a,local:b]", "sweep=local:c"], "one of them; got both"),
        (["runs=[local:a,local:a]"], "every run may be given once"),
        (["runs=[local:a,local:b]", "axis=stepp"], "unknown axis 'stepp'"),
        (["runs=[local:a,local:b]", "order=mached"], "did you mean 'matched'"),
        (["runs=[local:a,local:b]", "video.interpolate=2"], "real captures only"),
        (
            ["runs=[local:a,local:b]", "shown=65"],
            "shown must be a whole number from 2 to 64; got 65",
        ),
        (["runs=[local:a,local:b]", "max_gb=0"], "max_gb must be a number above 0; got 0"),
        (["runs=[local:a,nonsense]"], "a run must look like one of mlflow:<run_id>"),
        (
            ["runs=local:a"],
            "runs must be a list, like [mlflow:<id>,wandb:<entity>/<project>/<id>]; got 'local:a'",
        ),
        (
            ["runs=[local:a,local:b]", "base_url=http://x"],
            "base_url is an option of wandb, and none of these runs is stored there",
        ),
        (["runs=[local:a,local:b]", "theme=blue"], "unknown theme 'blue'; known: dark, light"),
        (
            ["runs=[local:a,local:b]", "output=/proc/here"],
            "output /proc/here/compare.webm cannot be written: /proc: ",
        ),
    ],
)
def test_what_means_nothing_is_refused_before_anything_is_read(tracker_viz, words, message):
    result = tracker_viz("compare", *words)
    assert result.code == 2
    assert message in result.err
    assert list(Path.cwd().iterdir()) == []


def test_a_run_without_captures_is_named(tracker_viz, runs, tmp_path):
    empty = LocalTracker(tmp_path / "more").create_run(name="empty one", config={})
    result = tracker_viz("compare", f"runs=[{runs[0]},{empty.ref}]", *SMALL)
    assert result.code == 2
    assert "empty one, running) has no captures" in result.err


@pytest.mark.parametrize("probe", ["5", "nonsense"])
def test_a_probe_row_that_is_not_there_is_told_before_captures_are_pulled(tracker_viz, runs, probe):
    result = tracker_viz("compare", f"runs=[{runs[0]},{runs[1]}]", f"probe={probe}", *SMALL)
    assert result.code == 2
    assert "probe is a row of the probe batch, by its label or its index: " in result.err
    assert list(Path.cwd().iterdir()) == []


def test_a_run_that_is_no_sweep_is_refused(tracker_viz, runs):
    result = tracker_viz("compare", f"sweep={runs[0]}", *SMALL)
    assert result.code == 2
    assert "has 0 runs below it" in result.err


def test_runs_of_different_probes_are_refused_with_what_differs(tracker_viz, runs, tmp_path):
    other = train("local", seed=3, steps=2, length=16, spool=tmp_path / "other")
    result = tracker_viz("compare", f"runs=[{runs[0]},{runs[1]},{other}]", *SMALL)
    assert result.code == 2
    assert "24 tokens" in result.err
    assert "in seed=0, seed=1" in result.err
    assert "attention maps and scores are not comparable" in result.err


def test_python_takes_no_single_run_for_a_list(runs):
    with pytest.raises(ConfigError, match="runs must be a list"):
        tv.compare(str(runs[0]))
