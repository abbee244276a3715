"""What capturing costs the training loop, beside what else people do: wandb.watch(log="all"), and output_attentions with torch.save.

    python benchmarks/capture.py            paired trainings of a small Llama; prints a table
    python benchmarks/capture.py --sizes    megabytes and milliseconds of one capture for 125M, 1B, 7B and 70B (Markdown)

Every round trains once with each of them, in turn, from the same seed; a figure is the median over rounds of the ratio to the plain
training of the same round. ``--clock cpu`` counts processor seconds of all threads instead of wall time, for a machine that is shared.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tracker_viz.capture import Recorder, Schedule, fit, make_probe
from tracker_viz.capture.budget import weight_side
from tracker_viz.types import Capture

Clock = Callable[[], float]
# name -> (of the whole training, of one call within it): processor seconds of all threads, and of the training's own
CLOCKS: dict[str, tuple[Clock, Clock]] = {"wall": (time.perf_counter, time.perf_counter), "cpu": (time.process_time, time.thread_time)}
VOCAB, BATCH, LENGTH = 4096, 16, 64


def llama(implementation: str = "sdpa") -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 704}
    config = LlamaConfig(vocab_size=VOCAB, max_position_embeddings=LENGTH, attn_implementation=implementation, **shape)
    return LlamaForCausalLM(config)


def nothing(model: Any, steps: int, every: int, directory: Path) -> tuple[Callable[[int, Any], None], Callable[[], None]]:
    return (lambda step, loss: None), (lambda: None)


def tracker_viz(model: Any, steps: int, every: int, directory: Path) -> tuple[Callable[[int, Any], None], Callable[[], None]]:
    import tracker_viz

    probe = make_probe(VOCAB, LENGTH, text_ids=range(LENGTH))
    watcher = tracker_viz.watch(
        model,
        probe=probe,
        run="local",
        tracker_options={"local": {"directory": str(directory / "run")}},
        schedule=Schedule.every(every, steps),
        spool=directory / "spool",
        max_overhead=math.inf,
    )
    return (lambda step, loss: watcher.step(step, loss=loss)), (lambda: watcher.close(progress=False))


def wandb_watch(model: Any, steps: int, every: int, directory: Path) -> tuple[Callable[[int, Any], None], Callable[[], None]]:
    import wandb

    os.environ["WANDB_MODE"] = "offline"
    run = wandb.init(project="benchmark", dir=str(directory), settings=wandb.Settings(silent=True, console="off"))
    run.watch(model, log="all", log_freq=every)

    def log(step: int, loss: Any) -> None:
        run.log({"loss": loss.item()} if step % every == 0 else {})

    return log, run.finish


def output_attentions(model: Any, steps: int, every: int, directory: Path) -> tuple[Callable[[int, Any], None], Callable[[], None]]:
    """The usual script: now and then an eager forward pass on the probe, and everything into a file."""
    probe = make_probe(VOCAB, LENGTH, text_ids=range(LENGTH)).input_ids

    def save(step: int, loss: Any) -> None:
        if step % every:
            return
        model.eval()
        model.set_attn_implementation("eager")
        with torch.no_grad():
            attentions = model(input_ids=probe, output_attentions=True).attentions
        torch.save({"attentions": attentions, "weights": model.state_dict(), "loss": loss.item()}, directory / f"{step}.pt")
        model.set_attn_implementation("sdpa")
        model.train()

    return save, (lambda: None)


CONTESTANTS = {
    "plain training": nothing,
    "tracker_viz": tracker_viz,
    'wandb.watch(log="all"), offline': wandb_watch,
    "output_attentions + torch.save": output_attentions,
}


def train(contestant: Any, steps: int, every: int, clocks: tuple[Clock, Clock]) -> tuple[float, float, list[float], int]:
    """(seconds of the training loop, seconds inside the contestant's call, losses, bytes written)."""
    clock, call_clock = clocks
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        model = llama()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        log, close = contestant(model, steps, every, directory)
        losses, inside_s = [], 0.0
        batches = torch.randint(VOCAB, (steps + 1, BATCH, LENGTH), generator=torch.Generator().manual_seed(1))
        started = clock()
        for step in range(1, steps + 1):
            loss = model(input_ids=batches[step], labels=batches[step]).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            entered = call_clock()
            log(step, loss)
            inside_s += call_clock() - entered
            losses.append(loss.item())
        total_s = clock() - started
        close()
        written = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file() and "spool" not in path.parts)
        return total_s, inside_s, losses, written


