"""Public decoder architectures in tiny, and what each says of its own attention (eager,
``output_attentions``).

Random weights; nothing is downloaded. ``python tests/capture/hf_decoders.py >
docs/pages/supported_models.md`` writes the table.
"""

from __future__ import annotations

import sys

import torch
import transformers

from tracker_viz.capture.discover.blocks import discover
from tracker_viz.capture.discover.model_info import describe
from tracker_viz.capture.isolation import isolated

N_ROWS, LENGTH = 2, 16
TOLERANCE = 1e-5

COMMON = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OLD = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
MHA = {"num_key_value_heads": 4}
MOE = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
MLA = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
    "qk_head_dim": 16,
}
GEMMA = {"query_pre_attn_scalar": 8, "sliding_window": 8}
HYBRID = {"layer_types": ["linear_attention", "full_attention"]}
DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}

INDEXER = {"index_n_heads": 4, "index_head_dim": 16, "index_topk": 5}

GATED = "q k v o gate up down"
PLAIN = "q k v o in out"
SHARED = "q k v o gate up down shared.gate shared.up shared.down"
LATENT = "q_a q_b kv_a kv_b o gate up down shared.gate shared.up shared.down"

# model type -> (options of its configuration besides COMMON, names of its weights besides single
# experts)
MODELS = {
    "afmoe": (MOE, SHARED),
    "apertus": ({}, PLAIN),
    "arcee": ({}, PLAIN),
    "aria_text": (MOE, SHARED),
    "axk2": (MOE | MLA | INDEXER, LATENT),
    "biogpt": ({}, PLAIN),
    "bitnet": ({}, GATED),
    "bloom": ({"n_layer": 2, "n_head": 4}, PLAIN),
    "codegen": ({**OLD, "rotary_dim": 4, "n_ctx": 64}, PLAIN),
    "cohere": ({}, GATED),
    "cohere2": ({"sliding_window": 8}, GATED),
    "ctrl": ({**OLD, "dff": 48}, PLAIN),
    "cwm": ({}, GATED),
    "dbrx": (
        {
            "d_model": 32,
            "n_heads": 4,
            "n_layers": 2,
            "max_seq_len": 64,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        }
        | {
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4},
            "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
        },
        GATED,
    ),
    "deepseek_v2": (MOE | MLA, LATENT),
    "deepseek_v3": (MOE | MLA, LATENT),
    "deepseek_v32": (MOE | MLA | INDEXER, LATENT),
    "diffllama": ({}, GATED),
    "doge": ({}, GATED),
    "dots1": (MOE, SHARED),
    "ernie4_5": ({}, GATED),
    "ernie4_5_moe": (MOE | {"moe_num_experts": 4, "moe_k": 2}, SHARED),
    "exaone4": ({"sliding_window": 8}, GATED),
    "falcon": (
        {"num_kv_heads": 4, "multi_query": True, "new_decoder_architecture": False, "alibi": False},
        PLAIN,
    ),
    "falcon_h1": (
        {
            "mamba_d_ssm": 32,
            "mamba_n_heads": 4,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
            "mamba_n_groups": 1,
        },
        GATED,
    ),
    "flex_olmo": (MOE, GATED),
    "gemma": ({}, GATED),
    "gemma2": (GEMMA, GATED),
    "gemma3_text": (GEMMA, GATED),
    "glm": ({}, GATED),
    "glm4": ({}, GATED),
    "glm4_moe": (MOE, SHARED),
    "glm4_moe_lite": (MOE | MLA, LATENT),
    "glm_moe_dsa": (MOE | MLA | INDEXER | {"mlp_layer_types": ["dense", "sparse"]}, LATENT),
    "gpt2": (OLD, PLAIN),
    "gpt_bigcode": ({**OLD, "n_inner": 64}, PLAIN),
    "gpt_neo": (
        {
            "attention_types": [[["global", "local"], 1]],
            "num_layers": 2,
            "num_heads": 4,
            "window_size": 8,
        },
        PLAIN,
    ),
    "gpt_neox": ({}, PLAIN),
    "gpt_neox_japanese": ({}, PLAIN),
    "gpt_oss": (MOE | {"sliding_window": 8}, GATED),
    "gptj": ({**OLD, "rotary_dim": 4}, PLAIN),
    "granite": ({}, GATED),
    "granitemoe": (MOE, GATED),
    "granitemoeshared": (MOE | {"shared_intermediate_size": 24}, SHARED),
    "helium": ({}, GATED),
    "hy_v4": (MOE | MLA | INDEXER, LATENT),
    "hunyuan_v1_dense": ({}, GATED),
    "hunyuan_v1_moe": (MOE, SHARED),
    "hyperclovax": ({}, GATED),
    "internlm3": ({}, GATED),
    "jais2": ({}, PLAIN),
    "jamba": (MOE | {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4}, GATED),
    "jetmoe": (MOE | {"kv_channels": 8}, "k v gate up down"),
    "llama": ({}, GATED),
    "llama4_text": (MOE | {"intermediate_size_mlp": 48}, SHARED),
    "lfm2": ({"layer_types": ["conv", "full_attention"]}, GATED),
    "longcat_flash": (
        MOE
        | MLA
        | {"moe_topk": 2, "ffn_hidden_size": 48, "expert_ffn_hidden_size": 24, "num_layers": 1},
        None,
    ),
    "minimax": (MOE, GATED),
    "minimax_m2": (MOE, GATED),
    "ministral": ({}, GATED),
    "mistral": ({}, GATED),
    "mixtral": (MOE, GATED),
    "modernbert-decoder": ({}, GATED),
    "mpt": (
        {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64, "expansion_ratio": 2},
        PLAIN,
    ),
    "nanochat": ({}, PLAIN),
    "nemotron": ({}, PLAIN),
    "olmo": ({}, GATED),
    "olmo2": ({}, GATED),
    "olmo3": ({}, GATED),
    "olmoe": (MOE, GATED),
    "openai-gpt": (OLD, PLAIN),
    "opt": ({"ffn_dim": 48, "word_embed_proj_dim": 32}, PLAIN),
    "persimmon": (MHA, PLAIN),
    "phi": (MHA | {"partial_rotary_factor": 0.5}, PLAIN),
    "phi3": ({}, GATED),
    "phimoe": (MOE, GATED),
    "qwen2": ({}, GATED),
    "qwen2_moe": (MOE, SHARED),
    "qwen3": ({}, GATED),
    "qwen3_5_text": (HYBRID | DELTA, GATED),
    "qwen3_moe": (MOE, GATED),
    "qwen3_next": (MOE | HYBRID | DELTA, SHARED),
    "seed_oss": ({}, GATED),
    "smollm3": ({}, GATED),
    "solar_open": (MOE, SHARED),
    "stablelm": ({}, GATED),
    "starcoder2": ({}, PLAIN),
    "vaultgemma": (GEMMA, GATED),
    "xglm": ({"d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4}, PLAIN),
    "youtu": (MLA, "q_a q_b kv_a kv_b o gate up down"),
}
# Where the class of a configuration computes it from others, it must not be given.
NOT_TAKEN = {"falcon": {"head_dim"}}


def build(model_type, options=None, *, eager=False):
    """A tiny model in evaluation mode. Weights of std 0.25: attention that is nearly uniform hides
    a wrong scale or mask."""
    config_class = transformers.CONFIG_MAPPING[model_type]
    chosen = {
        name: value for name, value in COMMON.items() if name not in NOT_TAKEN.get(model_type, ())
    }
    config = config_class(**{**chosen, **(MODELS[model_type][0] if options is None else options)})
    implementation = {"attn_implementation": "eager"} if eager else {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config, **implementation)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 0.25, generator=generator)
    return model.eval()


