"""Measure how much labels and onsets depend on the draw of the probe.

    python benchmarks/stability.py           # a few minutes

Trains the demo once, and scores it at every capture with many probes, each with random tokens and
text of its own. Two bounds are checked. The step of each role's onset has a standard deviation of
at most 10 steps. Two draws agree about at least 95 % of the heads that neither marks as near the
line.

Writes stability.json and stability.md beside this file.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from measuring import options_parser, table, wrapped, write_results
from numpy.typing import NDArray

from tracker_viz.capture import Probe, Schedule, make_probe, record
from tracker_viz.demo.data import BOS, SPAN_TOKENS, VOCAB_SIZE, DataConfig, Mixture
from tracker_viz.demo.model import Decoder, ModelConfig
from tracker_viz.demo.trainer import Trainer, TrainerConfig
from tracker_viz.metrics import (
    RowKind,
    Scorer,
    ScoreSeries,
    gather_evidence,
    head_roles,
    labels_near_line,
    role_label,
    run_onsets,
)
from tracker_viz.types import Capture

MOST_SD, LEAST_AGREEMENT = 10.0, 0.95
KINDS: tuple[RowKind, ...] = ("repeated", "text")
PAGE = """
# Stability: what another draw of the probe would change

Measured by `python benchmarks/stability.py` on the demo's model, seed {seed}, in {steps:,} training
steps. Every {every} steps, {draws} probes scored it, each with random tokens and text of its own
and with {score_rows} hidden rows of each kind.

{onsets}

{labels}

* Is the standard deviation of the onset at most {most_sd:g} steps, for every role that all draws
  find? {steady}
* Do two draws agree about at least {least_agreement:.0%} of the heads that are off the line?
  {agree}
"""


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--every", type=int, default=5, help="steps from capture to capture")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--score-rows", type=int, default=4, help="hidden rows of each kind")
    options = parser.parse_args()
    series = score_draws(
        seed=options.seed,
        steps=options.steps,
        every=options.every,
        n_draws=options.draws,
        score_rows=options.score_rows,
    )
    settings = {
        "seed": options.seed,
        "steps": options.steps,
        "every": options.every,
        "draws": options.draws,
        "score_rows": options.score_rows,
        "most_sd": MOST_SD,
        "least_agreement": LEAST_AGREEMENT,
    }
    differences = {"onsets": onsets_of(series), "labels": labels_of(series)}
    write_results("stability", settings | differences, report, options.output)


def score_draws(
    *, seed: int, steps: int, every: int, n_draws: int, score_rows: int
) -> list[ScoreSeries]:
    """Train once, and return the scores that each draw of the probe gives."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    config = TrainerConfig(steps=steps, checkpoint_every=0, device="cpu")
    model = Decoder(ModelConfig(vocab_size=VOCAB_SIZE))
    length = model.config.context_length
    mixture = Mixture(DataConfig(), context_length=length, batch_size=config.batch_size, seed=seed)
    probes = draw_probes(mixture, length, n_draws, score_rows)
    scorer = Scorer()

    def score_draws_at_once(capture: Capture) -> None:
        patterns = {}
        for name, array in capture.arrays.items():
            if name.endswith(".attn.pattern"):
                patterns[name] = draws_as_heads(array, n_draws)
        scorer(Capture(capture.step, patterns, probe=probes[0].description(), model=capture.model))

    schedule = Schedule.every(every, total_steps=steps)
    # All draws in one batch: the model runs once per capture.
    with record(
        model, joined(probes), schedule, score_draws_at_once, projections=("attn.w_q",)
    ) as recorder:
        Trainer(model, mixture, config).fit(recorder, save=lambda state, step: None, progress=False)
    return split_by_draw(scorer.series(), n_draws)


def draws_as_heads(pattern: NDArray[np.float16], n_draws: int) -> NDArray[np.float16]:
    """Return [row, draw * head, query, key] of [draw * row, head, query, key]: rows of all draws
    have the same kinds and periods, and are scored at once."""
    by_draw = pattern.reshape(n_draws, -1, *pattern.shape[1:]).swapaxes(0, 1)
    return by_draw.reshape(len(by_draw), -1, *pattern.shape[2:])


def split_by_draw(series: ScoreSeries, n_draws: int) -> list[ScoreSeries]:
    """Return the scores of each draw, with the model's own heads."""
    found = []
    for columns in np.split(np.arange(series.shape[1]), n_draws):
        heads = {name: values[:, :, columns] for name, values in series.heads.items()}
        spread = {name: values[:, :, columns] for name, values in series.spread.items()}
        found.append(replace(series, heads=heads, spread=spread))
    return found


