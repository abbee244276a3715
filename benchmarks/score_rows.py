"""Measure what hidden rows of the probe cost, and how much steadier they make onsets.

    python benchmarks/score_rows.py        # some minutes

Compares 0, 2, 4 and 8 hidden rows of each kind.

* Cost: milliseconds of processor time of one capture on the training thread, and of scoring and
  cutting it, for the demo's model and for GPT-2's shape.
* Stability: one training of the demo, with 24 rows of three periods and 24 rows of text, each
  scored on its own every 5 steps. A probe is a draw of these rows. The onset of a role is the first
  capture at which the strongest head's mean over the draw reaches 0.3.

Writes score_rows.json and score_rows.md beside this file.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from measuring import options_parser, read_results, table, timed, wrapped, write_results

from tracker_viz.capture import Probe, Schedule, fit, make_probe, record
from tracker_viz.demo.data import BOS, SPAN_TOKENS, VOCAB_SIZE, DataConfig, Mixture
from tracker_viz.demo.model import Decoder, ModelConfig
from tracker_viz.demo.trainer import Trainer, TrainerConfig
from tracker_viz.metrics import HEAD_SCORES, Scorer
from tracker_viz.metrics.probe_rows import probe_rows
from tracker_viz.metrics.scorer import patterns_of
from tracker_viz.types import Capture

COUNTS = (0, 2, 4, 8)
DRAWS, EVERY, ENTER = 200, 5, 0.3
POOL = 24
# Role -> the score of a row that shows it, and the kind of row.
MEASURED = {
    "previous token, repeats": ("previous_token", "repeated"),
    "previous token, text": ("previous_token", "text"),
    "current token, text": ("current_token", "text"),
    "induction": ("induction", "repeated"),
}
PAGE = """
# Hidden rows of the probe: what they cost, and what they bring

Measured by `python benchmarks/score_rows.py`. The first table has the processor time of one capture
in milliseconds: on the training thread, plus for scoring and cutting it beside training.

{costs}

The second table has the standard deviation, in training steps, of the onset of a role's strongest
head over {draws} draws of the probe. It is measured in one training of the demo, with a capture
every {every} steps. The onset is the first capture with a score of {enter}.

{onsets}
"""


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=("cost", "stability"), help="keep what the other found")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = read_results("score_rows", options.output)
    if options.only != "stability":
        found["cost_ms"] = costs(options.repeats)
    if options.only != "cost":
        found |= {"draws": DRAWS, "every": EVERY, "enter": ENTER}
        found["stability"] = stability(options.steps)
    write_results("score_rows", found, report, options.output)


# -- cost


def costs(repeats: int) -> dict[str, dict[int, dict[str, float]]]:
    """Return the cost of a capture by model and by the number of hidden rows of each kind."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for name, make in (("demo", demo_model), ("GPT-2, 124M", gpt2)):
        model, vocabulary, length = make()
        logging.getLogger("tracker_viz").setLevel(logging.ERROR)  # it would log what it finds
        found[name] = {}
        for count in COUNTS:
            text = torch.arange((1 + count) * length) % vocabulary
            probe = make_probe(vocabulary, length, text_ids=text, score_rows=count)
            found[name][count] = cost(model, probe, repeats)
            print(name, count, found[name][count], flush=True)
    return found


def demo_model() -> tuple[torch.nn.Module, int, int]:
    """Return the demo's model, the size of its vocabulary and the length of its probe."""
    config = ModelConfig(vocab_size=VOCAB_SIZE)
    return Decoder(config), VOCAB_SIZE, config.context_length


def gpt2() -> tuple[torch.nn.Module, int, int]:
    """Return a model of GPT-2's shape, the size of its vocabulary and the length of its probe."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config()), 50257, 128


def cost(model: torch.nn.Module, probe: Probe, repeats: int) -> dict[str, float]:
    """Return the milliseconds of one capture, and of scoring and cutting it."""
    captures: list[Capture] = []
    recorder = record(model, probe, Schedule.every(1), captures.append)
    taken = median_ms(repeats, lambda step: recorder.step(1 + step))
    scorer = Scorer()
    scored = median_ms(min(repeats, len(captures)), lambda step: fit(scorer(captures[step])))
    return {"capture": round(taken, 1), "score": round(scored, 1)}


def median_ms(repeats: int, work: Callable[[int], object]) -> float:
    """Return the median processor time of ``work``, which is given the number of the call."""
    taken = [timed(partial(work, turn)).processor_s for turn in range(repeats)]
    return 1000 * statistics.median(taken)


# -- stability


def stability(steps: int) -> dict[str, Any]:
    """Return how steady the onset of each role's strongest head is over draws of the probe."""
    probe, series = train_with_many_rows(steps)
    rows = probe_rows(probe.description())
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