def probe_ids():
    return torch.randint(3, 90, (N_ROWS, LENGTH), generator=torch.Generator().manual_seed(2))


def examine(model):
    with isolated(model):
        return discover(model, probe_ids())


def own_attention(model_type, options=None):
    """Return the model's own attention, one map for each block that attends: [probe, head, query,
    key]."""
    with torch.no_grad():
        output = build(model_type, options, eager=True)(
            input_ids=probe_ids(), output_attentions=True, use_cache=False
        )
    return [pattern for pattern in output.attentions if pattern is not None]


def compare(model_type, options=None, *, eager=False):
    """(structure, model, largest difference) of the model as it comes, or with eager attention."""
    model = build(model_type, options, eager=eager)
    structure, attention = examine(model)
    expected = own_attention(model_type, options)
    seen = [pattern for pattern in attention if pattern.numel()]
    if (
        model_type == "minimax"
    ):  # returns the decay matrices of its linear attention too, which are no probabilities
        expected = expected[:: len(expected) // len(seen)][: len(seen)]
    if model_type == "longcat_flash":  # two attentions in each block
        expected = [torch.cat(expected, dim=1)]
    assert [pattern.shape for pattern in seen] == [pattern.shape for pattern in expected]
    return (
        structure,
        model,
        max(
            float((ours - theirs).abs().max()) for ours, theirs in zip(seen, expected, strict=True)
        ),
    )


def short(name):
    return name.removeprefix("attn.").removeprefix("mlp.").replace("w_", "")


def row(model_type, structure, model, difference):
    """Return the cells of one model in the table."""
    found = describe(structure, model)["found"]
    weights = " ".join(
        dict.fromkeys(short(name) for name in found["projections"] if ".experts." not in name)
    )
    experts = (
        ", single experts" if any(".experts." in name for name in found["projections"]) else ""
    )
    how = ", ".join(found["attention"]).replace("_", " ")
    return f"`{model_type}`", type(model).__name__, how, difference, weights + experts


def table():
    """Markdown."""
    import adapted_models  # which take models from here
    import quantized_models
    from hf_mixers import MIXING_TOLERANCE, mixer_lines

    lines, hits, eager_hits = [], 0, 0
    for model_type in sorted(MODELS):
        structure, model, difference = compare(model_type)
        hits += difference <= TOLERANCE
        eager_hits += compare(model_type, eager=True)[2] <= TOLERANCE
        lines.append(
            "| " + " | ".join(row(model_type, structure, model, f"{difference:.0e}")) + " |"
        )
    return f"""# Supported models

Hugging Face decoders of transformers {transformers.__version__}, in tiny configurations with random
weights (standard deviation 0.25). The captured attention is compared with each model's own under
`attn_implementation="eager"`: **{hits} of {len(lines)} within {TOLERANCE:.0e}** (float32). With
eager attention in the captured model as well: {eager_hits} of {len(lines)}. `python
tests/capture/hf_decoders.py` writes this page; the test suite makes the same comparisons.

| model type | class | attention seen as | largest difference | weights |
|---|---|---|---|---|
{chr(10).join(lines)}

Hybrids (falcon_h1, jamba, lfm2, minimax, qwen3_next, ...) show attention for the blocks that
attend, mixing maps for the others if they have any, and the feed-forward weights of all blocks.
Weights are named by their use in the forward pass: the matrices of a mixer that is not attention
have no standard name, and the log lists them. Hugging Face's Falcon with ALiBi computes different
attention under sdpa than under eager; the capture shows what the model used.

Models in plain PyTorch, compared with attention that the test computes by hand:

| how it attends | largest difference |
|---|---|
{chr(10).join(plain_lines())}

## Containers

Modules may be nested in any of these ways. Every block has its attention and the weights of both
its parts, even if a list or dict is never called itself. A model that takes one flat sequence gets
the probe's rows one by one: `forward=lambda model, input_ids: [model(row) for row in input_ids]`.
If it does not run all rows, `watch` says so.

| structure of the layers | blocks | largest difference |
|---|---|---|
{chr(10).join(containers())}

## Sharded

Two processes over gloo, compared with the unsharded model: attention agrees within 1e-3 (it is
stored in float16), weights within 1e-4, and the loss curve is bitwise that without capture.

| how it is sharded | what is captured |
|---|---|
{chr(10).join(sharded())}

## Mixtures

Router probabilities are compared with the logits that each model returns, after its own softmax or
sigmoid. The weights of the chosen experts are compared with those that its router module returns
(–: it returns none that can be compared).

| mixture | routed by | against | largest difference of probabilities | of weights |
|---|---|---|---|---|
{chr(10).join(mixtures())}

In a mixture of heads (jetmoe), a head in a picture is a slot: a different expert may compute its
queries for each token. `blocks.<i>.attn.router.chosen` says which.

## Sparse attention

If an indexer chooses the keys that a query may attend to, `blocks.<i>.attn.indexer` holds its
choice [probe, query, key], in addition to the model's attention. The choice is compared with the
keys that the indexer returns; no other key gets attention. Layers that reuse the choice of an
earlier layer (`shared` layers of glm_moe_dsa) have no separate array.

| indexer | keys per query | choices that differ from the model's | attention to other keys |
|---|---|---|---|
{chr(10).join(indexers())}

## Mixers

The kernel of a token mixer without a softmax is linear in its values. Called with the identity as
values ("asked"), it returns its *mixing map*: the matrix by which it mixes tokens. Each map
is compared with the model's own kernel on test values: **largest |A V - output|**, at most
{MIXING_TOLERANCE:.0e}. Entries have any sign; rows can have any sum.

| mixer | class | largest difference | what the map is |
|---|---|---|---|
{chr(10).join(mixer_lines())}

Linear attention written as an explicit product (`matmul`, `einsum`) over the whole row is captured
from that product. If a block calls none of the above (a recurrence written as a loop or in chunks,
a convolution), the module that mixes tokens is *run again* with the identity in place of its
values. Before training, a search finds two places inside the module between which it is linear and
mixes tokens: head by head, or channel by channel if a few runs are enough (a convolution over at
most 8 tokens, or a filter that is the same at every token). The result is checked like every other
map.

Two kinds of mixers have no map: those that are not linear (LSTM, GRU), and those in which every
channel has its own gates and state, because a map would take one run for each token. The log and
the capture name them, and a model that has no other blocks is refused before training starts.
Mixers of the second kind can be captured if their scan is a function `rnn_scan(x, a)` of [row,
token, channel] tensors.

## Kernels

Some kernels hide their probabilities. Those of flash_attn, flex_attention, and Hugging Face's
`flash_attention_2` and the like are replaced by the same computation in plain PyTorch for the
probe. Any other kernel is called with the identity as values, like a mixer. This covers torch
operators that take queries, keys and values, by the name or the position of their arguments
(`torch.nn.attention.varlen`, flash_attn's packed calls, FlashAttention 3), and Python functions
(xformers, fla, functions from `kernels`). If the rows of the result are probabilities, it is
attention. If a kernel gives no matrix, the log and the capture name it with the reason. If no block
has a map, the model is refused before training starts.

{adapted_models.section()}
{quantized_models.section()}"""


def plain_lines():
    from plain_decoders import Notes, randomised
    from plain_decoders import examine as examine_plain
    from test_plain_models import MODELS as PLAIN

    for name, (make, *_) in PLAIN.items():
        _, attention = examine_plain(randomised(make))
        difference = (torch.cat(attention, dim=1) - torch.cat(Notes.patterns, dim=1)).abs().max()
        yield f"| {name} | {difference:.0e} |"


def sharded():
    from sharded_kinds import sharded_lines

    return sharded_lines()


def containers():
    from container_decoders import container_lines

    return container_lines()


def mixtures():
    from hf_mixtures import mixture_lines

    return mixture_lines()


def indexers():
    from hf_mixtures import indexer_lines

    return indexer_lines()


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    sys.stdout.write(table())
