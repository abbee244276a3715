"""Measure how many hidden rows of the probe are worth their price: the cost of a capture with 0, 2,
4 and 8 of each kind, and how steady the onset of a role is over draws of the probe.

* Cost: milliseconds of processor time of one capture on the training thread, and of scoring and
  cutting it, for the demo's model and for GPT-2's shape.
* Stability: one training of the demo, on 24 rows of three periods and 24 of text, each scored on
  its own every 5 steps. A probe is a draw of these rows; the onset is the first capture at which
  the strongest head's mean over the draw reaches 0.3.

    python benchmarks/score_rows.py        # some minutes; writes score_rows.json and score_rows.md
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tracker_viz.capture import Probe, Schedule, fit, make_probe, record
from tracker_viz.demo.data import BOS, SPAN_TOKENS, VOCAB_SIZE, DataConfig, Mixture
from tracker_viz.demo.model import Decoder, ModelConfig
from tracker_viz.demo.trainer import Trainer, TrainerConfig
from tracker_viz.metrics import HEAD_SCORES, Scorer
from tracker_viz.metrics.probe_rows import probe_rows
from tracker_viz.metrics.scorer import patterns_of
from tracker_viz.types import Capture

HERE = Path(__file__).parent
COUNTS = (0, 2, 4, 8)
DRAWS, EVERY, ENTER = 200, 5, 0.3
POOL = 24
# Role -> the score of one row that says it, and the kind of row.
MEASURED = {
    "previous token, repeats": ("previous_token", "repeated"),
    "previous token, text": ("previous_token", "text"),
    "current token, text": ("current_token", "text"),
    "induction": ("induction", "repeated"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=("cost", "stability"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    file = HERE / "score_rows.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    if options.only != "stability":
        found["cost_ms"] = costs(options.repeats)
    if options.only != "cost":
        found["stability"] = stability(options.steps)
    file.write_text(json.dumps(found, indent=1) + "\n")
    (HERE / "score_rows.md").write_text(page(found))
    print(page(found))


# -- cost


def costs(repeats: int) -> dict[str, dict[int, dict[str, float]]]:
    found: dict[str, dict[int, dict[str, float]]] = {}
    for name, make in (("demo", demo_model), ("GPT-2, 124M", gpt2)):
        model, vocabulary, length = make()
        logging.getLogger("tracker_viz").setLevel(logging.ERROR)  # what it found, at every look
        found[name] = {}
        for count in COUNTS:
            text = torch.arange((1 + count) * length) % vocabulary
            probe = make_probe(vocabulary, length, text_ids=text, score_rows=count)
            found[name][count] = cost(model, probe, repeats)
            print(name, count, found[name][count], flush=True)
    return found


def demo_model() -> tuple[torch.nn.Module, int, int]:
    config = ModelConfig(vocab_size=VOCAB_SIZE)
    return Decoder(config), VOCAB_SIZE, config.context_length


def gpt2() -> tuple[torch.nn.Module, int, int]:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config()), 50257, 128


def cost(model: torch.nn.Module, probe: Probe, repeats: int) -> dict[str, float]:
    captures: list[Capture] = []
    recorder = record(model, probe, Schedule.every(1), captures.append)
    taken = median_ms(repeats, lambda step: recorder.step(1 + step))
    scorer = Scorer()
    scored = median_ms(min(repeats, len(captures)), lambda step: fit(scorer(captures[step])))
    return {"capture": round(taken, 1), "score": round(scored, 1)}


def median_ms(repeats: int, work: Callable[[int], object]) -> float:
    taken = []
    for turn in range(repeats):
        started = time.process_time()
        work(turn)
        taken.append(1000 * (time.process_time() - started))
    return statistics.median(taken)


# -- stability


def stability(steps: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = Decoder(ModelConfig(vocab_size=VOCAB_SIZE))
    length = model.config.context_length
    training = TrainerConfig(steps=steps, checkpoint_every=0, device="cpu")
    mixture = Mixture(DataConfig(), length, batch_size=training.batch_size, seed=0)
    text = mixture.probe_text(POOL)
    probe = make_probe(
        VOCAB_SIZE, length, text_ids=text, bos_id=BOS, token_range=SPAN_TOKENS, score_rows=POOL - 1
    )
    rows = probe_rows(probe.description())
    of_rows: list[dict[str, np.ndarray]] = []
    schedule = Schedule.every(EVERY, total_steps=steps)
    with record(model, probe, schedule, lambda each: of_rows.append(row_scores(each))) as recorder:
        Trainer(model, mixture, training).fit(
            recorder, save=lambda state, step: None, progress=False
        )
    series = {name: np.stack([each[name] for each in of_rows]) for name in of_rows[0]}
    kinds = np.array([row.kind for row in rows])
    periods = np.array([row.period for row in rows])
    rng = np.random.default_rng(0)
    found: dict[str, Any] = {}
    for role, (score, kind) in MEASURED.items():
        values = series[score][:, :, :, kinds == kind]
        end = values[-1].mean(-1)
        head = np.unravel_index(np.argmax(end), end.shape)
        of_head = values[(slice(None), *head)]
        found[role] = {
            "head": [int(index) for index in head],
            "score": round(float(end[head]), 3),
            "sd_of_rows": round(float(of_head[-1].std(ddof=1)), 3),
            "onset_sd": {n: spread(of_head, periods[kinds == kind], n, rng) for n in COUNTS},
        }
        print(role, found[role], flush=True)
    return found


def row_scores(capture: Capture) -> dict[str, np.ndarray]:
    """Score -> [block, head, row]; NaN on rows that it is not measured on."""
    rows = probe_rows(capture.probe)
    patterns = patterns_of(capture)
    found = {}
    for name in sorted({score for score, _ in MEASURED.values()}):
        score = HEAD_SCORES[name]
        found[name] = np.array(
            [
                [
                    score.measure(attention.astype(np.float32), row)
                    if row in score.measured_on(rows)
                    else np.full(attention.shape[0], np.nan)
                    for attention, row in zip(pattern, rows, strict=True)
                ]
                for pattern in patterns.values()
            ]
        ).swapaxes(1, 2)
    return found


def spread(
    values: np.ndarray, periods: np.ndarray, count: int, rng: np.random.Generator
) -> float | None:
    """Standard deviation, in steps, of the onset over draws of ``1 + count`` rows [capture, row],
    with the periods in turn as ``make_probe`` has them."""
    onsets = []
    for _ in range(DRAWS):
        chosen = rows_in_turn(periods, 1 + count, rng)
        reached = values[:, chosen].mean(1) >= ENTER
        if not reached.any():
            return None
        onsets.append(EVERY * int(np.argmax(reached)))
    return round(float(np.std(onsets, ddof=1)), 1)


def rows_in_turn(periods: np.ndarray, count: int, rng: np.random.Generator) -> list[int]:
    by_period = [
        list(rng.permutation(np.flatnonzero(periods == each))) for each in np.unique(periods)
    ]
    return [int(by_period[turn % len(by_period)].pop()) for turn in range(count)]


# -- page


def page(found: dict[str, Any]) -> str:
    lines = [
        "# What hidden rows of the probe cost, and what they bring",
        "",
        "Made by `python benchmarks/score_rows.py`. Milliseconds of processor time of one capture:",
        "on the training thread, and for scoring and cutting it beside training.",
        "",
        "| model | " + " | ".join(f"{count} of each kind" for count in COUNTS) + " |",
        "|---|" + "---|" * len(COUNTS),
    ]
    for name, of_model in found["cost_ms"].items():
        cells = [f"{each['capture']:.0f} + {each['score']:.0f}" for each in of_model.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "Standard deviation, in training steps, of the onset of a role's strongest head over",
        f"{DRAWS} draws of the probe (one training of the demo, a capture every {EVERY} steps, at",
        f"{ENTER}):",
        "",
        "| role | sd of a row | " + " | ".join(f"{count}" for count in COUNTS) + " |",
        "|---|---|" + "---|" * len(COUNTS),
    ]
    for role, of_role in found["stability"].items():
        cells = ["–" if each is None else f"{each:.1f}" for each in of_role["onset_sd"].values()]
        lines.append(f"| {role} | {of_role['sd_of_rows']:.3f} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
