"""Measure how much labels and onsets depend on the draw of the probe: train the demo once, and
score it with many probes at every capture, each with random tokens and text of its own.

Held to: the step of every role's onset has a standard deviation of at most 10 steps, and two draws
give at least 95 % of the heads that neither marks as near the line the same label.

    python benchmarks/stability.py           # a few minutes; writes stability.json and stability.md
    beside this file
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
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

HERE = Path(__file__).parent
MOST_SD, LEAST_AGREEMENT = 10.0, 0.95
KINDS: tuple[RowKind, ...] = ("repeated", "text")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    result = {**vars(options), **measured(series)}
    (HERE / "stability.json").write_text(json.dumps(result, indent=1) + "\n")
    (HERE / "stability.md").write_text(report(result))
    print(report(result))


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


def measured(series: Sequence[ScoreSeries]) -> dict[str, Any]:
    """Return how much the draws differ in their onsets and labels."""
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
    return {"onsets": onsets, "labels": labels_of(series)}


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


def report(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    lines = [
        "# Stability: what another draw of the probe would change",
        "",
        f"Written by `python benchmarks/stability.py`: the demo's model, seed {result['seed']}, "
        f"{result['steps']} steps,",
        f"scored every {result['every']} steps by {result['draws']} probes with random tokens and "
        "text of their own, each with",
        f"{result['score_rows']} hidden rows of each kind.",
        "",
        "| role | formed | onset: mean step | sd | first | last |",
        "|---|---|---|---|---|---|",
    ]
    for role, onset in result["onsets"].items():
        cells = [onset[name] for name in ("mean", "sd", "first", "last")]
        words = ["" if cell is None else f"{cell:g}" for cell in cells]
        formed = f"{onset['formed']} of {result['draws']}"
        lines.append(f"| {role_label(role)} | {formed} | {' | '.join(words)} |")
    lines += ["", "| labels at the end | |", "|---|---|"]
    lines += [f"| {name} | {share:.1%} |" for name, share in result["labels"].items()]
    unstable = [
        role_label(role)
        for role, onset in result["onsets"].items()
        if onset["formed"] == result["draws"] and onset["sd"] > MOST_SD
    ]
    but = f", but for {' and '.join(unstable)}" if unstable else ""
    agrees = result["labels"]["agreement off the line"] >= LEAST_AGREEMENT
    lines += [
        "",
        f"* {mark(not unstable)} the onset of every role that all draws find has a standard "
        f"deviation of at most {MOST_SD:g} steps{but}",
        f"* {mark(agrees)} two draws agree about at least {LEAST_AGREEMENT:.0%} of the heads that "
        "are off the line",
        "",
    ]
    return "\n".join(lines)


def mark(holds: bool) -> str:
    return "Yes:" if holds else "**No:**"


if __name__ == "__main__":
    main()
