"""Measure a capture's cost on a GPU: a Llama of 1.2 billion random parameters under bf16 autocast,
torch.compile and flash attention.

    python benchmarks/capture_gpu.py                 on the first GPU; needs about 25 GB of its
    memory python benchmarks/capture_gpu.py --size tiny     anywhere, in seconds: whether it works,
    not what it costs

Trains twice from the same seed, with and without captures, and prints what a capture takes the
training thread, from the end of all the device's work to its end, in milliseconds and as a share of
a step; whether the losses are the same to the bit; what was compiled for it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from tracker_viz.capture import Schedule, make_probe, record
from tracker_viz.types import Capture

# As Llama 3.2 1B, and one that any CPU trains at once.
SIZES = {
    "1b": {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "tiny": {
        "vocab_size": 256,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}
DEFAULT_STEPS, DEFAULT_CAPTURES = 10_000, 100


@dataclass(slots=True)
class Training:
    losses: list[float] = field(default_factory=list)
    step_s: list[float] = field(default_factory=list)
    capture_s: list[float] = field(default_factory=list)
    mbytes: float = 0.0
    compiled: int = 0  # graphs, after the first step
    peak_gb: float = 0.0


def train(
    size: str,
    device: torch.device,
    *,
    steps: int,
    every: int,
    batch: int,
    length: int,
    backend: str,
    capture: bool,
) -> Training:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    made = Training()
    config = LlamaConfig(
        **SIZES[size], max_position_embeddings=max(length, 128), attn_implementation="sdpa"
    )
    with device:
        model = LlamaForCausalLM(config)
    trained: Any = torch.compile(model, backend=backend)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=device.type == "cuda")
    captures: list[Capture] = []
    recorder = None
    if capture:
        probe = make_probe(config.vocab_size, min(128, length), text_ids=range(min(128, length)))
        recorder = record(
            trained,
            probe,
            Schedule.every(every),
            captures.append,
            counts_from=1,
        )
    generator = torch.Generator().manual_seed(1)
    graphs = 0
    with flash_attention(device):
        for step in range(1, steps + 1):
            ids = torch.randint(config.vocab_size, (batch, length), generator=generator).to(device)
            started = waited(device)
            with torch.autocast(device.type, torch.bfloat16):
                loss = trained(input_ids=ids, labels=ids, use_cache=False).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            ended = waited(device)
            made.step_s.append(ended - started)
            if recorder:
                recorder.step(step, loss=loss)
                if step % every == 0:
                    made.capture_s.append(waited(device) - ended)
                    captures[:] = captures[-1:]
            made.losses.append(loss.item())
            graphs = graphs or torch._dynamo.utils.counters["stats"]["unique_graphs"]
    made.compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"] - graphs
    made.mbytes = (
        sum(array.nbytes for array in captures[-1].arrays.values()) / 1e6 if captures else 0.0
    )
    made.peak_gb = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else 0.0
    return made


@contextlib.contextmanager
def flash_attention(device: torch.device) -> Iterator[None]:
    """On a GPU, before any other kernel; the probe's own attention is worked out beside whatever
    runs."""
    if device.type != "cuda":
        yield
        return
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH], set_priority=True):
        yield


def waited(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--size", choices=SIZES, default=None, help="1b where there is a GPU, else tiny"
    )
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    options = vars(parser.parse_args())
    # Two trainings without captures would differ, too: flash attention and embeddings add gradients
    # up in any order unless told not to.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = (
        False  # a safeguard that takes time, and changes no result
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        options |= {"backend": "eager"}
    size = options.pop("size") or ("1b" if device.type == "cuda" else "tiny")
    if size == "tiny":
        options |= {"length": min(options["length"], 64)}
    made = {}
    for capture in (False, True):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        made[capture] = train(size, device, capture=capture, **options)
    step_s, capture_s = (
        statistics.median(made[False].step_s),
        statistics.median(made[True].capture_s),
    )
    where = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"a CPU, {torch.get_num_threads()} threads"
    )
    print(
        f"Llama {size} on {where}: bf16 autocast, torch.compile ({options['backend']}), "
        "scaled_dot_product_attention"
    )
    print(
        f"{options['batch']} x {options['length']} tokens a step; {options['steps']} steps, a "
        f"capture every {options['every']}\n"
    )
    print(
        "| a step, ms | a capture, ms (range) | of a step | 100 in 10,000 steps | MB off the "
        "device | losses | compiled | GB |"
    )
    print("|---|---|---|---|---|---|---|---|")
    cells = [
        f"{1000 * step_s:.1f}",
        (
            f"{1000 * capture_s:.1f} ({1000 * min(made[True].capture_s):.1f} to "
            f"{1000 * max(made[True].capture_s):.1f})"
        ),
        f"{capture_s / step_s:.2f}",
        f"{100 * capture_s / step_s * DEFAULT_CAPTURES / DEFAULT_STEPS:.3f} %",
        f"{made[True].mbytes:.1f}",
        "same" if made[True].losses == made[False].losses else "CHANGED",
        f"{made[True].compiled - made[False].compiled} more",
        f"{made[False].peak_gb:.1f} -> {made[True].peak_gb:.1f}",
    ]
    print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
