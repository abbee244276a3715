"""Measure what capturing costs the training loop, beside the alternatives: wandb.watch(log="all"),
and output_attentions with torch.save.

    python benchmarks/capture.py            trainings of a small Llama with each of them; prints a
    table python benchmarks/capture.py --sizes    megabytes and milliseconds of one capture for
    125M, 1B, 7B and 70B python benchmarks/capture.py --all > docs/pages/capture_cost.md

Writes capture.json beside this file, but for ``--sizes``.

Every round trains from the same seed with each of them, in turn and in one process, twice: as
people do, for the ratio to the plain training of the same round; and waiting after each record
until all that it set off is done, for its price: what the steps with a record take beyond those
without one. Time is processor time, which a busy machine disturbs less than the clock on the wall:
of the training thread, which is what training waits for where its arithmetic is done by a GPU; and
of all threads and child processes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from tracker_viz.capture import Schedule, fit, make_probe, record
from tracker_viz.capture.budget import weight_side
from tracker_viz.capture.camera import MAX_SCORED_ENTRIES
from tracker_viz.capture.probe import DEFAULT_SCORE_ROWS
from tracker_viz.capture.weights.matrices import Projection
from tracker_viz.capture.weights.norms import STEPS, krylov
from tracker_viz.types import Capture

VOCAB, BATCH, LENGTH = 4096, 16, 64
# A training to compare prices with: the default of a hundred captures.
DEFAULT_STEPS, DEFAULT_CAPTURES = 10_000, 100


def llama(implementation: str = "sdpa", **shape: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "intermediate_size": 704,
        **shape,
    }
    config = LlamaConfig(
        vocab_size=VOCAB,
        max_position_embeddings=LENGTH,
        attn_implementation=implementation,
        **shape,
    )
    return LlamaForCausalLM(config)


@dataclass(frozen=True, slots=True)
class Contestant:
    """``log`` is called after every step; ``settle`` waits until everything that it set off is
    done."""

    log: Callable[[int, Any], None] = lambda step, loss: None
    settle: Callable[[], None] = lambda: None
    close: Callable[[], Any] = lambda: None


def nothing(model: Any, steps: int, every: int, directory: Path) -> Contestant:
    return Contestant()


def tracker_viz(model: Any, steps: int, every: int, directory: Path) -> Contestant:
    import tracker_viz

    watcher = tracker_viz.watch(
        model,
        probe=make_probe(VOCAB, LENGTH, text_ids=range(LENGTH)),
        run="local",
        tracker_options={"local": {"directory": str(directory / "run")}},
        schedule=Schedule.every(every, steps),
        spool=directory / "spool",
    )
    return Contestant(
        lambda step, loss: watcher.step(step, loss=loss),
        watcher.outbox.flush,
        lambda: watcher.close(progress=False),
    )


def wandb_watch(model: Any, steps: int, every: int, directory: Path) -> Contestant:
    import wandb

    os.environ["WANDB_MODE"] = "offline"
    run = wandb.init(
        project="benchmark", dir=str(directory), settings=wandb.Settings(silent=True, console="off")
    )
    run.watch(model, log="all", log_freq=every)

    def log(step: int, loss: Any) -> None:
        run.log({"loss": loss.item()} if step % every == 0 else {})

    return Contestant(log, close=run.finish)


def output_attentions(model: Any, steps: int, every: int, directory: Path) -> Contestant:
    """The usual script: now and then an eager forward pass on the probe, and everything into a
    file."""
    probe = make_probe(VOCAB, LENGTH, text_ids=range(LENGTH)).input_ids

    def save(step: int, loss: Any) -> None:
        if step % every:
            return
        model.eval()
        model.set_attn_implementation("eager")
        with torch.no_grad():
            attentions = model(input_ids=probe, output_attentions=True).attentions
        torch.save(
            {"attentions": attentions, "weights": model.state_dict(), "loss": loss.item()},
            directory / f"{step}.pt",
        )
        model.set_attn_implementation("sdpa")
        model.train()

    return Contestant(save)


CONTESTANTS = {
    "plain training": nothing,
    "tracker_viz": tracker_viz,
    'wandb.watch(log="all"), offline': wandb_watch,
    "output_attentions + torch.save": output_attentions,
}


@dataclass(slots=True)
class Training:
    """Processor seconds that one training took: of the loop in all, and step by step of its own
    thread and of everything."""

    processor_s: float = 0.0
    mbytes: float = 0.0
    losses: list[float] = field(default_factory=list)
    step_thread_s: list[float] = field(default_factory=list)
    step_processor_s: list[float] = field(default_factory=list)

    def price(self, of: list[float], every: int) -> float:
        """Median over the records of what a step with one took beyond the steps around it
        without."""
        beyond = []
        for last in range(every - 1, len(of), every):
            beyond.append(of[last] - statistics.median(of[last - every + 1 : last]))
        return statistics.median(beyond)


def train(make: Any, steps: int, every: int, *, waiting: bool) -> Training:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        model = llama()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        contestant = make(model, steps, every, directory)
        children = dict.fromkeys(psutil.Process().children(recursive=True), 0.0)
        batches = torch.randint(
            VOCAB, (steps + 1, BATCH, LENGTH), generator=torch.Generator().manual_seed(1)
        )
        made = Training()
        began = processor_s(children)
        for step in range(1, steps + 1):
            started_thread, started = time.thread_time(), processor_s(children)
            loss = model(input_ids=batches[step], labels=batches[step]).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            contestant.log(step, loss)
            made.step_thread_s.append(time.thread_time() - started_thread)
            if waiting:
                contestant.settle()
            made.step_processor_s.append(processor_s(children) - started)
            made.losses.append(loss.item())
        contestant.settle()
        made.processor_s = processor_s(children) - began
        contestant.close()
        files = [
            path for path in directory.rglob("*") if path.is_file() and "spool" not in path.parts
        ]
        made.mbytes = sum(path.stat().st_size for path in files) / (steps // every) / 1e6
        return made


def processor_s(children: dict[psutil.Process, float]) -> float:
    """Return the processor time of all threads and child processes (W&B's service is one); one that
    has ended (its monitor) counts as it was last seen."""
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            taken = child.cpu_times()
            children[child] = taken.user + taken.system
    return time.process_time() + sum(children.values())


def compare(rounds: int, steps: int, every: int) -> dict[str, Any]:
    """Print the table, and return its figures: contestant -> what a record takes."""
    freely: dict[str, list[Training]] = {name: [] for name in CONTESTANTS}
    waiting: dict[str, list[Training]] = {name: [] for name in CONTESTANTS}
    names = list(CONTESTANTS)
    for name in names:  # first times import, allocate and start services
        train(CONTESTANTS[name], every, every, waiting=True)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            freely[name].append(train(CONTESTANTS[name], steps, every, waiting=False))
            waiting[name].append(train(CONTESTANTS[name], steps, every, waiting=True))
    plain = freely["plain training"]
    step_s = statistics.median(second for training in plain for second in training.step_processor_s)
    print("## Compared with other ways\n")
    print(
        f"A Llama of 4 blocks, width 256, with {BATCH} x {LENGTH} tokens and {1000 * step_s:.0f} "
        "ms of processor time per step, on a CPU with"
    )
    print(
        f"{torch.get_num_threads()} thread(s). `python benchmarks/capture.py` runs {rounds} rounds "
        f"of {steps} steps, with a record every {every} steps.\n"
    )
    print(
        "| | training thread, ms per record | everything, ms per record | share of a step | "
        f"share of training, {DEFAULT_CAPTURES} records in {DEFAULT_STEPS:,} steps | "
        f"a record every {every} steps, ratio to plain (range) | MB per record | losses |"
    )
    print("|---|---|---|---|---|---|---|---|")
    found = {}
    for name in names:
        thread_s, everything_s = (
            statistics.median(
                training.price(getattr(training, of), every) for training in waiting[name]
            )
            for of in ("step_thread_s", "step_processor_s")
        )
        ratios = [
            mine.processor_s / base.processor_s
            for mine, base in zip(freely[name], plain, strict=True)
        ]
        cells = [
            name,
            f"{1000 * thread_s:.1f}",
            f"{1000 * everything_s:.1f}",
            f"{everything_s / step_s:.2f}",
            f"{100 * everything_s / step_s * DEFAULT_CAPTURES / DEFAULT_STEPS:.2f} %",
            f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})",
            f"{statistics.median(training.mbytes for training in freely[name]):.1f}",
            "same"
            if all(training.losses == plain[0].losses for training in freely[name])
            else "CHANGED",
        ]
        print("| " + " | ".join(cells) + " |")
        found[name] = {
            "of_default_training": everything_s / step_s * DEFAULT_CAPTURES / DEFAULT_STEPS,
            "thread_ms": 1000 * thread_s,
            "everything_ms": 1000 * everything_s,
        }
    print(
        "\nAll figures are processor time. On a GPU, training waits for the training thread only. "
        "*Everything* counts all threads and child"
    )
    print(
        "processes until the end (W&B's service is one). `wandb.watch` works in hooks of the "
        "forward and backward pass. The ratio includes"
    )
    print(
        "what is recorded before the first step, and contention between threads that share a "
        "core. No due step was skipped here; by"
    )
    print(
        "default they are skipped before captures take more than 2 % of the training time "
        "(`max_overhead`).\n"
    )
    return found


def off_due_steps() -> dict[str, float]:
    """Measure ``Recorder.step`` where no capture is due, beside a function that does nothing with
    the same arguments; return the nanoseconds of both."""

    def nothing(step: int, tokens_seen: int | None = None, **metrics: Any) -> None:
        pass

    model = llama(hidden_size=32, intermediate_size=32, num_attention_heads=4, num_hidden_layers=1)
    recorder = record(
        model, make_probe(VOCAB, 8, period=4), Schedule.every(1 << 40), lambda capture: None
    )
    loss, n_calls = torch.zeros(()), 200_000
    recorder.step(1, loss=loss)
    taken: dict[str, list[float]] = {"step": [], "nothing": []}
    for turn in range(5):
        for name, call in (("step", recorder.step), ("nothing", nothing)):
            started = time.thread_time()
            for step in range(turn * n_calls + 2, (turn + 1) * n_calls + 2):
                call(step, loss=loss)
            taken[name].append((time.thread_time() - started) / n_calls)
    own, call = (1e9 * min(of) for of in taken.values())
    print("## Off capture steps\n")
    print(
        f"`recorder.step(step, loss=loss)` takes {own:.0f} ns if no capture is due; a function "
        f"that does nothing takes {call:.0f} ns."
    )
    print(
        "It compares three integers and keeps a reference to the loss: nothing is read from the "
        "device.\n"
    )
    return {"step_ns": own, "nothing_ns": call}


# name -> (blocks, heads, key/value heads, d_model, d_mlp, matrices of the feed-forward part,
# parameters without embeddings)
SIZES = {
    "125M (GPT-2)": (12, 12, 12, 768, 3072, 2, 85e6),
    "1B (Llama 3.2)": (16, 32, 8, 2048, 8192, 3, 973e6),
    "7B (Llama 2)": (32, 32, 32, 4096, 11008, 3, 6.48e9),
    "70B (Llama 2)": (80, 64, 8, 8192, 28672, 3, 68.5e9),
}
PROBE_ROWS, PROBE_LENGTH = 2, 128
HIDDEN_ROWS = 2 * DEFAULT_SCORE_ROWS
# One H100: weights are read once at 3.35 TB/s (a pass over 256 tokens is bound by memory), 2 FLOP a
# parameter and token at 400 TFLOP/s at best, and what was captured goes to the CPU at 20 GB/s
# (page-locked memory).
READ_BYTES_S, FLOP_S, COPY_BYTES_S = 3.35e12, 4e14, 2e10
# What does not fit one GPU is sharded over as many as hold it, and gathered in bfloat16 for the
# pass; after that only what is kept of the weights goes over the wire, and for norms a vector a
# step, whose time is that of the collective itself.
GATHER_BYTES_S, FITS_BYTES, COLLECTIVE_S = 3e11, 80e9, 2e-5


def shapes_of(size: str) -> list[tuple[int, int]]:
    blocks, heads, kv_heads, width, inner, n_mlp, _ = SIZES[size]
    kv = width // heads * kv_heads
    mlp = [(inner, width)] * (n_mlp - 1) + [(width, inner)]
    return [(width, width), (kv, width), (kv, width), (width, width), *mlp] * blocks


def computed(size: str, max_mb: float, host_s: float) -> tuple[int, float, float, float]:
    """(hidden rows, megabytes off the device, megabytes stored, milliseconds on one H100), from
    shapes alone."""
    blocks, heads, *_, parameters = SIZES[size]
    shapes = shapes_of(size)
    side = weight_side(shapes, max_mb * 1e6)
    arrays: dict[str, Any] = {}
    axes: dict[str, tuple[str, ...]] = {}
    for block in range(blocks):
        # One number seen from everywhere: an array of any shape without its memory.
        arrays[f"blocks.{block}.attn.pattern"] = np.broadcast_to(
            np.float16(0.5), (PROBE_ROWS, heads, PROBE_LENGTH, PROBE_LENGTH)
        )
        axes[f"blocks.{block}.attn.pattern"] = ("probe", "head", "query", "key")
    for index, (out, into) in enumerate(shapes):
        arrays[f"blocks.{index * blocks // len(shapes)}.w.m{index}"] = np.broadcast_to(
            np.float32(0.5), (min(out, side), min(into, side))
        )
        axes[f"blocks.{index * blocks // len(shapes)}.w.m{index}"] = ("out", "in")
    entries_a_row = blocks * heads * PROBE_LENGTH**2
    hidden = min(HIDDEN_ROWS, max(0, MAX_SCORED_ENTRIES // entries_a_row - PROBE_ROWS))
    moved = sum(array.size * array.itemsize for array in arrays.values())
    moved += hidden * entries_a_row * np.dtype(np.float16).itemsize
    stored = sum(
        array.nbytes
        for array in fit(Capture(step=0, arrays=arrays, axes=axes), max_mb).arrays.values()
    )
    tokens = (PROBE_ROWS + hidden) * PROBE_LENGTH
    device_s = max(2 * parameters / READ_BYTES_S, 2 * parameters * tokens / FLOP_S)
    n_devices = math.ceil(2 * parameters / FITS_BYTES)
    # Norms of the matrices of which a sample is kept read them twice a step, but for the last; each
    # device its own rows of them.
    reduced = [shape for shape in shapes if max(shape) > side]
    device_s += (
        (2 * STEPS - 1) * 2 * sum(out * into for out, into in reduced) / READ_BYTES_S / n_devices
    )
    # The host runs ahead of the device or behind it: the slower of the two counts.
    pass_s = max(device_s, blocks * host_s + len(reduced) * host_seconds_a_norm())
    wire_s = (
        2 * parameters / GATHER_BYTES_S + len(reduced) * STEPS * COLLECTIVE_S
        if n_devices > 1
        else 0.0
    )
    taken_ms = 1000 * (pass_s + wire_s + moved / COPY_BYTES_S)
    return hidden, moved / 1e6, stored / 1e6, taken_ms


def host_seconds_a_block() -> float:
    """Measure the time of a capture per block on the training thread besides arithmetic: Python and
    the launching of operations.

    Taken from a Llama so narrow that nothing else is left, 2 and 18 blocks deep; least of seven.
    """
    least = []
    for blocks in (2, 18):
        model = llama(
            hidden_size=32, intermediate_size=32, num_attention_heads=4, num_hidden_layers=blocks
        )
        recorder = record(
            model,
            make_probe(VOCAB, 8, period=4),
            Schedule.every(1),
            lambda capture: None,
        )
        taken = []
        for step in range(1, 8):
            started = time.thread_time()
            recorder.step(step)
            taken.append(time.thread_time() - started)
        least.append(min(taken))
    return (least[1] - least[0]) / 16


@cache
def host_seconds_a_norm() -> float:
    """Measure the time of one matrix's norms on the training thread besides arithmetic: those of a
    tiny matrix, least of fifty."""
    stored, projection = {"w": torch.randn(8, 8)}, Projection(0, "mlp.w_in", ("w",), (8, 8))
    taken = []
    for _ in range(50):
        started = time.thread_time()
        krylov(stored, projection)
        taken.append(time.thread_time() - started)
    return min(taken)


def measured(size: str, max_mb: float) -> dict[str, float]:
    """Milliseconds of processor time that one capture, and one plain forward pass over the same
    tokens, take here; median of five."""
    from transformers import GPT2Config, GPT2LMHeadModel

    blocks, heads, _, width, *_ = SIZES[size]
    model = GPT2LMHeadModel(GPT2Config(n_layer=blocks, n_head=heads, n_embd=width))
    text = range((1 + DEFAULT_SCORE_ROWS) * PROBE_LENGTH)
    probe = make_probe(50257, PROBE_LENGTH, text_ids=text)
    recorder = record(model, probe, Schedule.every(1), lambda capture: None, max_mb=max_mb)

    def forward(step: int) -> None:
        with torch.no_grad():
            model(input_ids=probe.input_ids)

    taken: dict[str, list[float]] = {"capture": [], "pass": []}
    for step in range(1, 6):
        for name, work in (("capture", recorder.step), ("pass", forward)):
            started = time.process_time()
            work(step)
            taken[name].append(1000 * (time.process_time() - started))
    return {name: statistics.median(of) for name, of in taken.items()}


def sizes(max_mb: float) -> None:
    first = next(iter(SIZES))
    host_s = host_seconds_a_block()
    taken = measured(first, max_mb)
    print("# What one capture costs\n")
    print(
        f"The probe has {PROBE_ROWS} rows of {PROBE_LENGTH} tokens and {HIDDEN_ROWS} hidden rows "
        f"(`score_rows={DEFAULT_SCORE_ROWS}`, fewer in large models), with `max_mb={max_mb:g}`."
    )
    print(
        "`python benchmarks/capture.py --sizes` makes this page. For other numbers of hidden rows, "
        "see [benchmarks/score_rows.md](../../benchmarks/score_rows.md).\n"
    )
    print(
        f"Megabytes follow exactly from the shapes. **Measured:** {first}, float32, on a CPU with "
        f"{torch.get_num_threads()} thread(s):"
    )
    print(
        f"{taken['capture']:.0f} ms of processor time for the capture; a plain forward pass over "
        "the same tokens, which unlike a"
    )
    print(f"capture computes logits, takes {taken['pass']:.0f} ms.\n")
    print(
        "**Computed**, not measured, for H100s in bfloat16: weights are read at 3.35 TB/s, compute "
        "runs at 400 TFLOP/s at most, and captured"
    )
    print(
        "arrays go to the CPU at 20 GB/s. The 70B model is sharded with FSDP2 over two GPUs; "
        "gathering its weights at 300 GB/s takes most of"
    )
    print(
        "its time. Norms of matrices that are not stored whole are computed on the device, in "
        f"{2 * STEPS - 1} reads."
    )
    print(
        f"The host needs {1000 * host_s:.1f} ms per block and {1000 * host_seconds_a_norm():.2f} "
        "ms per matrix for the norms (measured here).\n"
    )
    print("| model | hidden rows | MB off the device | MB stored | ms, computed |")
    print("|---|---|---|---|---|")
    for size in SIZES:
        hidden, moved, stored, estimate_ms = computed(size, max_mb, host_s)
        print(f"| {size} | {hidden} | {moved:.0f} | {stored:.1f} | {estimate_ms:.0f} |")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", action="store_true")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--max-mb", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--every", type=int, default=10)
    options = parser.parse_args()
    if options.sizes or options.all:
        sizes(options.max_mb)
    if not options.sizes:
        found = compare(options.rounds, options.steps, options.every)
        found["off capture steps"] = off_due_steps()
        Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
