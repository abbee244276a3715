"""``tracker-viz backfill``: checkpoints that some training script left become a run, with the model
built by what ``model=`` names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tracker_viz import RunRef, load_captures
from tracker_viz.demo.model import Decoder, ModelConfig

BUILDER = """
from tracker_viz.demo.model import Decoder, ModelConfig

def build():
    return Decoder(ModelConfig(n_blocks=2, n_heads=2, n_kv_heads=2, d_model=16, d_ffn=24,
                               context_length=32, vocab_size=40))
"""


@pytest.fixture
def checkpoints(tmp_path):
    for step in (3, 5):
        torch.manual_seed(step)
        model = Decoder(
            ModelConfig(
                n_blocks=2,
                n_heads=2,
                n_kv_heads=2,
                d_model=16,
                d_ffn=24,
                context_length=32,
                vocab_size=40,
            )
        )
        torch.save(model.state_dict(), tmp_path / f"ckpt_{step}.pt")
    return f"checkpoints={tmp_path}/ckpt_*.pt"


def test_the_model_is_built_by_a_function_of_the_working_directory(tracker_viz, checkpoints):
    Path("my_model_of_backfill.py").write_text(BUILDER)
    result = tracker_viz(
        "backfill", checkpoints, "model=my_model_of_backfill.build", "run=local", "spool=spool"
    )
    assert result.code == 0, result.err
    assert "Captured 2 checkpoints, steps 3 to 5" in result.out
    ref = RunRef("local", str(Path("spool").absolute()))
    assert f"tracker-viz render run={ref}" in result.out
    assert [capture.step for capture in load_captures(ref)] == [3, 5]
    again = tracker_viz(
        "backfill", checkpoints, "model=my_model_of_backfill.build", f"run={ref}", "spool=spool"
    )
    assert "Captured 0 checkpoints: the run holds all of them" in again.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "model has no value yet; give it one: model=..."),
        (["model=no_such_module.build"], "model must be a function that needs no arguments"),
        (["model=os.getcwd"], "model=os.getcwd must return a torch.nn.Module; it returned a str"),
        (["model=torch.nn.Identity", "run=mlflo"], "a run must look like one of mlflow:<run_id>"),
    ],
)
def test_a_model_that_cannot_be_built_is_told_in_one_message(
    tracker_viz, checkpoints, words, message
):
    result = tracker_viz("backfill", checkpoints, *words)
    assert (result.code, message in result.err, "Traceback" in result.err) == (2, True, False), (
        result.err
    )
    assert list(Path.cwd().iterdir()) == []