def draw_probes(mixture: Mixture, length: int, n_draws: int, score_rows: int) -> list[Probe]:
    """Return probes that share no random token and no text."""
    each = 1 + score_rows
    windows = mixture.validation_rows(n_draws * each)[0][:, :length]
    probes = []
    for draw in range(n_draws):
        text = windows[draw * each : (draw + 1) * each].reshape(-1)
        probe = make_probe(
            VOCAB_SIZE,
            length,
            text_ids=text,
            bos_id=BOS,
            token_range=SPAN_TOKENS,
            seed=draw,
            score_rows=score_rows,
        )
        probes.append(probe)
    return probes


def joined(probes: Sequence[Probe]) -> Probe:
    """Return one probe with the rows of all, none of them hidden."""
    rows = [replace(row, hidden=False) for probe in probes for row in probe.rows]
    return Probe(torch.cat([probe.input_ids for probe in probes]), tuple(rows))


def onsets_of(series: Sequence[ScoreSeries]) -> dict[str, dict[str, float | None]]:
    """Return how much the draws differ in the onset of each role."""
    steps: dict[str, list[int]] = {}
    for each in series:
        for role, onset in run_onsets(each).items():
            steps.setdefault(role, [])
            if onset.step is not None:
                steps[role].append(onset.step)
    onsets = {}
    for role, found in steps.items():
        onsets[role] = {
            "formed": len(found),
            "first": min(found, default=None),
            "last": max(found, default=None),
            "mean": round(float(np.mean(found)), 1) if found else None,
            "sd": round(float(np.std(found, ddof=1)), 1) if len(found) > 1 else None,
        }
    return onsets


def labels_of(series: Sequence[ScoreSeries]) -> dict[str, float]:
    """Return how often two draws agree about the final label of a head, on either kind of row."""
    maps = [(final_labels(each), heads_near_line(each)) for each in series]
    agree_off, agree_all, is_off, whole = [], [], [], []
    for (one, near_one), (other, near_other) in itertools.combinations(maps, 2):
        same = one == other
        off = ~(near_one | near_other)
        agree_all.append(same.mean())
        agree_off.append(same[off].mean())
        is_off.append(off.mean())
        whole.append(bool(same[off].all()))
    return {
        "agreement off the line": round(float(np.mean(agree_off)), 4),
        "agreement of all heads": round(float(np.mean(agree_all)), 4),
        "share of heads near the line": round(float(np.mean([near.mean() for _, near in maps])), 4),
        "pairs of draws with the same map off the line": round(float(np.mean(whole)), 4),
        "share of heads off the line in both draws": round(float(np.mean(is_off)), 4),
    }


def final_labels(series: ScoreSeries) -> NDArray[np.int8]:
    """Return the label of every head on each kind of row: int8 [kind, block, head]."""
    return np.stack([head_roles(series, rows=kind)[0][-1] for kind in KINDS])


def heads_near_line(series: ScoreSeries) -> NDArray[np.bool_]:
    """Return whether a head's label on each kind of row is near the line: bool [kind, block,
    head]."""
    evidence = gather_evidence(series)
    return np.stack([labels_near_line(evidence, rows=kind) for kind in KINDS])


def report(found: dict[str, Any]) -> str:
    """Return the page of the results."""
    onsets, labels = found["onsets"], found["labels"]
    rows = []
    for role, onset in onsets.items():
        row = {
            "role": role_label(role),
            "formed": f"{onset['formed']} of {found['draws']}",
            "onset: mean step": number(onset["mean"]),
            "sd": number(onset["sd"]),
            "first": number(onset["first"]),
            "last": number(onset["last"]),
        }
        rows.append(row)
    shares = [{"labels at the end": name, "share": f"{each:.1%}"} for name, each in labels.items()]
    steady, agree = verdicts(found)
    return wrapped(
        PAGE.format(
            **(found | {"onsets": table(rows), "labels": table(shares)}), steady=steady, agree=agree
        )
    )


def verdicts(found: dict[str, Any]) -> tuple[str, str]:
    """Return, in words, whether onsets are steady and whether labels agree."""
    unstable = []
    for role, onset in found["onsets"].items():
        if onset["formed"] == found["draws"] and onset["sd"] > found["most_sd"]:
            unstable.append(role_label(role))
    steady = "Yes."
    if unstable:
        steady = f"**No**, not for {' and '.join(unstable)}."
    agree = "**No.**"
    if found["labels"]["agreement off the line"] >= found["least_agreement"]:
        agree = "Yes."
    return steady, agree


def number(value: float | None) -> str:
    """Return a cell of the table; empty for what was not measured."""
    if value is None:
        return ""
    return f"{value:g}"


if __name__ == "__main__":
    main()
