"""Measure what a capture costs the training loop, compared with other ways to record a model.

    python benchmarks/capture.py            # trains a small Llama with each way
    python benchmarks/capture.py --sizes    # computes what a capture costs for 125M to 70B models
    python benchmarks/capture.py --all      # does both

The other ways are ``wandb.watch(log="all")``, and ``output_attentions`` with ``torch.save``. Every
round trains with each of them, from the same seed and in one process, twice. The first training
runs as usual and is compared with the plain training of the same round. The second waits after each
record until all of its work is done; it measures how much longer steps with a record take.

All times are processor times, because other programs on the machine disturb them less: those of the
training thread, for which training waits if a GPU does the arithmetic, and those of all threads and
child processes.

Writes capture.json beside this file, and the page docs/pages/capture_cost.md.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from capture_sizes import LENGTH, VOCAB, llama, measure_sizes, sizes_report
from measuring import (
    BENCHMARKS,
    REPOSITORY,
    options_parser,
    read_results,
    table,
    wrapped,
    write_results,
)

from tracker_viz.capture import Schedule, make_probe, record

PAGE_FILE = REPOSITORY / "docs" / "pages" / "capture_cost.md"
BATCH = 16
# The default of a hundred captures in a training run of usual length.
DEFAULT_STEPS, DEFAULT_CAPTURES = 10_000, 100
PLAIN = "plain training"
COMPARED = """
## Compared with other ways

A Llama of 4 blocks, width 256, trains with {batch} x {length} tokens and {step_ms:.0f} ms of
processor time per step, on a CPU (torch threads: {threads}). `python benchmarks/capture.py` runs
{rounds} rounds of {steps} steps, with a record every {every} steps.

{ways}

