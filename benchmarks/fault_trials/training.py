"""A training of a second, and what it leaves: the program that trials kill, starve and cut off."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import tracker_viz as tv
from fault_trials.stores import Store
from tracker_viz import capture_file
from tracker_viz.demo.model import Decoder, ModelConfig
from tracker_viz.trackers import LocalRun, connect
from tracker_viz.types import CaptureRef, RunRef

VOCAB_SIZE, LENGTH, BATCH_SIZE = 24, 16, 8
N_STEPS, EVERY = 20, 2
N_CAPTURES = N_STEPS // EVERY + 1


class Notes:
    """What a training notes of itself, one system call a line, so that a kill takes none of it.

    ``stage <name>`` where it is; ``capture <step> <sha256>`` of one that is on the disk; ``stall
    <seconds>`` of a capture handed over; ``memory <MB>``.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def add(self, *words: object) -> None:
        os.write(self._file, (" ".join(map(str, words)) + "\n").encode())


@dataclass(frozen=True, slots=True)
class Noted:
    """The same, read back."""

    stage: str
    captures: dict[int, str]
    given_up: set[int]
    longest_stall_s: float

    @classmethod
    def read(cls, path: Path) -> Noted:
        stage, captures, given_up, stall_s = "nothing", {}, set(), 0.0
        for line in path.read_text().splitlines() if path.exists() else []:
            match line.split():
                case ["stage", name]:
                    stage = name
                case ["capture", step, sha256]:
                    captures[int(step)] = sha256
                case ["given-up", step]:
                    given_up.add(int(step))
                case ["stall", seconds]:
                    stall_s = max(stall_s, float(seconds))
        return cls(stage, captures, given_up, stall_s)


def train(
    store: Store,
    trial: str,
    directory: Path,
    *,
    uri: str | None = None,
    close_s: float = 60.0,
    step_s: float = 0.0,
    **options: Any,
) -> None:
    """Train a model of some thousand weights into one run.

    Args:
        directory: gets the spool, and ``noted``.
        uri: where the service is reached.
        close_s: patience at the end.
        step_s: what a step takes besides.
        options: further ones of ``tv.watch``.
    """
    notes = Notes(directory / "noted")
    notes.add("stage", "start")
    model, generator = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    watcher = tv.watch(
        model,
        probe=tv.make_probe(VOCAB_SIZE, LENGTH, bos_id=0),
        run=[store.scheme],
        every=EVERY,
        total_steps=N_STEPS,
        score_rows=0,
        spool=directory / "spool",
        name="faults",
        config={"lr": 1e-2},
        tracker_options={store.scheme: store.options(trial, uri)},
        **options,
    )
    recorder = watcher.recorder
    assert recorder is not None
    recorder._sink = timed(recorder._sink, notes)
    for step in range(N_STEPS):
        notes.add("stage", "train")
        loss = step_once(model, optimizer, generator)
        time.sleep(step_s)
        if watcher.is_due(step):
            notes.add("stage", "capture")
        watcher.step(step, loss=loss)
        if watcher.is_due(step):
            note_written(watcher, notes)
    notes.add("stage", "end")
    report = watcher.close(timeout_s=close_s, progress=False)
    note_written(watcher, notes)
    for step in report.lost:
        notes.add("given-up", step)
    notes.add("stage", "ended")


def timed(sink: Callable[[Any], None], notes: Notes) -> Callable[[Any], None]:
    def submit(capture: Any) -> None:
        began = time.perf_counter()
        sink(capture)
        notes.add("stall", time.perf_counter() - began)

    return submit


def note_written(watcher: Any, notes: Notes) -> None:
    watcher.flush(timeout_s=0.5)
    for step, ref in watcher.outbox.written.items():
        notes.add("capture", step, ref.sha256)


def make_model() -> tuple[Decoder, torch.Generator]:
    torch.manual_seed(0)
    shape = {"n_blocks": 1, "n_heads": 2, "d_model": 16, "d_ffn": 16}
    model = Decoder(ModelConfig(context_length=LENGTH, vocab_size=VOCAB_SIZE, **shape))
    return model, torch.Generator().manual_seed(0)


def step_once(
    model: Decoder, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> float:
    ids = torch.randint(VOCAB_SIZE, (BATCH_SIZE, LENGTH), generator=generator)
    loss = nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def found(store: Store, trial: str, directory: Path, ref: RunRef | None) -> dict[str, int]:
    """Compare the run with what the training noted, and return what is wrong with it."""
    noted = Noted.read(directory / "noted")
    waiting = {each.step for each in LocalRun(directory / "spool").list_captures()}
    if ref is None:
        # The kill came before the spool had its destination, or no tracker has answered yet.
        lost = noted.captures.keys() - waiting
        return {"captures": len(noted.captures), "lost": len(lost)}
    run = connect(store.scheme, **store.options(trial)).open_run(ref)
    refs = {each.step: each for each in run.list_captures()}
    charted = store.charted(ref)
    return {
        "captures": len(noted.captures),
        "lost": len(noted.captures.keys() - refs.keys() - waiting),
        "doubled": store.extra(ref) + store.n_runs(trial) - 1,
        "changed": n_changed(run, refs, noted.captures, directory),
        "points lost": len(noted.captures.keys() - set(charted) - waiting),
        "points doubled": len(charted) - len(set(charted)),
        "half files": store.torn(trial) + len(list(directory.rglob("*.partial"))),
        "left in the spool": len(waiting),
    }


def n_changed(run: Any, refs: dict[int, CaptureRef], noted: dict[int, str], directory: Path) -> int:
    """Return how many captures of a run are not what was noted, or cannot be read."""
    changed = 0
    for step, ref in refs.items():
        file = run.fetch(ref, directory / "pulled")
        capture_file.read(file)
        changed += noted.get(step, ref.sha256) != ref.sha256
    return changed
