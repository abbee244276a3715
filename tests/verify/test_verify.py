"""``tv.verify``: labels of heads that were built to do what they say hold, and what does not belong
to the run is refused before anything is measured."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import induction_model
import pytest
import torch
from induction_model import LAST_STEP

import tracker_viz as tv
from tracker_viz import capture_file, trackers
from tracker_viz.capture import repeated_rows
from tracker_viz.errors import CaptureError, ConfigError, RunNotFoundError
from tracker_viz.pipeline.results.verified import RULE, stored_results
from tracker_viz.trackers.local import LocalTracker
from tracker_viz.types import CapturePath, RunRef

QUICK = {"n_rows": 8, "draws": 6, "progress": False}


def verify(recorded, **options):
    chosen = {
        "checkpoints": recorded.checkpoints,
        "model": induction_model.build(trained=False, seed=3),
        **QUICK,
        **options,
    }
    return tv.verify(recorded.ref, **chosen)


def by_name(result, step=LAST_STEP):
    return {row["what"]: row for row in result.rows if row["step"] == step}


def table(run, name):
    with (run.directory / name).open() as file:
        return list(csv.DictReader(file))


def test_labels_hold_where_the_loss_rises_more_than_without_as_many_others(recorded):
    result = verify(recorded)
    rows = by_name(result)
    assert rows["model"]["later_copies"] < 0.1, "the model copies"
    assert rows["induction"]["heads"] == "L01H00 L01H02"
    assert rows["induction"]["later_copies"] > 2
    assert rows["induction"]["others_largest"] < 0.1
    assert (rows["induction"]["n_others"], rows["induction"]["others_are"]) == (6, "without a role")
    assert rows["previous_token"]["verdict"] == rows["induction"]["verdict"] == "holds"
    assert rows["L00H01"]["verdict"] == "holds"

    first, second = result.sentences[LAST_STEP]
    assert first.startswith("Without its previous token head the loss on what can be copied rises ")
    assert "Without its 2 induction heads the loss on what can be copied rises 0.0" in second
    assert second.endswith("(6 sets of heads without a role among repeats). The label holds.")


def test_a_head_that_another_one_replaces_holds_with_its_set(recorded):
    rows = by_name(verify(recorded))
    for head in ("L01H00", "L01H02"):
        assert abs(rows[head]["later_copies_change"]) < 0.1
        assert rows[head]["rescue"] > 2
        assert rows[head]["verdict"] == "with its set"
    assert rows["L01H01"]["verdict"] is None, "it carries no label"


def test_results_are_put_into_the_run_and_mark_its_table_of_heads(recorded):
    result = verify(recorded)
    run = trackers.open_run(recorded.ref)
    assert result.url == run.url("tables/verified_heads.csv")
    assert [row["what"] for row in table(run, "verify.csv")] == [row["what"] for row in result.rows]
    assert table(run, "tables/verified_heads.csv") == table(run, "verify.csv")
    described = json.loads((run.directory / "verify.json").read_text())
    assert described["rule"] == RULE
    assert described["sentences"][str(LAST_STEP)] == list(result.sentences[LAST_STEP])

    summary = json.loads((run.directory / "summary.json").read_text())
    rows = by_name(result)
    marked = stored_results(run).ablations()
    assert marked.step == LAST_STEP
    assert marked.rises == {
        ((0, 1),): rows["L00H01"]["later_copies_change"],
        ((1, 0), (1, 2)): rows["induction"]["later_copies_change"],
    }, "single heads and pairs whose label holds"
    assert summary["verify/induction_loss_rise"] == rows["induction"]["later_copies_change"]
    assert summary["verify/induction_others_rise"] == rows["induction"]["others_change"]

    heads = {row["head"]: row for row in table(run, "tables/head_roles.csv")}
    assert heads == {row["head"]: row for row in table(run, "head_roles.csv")}
    assert heads["L00H01"]["verified"] == "holds"
    assert heads["L01H00"]["verified"] == "with its set"
    assert heads["L00H00"]["verified"] == ""
    changes = float(heads["L00H01"]["verified_change"])
    assert changes == pytest.approx(rows["L00H01"]["later_copies_change"])


def test_marks_stay_when_the_run_is_drawn_and_go_when_it_goes_on(recorded):
    drawn = {"format": "poster", "layout": "circuit", "progress": False}
    plain = tv.render(recorded.ref, **drawn).path.read_bytes()
    verify(recorded)
    run = trackers.open_run(recorded.ref)
    assert tv.render(recorded.ref, **drawn).path.read_bytes() != plain, "rings around its heads"
    marked = {row["head"]: row["verified"] for row in table(run, "head_roles.csv")}
    assert marked["L00H01"] == "holds"

    last = run.list_captures()[-1]
    capture = capture_file.read(run.fetch(last, Path()))
    later = recorded.directory / "step-00000020.safetensors"
    ref = capture_file.write(replace(capture, step=20), later)
    run.put_captures([CapturePath(ref, later)])
    tv.render(recorded.ref, format="poster", layout="heads", progress=False)
    assert "verified" not in table(run, "head_roles.csv")[0]


def test_several_checkpoints_are_judged_by_the_labels_of_their_own_step(recorded):
    early = verify(recorded, steps=[2])
    assert early.sentences == {2: ()}
    assert early.notes[-1].startswith("The table of heads is not marked: its labels are of step 10")
    assert [row["what"] for row in early.rows] == [
        "model",
        *(f"L{block:02d}H{head:02d}" for block in range(2) for head in range(4)),
    ]
    both = verify(recorded)
    assert [len(said) for said in both.sentences.values()] == [0, 2], "earlier results are kept"
    assert list(both.sentences) == [2, LAST_STEP]
    zero = verify(recorded, ablation="zero")
    assert list(zero.sentences) == [LAST_STEP], "but not beside those measured in another way"


def test_a_model_in_memory_is_measured_as_it_is(recorded):
    model = induction_model.build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = verify(recorded, checkpoints=None, model=model)
    assert by_name(result)["induction"]["verdict"] == "holds"
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_text_is_measured_where_there_are_rows_of_it(recorded):
    repeated = repeated_rows(induction_model.VOCAB, 32, n_rows=6, periods=(6, 8), seed=1)
    text = torch.randint(induction_model.VOCAB, (5, 20), generator=torch.Generator().manual_seed(0))
    result = verify(recorded, rows={"repeated": repeated, "text": text.tolist()})
    assert by_name(result)["model"]["text"] > 2
    assert by_name(result)["L00H01"]["text_change"] is not None
    assert not any("rows of text" in note for note in result.notes)
    without = verify(recorded)
    assert by_name(without)["model"]["text"] is None
    assert any("rows of text" in note for note in without.notes)


def test_a_run_without_labels_gets_the_table_of_single_heads(recorded, tmp_path):
    empty = LocalTracker(tmp_path / "runs").create_run(name="empty", config={})
    result = tv.verify(
        empty.ref,
        checkpoints=recorded.checkpoints,
        model=induction_model.build(),
        **QUICK,
    )
    assert len(result.rows) == 1 + 8
    assert by_name(result)["L00H01"]["later_copies_change"] > 2
    assert result.notes[0].startswith("The run has no labels: ")
    assert result.sentences == {LAST_STEP: ()}
    assert not (empty.directory / "head_roles.csv").exists()


def test_nothing_is_uploaded_where_that_is_asked_for(recorded, tmp_path):
    result = verify(recorded, upload=False, output=tmp_path / "here")
    assert result.url is None
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == [
        "verify.csv",
        "verify.json",
    ]
    assert stored_results(trackers.open_run(recorded.ref)) is None


# -- what does not belong to the run


class AnotherModel(induction_model.InductionModel):
    pass


def another_shape():
    model = induction_model.build()
    model.head = torch.nn.Linear(induction_model.D_MODEL, 30)
    return model


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": AnotherModel()}, ConfigError, "another model: its name is InductionModel"),
        ({"model": another_shape()}, CaptureError, "ckpt_10.pt does not fit InductionModel"),
        ({"steps": [2, 7]}, ConfigError, "no checkpoint of step 7 matches .* those of 2, 10"),
        ({"model": None}, ConfigError, "checkpoints= needs model="),
        (
            {"checkpoints": None, "model": induction_model.build(seed=5, trained=False)},
            ConfigError,
            "step 10 does not belong to .* blocks.0.attn.w_q has other values",
        ),
        (
            {"checkpoints": None, "model": None},
            ConfigError,
            "no checkpoint to resume from .* pass checkpoints=",
        ),
        ({"ablation": "max"}, ConfigError, "unknown ablation 'max'"),
        ({"steps": "last"}, ConfigError, "steps must be a list of steps or null; got 'last'"),
        ({"steps": []}, ConfigError, "steps must name at least one checkpoint to measure"),
        ({"rows": {"text": [[1, 2]]}}, ConfigError, "rows must be HeldOutRows or"),
        (
            {"rows": {"repeated": [[1, 2, 1, 2, 1, 99], [1, 2, 1, 2, 1, 2]]}},
            ConfigError,
            "token ids must lie in 0..23",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_measured(
    recorded, options, error, message, monkeypatch
):
    monkeypatch.setattr("tracker_viz.capture.LossMeter.whole", lambda self: 1 / 0)
    with pytest.raises(error, match=message):
        verify(recorded, **options)


def test_checkpoints_of_later_steps_than_were_captured_are_refused(recorded):
    state = induction_model.build().state_dict()
    torch.save(state, recorded.directory / "ckpt_11.pt")
    assert verify(recorded).rows[0]["step"] == 11, "the end of training may come after a capture"
    torch.save(state, recorded.directory / "ckpt_500.pt")
    with pytest.raises(ConfigError, match=r"step 500 do not belong .* from step 0 to 10"):
        verify(recorded)


# -- killed and started again

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
import induction_model
import tracker_viz as tv
tv.verify(
    sys.argv[2], checkpoints=sys.argv[3], model=induction_model.build(), n_rows=64, draws=30,
    output=sys.argv[4], upload=False, progress=False,
)
"""


