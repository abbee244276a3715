"""Token mixers without a softmax, and kernels that hide their probabilities: asked for their own
matrices."""

from __future__ import annotations

import sys
from threading import Thread
from types import SimpleNamespace

import pytest
import torch
from hf_decoders import build, probe_ids
from hf_mixers import (
    MIXERS,
    MIXING_TOLERANCE,
    REPLAYED,
    examine,
    examined_mixer,
    mixer_row,
    recorded,
)
from test_hf_models import LISTED, NEW_PAGE, PAGE_IS_OF_THIS_VERSION

from tracker_viz.capture import Schedule, record
from tracker_viz.capture.attention.kernels.interception import Binding, intercepted


@pytest.mark.parametrize("model_type", sorted([*MIXERS, *REPLAYED]))
def test_a_mixing_map_does_to_values_what_the_models_own_kernel_does(model_type):
    structure, model, maps, again, difference = examined_mixer(model_type)
    assert maps
    assert difference <= MIXING_TOLERANCE
    assert structure.error <= MIXING_TOLERANCE
    for block, matrix in maps.items():
        assert matrix.triu(1).abs().max() == 0
        torch.testing.assert_close(again[block], matrix, atol=0, rtol=0)
    listed = LISTED[f"{model_type} mixer"]
    assert float(listed[2]) <= MIXING_TOLERANCE
    if PAGE_IS_OF_THIS_VERSION:
        assert listed == mixer_row(model_type, structure, model, listed[2]), NEW_PAGE


def test_lightning_attention_written_out_is_a_mixing_map():
    model = build("minimax")
    normed, projected = [], []
    mixer = model.get_submodule("model.layers.1.self_attn")
    mixer.norm.register_forward_pre_hook(lambda _, args: normed.append(args[0]))
    mixer.qkv_proj.register_forward_hook(lambda _, args, output: projected.append(output))
    structure, attention, maps, _ = examine(model)
    n_rows, length = probe_ids().shape
    values = mixer.act_fn(projected[0]).reshape(n_rows, length, 4, -1)[..., 16:].transpose(1, 2)
    ours = (maps[1] @ values).transpose(1, 2).flatten(2)
    torch.testing.assert_close(ours, normed[0], atol=MIXING_TOLERANCE, rtol=0)
    assert structure.n_heads == (4, 0)
    assert [pattern.numel() > 0 for pattern in attention] == [True, False]


def test_training_a_model_whose_kernel_is_asked_is_training_it_without():
    plain, watched = build("qwen3_next").train(), build("qwen3_next").train()
    file = sys.modules[type(watched).__module__]
    before = dict(vars(file))
    captures = []
    recorder = record(watched, probe_ids(), Schedule.every(1), captures.append)
    for model, step in ((plain, None), (watched, recorder.step)):
        torch.manual_seed(0)
        train(model, 2, step)
    recorder.close()
    assert [capture.step for capture in captures] == [0, 1, 2]
    for name, parameter in plain.state_dict().items():
        assert torch.equal(parameter, watched.state_dict()[name]), name
    assert all(vars(file)[name] is value for name, value in before.items())
    assert file.torch_chunk_gated_delta_rule is before["torch_chunk_gated_delta_rule"]

    first, _, last = captures
    assert first.axes["blocks.0.mixer.mixing"] == ("probe", "head", "query", "key")
    assert first.arrays["blocks.0.mixer.mixing"].shape == (2, 4, 16, 16)
    assert "blocks.0.attn.pattern" not in first.arrays
    assert "blocks.1.attn.pattern" in first.arrays
    assert first.model["found"]["mixing"]["0"].startswith("by torch_chunk_gated_delta_rule (asked)")
    changed = first.arrays["blocks.0.mixer.mixing"] != last.arrays["blocks.0.mixer.mixing"]
    assert changed.any()


def train(model, n_steps, step):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for number in range(n_steps):
        ids = torch.randint(3, 90, (2, 16))
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step is not None:
            step(number + 1)


def test_a_model_without_any_attention_is_captured_by_its_mixing_maps():
    captures = []
    model = build("mamba", MIXERS["mamba"][0])
    record(model, probe_ids(), Schedule.every(1), captures.append).close()
    (capture,) = captures
    assert capture.axes["blocks.1.mixer.mixing"] == ("probe", "channel", "query", "key")
    assert capture.arrays["blocks.1.mixer.mixing"].shape == (2, 8, 16, 16)
    assert capture.labels["blocks.1.mixing_channel"] == tuple(str(6 * each) for each in range(8))
    assert capture.model["n_heads"] == 0


def test_asking_takes_one_call_of_the_kernel_for_each_piece_of_columns():
    options, name, value, _ = MIXERS["qwen3_next"]
    model = build("qwen3_next", options)
    calls = []
    with recorded(model, name, calls):
        examine(model)
    n_passes, n_own = 2, 1
    n_pieces = 16 // calls[0][1][value].shape[-1]
    assert len(calls) == n_passes * (n_own + n_pieces)


def test_another_thread_that_calls_the_function_meanwhile_gets_the_function():
    owner = SimpleNamespace(mix=lambda q, k, v: q + k + v)
    function, binding = owner.mix, Binding(owner, "mix")
    results = []
    with intercepted([binding], lambda function, name, args, kwargs: "taken"):
        with intercepted([binding], lambda function, name, args, kwargs: "taken within"):
            assert owner.mix(1, 2, 3) == "taken within"
        assert owner.mix(1, 2, 3) == "taken"
        thread = Thread(target=lambda: results.append(owner.mix(1, 2, 3)))
        thread.start()
        thread.join()
    assert results == [6]
    assert owner.mix is function


def test_functions_are_put_back_when_the_pass_fails():
    owner = SimpleNamespace(mix=len)
    with pytest.raises(ZeroDivisionError), intercepted([Binding(owner, "mix")], print):
        raise ZeroDivisionError
    assert owner.mix is len


def test_a_gate_beside_the_queries_is_not_counted_as_heads():
    """Half of the rows of Qwen3-Next's query projection are a gate."""
    captures = []
    model = build("qwen3_next", MIXERS["qwen3_next"][0])
    record(model, probe_ids(), Schedule.every(1), captures.append).close()
    n_heads, n_kv_heads = captures[0].model["n_heads"], captures[0].model["n_kv_heads"]
    attending = [block for block, n in enumerate(n_heads) if n]
    assert attending
    for block in attending:
        assert n_heads[block] == model.config.num_attention_heads
        assert n_kv_heads[block] == model.config.num_key_value_heads
