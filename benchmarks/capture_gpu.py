"""Measure what a capture costs on a GPU, with bf16 autocast, torch.compile and flash attention.

    python benchmarks/capture_gpu.py                  # on the first GPU; needs 25 GB of memory
    python benchmarks/capture_gpu.py --size tiny      # anywhere: shows that it works

Trains a Llama of 1.2 billion random parameters twice from the same seed, with captures and without.
Prints how long a capture takes the training thread, from the end of all earlier work of the device
to the end of the capture, in milliseconds and as a share of a step. Also prints whether the losses
are the same to the bit, and how many graphs were compiled for the captures.
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
from measuring import table
from torch.nn.attention import SDPBackend, sdpa_kernel

from tracker_viz.capture import Recorder, Schedule, make_probe, record
from tracker_viz.types import Capture

# Llama 3.2 1B, and a model that any CPU trains at once.
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


@dataclass(frozen=True, slots=True)
class Settings:
    """How to train; ``batch`` rows of ``length`` tokens a step, a capture ``every`` so many."""

    size: str
    device: torch.device
    backend: str
    steps: int
    every: int
    batch: int
    length: int


@dataclass(slots=True)
class Training:
    """What one training run took.

    Attributes:
        mbytes: of the arrays of one capture, in MB.
        compiled: graphs that were compiled after the first step.
    """

    losses: list[float] = field(default_factory=list)
    step_s: list[float] = field(default_factory=list)
    capture_s: list[float] = field(default_factory=list)
    mbytes: float = 0.0
    compiled: int = 0
    peak_gb: float = 0.0


def main() -> None:
    settings = settings_from(arguments())
    # Flash attention and embeddings add gradients up in any order otherwise, so that even two
    # training runs without captures would differ.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # A safeguard that takes time and changes no result.
    torch.utils.deterministic.fill_uninitialized_memory = False
    plain = train(settings, capture=False)
    watched = train(settings, capture=True)
    where = f"a CPU, {torch.get_num_threads()} threads"
    if settings.device.type == "cuda":
        where = torch.cuda.get_device_name(settings.device)
    print(
        f"Llama {settings.size} on {where}: bf16 autocast, torch.compile ({settings.backend}), "
        "scaled_dot_product_attention"
    )
    print(
        f"{settings.batch} x {settings.length} tokens a step; {settings.steps} steps, a capture "
        f"every {settings.every}\n"
    )
    print(table([figures(plain, watched)]))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, help="by default 1b on a GPU, else tiny")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    return parser.parse_args()


def settings_from(options: argparse.Namespace) -> Settings:
    """Return settings that this machine can train with."""
    device, size, backend, length = torch.device("cuda"), "1b", options.backend, options.length
    if not torch.cuda.is_available():
        device, size, backend = torch.device("cpu"), "tiny", "eager"
    if options.size:
        size = options.size
    if size == "tiny":
        length = min(length, 64)
    return Settings(
        size=size,
        device=device,
        backend=backend,
        steps=options.steps,
        every=options.every,
        batch=options.batch,
        length=length,
    )


def train(settings: Settings, *, capture: bool) -> Training:
    """Train from the same seed, with captures or without."""
    from transformers import LlamaConfig, LlamaForCausalLM

    device, length = settings.device, settings.length
    reset(device)
    torch.manual_seed(0)
    made = Training()
    shape = SIZES[settings.size]
    config = LlamaConfig(
        **shape, max_position_embeddings=max(length, 128), attn_implementation="sdpa"
    )
    with device:
        model = LlamaForCausalLM(config)
    trained: Any = torch.compile(model, backend=settings.backend)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=device.type == "cuda")
    captures: list[Capture] = []
    recorder = None
    if capture:
        recorder = make_recorder(trained, config.vocab_size, settings, captures)
    generator = torch.Generator().manual_seed(1)
    batch = (settings.batch, length)
    graphs_of_first_step = 0
    with flash_attention(device):
        for step in range(1, settings.steps + 1):
            ids = torch.randint(config.vocab_size, batch, generator=generator).to(device)
            started = time_when_done(device)
            with torch.autocast(device.type, torch.bfloat16):
                loss = trained(input_ids=ids, labels=ids, use_cache=False).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            ended = time_when_done(device)
            made.step_s.append(ended - started)
            if recorder:
                recorder.step(step, loss=loss)
                if step % settings.every == 0:
                    made.capture_s.append(time_when_done(device) - ended)
                    del captures[:-1]
            made.losses.append(loss.item())
            graphs_of_first_step = graphs_of_first_step or compiled_graphs()
    made.compiled = compiled_graphs() - graphs_of_first_step
    if captures:
        made.mbytes = sum(array.nbytes for array in captures[-1].arrays.values()) / 1e6
    if device.type == "cuda":
        made.peak_gb = torch.cuda.max_memory_allocated(device) / 1e9
    return made


def make_recorder(
    model: Any, vocab_size: int, settings: Settings, captures: list[Capture]
) -> Recorder:
    """Return a recorder that appends its captures to a list."""
    length = min(128, settings.length)
    probe = make_probe(vocab_size, length, text_ids=range(length))
    schedule = Schedule.every(settings.every)
    return record(model, probe, schedule, captures.append, counts_from=1)


def reset(device: torch.device) -> None:
    """Forget what was compiled, and the peak of the device's memory."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def compiled_graphs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@contextlib.contextmanager
def flash_attention(device: torch.device) -> Iterator[None]:
    """Prefer flash attention on a GPU. The probe's own attention is computed beside any kernel."""
    if device.type != "cuda":
        yield
        return
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH], set_priority=True):
        yield


def time_when_done(device: torch.device) -> float:
    """Wait for all work of the device, and return the time."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def figures(plain: Training, watched: Training) -> dict[str, str]:
    """Return the row of the table."""
    step_s, capture_s = statistics.median(plain.step_s), statistics.median(watched.capture_s)
    least_ms, most_ms = 1000 * min(watched.capture_s), 1000 * max(watched.capture_s)
    share = f"{DEFAULT_CAPTURES} in {DEFAULT_STEPS:,} steps"
    losses = "CHANGED"
    if watched.losses == plain.losses:
        losses = "same"
    return {
        "a step, ms": f"{1000 * step_s:.1f}",
        "a capture, ms (range)": f"{1000 * capture_s:.1f} ({least_ms:.1f} to {most_ms:.1f})",
        "of a step": f"{capture_s / step_s:.2f}",
        share: f"{100 * capture_s / step_s * DEFAULT_CAPTURES / DEFAULT_STEPS:.3f} %",
        "MB off the device": f"{watched.mbytes:.1f}",
        "losses": losses,
        "compiled": f"{watched.compiled - plain.compiled} more",
        "GB": f"{plain.peak_gb:.1f} -> {watched.peak_gb:.1f}",
    }


if __name__ == "__main__":
    main()
