"""What earlier versions stored is read by this one, and this one stores under the same names.

``tests/stored/<version>/`` holds what each version wrote; ``tests/stored/make.py`` says what lies
where, and makes the next. Every test works on a copy: in MLflow's case put back into a store, in
W&B's into the stand-in for its service.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import safetensors.numpy
from mlflow.entities import Metric, Param, RunTag
from PIL import Image
from wandb_server import WandbServer
from wandb_server.fixtures import wandb_server, wandb_service  # noqa: F401
from wandb_server.state import Artifact, Run

import tracker_viz as tv
from tracker_viz import capture_file, trackers
from tracker_viz.pipeline import compare, render

STORED = Path(__file__).with_name("stored")
VERSIONS = sorted(path.name for path in STORED.iterdir() if (path / "expected.json").is_file())
NAMES = STORED / "names.json"
TRAIN = STORED.parents[1] / "train.py"


def _module(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, STORED / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # make.py imports tiny_run
    spec.loader.exec_module(module)
    return module


tiny_run = _module("tiny_run")
make = _module("make")


@dataclass(frozen=True)
class Corpus:
    """A copy of what one version stored, usable where it lies.

    Attributes:
        refs: part -> the run that it became: ``local``, ``mlflow``, ``wandb``, ``crashed``, ...
        options: tracker -> options with which its runs are found.
    """

    directory: Path
    refs: dict[str, str]
    options: dict[str, dict[str, str]]
    mlflow: mlflow.MlflowClient
    wandb: WandbServer

    @property
    def mlflow_files(self) -> Path:
        return files_of(self.mlflow, self.refs["mlflow"].removeprefix("mlflow:"))

    def expected(self, part: str) -> dict[str, Any]:
        """Return what ``expected.json`` says of a run: MLflow and W&B hold the local one."""
        known = json.loads((self.directory / "expected.json").read_text())
        return known.get(part) or known["local"]


@pytest.fixture(autouse=True)
def _own_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRACKER_VIZ_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def mlflow_uri(
    tmp_path_factory: pytest.TempPathFactory, put_mlflow_store: Callable[..., str]
) -> str:
    """Return one store for all tests."""
    directory = tmp_path_factory.mktemp("mlflow")
    uri = put_mlflow_store(directory)
    mlflow.MlflowClient(uri).create_experiment("stored", f"file://{directory}/artifacts")
    return uri


@pytest.fixture(params=VERSIONS)
def corpus(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    mlflow_uri: str,
    wandb_server: WandbServer,  # noqa: F811
) -> Iterator[Corpus]:
    directory = tmp_path / "stored"
    shutil.copytree(STORED / request.param, directory)
    for left_out, kept in json.loads((directory / "same_bytes.json").read_text()).items():
        (directory / left_out).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(directory / kept, directory / left_out)
    in_mlflow = put_into_mlflow(directory, mlflow_uri)
    in_wandb = put_into_wandb(directory, wandb_server)
    stored_id = json.loads((directory / "mlflow.json").read_text())["run_id"]
    found_at = {
        "/machine": str(directory),
        "http://mlflow": mlflow_uri,
        "http://wandb": wandb_server.base_url,
        stored_id: in_mlflow,
    }
    for path in directory.rglob("*.json*"):
        text = path.read_text()
        for stored, here in found_at.items():
            text = text.replace(stored, here)
        path.write_text(text)
    refs = {
        part: f"local:{directory / part}" for part in ("local", "crashed_local", "crashed", "demo")
    }
    refs |= {"mlflow": f"mlflow:{in_mlflow}", "wandb": f"wandb:{in_wandb}"}
    options = {
        "mlflow": {"tracking_uri": mlflow_uri, "experiment": "stored"},
        "wandb": {"base_url": wandb_server.base_url},
    }
    client = mlflow.MlflowClient(mlflow_uri)
    yield Corpus(directory, refs, options, client, wandb_server)
    # A run of the next test may have the same key, by which push finds it.
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            client.delete_run(run.info.run_id)
    wandb_server.state.runs.clear()
    wandb_server.state.artifacts.clear()


def files_of(client: mlflow.MlflowClient, run_id: str) -> Path:
    return Path(client.get_run(run_id).info.artifact_uri.removeprefix("file://"))


def put_into_mlflow(directory: Path, uri: str) -> str:
    """Make a run of what ``mlflow.json`` and ``mlflow/`` hold; returns its id."""
    stored = json.loads((directory / "mlflow.json").read_text())
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("stored").experiment_id
    run = client.create_run(experiment, run_name=stored["name"])
    client.log_batch(
        run.info.run_id,
        [
            Metric(key, value, 0, step)
            for key, points in stored["metrics"].items()
            for step, value in points
        ],
        [Param(key, value) for key, value in stored["params"].items()],
        [RunTag(key, value) for key, value in stored["tags"].items()],
    )
    client.set_terminated(run.info.run_id, stored["status"])
    shutil.copytree(directory / "mlflow", files_of(client, run.info.run_id))
    return run.info.run_id


def put_into_wandb(directory: Path, server: WandbServer) -> str:
    """Put the run of ``wandb.json`` and files of the run into the stand-in; return its path."""
    stored = json.loads((directory / "wandb.json").read_text())
    entity, project, run_id = stored["path"].split("/")
    run = Run(entity, project, run_id, display_name=stored["name"], last_state=stored["state"])
    run.config, run.summary = stored["config"], stored["summary"]
    scores = "scores/heads.safetensors"
    run.files[scores] = (directory / "local" / scores).read_bytes()
    for described in stored["artifacts"]:
        if described["type"] != "tracker-viz-capture":
            continue
        fields = ("id", "collection", "type", "digest", "aliases", "version", "metadata")
        artifact = Artifact(
            entity=entity,
            project=project,
            run=stored["path"],
            state="COMMITTED",
            manifest=json.dumps(described["manifest"]).encode(),
            **{field: described[field] for field in fields},
        )
        for name, entry in artifact.entries.items():
            contents = (directory / "local" / "captures" / name).read_bytes()
            artifact.contents[entry["digest"]] = contents
        server.state.artifacts[artifact.id] = artifact
        run.output_artifacts.append(artifact.id)
    server.state.runs[run.path] = run
    return run.path


# -- what was stored is read ----------------------------------------------------------------------


@pytest.mark.parametrize("part", ["local", "mlflow", "wandb", "crashed", "demo"])
def test_captures_come_back_with_every_bit(corpus: Corpus, part: str):
    expected = corpus.expected(part)
    captures = list(tv.load_captures(corpus.refs[part], tracker_options=corpus.options))
    assert [capture.step for capture in captures] == [each["step"] for each in expected["captures"]]
    for capture, each in zip(captures, expected["captures"], strict=True):
        assert {name: list(axes) for name, axes in capture.axes.items()} == expected["axes"]
        assert {axis: list(names) for axis, names in capture.labels.items()} == expected["labels"]
        assert capture.tokens_seen == each["tokens_seen"]
        assert str(capture.metrics["loss"]) == each["loss"]
        assert make.arrays_sha256(capture) == each["arrays_sha256"]


def test_what_trained_was_a_head_that_repeats_and_one_that_looks_back(corpus: Corpus):
    last = list(tv.load_captures(corpus.refs["local"]))[-1]
    assert last.arrays["blocks.0.attn.pattern"].shape == (2, 2, 16, 16)
    assert last.arrays["scores.head.previous_token"][0, 1] == pytest.approx(0.9861, abs=1e-4)
    assert last.arrays["scores.head.induction"][1, 1] == pytest.approx(0.9745, abs=1e-4)
    assert [row["kind"] for row in last.probe["rows"]] == ["repeated", "text"]
    assert last.model["n_blocks"] == last.model["n_heads"] == 2


@pytest.mark.parametrize("part", ["local", "crashed", "demo"])
def test_a_header_says_what_its_arrays_hold(corpus: Corpus, part: str):
    for path in sorted((corpus.directory / part / "captures").glob("*.safetensors")):
        header, capture = capture_file.read_header(path), capture_file.read(path)
        assert (header.step, header.tokens_seen) == (capture.step, capture.tokens_seen)
        assert (header.probe, header.model) == (capture.probe, capture.model)
        for name, array in capture.arrays.items():
            finite = array[np.isfinite(array)]
            info = header.arrays[name]
            assert (info.shape, info.dtype) == (array.shape, array.dtype.name), name
            assert info.n_nonfinite == array.size - finite.size, name
            if finite.size:
                assert (info.minimum, info.maximum) == (finite.min(), finite.max()), name


def test_what_was_not_finite_stayed_so(corpus: Corpus):
    last = list(tv.load_captures(corpus.refs["crashed"]))[-1]
    assert math.isnan(last.metrics["loss"])
    assert np.isnan(last.arrays["blocks.1.mlp.w_gate"]).sum() == 1


@pytest.mark.parametrize("part", ["local", "mlflow", "wandb"])
def test_a_stored_run_says_its_name_state_and_settings(corpus: Corpus, part: str):
    info = trackers.open_run(corpus.refs[part], **corpus.options.get(part, {})).info()
    assert (info.name, info.state) == ("tiny", "finished")
    assert {name: str(value) for name, value in info.config.items()} == {
        "seed": "0",
        "model.n_heads": "2",
    }


@pytest.mark.parametrize("part", ["local", "mlflow", "wandb", "crashed"])
def test_a_stored_run_is_drawn(corpus: Corpus, part: str, tmp_path: Path):
    poster = tv.render(
        corpus.refs[part],
        format="poster",
        video={"size": "640x360"},
        upload=False,
        output=tmp_path / "poster.png",
        tracker_options=corpus.options,
        progress=False,
    )
    assert Image.open(poster).width >= 640


def test_the_video_of_a_stored_run_is_made_again_in_the_run(corpus: Corpus):
    run = corpus.directory / "local"
    table = read_rows(run / "head_roles.csv")
    result = render(corpus.refs["local"], layout="scores", video=tiny_run.VIDEO, progress=False)
    assert (result.n_captures, result.missing_steps) == (6, ())
    assert (run / "scores.webm").read_bytes() == result.path.read_bytes()
    assert (run / "videos/scores/step_00000800.webm").is_file()
    made_again = read_rows(run / "head_roles.csv")
    assert [row["head"] for row in made_again] == [row["head"] for row in table]
    assert made_again[0].keys() >= table[0].keys()


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def damage(corpus: Corpus, part: str, name: str) -> None:
    """Cut a capture off, where the run's tracker keeps it."""
    if part == "wandb":
        (artifact,) = corpus.wandb.artifacts(corpus.refs["wandb"].removeprefix("wandb:"))
        digest = artifact.entries[name]["digest"]
        artifact.contents[digest] = artifact.contents[digest][:-10]
        return
    folder = corpus.directory / "local"
    if part == "mlflow":
        folder = corpus.mlflow_files
    os.truncate(folder / "captures" / name, 1000)