def train_with_many_rows(steps: int) -> tuple[Probe, dict[str, np.ndarray]]:
    """Train the demo; return the probe, and score -> values [capture, block, head, row]."""
    torch.manual_seed(0)
    model = Decoder(ModelConfig(vocab_size=VOCAB_SIZE))
    length = model.config.context_length
    training = TrainerConfig(steps=steps, checkpoint_every=0, device="cpu")
    mixture = Mixture(DataConfig(), length, batch_size=training.batch_size, seed=0)
    text = mixture.probe_text(POOL)
    probe = make_probe(
        VOCAB_SIZE, length, text_ids=text, bos_id=BOS, token_range=SPAN_TOKENS, score_rows=POOL - 1
    )
    captured: list[dict[str, np.ndarray]] = []
    schedule = Schedule.every(EVERY, total_steps=steps)
    with record(model, probe, schedule, lambda each: captured.append(row_scores(each))) as recorder:
        trainer = Trainer(model, mixture, training)
        trainer.fit(recorder, save=lambda state, step: None, progress=False)
    return probe, {name: np.stack([each[name] for each in captured]) for name in captured[0]}


def row_scores(capture: Capture) -> dict[str, np.ndarray]:
    """Return score -> values [block, head, row]; NaN on rows where a score is not measured."""
    rows = probe_rows(capture.probe)
    found = {}
    for name in sorted({score for score, _ in MEASURED.values()}):
        measured_on = HEAD_SCORES[name].measured_on(rows)
        by_block = []
        for pattern in patterns_of(capture).values():
            values = np.full((pattern.shape[1], len(rows)), np.nan)
            for number, (attention, row) in enumerate(zip(pattern, rows, strict=True)):
                if row in measured_on:
                    attention = attention.astype(np.float32)
                    values[:, number] = HEAD_SCORES[name].measure(attention, row)
            by_block.append(values)
        found[name] = np.stack(by_block)
    return found


def spread(
    values: np.ndarray, periods: np.ndarray, count: int, rng: np.random.Generator
) -> float | None:
    """Return the standard deviation of the onset, in steps, over draws of rows.

    Args:
        values: scores [capture, row] of one head.
        periods: of each row; a draw takes the periods in turn, as ``make_probe`` does.
        count: hidden rows of a draw, which has one more.
    """
    onsets = []
    for _ in range(DRAWS):
        chosen = rows_in_turn(periods, 1 + count, rng)
        reached = values[:, chosen].mean(1) >= ENTER
        if not reached.any():
            return None
        onsets.append(EVERY * int(np.argmax(reached)))
    return round(float(np.std(onsets, ddof=1)), 1)


def rows_in_turn(periods: np.ndarray, count: int, rng: np.random.Generator) -> list[int]:
    """Draw ``count`` different rows, with their periods in turn."""
    by_period = []
    for period in np.unique(periods):
        by_period.append(list(rng.permutation(np.flatnonzero(periods == period))))
    return [int(by_period[turn % len(by_period)].pop()) for turn in range(count)]


# -- page


def report(found: dict[str, Any]) -> str:
    """Return the page of the results."""
    costs_rows = []
    for model, by_count in found["cost_ms"].items():
        row = {"model": model}
        for count, cost_ms in by_count.items():
            row[f"{count} of each kind"] = f"{cost_ms['capture']:.0f} + {cost_ms['score']:.0f}"
        costs_rows.append(row)
    onset_rows = []
    for role, of_role in found["stability"].items():
        row = {"role": role, "sd of a row": f"{of_role['sd_of_rows']:.3f}"}
        for count, steps in of_role["onset_sd"].items():
            row[f"{count} of each kind"] = "–" if steps is None else f"{steps:.1f}"
        onset_rows.append(row)
    tables = {"costs": table(costs_rows), "onsets": table(onset_rows)}
    return wrapped(PAGE.format(**found, **tables))


if __name__ == "__main__":
    main()
