"""Measure what a training run pays for the previews that are drawn beside it.

    python benchmarks/preview.py [--pairs 6] [--steps 400]

Trains the demo's model in pairs of processes, with and without ``preview=``; which of the two is
first changes from pair to pair. A capture is taken every ten steps, and the next version of the
film begins once the last one is done: far more than a run of hours asks for. Processor time is
measured besides the time by the clock, because the machine may have other work.

Writes preview.json and preview.md beside this file.
"""

from __future__ import annotations

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
from typing import TYPE_CHECKING, Any

from measuring import options_parser, table, wrapped, write_results

from tracker_viz.cores import usable_cores

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from tracker_viz.demo.data import Mixture

THREADS, EVERY, BATCH_SIZE = 2, 10, 16
PREVIEW = "0s"
PAGE = """
# Previews beside a training run

Measured by `python benchmarks/preview.py`: {n_pairs} pairs of training runs of {steps} steps on
{threads} threads and {cores} cores, with `preview={preview!r}` and without it. A capture is taken
every {every} steps. The speeds are ratios, with previews over without, and medians over the
pairs.

{figures}
"""


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--train", choices=["with", "without"], help="used for each training run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="preview-") as directory:
        if options.train:
            preview = PREVIEW if options.train == "with" else None
            print(json.dumps(train(Path(directory) / "spool", options.steps, preview)))
            return
        os.environ["TRACKER_VIZ_CACHE"] = f"{directory}/cache"
        pairs = [train_pair(number, options.steps, directory) for number in range(options.pairs)]
    settings = {
        "steps": options.steps,
        "threads": THREADS,
        "cores": usable_cores(),
        "every": EVERY,
        "preview": PREVIEW,
    }
    write_results("preview", settings | {"pairs": pairs} | summary(pairs), report, options.output)


def train(spool: Path, n_steps: int, preview: str | None) -> dict[str, Any]:
    """Train, and return what it took from the first step to the last."""
    import torch

    import tracker_viz as tv
    from tracker_viz.demo.data import BOS, SPAN_TOKENS, VOCAB_SIZE, DataConfig, Mixture
    from tracker_viz.demo.model import Decoder, ModelConfig

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
            loss = train_step(model, optimizer, batches)
            losses.append(loss.item())
            watcher.step(step, loss=loss)
        took_s, used_s = time.perf_counter() - began, time.process_time() - used
        n_versions = watcher._preview.n_put if watcher._preview else 0
    # The only child of this process drew the previews, and has ended by now.
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "losses": hashlib.sha256(json.dumps(losses).encode()).hexdigest(),
        "steps_per_s": n_steps / took_s,
        "steps_per_processor_s": n_steps / used_s,
        "processor_s": used_s,
        "preview_processor_s": children.ru_utime + children.ru_stime,
        "versions": n_versions,
    }


def train_step(model: nn.Module, optimizer: Optimizer, batches: Mixture) -> Tensor:
    """Train on one batch and return its loss."""
    from torch.nn import functional as F

    ids, targets = batches.batch()
    loss = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


def train_pair(number: int, n_steps: int, directory: str) -> dict[str, dict[str, Any]]:
    """Train once each way; which one is first changes from pair to pair."""
    ways = ["without", "with"]
    if number % 2:
        ways.reverse()
    pair = {}
    for way in ways:
        command = [sys.executable, __file__, "--train", way, "--steps", str(n_steps)]
        done = subprocess.run(command, cwd=directory, stdout=subprocess.PIPE, text=True, check=True)
        pair[way] = json.loads(done.stdout.splitlines()[-1])
    print(pair, flush=True)
    return pair


def summary(pairs: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Return medians over the pairs: with previews over without, and the previews' own time."""

    def ratio(name: str) -> float:
        return statistics.median(pair["with"][name] / pair["without"][name] for pair in pairs)

    previewed = [pair["with"] for pair in pairs]
    shares = [each["preview_processor_s"] / each["processor_s"] for each in previewed]
    losses = {each["losses"] for pair in pairs for each in pair.values()}
    return {
        "same_losses": len(losses) == 1,
        "speed_by_the_clock": ratio("steps_per_s"),
        "speed_by_processor_time": ratio("steps_per_processor_s"),
        "preview_share": statistics.median(shares),
        "versions": statistics.median(each["versions"] for each in previewed),
    }


def report(found: dict[str, Any]) -> str:
    """Return the page of the results."""
    figures = {
        "losses are the same to the bit": "yes" if found["same_losses"] else "no",
        "steps per second of the training's own processor time": (
            f"{found['speed_by_processor_time']:.3f}"
        ),
        "steps per second by the clock": f"{found['speed_by_the_clock']:.3f}",
        "processor time of the previews over that of the training": f"{found['preview_share']:.1%}",
        "versions of the film while it trained": f"{found['versions']:.0f}",
    }
    rows = [{"what": what, "figure": figure} for what, figure in figures.items()]
    return wrapped(PAGE.format(**found, n_pairs=len(found["pairs"]), figures=table(rows)))


if __name__ == "__main__":
    main()