@pytest.mark.parametrize("part", ["local", "mlflow", "wandb"])
def test_stored_scores_stand_in_for_a_capture_that_was_damaged(corpus: Corpus, part: str):
    """Read ``scores/heads.safetensors``: a comparison's table needs nothing else of a run."""
    damage(corpus, part, "step-00000372.safetensors")
    ref, other = corpus.refs[part], corpus.refs["crashed_local"]
    result = compare(
        [ref, other],
        video=tiny_run.VIDEO,
        output="comparison",
        tracker_options=corpus.options,
        progress=False,
    )
    rows = {row["run"]: row for row in result.rows}
    assert (rows[ref]["captures"], rows[other]["captures"]) == (6, 2)
    # Of the strongest heads. The first head with an induction score of 0.3, at step 72, ends at
    # 0.63, behind one that has 0.97.
    assert (rows[ref]["onset/previous_token"], rows[ref]["onset/induction"]) == (372, 202)
    assert rows[ref]["loss"] == pytest.approx(0.8285, abs=1e-4)
    assert (rows[ref]["seed"], rows[other]["seed"]) in ((0, 1), ("0", 1))
    assert any("step 372" in note for note in result.notes)


def test_the_file_of_scores_holds_what_the_captures_hold(corpus: Corpus):
    run = corpus.directory / "local"
    stored = safetensors.numpy.load_file(run / "scores/heads.safetensors")
    for index, capture in enumerate(tv.load_captures(corpus.refs["local"])):
        assert stored["tokens_seen"][index] == capture.tokens_seen
        for name, values in stored.items():
            if name.startswith("head."):
                np.testing.assert_array_equal(values[index], capture.arrays[f"scores.{name}"])


