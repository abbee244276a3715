"""Measure what a training pays for the previews that are drawn beside it: the same training on two
threads with and without ``preview=``, in pairs, by turns.

    python benchmarks/preview.py [--pairs 6] [--steps 400]

Writes preview.json and preview.md beside this file. Trainings are processes of their own; the
demo's model and data, a capture every ten steps, a version as soon as the one before is there: far
more than a training of hours asks for. Processor time is counted beside time by the clock, because
the machine may have other work.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import tracker_viz as tv
from tracker_viz.demo.data import BOS, SPAN_TOKENS, VOCAB_SIZE, DataConfig, Mixture
from tracker_viz.demo.model import Decoder, ModelConfig

HERE = Path(__file__).resolve().parent
THREADS, EVERY, BATCH_SIZE = 2, 10, 16
PREVIEW = "0s"


def train(spool: Path, n_steps: int, preview: str | None) -> dict[str, Any]:
    """Train, and return what it took; the first step and the last one end the measure."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    model = Decoder(ModelConfig(vocab_size=VOCAB_SIZE))
    length = model.config.context_length
    batches = Mixture(DataConfig(), context_length=length, batch_size=BATCH_SIZE, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    with tv.watch(
        model,
        probe=tv.make_probe(VOCAB_SIZE, length, bos_id=BOS, token_range=SPAN_TOKENS),
        run="local",
        every=EVERY,
        total_steps=n_steps,
        spool=spool,
        preview=preview,
    ) as watcher:
        began, used = time.perf_counter(), time.process_time()
        for step in range(n_steps):
            ids, targets = batches.batch()
            logits = model(ids)
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            watcher.step(step, loss=loss)
        took_s, used_s = time.perf_counter() - began, time.process_time() - used
        n_versions = watcher._preview.n_put if watcher._preview else 0
    # The one process that this one had is that of the previews, killed by now.
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "losses": hashlib.sha256(json.dumps(losses).encode()).hexdigest(),
        "steps_per_s": n_steps / took_s,
        "steps_per_processor_s": n_steps / used_s,
        "processor_s": used_s,
        "preview_processor_s": children.ru_utime + children.ru_stime,
        "versions": n_versions,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--train", choices=["with", "without"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="preview-") as directory:
        if options.train:
            preview = PREVIEW if options.train == "with" else None
            print(json.dumps(train(Path(directory) / "spool", options.steps, preview)))
            return
        os.environ["TRACKER_VIZ_CACHE"] = f"{directory}/cache"
        pairs = [measured(number, options.steps, directory) for number in range(options.pairs)]
    found = {"steps": options.steps, "pairs": pairs} | summary(pairs)
    (HERE / "preview.json").write_text(json.dumps(found, indent=1) + "\n")
    (HERE / "preview.md").write_text(table(found))
    print(table(found))


def measured(number: int, n_steps: int, directory: str) -> dict[str, dict[str, Any]]:
    """Train once each way; which one is first changes from pair to pair."""
    ways = ["with", "without"] if number % 2 else ["without", "with"]
    pair = {}
    for way in ways:
        command = [sys.executable, __file__, "--train", way, "--steps", str(n_steps)]
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True)
        pair[way] = json.loads(done.stdout.splitlines()[-1])
    print(pair, flush=True)
    return pair


def summary(pairs: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Return medians over the pairs: with previews over without, and the previews' own time."""

    def ratio(name: str) -> float:
        return statistics.median(pair["with"][name] / pair["without"][name] for pair in pairs)

    shares = [each["with"]["preview_processor_s"] / each["with"]["processor_s"] for each in pairs]
    return {
        "same_losses": len({each["losses"] for pair in pairs for each in pair.values()}) == 1,
        "speed_by_the_clock": ratio("steps_per_s"),
        "speed_by_processor_time": ratio("steps_per_processor_s"),
        "preview_share": statistics.median(shares),
        "versions": statistics.median(pair["with"]["versions"] for pair in pairs),
    }


def table(found: dict[str, Any]) -> str:
    lines = [
        "# Previews beside a training",
        "",
        f"`python benchmarks/preview.py`: {len(found['pairs'])} pairs of trainings of "
        f"{found['steps']} steps on {THREADS} threads and two cores,",
        f"with `preview={PREVIEW!r}` and without it, by turns; a capture every {EVERY} steps. "
        "Medians; with over without.",
        "",
        "| what | |",
        "|---|---:|",
        f"| losses are the same to the bit | {'yes' if found['same_losses'] else 'no'} |",
        f"| steps per second of the training's processor time | "
        f"{found['speed_by_processor_time']:.3f} |",
        f"| steps per second by the clock | {found['speed_by_the_clock']:.3f} |",
        f"| processor time of the previews, of the training's | {found['preview_share']:.1%} |",
        f"| versions that came meanwhile | {found['versions']:.0f} |",
        "",
        *([found["note"], ""] if "note" in found else []),  # added by hand
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