def compare(rounds: int, steps: int, every: int, clocks: tuple[Clock, Clock]) -> None:
    names = list(CONTESTANTS)
    results: dict[str, list[tuple[float, float, list[float], int]]] = {name: [] for name in names}
    train(nothing, 3, every, clocks)  # warm-up
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            results[name].append(train(CONTESTANTS[name], steps, every, clocks))
    records = steps // every
    plain = results["plain training"]
    step_ms = 1000 * statistics.median(total for total, *_ in plain) / steps
    print(f"{steps} steps of {step_ms:.0f} ms, a record every {every} steps, {rounds} rounds, {torch.get_num_threads()} threads\n")
    print("| | training loop, ratio to plain (range) | in its call, % of training | ms a record | of a step | MB a record | losses |")
    print("|---|---|---|---|---|---|---|")
    for name in names:
        ratios = [mine[0] / base[0] for mine, base in zip(results[name], plain, strict=True)]
        inside_s = statistics.median(inside for _, inside, *_ in results[name])
        plain_s = statistics.median(total for total, *_ in plain)
        same = all(mine[2] == plain[0][2] for mine in results[name])
        written = 0 if name == "plain training" else statistics.median(mine[3] for mine in results[name]) / records / 1e6
        spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        record_ms = 1000 * inside_s / records
        cells = [name, spread, f"{100 * inside_s / plain_s:.2f}", f"{record_ms:.1f}", f"{record_ms / step_ms:.2f}", f"{written:.1f}"]
        print("| " + " | ".join([*cells, "same" if same else "CHANGED"]) + " |")


# name -> (blocks, heads, key/value heads, d_model, d_mlp, matrices of the feed-forward part, parameters without embeddings)
SIZES = {
    "125M (GPT-2)": (12, 12, 12, 768, 3072, 2, 85e6),
    "1B (Llama 3.2)": (16, 32, 8, 2048, 8192, 3, 973e6),
    "7B (Llama 2)": (32, 32, 32, 4096, 11008, 3, 6.48e9),
    "70B (Llama 2)": (80, 64, 8, 8192, 28672, 3, 68.5e9),
}
PROBE_ROWS, PROBE_LENGTH = 2, 128
# One H100: weights are read once at 3.35 TB/s (a pass over 256 tokens is bound by memory), 2 FLOP a parameter and token at 400 TFLOP/s
# at best, and what was captured goes to the CPU at 5 GB/s (pageable memory).
READ_BYTES_S, FLOP_S, COPY_BYTES_S = 3.35e12, 4e14, 5e9
# What does not fit one GPU is sharded, and gathered twice in bfloat16: for the pass, and matrix by matrix for its weights.
GATHER_BYTES_S, FITS_BYTES = 3e11, 80e9


def shapes_of(size: str) -> list[tuple[int, int]]:
    blocks, heads, kv_heads, width, inner, n_mlp, _ = SIZES[size]
    kv = width // heads * kv_heads
    mlp = [(inner, width)] * (n_mlp - 1) + [(width, inner)]
    return [(width, width), (kv, width), (kv, width), (width, width), *mlp] * blocks