# -- what was left to do is done ------------------------------------------------------------------


def runs_of(spool: Path) -> dict[str, str]:
    """Return tracker -> the run that a spool belongs to there."""
    described = json.loads((spool / "run.json").read_text())["destinations"]
    return {each["scheme"]: each["ref"] for each in described}


def test_push_finishes_what_a_killed_run_left(corpus: Corpus):
    spool = corpus.directory / "crashed"
    assert tv.push(spool).complete
    assert tv.push(spool).complete
    refs = runs_of(spool)
    assert refs["local"] == corpus.refs["crashed_local"]
    for ref in refs.values():
        captures = list(tv.load_captures(ref, tracker_options=corpus.options))
        assert [capture.step for capture in captures] == [0, 18]
        hashes = [each["arrays_sha256"] for each in corpus.expected("crashed")["captures"]]
        assert list(map(make.arrays_sha256, captures)) == hashes
    assert not list((spool / "captures").glob("*.safetensors")), "every tracker has them"
    run_id = refs["mlflow"].removeprefix("mlflow:")
    assert corpus.mlflow.get_run(run_id).info.status == "KILLED"
    history = corpus.mlflow.get_metric_history(run_id, "attn/induction_max")
    assert [point.step for point in history] == [0, 18]
    assert len((corpus.directory / "crashed_local/metrics.jsonl").read_text().splitlines()) == 2


