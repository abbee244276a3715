"""Small models with adapters (PEFT), each trained a little: what ``test_adapters.py`` tries, and
the section of ``docs/pages/supported_models.md`` about them."""

from __future__ import annotations

import copy
import logging
import warnings

import peft
import torch
import transformers
from hf_decoders import examine

from tracker_viz.capture.discover.adapters import without_unreadable
from tracker_viz.capture.discover.model_info import describe
from tracker_viz.capture.weights.matrices import read
from tracker_viz.capture.weights.stored import StoredWeights

TOLERANCE = 1e-5
SIZES = {"vocab_size": 96, "max_position_embeddings": 64}
HEADS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
Q_AND_DOWN = ("q_proj", "down_proj")


def llama():
    config = transformers.LlamaConfig(**SIZES, **HEADS, intermediate_size=48)
    return seeded(transformers.LlamaForCausalLM, config)


def gpt2():
    config = transformers.GPT2Config(
        vocab_size=96, n_positions=64, n_embd=32, n_layer=2, n_head=4, eos_token_id=0
    )
    config.bos_token_id = 0
    return seeded(transformers.GPT2LMHeadModel, config)


def phi3():
    config = transformers.Phi3Config(**SIZES, **HEADS, intermediate_size=48, pad_token_id=0)
    return seeded(transformers.Phi3ForCausalLM, config)


def gpt_neox():
    config = transformers.GPTNeoXConfig(**SIZES, **HEADS, intermediate_size=48)
    return seeded(transformers.GPTNeoXForCausalLM, config)


def mixtral():
    config = transformers.MixtralConfig(
        **SIZES, **HEADS, intermediate_size=48, num_local_experts=4, num_key_value_heads=2
    )
    return seeded(transformers.MixtralForCausalLM, config)


def seeded(model_class, config):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return model_class(config).eval()


def lora(targets="all-linear", **options):
    return peft.LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM", **options)


def other(config_class, targets=Q_AND_DOWN, **options):
    return config_class(target_modules=list(targets), task_type="CAUSAL_LM", **options)


GPT2_LAYERS = ["c_attn", "c_proj", "c_fc"]
IA3 = ("k_proj", "v_proj", "down_proj")
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
# name -> (the model, its adapter's configuration, and that of a second one)
ADAPTED = {
    "LoRA": (llama, lora()),
    "LoRA, rank-stabilized": (llama, lora(use_rslora=True, lora_alpha=16)),
    "LoRA, two active adapters": (llama, lora(), lora(use_rslora=True)),
    "LoRA on Conv1D, fused (GPT-2)": (gpt2, lora(GPT2_LAYERS, fan_in_fan_out=True)),
    "LoRA on fused layers (Phi-3)": (phi3, lora()),
    "LoRA on interleaved layers (GPT-NeoX)": (gpt_neox, lora()),
    "LoRA and embeddings": (llama, lora(["q_proj", "embed_tokens"])),
    "LoRA and modules_to_save": (llama, lora(["q_proj"], modules_to_save=["down_proj"])),
    "LoRA on stacked experts (Mixtral)": (mixtral, lora(["q_proj"], target_parameters=EXPERTS)),
    "DoRA": (llama, lora(use_dora=True)),
    "DoRA on Conv1D, fused (GPT-2)": (gpt2, lora(GPT2_LAYERS, use_dora=True, fan_in_fan_out=True)),
    "PiSSA": (llama, lora(init_lora_weights="pissa")),
    "AdaLoRA": (llama, other(peft.AdaLoraConfig, total_step=10)),
    "IA3": (llama, other(peft.IA3Config, IA3, feedforward_modules=["down_proj"])),
    "VeRA, asked": (llama, other(peft.VeraConfig, ("q_proj", "o_proj"))),
    "LoHa, asked": (llama, other(peft.LoHaConfig)),
    "LoKr, asked": (llama, other(peft.LoKrConfig)),
    "OFT, asked": (llama, other(peft.OFTConfig, oft_block_size=8)),
    "HRA, asked": (llama, other(peft.HRAConfig)),
}


def adapted(name):
    """The model with its adapters, trained a little."""
    make, config, *more = ADAPTED[name]
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")  # of biases, of merging: not what is tried here
        torch.manual_seed(1)
        model = peft.get_peft_model(make(), copy.deepcopy(config)).eval()
        for number, second in enumerate(more):
            model.add_adapter(f"more{number}", copy.deepcopy(second))
        if more:
            model.base_model.set_adapter(["default", *(f"more{n}" for n in range(len(more)))])
    return trained(model)


def trained(model):
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def merged(model):
    """A plain model, made by PEFT of a copy."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return copy.deepcopy(model).merge_and_unload().eval()


def looked_at(model):
    """(structure, attention of every block, name -> matrix) as a capture shows them."""
    structure, attention = examine(model)
    structure, readable = without_unreadable(structure, model, sharded=False)
    weights = StoredWeights(model, readable.asked_for)
    with torch.no_grad():
        matrices = {each.array_name: read(weights, each) for each in structure.projections}
    return structure, attention, matrices


def largest_difference(ours, theirs):
    return max(float((ours[name] - theirs[name]).abs().max()) for name in theirs)


def section():
    """Markdown for the page of supported models."""
    lines = []
    for name in ADAPTED:
        model = adapted(name)
        structure, _, ours = looked_at(model)
        difference = largest_difference(ours, looked_at(merged(model))[2])
        lines.append(f"| {name} | {called(structure, model)} | {rounded(difference)} |")
    return f"""## Adapters

Maps show the matrix that a layer multiplies by, adapters included. It is compared with the result
of `merge_and_unload` in PEFT {peft.__version__}. If no formula is known, the layer is called with
the identity ("asked"). `attn.w_q.lora_a` and `attn.w_q.lora_b` are LoRA's own matrices
(`layout=adapters`). Prompt and prefix tuning are refused with the reason: their virtual tokens are
not in the probe, and no weight of a block changes.

| adapter | shown as | largest difference |
|---|---|---|
{chr(10).join(lines)}
"""


def called(structure, model):
    description = describe(structure, model)
    return " + ".join([description["name"], *description["adapters"]])


def rounded(difference):
    """A power of ten above it: the last digits are the processor's."""
    return "below 1e-05" if difference < TOLERANCE else f"{difference:.0e}"


logging.getLogger("peft").setLevel(logging.ERROR)
