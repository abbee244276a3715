"""Store captures of every kind of model that this version knows, for the versions to come:

    OMP_NUM_THREADS=1 python tests/stored/kinds.py tests/stored/kinds/<version>

``make.py`` stores one plain model in every place that there is; this stores one small run in a
directory for each kind of array that plain models do not have. A version that stores something new
adds a function to ``KINDS`` and makes a directory of its own; those of earlier versions stay as
they are, for good.

    adapters/   LoRA: the matrices that layers multiply by, and the adapter's own
    mixture/    routers and experts of a mixture
    mixing/     mixing maps of blocks that do not attend, beside attention
    expected.json   what the captures hold
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import make
import peft
import torch
import transformers
from torch import nn

import tracker_viz as tv
from tracker_viz import capture_file

VOCAB_SIZE, LENGTH, STEPS = 24, 16, 4
SIZES = {
    "vocab_size": VOCAB_SIZE,
    "max_position_embeddings": LENGTH,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 16,
}


def adapters() -> nn.Module:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))
    chosen = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"])
    return peft.get_peft_model(model, chosen)


def mixture() -> nn.Module:
    config = transformers.MixtralConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2)
    return transformers.MixtralForCausalLM(config)


def mixing() -> nn.Module:
    config = transformers.JambaConfig(
        **SIZES,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=99,
        expert_layer_offset=98,
        num_experts=1,
        mamba_d_state=4,
        mamba_d_conv=2,
        mamba_expand=1,
        mamba_dt_rank=2,
        use_mamba_kernels=False,
        pad_token_id=0,
    )
    return transformers.JambaForCausalLM(config)


KINDS: dict[str, Callable[[], nn.Module]] = {
    "adapters": adapters,
    "mixture": mixture,
    "mixing": mixing,
}


def main(target: Path) -> None:
    torch.set_num_threads(1)
    shutil.rmtree(target, ignore_errors=True)
    expected = {}
    for name, make_model in KINDS.items():
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as directory:
            record(make_model(), name, Path(directory))
            shutil.copytree(Path(directory, "spool"), target / name, ignore=_of_machine)
        (target / name / "run.json").write_text(
            (target / name / "run.json").read_text().replace(directory, "/machine")
        )
        paths = sorted((target / name / "captures").glob("*.safetensors"))
        expected[name] = make.described([capture_file.read(path) for path in paths])
    make.write_json(expected, target / "expected.json")


def _of_machine(directory: str, names: list[str]) -> set[str]:
    return {".reserve", ".lock", ".holder.json"} & set(names)


def record(model: nn.Module, name: str, directory: Path) -> None:
    """Train for a few steps, captured into a spool that is a run itself."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, 1e-2)
    generator = torch.Generator().manual_seed(0)
    watcher = tv.watch(
        model,
        probe=tv.make_probe(VOCAB_SIZE, LENGTH, bos_id=0),
        run="local",
        every=STEPS,
        total_steps=STEPS,
        score_rows=0,
        spool=directory / "spool",
        name=name,
    )
    with watcher:
        for step in range(STEPS):
            ids = torch.randint(VOCAB_SIZE, (4, LENGTH), generator=generator)
            loss = model(input_ids=ids, labels=ids).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watcher.step(step, loss=loss)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