def test_push_of_what_was_delivered_sends_nothing_again(corpus: Corpus):
    spool = corpus.directory / "delivered"
    before = (corpus.directory / "local/metrics.jsonl").read_bytes()
    report = tv.push(spool)
    assert report.complete
    sent = {each.name: (each.sent, each.damaged) for each in report.deliveries}
    assert sent == dict.fromkeys(("local", "mlflow", "wandb"), (6, ())), "as the spool noted it"
    assert (corpus.directory / "local/metrics.jsonl").read_bytes() == before


def test_training_goes_on_in_a_spool_that_was_left(corpus: Corpus):
    spool = corpus.directory / "crashed"
    model = tiny_run.make_model(1)
    watcher = tiny_run.watch(
        model,
        200,
        run=["local", "mlflow"],
        spool=spool,
        start_step=30,
        tracker_options=corpus.options | {"local": {"directory": str(corpus.directory)}},
        projections=["mlp.w_gate"],
    )
    assert {0, 18} <= set(watcher.captured_steps)
    with watcher:
        tiny_run.train(model, watcher, range(30, 60), seed=1)
    for ref in watcher.refs:
        steps = [capture.step for capture in tv.load_captures(ref, tracker_options=corpus.options)]
        assert steps == watcher.captured_steps, ref
        assert (steps[:2], steps[-1]) == ([0, 18], 60), ref


def test_train_goes_on_from_a_stored_checkpoint(corpus: Corpus, tmp_path: Path):
    ref = corpus.refs["demo"]
    command = [TRAIN, f"resume={ref}", "trainer.steps=30", "render=false", "tracker=local"]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=tmp_path,
        env=clean | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert [capture.step for capture in tv.load_captures(ref)][-1] == 30
    latest = json.loads((corpus.directory / "demo/checkpoints/latest.json").read_text())
    assert latest["step"] == 30


# -- names stay -----------------------------------------------------------------------------------


# Names that are not written any more: trackers get about fifteen charts of scores and a summary of
# the roles that there are, and MLflow's page shows no tag that only we read.
RETIRED = re.compile(
    r"(MLflow metrics|W&B history|W&B summary): (attn|weights|specialisation)/.*"
    r"|MLflow tags: tracker_viz\.(key|inputs)"
)


@pytest.fixture
def names_today(
    mlflow_uri: str,
    wandb_server: WandbServer,  # noqa: F811
    tmp_path: Path,
) -> dict[str, list[str]]:
    """Train, draw in every format and compare with this version: the names that it stores."""
    options = {
        "local": {"directory": str(tmp_path / "runs")},
        "mlflow": {"tracking_uri": mlflow_uri, "experiment": "stored"},
        "wandb": {"project": "stored", "base_url": wandb_server.base_url},
    }
    refs = tiny_run.train_into(options, tmp_path / "spool", steps=500)
    tiny_run.draw_into(refs, options, ["video", "poster", "webp", "html"])
    for into in refs:
        tv.compare(
            refs[:2],
            into=into,
            video=tiny_run.VIDEO,
            tracker_options=options,
            progress=False,
        )
    client = mlflow.MlflowClient(mlflow_uri)
    return tiny_run.all_names(
        {
            "a local run": Path(refs[0].path),
            "a spool": tmp_path / "spool",
            "an MLflow run": files_of(client, refs[1].path),
        },
        tiny_run.mlflow_description(client, refs[1].path),
        tiny_run.wandb_description(wandb_server, refs[2].path),
    )


def test_names_that_are_stored_stay(names_today: dict[str, list[str]]):
    if os.environ.get("TRACKER_VIZ_RECORD"):
        earlier = json.loads(NAMES.read_text())
        kinds = sorted({*earlier, *names_today})
        recorded = {
            kind: sorted({*earlier.get(kind, []), *names_today.get(kind, [])}) for kind in kinds
        }
        NAMES.write_text(json.dumps(recorded, indent=1) + "\n")
    known, found = pairs(json.loads(NAMES.read_text())), pairs(names_today)
    gone = sorted(pair for pair in known - found if not RETIRED.fullmatch(": ".join(pair)))
    new = sorted(found - known)
    assert not gone, f"earlier versions stored these, and this one does not: {gone}"
    assert not new, f"new names; TRACKER_VIZ_RECORD=1 adds them to {NAMES.name}: {new}"


def test_names_that_were_stored_are_known(corpus: Corpus):
    directory = corpus.directory
    stored = tiny_run.all_names(
        {
            "a local run": directory / "local",
            "a spool": directory / "delivered",
            "an MLflow run": directory / "mlflow",
        },
        json.loads((directory / "mlflow.json").read_text()),
        json.loads((directory / "wandb.json").read_text()),
    )
    assert sorted(pairs(stored) - pairs(json.loads(NAMES.read_text()))) == []


def pairs(names: dict[str, list[str]]) -> set[tuple[str, str]]:
    return {(kind, name) for kind, inside in names.items() for name in inside}
