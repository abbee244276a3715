"""Token mixers without a softmax of Hugging Face decoders, in tiny: each model's own kernel is
called on values of the test's, and the map that was captured must do the same to them."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect

import torch
import torch.nn.functional as F
import transformers
from hf_decoders import DELTA, HYBRID, MLA, MODELS, MOE, build, probe_ids

from tracker_viz.capture.discover.blocks import attend, discover
from tracker_viz.capture.isolation import isolated

MIXING_TOLERANCE = 1e-4

SMALL_MAMBA = {
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
}
MAMBA2 = {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1, "chunk_size": 8}
DELTA_KERNEL = "torch_chunk_gated_delta_rule"
# Arguments that scale the output of a channel afterwards: no part of how it mixes.
GATES = ("z",)
ONE_OF_EACH = {"block_types": ["recurrent", "attention"]}

# model type -> (options, the function that mixes, its argument with the values, axis of the
# channels where each mixes in its own way)
MIXERS = {
    "bamba": (
        SMALL_MAMBA | {"attn_layer_indices": [1], "mamba_n_heads": 8},
        "mamba2_chunk_scan",
        "hidden_states",
        None,
    ),
    "falcon_h1": (MODELS["falcon_h1"][0], "mamba2_chunk_scan", "hidden_states", None),
    "jamba": (MODELS["jamba"][0], "mamba_selective_scan", "hidden_states", 1),
    "kimi_linear": (
        MOE | MLA | {"linear_num_heads": 4, "linear_head_dim": 8},
        "chunk_kimi_delta_attention",
        "value",
        None,
    ),
    "mamba": ({"state_size": 4}, "mamba_selective_scan", "hidden_states", 1),
    "mamba2": (MAMBA2, "mamba2_chunk_scan", "hidden_states", None),
    "olmo_hybrid": ({}, DELTA_KERNEL, "value", None),
    "qwen3_next": (MOE | HYBRID | DELTA, DELTA_KERNEL, "value", None),
    "recurrent_gemma": (
        ONE_OF_EACH | {"lru_width": 32, "attention_window_size": 8},
        "_rnn_scan",
        "hidden_states",
        2,
    ),
    "rwkv": ({"attention_hidden_size": 32}, "rwkv_linear_attention", "value", 2),
}


def examine(model):
    """(structure, attention, mixing maps by block, the same once more)."""
    maps, again = {}, {}
    with isolated(model):
        structure, attention = discover(model, probe_ids(), mixing=maps)
    with isolated(model):
        attend(model, probe_ids(), structure, mixing=again)
    return structure, attention, maps, again


def mixed_by_the_model(model_type):
    """(structure, maps, the same once more, largest difference between a map times values and what
    the model's own kernel makes of these values)."""
    options, name, value, channel_axis = MIXERS[model_type]
    model = build(model_type, options)
    calls = []
    with recorded(model, name, calls):
        structure, _, maps, again = examine(model)
    own = own_calls(calls, value)
    differences = []
    blocks = sorted(maps)
    for block, (function, arguments) in zip(blocks, own[: len(blocks)], strict=True):
        values = torch.randn(arguments[value].shape, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            output = function(
                **{**arguments, value: values, **dict.fromkeys({*GATES} & {*arguments})}
            )
        output = output[0] if isinstance(output, tuple) else output
        channels = structure.mixing.channels[block]
        ours = mixed(maps[block], values, channel_axis, channels)
        theirs = as_heads(output, channel_axis, channels)
        differences.append(float((ours - theirs).abs().max()))
    return structure, model, maps, again, max(differences)


def own_calls(calls, value):
    """Leave out what asking calls: with the identity in place of values, for some channels beside
    those values."""
    own = []
    for function, arguments in calls:
        values = arguments[value]
        is_asked = ((values == 0) | (values == 1)).float().mean() > 0.5
        if not is_asked:
            own.append((function, arguments))
    return own


def mixed(matrix, values, channel_axis, channels):
    given = as_heads(values, channel_axis, channels)
    return matrix @ given.repeat_interleave(matrix.shape[1] // given.shape[1], dim=1)


def as_heads(tensor, channel_axis, channels):
    """[row, position, head, channel] -> [row, head, position, channel]; single channels as
    heads."""
    if channel_axis is None:
        return tensor.transpose(1, 2).float()
    chosen = tensor.index_select(channel_axis, torch.tensor(channels)).float()
    if channel_axis == 2:
        chosen = chosen.transpose(1, 2)
    return chosen.unsqueeze(-1)


@contextlib.contextmanager
def recorded(model, name, calls):
    """Note the calls of a function of the model's file, or of a method of its modules."""
    file = importlib.import_module(type(model).__module__)
    owners = {type(module) for module in model.modules() if name in vars(type(module))} or {file}
    (owner,) = owners
    function = vars(owner)[name]
    parameters = inspect.signature(function)

    @functools.wraps(function)
    def note(*args, **kwargs):
        bound = parameters.bind(*args, **kwargs)
        arguments = dict(bound.arguments)
        arguments |= arguments.pop("kwargs", {})
        calls.append((function, arguments))
        return function(*args, **kwargs)

    setattr(owner, name, note)
    try:
        yield
    finally:
        setattr(owner, name, function)


# Mixers that call no function which could be asked: name in the table -> (model type, options, the
# block, its mixer, the layer that makes the values, parts that it is split into for each head, the
# last one the values, what is done to them, the layer that takes what they are mixed to)
REPLAYED = {
    "lfm2": (
        *("lfm2", {"layer_types": ["conv", "conv"]}, 1, "conv", "in_proj", 1),
        *(lambda values: values, "out_proj"),
    ),
    "minimax, scanned in blocks of 5 tokens": (
        *("minimax", MODELS["minimax"][0] | {"block_size": 5}, 1, "self_attn", "qkv_proj", 4),
        *(F.silu, "norm"),
    ),
}


def mixed_when_run_again(name):
    """Do as ``mixed_by_the_model``: the test puts values where the model's own layer makes
    them, and its next layer tells what they were mixed to."""
    model_type, options, block, mixer, makes, n_heads, activated, takes = REPLAYED[name]
    model = build(model_type, options)
    structure, _, maps, again = examine(model)
    own = model.get_submodule(f"{structure.blocks[block]}.{mixer}")
    taken, given = [], []

    def put(_layer, _inputs, output):
        parts = output.clone().unflatten(-1, (n_heads, -1))
        width = parts.shape[-1] // 3
        generator = torch.Generator().manual_seed(3)
        given.append(torch.randn(*parts.shape[:-1], width, generator=generator))
        parts[..., 2 * width :] = given[0]
        return parts.flatten(-2)

    own.get_submodule(makes).register_forward_hook(put)
    own.get_submodule(takes).register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
    with torch.no_grad():
        model(input_ids=probe_ids(), use_cache=False)
    values = activated(given[0]).transpose(1, 2)  # [row, head, position, channel]
    theirs = taken[0].unflatten(-1, (n_heads, -1)).transpose(1, 2)
    if channels := list(structure.mixing.channels[block]):
        values, theirs = (x[:, 0, :, channels].mT.unsqueeze(-1) for x in (values, theirs))
    difference = float((maps[block] @ values - theirs).abs().max() / theirs.abs().max())
    return structure, model, maps, again, difference


def examined_mixer(name):
    return mixed_when_run_again(name) if name in REPLAYED else mixed_by_the_model(name)


def mixer_row(model_type, structure, model, difference):
    """Return the cells of one model in the table."""
    notes = list(dict.fromkeys(filter(None, structure.mixing.notes)))
    return f"{model_type} mixer", type(model).__name__, difference, "; ".join(notes)


def mixer_lines():
    transformers.logging.set_verbosity_error()
    for name in sorted([*MIXERS, *REPLAYED]):
        structure, model, _, _, difference = examined_mixer(name)
        yield "| " + " | ".join(mixer_row(name, structure, model, f"{difference:.0e}")) + " |"