def computed(size: str, max_mb: float) -> tuple[float, float, float]:
    """(megabytes off the device, megabytes stored, milliseconds on one H100), from shapes alone."""
    blocks, heads, *_, parameters = SIZES[size]
    shapes = shapes_of(size)
    side = weight_side(shapes, max_mb * 1e6)
    arrays: dict[str, Any] = {}
    axes: dict[str, tuple[str, ...]] = {}
    for block in range(blocks):
        # One number seen from everywhere: an array of any shape without its memory.
        arrays[f"blocks.{block}.attn.pattern"] = np.broadcast_to(np.float16(0.5), (PROBE_ROWS, heads, PROBE_LENGTH, PROBE_LENGTH))
        axes[f"blocks.{block}.attn.pattern"] = ("probe", "head", "query", "key")
    for index, (out, into) in enumerate(shapes):
        arrays[f"blocks.{index * blocks // len(shapes)}.w.m{index}"] = np.broadcast_to(np.float32(0.5), (min(out, side), min(into, side)))
        axes[f"blocks.{index * blocks // len(shapes)}.w.m{index}"] = ("out", "in")
    moved = sum(array.size * array.itemsize for array in arrays.values())
    stored = sum(array.nbytes for array in fit(Capture(step=0, arrays=arrays, axes=axes), max_mb).arrays.values())
    tokens = PROBE_ROWS * PROBE_LENGTH
    pass_s = max(2 * parameters / READ_BYTES_S, 2 * parameters * tokens / FLOP_S)
    gather_s = 4 * parameters / GATHER_BYTES_S if 2 * parameters > FITS_BYTES else 0.0
    return moved / 1e6, stored / 1e6, 1000 * (pass_s + gather_s + moved / COPY_BYTES_S)


def measured(size: str, max_mb: float, clock: Clock) -> tuple[float, float]:
    """(milliseconds of one capture, of one plain forward pass over the same tokens) on this machine's CPU, median of five."""
    from transformers import GPT2Config, GPT2LMHeadModel

    blocks, heads, _, width, *_ = SIZES[size]
    model = GPT2LMHeadModel(GPT2Config(n_layer=blocks, n_head=heads, n_embd=width))
    probe = make_probe(50257, PROBE_LENGTH, text_ids=range(PROBE_LENGTH))
    recorder = Recorder(model, probe, Schedule.every(1), lambda capture: None, max_overhead=math.inf, max_mb=max_mb)
    captures, passes = [], []
    for step in range(1, 6):
        started = clock()
        recorder.step(step)
        captures.append(clock() - started)
        started = clock()
        with torch.no_grad():
            model(input_ids=probe.input_ids)
        passes.append(clock() - started)
    return 1000 * statistics.median(captures), 1000 * statistics.median(passes)


def sizes(max_mb: float, clock_name: str) -> None:
    first = next(iter(SIZES))
    capture_ms, pass_ms = measured(first, max_mb, CLOCKS[clock_name][0])
    print("# What one capture costs\n")
    print(f"A probe of {PROBE_ROWS} rows of {PROBE_LENGTH} tokens, `max_mb={max_mb:g}`, made by `python benchmarks/capture.py --sizes`.\n")
    print(f"Measured: {first} on {torch.get_num_threads()} CPU thread(s), float32, {clock_name} time: {capture_ms:.0f} ms for the capture;")
    tokens = PROBE_ROWS * PROBE_LENGTH
    print(f"a plain forward pass over the same {tokens} tokens takes {pass_ms:.0f} ms (it computes logits, a capture does not).\n")
    print("Computed from shapes (megabytes exactly; milliseconds as an estimate for one H100 in bfloat16, not measured: weights read at")
    print("3.35 TB/s, at most 400 TFLOP/s, copy to the CPU at 5 GB/s; 70B sharded over several with FSDP2, its weights gathered twice at")
    print("300 GB/s, which is most of its time):\n")
    print("| model | MB off the device | MB stored | ms, computed |")
    print("|---|---|---|---|")
    for size in SIZES:
        moved, stored, estimate_ms = computed(size, max_mb)
        print(f"| {size} | {moved:.0f} | {stored:.1f} | {estimate_ms:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", action="store_true")
    parser.add_argument("--max-mb", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    if options.sizes:
        sizes(options.max_mb, options.clock)
    else:
        compare(options.rounds, options.steps, options.every, CLOCKS[options.clock])


if __name__ == "__main__":
    main()