def start(recorded, cache, output):
    words = [str(Path(__file__).parent), str(recorded.ref), recorded.checkpoints, str(output)]
    environment = os.environ | {"TRACKER_VIZ_CACHE": str(cache)}
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *words], env=environment)


def lines_of(cache):
    return [line for path in cache.rglob("*.jsonl") for line in path.read_text().splitlines()]


def test_a_killed_verification_goes_on_where_it_stopped(recorded, tmp_path):
    cache, whole_cache = tmp_path / "killed", tmp_path / "whole"
    killed = start(recorded, cache, tmp_path / "killed-output")
    while killed.poll() is None and len(lines_of(cache)) < 5:
        time.sleep(0.005)
    assert killed.poll() is None, "it ended too early to be killed"
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    kept = lines_of(cache)
    assert not (tmp_path / "killed-output").exists()

    assert start(recorded, cache, tmp_path / "killed-output").wait() == 0
    assert start(recorded, whole_cache, tmp_path / "whole-output").wait() == 0
    n_sets = len(lines_of(whole_cache))
    resumed = lines_of(cache)
    assert resumed[: len(kept) - 1] == kept[:-1], "the last line may have been torn"
    assert len(kept) < n_sets
    measured = [line for line in resumed if line in set(lines_of(whole_cache))]
    assert len(measured) == n_sets, "each set is measured once, and the same"
    for name in ("verify.csv", "verify.json"):
        texts = [
            (tmp_path / folder / name).read_text() for folder in ("killed-output", "whole-output")
        ]
        assert texts[0] == texts[1]


def test_a_second_verification_measures_nothing_again(recorded, monkeypatch):
    first = verify(recorded)
    monkeypatch.setattr("tracker_viz.capture.LossMeter.without", lambda self, heads: 1 / 0)
    assert verify(recorded).rows == first.rows
    with pytest.raises(ZeroDivisionError):
        verify(recorded, n_rows=9)


def test_the_reference_of_an_unknown_run_is_told(tmp_path):
    with pytest.raises(RunNotFoundError, match="is not a run"):
        tv.verify(RunRef("local", str(tmp_path / "nothing")))
