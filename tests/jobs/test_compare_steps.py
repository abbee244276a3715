"""``tracker-viz compare ... steps=[..]`` ranks what changed between two captures."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import tracker_viz as tv
from tracker_viz.demo import Decoder, ModelConfig
from tracker_viz.errors import ConfigError

CONFIG = {
    "n_blocks": 2,
    "n_heads": 2,
    "n_kv_heads": 2,
    "d_model": 16,
    "d_ffn": 24,
    "context_length": 16,
    "vocab_size": 40,
}


def watched(directory, *, seed=0, probe_seed=0, name=None):
    """Return the reference of a run captured at steps 0, 3 and 5: after step 3 one head, L1H0,
    looks for the opposite."""
    torch.manual_seed(seed)
    model = Decoder(ModelConfig(**CONFIG))
    for parameter in model.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.5)
    probe = tv.make_probe(40, 16, seed=probe_seed)
    options = {"run": "local", "spool": directory, "name": name, "max_overhead": 1}
    with tv.watch(model, probe=probe, schedule=tv.Schedule.at([3, 5]), **options) as watcher:
        for step in range(1, 6):
            if step == 4:
                (queries,) = (
                    parameter
                    for name, parameter in model.named_parameters()
                    if ".1." in name and "q_proj" in name
                )
                with torch.no_grad():
                    queries[:8] *= -1
            watcher.step(step, loss=float(6 - step))
    return str(watcher.ref)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [watched(root / "base", name="base"), watched(root / "tuned", seed=1, name="tuned")]


def rows_of(path):
    with Path(path).open() as file:
        return list(csv.DictReader(file))


def test_two_steps_of_a_run_are_ranked_by_what_changed_and_the_picture_lands_in_it(
    tracker_viz, runs
):
    result = tracker_viz("compare", f"runs=[{runs[0]}]", "steps=[3,null]")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0] == "What changed: step 3 to step 5"
    assert lines[1] == "loss 3.000 -> 1.000"
    ranked = [line.split() for line in lines if line.startswith("L")]
    assert ranked[0][:2] == ["L1H0", "attention"]
    assert [row[2] for row in ranked[1:4]] == ["0.000"] * 3
    assert ranked[0][3] == "200.0%"
    assert ranked[4] == ["L1", "attn.w_q", ranked[4][2]]
    assert float(ranked[5][2].rstrip("%")) == 0

    directory = Path(runs[0].removeprefix("local:")) / "changes_3-5"
    with Image.open(directory / "changes.png") as picture:
        assert picture.width > 1000
    heads, weights = rows_of(directory / "heads.csv"), rows_of(directory / "weights.csv")
    assert (heads[0]["rank"], heads[0]["block"], heads[0]["head"]) == ("1", "1", "0")
    assert len(heads) == 4
    assert weights[0]["weight"] == "attn.w_q"


def test_two_runs_are_compared_at_a_step_of_each_and_change_neither(runs, tmp_path):
    result = tv.compare_steps(runs, [None, 0], output=tmp_path)
    assert result.labels == ("base, step 5", "tuned, step 0")
    assert result.url is None
    assert result.picture == tmp_path / "changes_5-0" / "changes.png"
    assert min(change.attention for change in result.heads) > 0.01


@pytest.mark.parametrize(
    ("n_runs", "steps", "message"),
    [
        (1, [0, 4], "was not captured at step 4; near it are the captures of steps 0, 3, 5"),
        (1, [5, None], "got step 5 twice"),
        (1, [0], r"steps are the two captures to compare, .*; got \[0\]"),
        (0, [0, 5], "runs is a list of one run, or of two"),
    ],
)
def test_steps_that_are_no_two_captures_are_refused_with_what_there_is(
    runs, n_runs, steps, message
):
    with pytest.raises(ConfigError, match=message):
        tv.compare_steps(runs[:n_runs], steps)


def test_options_of_whole_runs_are_refused_beside_steps(tracker_viz, runs):
    result = tracker_viz("compare", f"runs=[{runs[0]}]", "steps=[0,5]", "order=matched")
    assert result.code == 2
    assert "order does not apply to them; leave it out" in result.err


def test_captures_of_different_probes_are_refused_with_the_way_to_the_same(runs, tmp_path):
    other = watched(tmp_path / "other", probe_seed=1)
    with pytest.raises(ConfigError, match=r"of different probes, .* with the same probe="):
        tv.compare_steps([runs[0], other], [None, None], output=tmp_path)