All figures are processor time. On a GPU, training waits for the training thread only. *Everything*
counts all threads and child processes until the end (W&B's service is one). `wandb.watch` works in
hooks of the forward and backward pass. The ratio includes what is recorded before the first step,
and contention between threads that share a core. No due step was skipped here. By default, due
steps are skipped before captures take more than 2 % of the training time (`max_overhead`).
"""
OFF_CAPTURE = """
## Off capture steps

`recorder.step(step, loss=loss)` takes {step_ns:.0f} ns if no capture is due. A function that does
nothing takes {nothing_ns:.0f} ns. The call compares three integers and keeps a reference to the
loss: nothing is read from the device.
"""


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--sizes", action="store_true", help="only what one capture costs")
    parser.add_argument("--all", action="store_true", help="also what one capture costs")
    parser.add_argument("--max-mb", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--every", type=int, default=10)
    options = parser.parse_args()
    found = read_results("capture", options.output)
    if options.sizes or options.all:
        found["sizes"] = measure_sizes(options.max_mb)
    if not options.sizes:
        found["compared"] = compare(options.rounds, options.steps, options.every)
        found["off capture steps"] = off_capture_steps()
    page = PAGE_FILE
    if options.output != BENCHMARKS:
        page = options.output / PAGE_FILE.name
    write_results("capture", found, report, options.output, page=page)


# -- the ways


@dataclass(frozen=True, slots=True)
class Contestant:
    """A way to record a training run.

    Attributes:
        log: called after every step.
        settle: waits until all work that ``log`` started is done.
    """

    log: Callable[[int, Any], None] = lambda step, loss: None
    settle: Callable[[], None] = lambda: None
    close: Callable[[], Any] = lambda: None


def nothing(model: Any, steps: int, every: int, directory: Path) -> Contestant:
    """Record nothing."""
    return Contestant()


def tracker_viz(model: Any, steps: int, every: int, directory: Path) -> Contestant:
    """Watch the model, into a local run."""
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
    """Let wandb record gradients and parameters, offline."""
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
    """Do as the usual script: an eager forward pass on the probe, and everything into a file."""
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


CONTESTANTS: dict[str, Callable[[Any, int, int, Path], Contestant]] = {
    PLAIN: nothing,
    "tracker_viz": tracker_viz,
    'wandb.watch(log="all"), offline': wandb_watch,
    "output_attentions + torch.save": output_attentions,
}


# -- training


@dataclass(slots=True)
class Training:
    """What one training run took, in processor seconds.

    Attributes:
        processor_s: of the loop, all threads and children included.
        mbytes: stored per record, in MB.
        step_thread_s: of each step, of the training thread.
        step_processor_s: of each step, of everything.
    """

    processor_s: float = 0.0
    mbytes: float = 0.0
    losses: list[float] = field(default_factory=list)
    step_thread_s: list[float] = field(default_factory=list)
    step_processor_s: list[float] = field(default_factory=list)


def train(
    make: Callable[[Any, int, int, Path], Contestant], steps: int, every: int, *, waiting: bool
) -> Training:
    """Train from the same seed with one of the ways.

    Args:
        waiting: after each step, wait until all work that it started is done.
    """
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
        made.mbytes = stored_mb(directory) / (steps // every)
        return made


def processor_s(children: dict[psutil.Process, float]) -> float:
    """Return the processor time of all threads and child processes.

    W&B's service is such a process. One that has ended, as its monitor does, counts as it was seen
    last.
    """
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            taken = child.cpu_times()
            children[child] = taken.user + taken.system
    return time.process_time() + sum(children.values())


def stored_mb(directory: Path) -> float:
    """Return the size of all files of a training run, without the spool, in MB."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files if "spool" not in path.parts) / 1e6


# -- comparison


def compare(rounds: int, steps: int, every: int) -> dict[str, Any]:
    """Train with each of the ways in turn, and return what a record takes."""
    freely: dict[str, list[Training]] = {name: [] for name in CONTESTANTS}
    waiting: dict[str, list[Training]] = {name: [] for name in CONTESTANTS}
    names = list(CONTESTANTS)
    for name in names:  # the first time imports, allocates and starts services
        train(CONTESTANTS[name], every, every, waiting=True)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            freely[name].append(train(CONTESTANTS[name], steps, every, waiting=False))
            waiting[name].append(train(CONTESTANTS[name], steps, every, waiting=True))
    plain = freely[PLAIN]
    step_s = statistics.median(second for training in plain for second in training.step_processor_s)
    return {
        "rounds": rounds,
        "steps": steps,
        "every": every,
        "batch": BATCH,
        "length": LENGTH,
        "threads": torch.get_num_threads(),
        "step_ms": 1000 * step_s,
        "default_steps": DEFAULT_STEPS,
        "default_captures": DEFAULT_CAPTURES,
        "ways": {
            name: cost_of(freely[name], waiting[name], plain, step_s, every) for name in names
        },
    }


def cost_of(
    freely: list[Training],
    waiting: list[Training],
    plain: list[Training],
    step_s: float,
    every: int,
) -> dict[str, Any]:
    """Return what a record takes in one of the ways, as medians over the rounds.

    Args:
        step_s: processor time of a plain step.
    """
    thread_s = statistics.median(price(each.step_thread_s, every) for each in waiting)
    everything_s = statistics.median(price(each.step_processor_s, every) for each in waiting)
    ratios = []
    for mine, base in zip(freely, plain, strict=True):
        ratios.append(mine.processor_s / base.processor_s)
    return {
        "thread_ms": 1000 * thread_s,
        "everything_ms": 1000 * everything_s,
        "of_a_step": everything_s / step_s,
        "of_default_training": everything_s / step_s * DEFAULT_CAPTURES / DEFAULT_STEPS,
        "ratio": statistics.median(ratios),
        "least_ratio": min(ratios),
        "largest_ratio": max(ratios),
        "mb": statistics.median(each.mbytes for each in freely),
        "same_losses": all(each.losses == plain[0].losses for each in freely),
    }


def price(step_s: Sequence[float], every: int) -> float:
    """Return how much longer a step with a record takes than the steps before it: the median."""
    beyond = []
    for last in range(every - 1, len(step_s), every):
        beyond.append(step_s[last] - statistics.median(step_s[last - every + 1 : last]))
    return statistics.median(beyond)


def off_capture_steps() -> dict[str, float]:
    """Return the nanoseconds of ``Recorder.step`` if no capture is due, and of an empty function
    with the same arguments."""

    def nothing(step: int, tokens_seen: int | None = None, **metrics: Any) -> None:
        pass

    model = llama(hidden_size=32, intermediate_size=32, num_attention_heads=4, num_hidden_layers=1)
    probe = make_probe(VOCAB, 8, period=4)
    recorder = record(model, probe, Schedule.every(1 << 40), lambda capture: None)
    loss, n_calls = torch.zeros(()), 200_000
    recorder.step(1, loss=loss)
    taken_ns: dict[str, list[float]] = {"step_ns": [], "nothing_ns": []}
    for turn in range(5):
        for name, call in (("step_ns", recorder.step), ("nothing_ns", nothing)):
            started = time.thread_time()
            for step in range(turn * n_calls + 2, (turn + 1) * n_calls + 2):
                call(step, loss=loss)
            taken_ns[name].append(1e9 * (time.thread_time() - started) / n_calls)
    return {name: min(each) for name, each in taken_ns.items()}


# -- page


def report(found: dict[str, Any]) -> str:
    """Return the page of the parts that were measured."""
    text = ""
    if "sizes" in found:
        text += sizes_report(found["sizes"])
    if "compared" in found:
        text += compared_report(found["compared"])
    if "off capture steps" in found:
        text += OFF_CAPTURE.format(**found["off capture steps"])
    return wrapped(text)


def compared_report(part: dict[str, Any]) -> str:
    """Return the section about other ways."""
    share = (
        f"share of training, {part['default_captures']} records in {part['default_steps']:,} steps"
    )
    rows = []
    for name, cost in part["ways"].items():
        losses = "CHANGED"
        if cost["same_losses"]:
            losses = "same"
        row = {
            "": name,
            "training thread, ms per record": f"{cost['thread_ms']:.1f}",
            "everything, ms per record": f"{cost['everything_ms']:.1f}",
            "share of a step": f"{cost['of_a_step']:.2f}",
            share: f"{100 * cost['of_default_training']:.2f} %",
            f"a record every {part['every']} steps, ratio to plain (range)": (
                f"{cost['ratio']:.3f} ({cost['least_ratio']:.3f} to {cost['largest_ratio']:.3f})"
            ),
            "MB per record": f"{cost['mb']:.1f}",
            "losses": losses,
        }
        rows.append(row)
    return COMPARED.format(**(part | {"ways": table(rows)}))


if __name__ == "__main__":
    main()
