"""A dry run of ``watch`` says what would be captured, and nothing is recorded."""

from __future__ import annotations

import os
import sys

import pytest
import torch
from torch import nn

import tracker_viz as tv
from tracker_viz.demo.model import Decoder, ModelConfig
from tracker_viz.errors import ConfigError, UnsupportedModelError


@pytest.fixture(autouse=True)
def _own_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make_model(**shape):
    torch.manual_seed(0)
    shape = {"n_blocks": 3, "n_heads": 4, "d_model": 32, "d_ffn": 48} | shape
    return Decoder(ModelConfig(n_kv_heads=2, context_length=32, vocab_size=40, **shape))


class Fused(nn.Module):
    """A block whose queries, keys and values are one matrix; one matrix is unexplained."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.qkv, self.out = nn.Linear(32, 96, bias=False), nn.Linear(32, 32, bias=False)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
        self.mystery = nn.Parameter(torch.randn(5, 7))

    def forward(self, x):
        qkv = self.qkv(self.norm(x)).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(*qkv, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(x)


class FusedModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(40, 32)
        self.blocks = nn.ModuleList(Fused() for _ in range(2))
        self.head = nn.Linear(32, 40, bias=False)

    def forward(self, ids):
        x = self.tokens(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def test_every_block_names_the_parameter_behind_each_of_its_weights():
    found = tv.inspect(make_model())
    assert [block.name for block in found.blocks] == ["blocks.0", "blocks.1", "blocks.2"]
    assert (found.blocks[1].n_heads, found.blocks[1].n_kv_heads) == (4, 2)
    assert found.blocks[1].projections["mlp.w_up"] == "mlp.up_proj.weight"
    fused = tv.inspect(FusedModel()).blocks[0].projections
    assert fused["attn.w_k"] == "qkv.weight, rows 32 to 63"


def test_rows_that_alternate_are_named_by_the_first_two():
    class Alternating(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate_and_up, self.down = nn.Linear(32, 96), nn.Linear(48, 32)

        def forward(self, x):
            fused = self.gate_and_up(x)
            return self.down(nn.functional.silu(fused[..., ::2]) * fused[..., 1::2])

    model = FusedModel()
    for block in model.blocks:
        block.mlp = Alternating()
    found = tv.inspect(model).blocks[0].projections
    assert found["mlp.w_gate"] == "mlp.gate_and_up.weight, rows 0, 2, ..."
    assert found["mlp.w_up"] == "mlp.gate_and_up.weight, rows 1, 3, ..."


def test_whatever_is_left_out_is_named_with_the_reason():
    found = tv.inspect(FusedModel(), only_blocks=[0])
    reasons = {each.name: each.reason for each in found.left_out}
    assert reasons["head.weight"] == "outside the blocks"
    assert reasons["blocks.0.norm.bias"] == "a vector (norm, bias)"
    assert reasons["blocks.0.mystery"].startswith("not recognized as a projection")
    assert reasons["blocks.1.qkv.weight"] == "not asked for (projections=, only_blocks=)"
    assert "blocks.0.qkv.weight" not in reasons
    captured = {name for name, _ in FusedModel().named_parameters()} - reasons.keys()
    assert captured == {f"blocks.0.{name}.weight" for name in ("qkv", "out", "mlp.0", "mlp.2")}


def test_attention_that_no_capture_shows_is_left_out_in_words():
    class Hidden(Fused):
        def forward(self, x):
            return x + self.mlp(x + torch.ops.aten.linear(x, self.out.weight))

    model = FusedModel()
    model.blocks[1] = Hidden()
    found = tv.inspect(model)
    assert [block.n_heads for block in found.blocks] == [4, 0]
    assert "no attention" in str(found)


def test_the_probe_and_the_cost_of_a_capture_are_said():
    probe = tv.make_probe(40, 32, text_ids=range(32))
    found = tv.inspect(make_model(), probe=probe)
    assert found.probe.startswith("2 x 32 tokens: 4 copies of 8 tokens; the text '0 1 2 3")
    assert 0 < found.cost.training_s <= found.cost.counted_s
    assert found.cost.background_s > 0
    with tv.watch(make_model(), probe=probe, run="local", spool="spool", every=1) as recorder:
        recorder.step(1)
    sizes = [path.stat().st_size for path in (recorder.outbox.directory / "captures").glob("*.s*")]
    assert found.cost.megabytes == pytest.approx(max(sizes) / 1e6, rel=0.05)


def test_what_is_cut_to_the_size_of_a_capture_is_said():
    assert tv.inspect(make_model()).cut == {}
    found = tv.inspect(make_model(), max_mb=0.09)
    assert found.cut["weight_side"] < 32
    assert found.cost.megabytes < 0.09
    assert "cut to fit max_mb" in str(found)


@pytest.mark.parametrize(
    ("options", "captures"),
    [
        ({"total_steps": 60}, ((60, 61),)),
        ({"total_steps": 5000, "captures": 30}, ((5000, 30),)),
        ({"every": 5, "total_steps": 11}, ((11, 4),)),
        ({"every": 50}, ((100, 3), (1000, 21), (10_000, 201), (100_000, 2001))),
        ({}, ((100, 58), (1000, 113), (10_000, 165), (100_000, 261))),
    ],
)
def test_captures_are_counted_as_the_schedule_has_them(options, captures):
    assert tv.inspect(make_model(), **options).captures == captures


def test_a_known_step_time_counts_what_the_limit_leaves():
    options = {"total_steps": 1000, "max_overhead": 0.01, "free_s": 0}
    (fast,), (slow,) = (
        tv.inspect(make_model(), step_s=step_s, **options).captures for step_s in (1e-5, 100.0)
    )
    assert fast[1] < 10
    assert slow == (1000, 100)


def test_it_prints_on_a_page(capsys):
    print(tv.inspect(make_model(), every=4, total_steps=100))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Decoder: ")
    assert "blocks.0 to 2: 4 heads, 2 key/value heads" in lines
    assert "  mlp.w_gate  mlp.gate_proj.weight" in lines
    in_words = "probe: 1 x 32 tokens: 4 copies of 8 tokens, and 4 rows for the scores alone"
    assert in_words in lines
    assert [line for line in lines if line.startswith("one capture: ")]
    assert "captures: 26 in 100 steps" in lines
    assert len(lines) < 30
    assert max(map(len, lines)) <= 120


def test_nothing_is_recorded_and_the_model_is_as_before():
    model = make_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    assert tv.inspect(model)
    assert os.listdir() == []
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_other_processes_than_the_main_one_get_nothing(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert tv.inspect(make_model()) is None


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: tv.inspect(3), ConfigError, "model must be a torch.nn.Module; got int"),
        (lambda: tv.inspect(make_model(), step_s=0), ConfigError, "step_s must be .* got 0"),
        (lambda: tv.inspect(make_model(), every=0), ConfigError, "every must be a whole number"),
        (
            lambda: tv.inspect(nn.Sequential(nn.Embedding(40, 8), nn.Linear(8, 40))),
            UnsupportedModelError,
            "no attention over the probe was seen",
        ),
    ],
)
def test_what_watch_would_refuse_is_refused_here(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_its_options_are_those_of_watch():
    for name, default in tv.inspect.__kwdefaults__.items():
        if name != "step_s":
            assert tv.watch.__kwdefaults__[name] == default, name
    assert "tracker_viz.pipeline.inspect" in sys.modules
