"""Measure when alarms ring: in healthy trainings, where each is a false one, and in trainings that
are made unstable in five ways, where they should ring before the loss shows it.

* ``learning rate``: from a third of the training on it grows by 5 % a step, and gradients are no
  longer clipped;
* ``duplicated data``: over 40 steps a growing share of each batch, in the end all of it, is one
  and the same row, as where a shard holds one document over and over; 80 steps later the data are
  as before;
* ``noisy targets``: over 40 steps a growing share of the rows, in the end all, gets random targets;
* ``poisoned batches``: from then on every batch is one random token over and over, at ten times the
  learning rate;
* ``overflow``: attention logits are computed in half precision, and from then on the weights of the
  queries grow by 10 % a step, until a logit is infinite.

The loss shows it at the first step whose loss lies 1 nat above the median of the 20 before, or is
no number. One capture in four steps on average, dense at the start.

    python benchmarks/alarms.py           # some minutes; writes alarms.json and alarms.md beside
    this file
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracker_viz.capture import Schedule, make_probe, record
from tracker_viz.demo import model as demo_model
from tracker_viz.demo.data import BOS, SPAN_TOKENS, VOCAB_SIZE, DataConfig, Mixture
from tracker_viz.demo.model import Decoder, ModelConfig
from tracker_viz.metrics import Alarm, Alarms, Scorer
from tracker_viz.metrics.signals.alarms import PROBE_RISE
from tracker_viz.types import Capture

HERE = Path(__file__).parent
STEPS, CAPTURES, BREAKS_AT = 240, 60, 80
# Steps over which data go bad, and for which duplicates stay.
GOES_BAD, DUPLICATES_STAY = 40, 80
KINDS = (
    "healthy",
    "learning rate",
    "overflow",
    "duplicated data",
    "noisy targets",
    "poisoned batches",
)


@dataclass(frozen=True, slots=True)
class Training:
    """What happened in one training.

    Attributes:
        alarms: (step, kind) of each.
        shown_at: the first step whose loss shows that something is wrong; None: none does.
        text_rise: the most by which the probe's loss on text lay above its lowest before, at two
            captures in a row.
    """

    kind: str
    seed: int
    alarms: tuple[tuple[int, str], ...]
    shown_at: int | None
    text_rise: float

    @property
    def lead(self) -> int | None:
        """Steps from the first alarm to the loss that shows it; None without one of them."""
        rung = [step for step, _ in self.alarms if step >= BREAKS_AT]
        if not rung or self.shown_at is None:
            return None
        return self.shown_at - rung[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--healthy", type=int, default=20, help="healthy trainings")
    parser.add_argument("--broken", type=int, default=3, help="trainings of each other kind")
    options = parser.parse_args()
    torch.set_num_threads(1)
    trainings = []
    for kind in KINDS:
        for seed in range(options.healthy if kind == "healthy" else options.broken):
            trainings.append(train(kind, seed))
            print(trainings[-1], flush=True)
    described = [asdict(training) for training in trainings]
    (HERE / "alarms.json").write_text(json.dumps(described, indent=1) + "\n")
    (HERE / "alarms.md").write_text(report(trainings))
    print(report(trainings))


def train(kind: str, seed: int) -> Training:
    """Train a small decoder, and look at its captures as ``watch`` does."""
    torch.manual_seed(seed)
    model = Decoder(
        ModelConfig(
            vocab_size=VOCAB_SIZE, n_blocks=2, n_heads=4, n_kv_heads=4, d_model=32, d_ffn=64
        )
    )
    length = model.config.context_length
    mixture = Mixture(DataConfig(), context_length=length, batch_size=8, seed=seed)
    probe = make_probe(
        VOCAB_SIZE,
        length,
        text_ids=mixture.probe_text(2),
        bos_id=BOS,
        token_range=SPAN_TOKENS,
        score_rows=1,
    )
    scorer, alarms, rung, text = Scorer(), Alarms(), list[Alarm](), list[float]()

    def look(capture: Capture) -> None:
        scored = scorer(capture)
        text.append(scored.metrics.get("probe/loss_text", math.nan))
        rung.extend(alarms(scored))

    schedule = Schedule.for_total(STEPS, CAPTURES)
    losses = []
    recorder = record(model, probe, schedule, look, projections=["mlp.w_down"])
    with half_precision_logits(kind == "overflow"), recorder:
        for step, loss in steps_of(model, mixture, kind):
            losses.append(loss)
            recorder.step(step, loss=loss)
    found = tuple((alarm.step, alarm.kind) for alarm in rung)
    return Training(kind, seed, found, first_shown(losses), largest_rise(text))


def steps_of(model: Decoder, mixture: Mixture, kind: str) -> Iterator[tuple[int, float]]:
    """Train, and yield (finished steps, loss)."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.999))
    document = tuple(part[0].clone() for part in mixture.batch())
    for step in range(1, STEPS + 1):
        is_broken = step > BREAKS_AT and kind != "healthy"
        inputs, targets = mixture.batch()
        rate = 1e-3 * min(1.0, step / 50)
        if is_broken and kind == "learning rate":
            rate *= 1.05 ** (step - BREAKS_AT)
        if is_broken and kind == "poisoned batches":
            rate *= 10
            inputs = targets = torch.full_like(inputs, 1 + step % 200)
        share = min(1.0, max(0, step - BREAKS_AT) / GOES_BAD)
        n_bad = round(share * len(inputs))
        if kind == "duplicated data" and step <= BREAKS_AT + DUPLICATES_STAY:
            inputs[:n_bad], targets[:n_bad] = document
        if kind == "noisy targets":
            targets[:n_bad] = torch.randint(0, BOS, targets[:n_bad].shape)
        for group in optimizer.param_groups:
            group["lr"] = rate

        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        if not (is_broken and kind == "learning rate"):
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if is_broken and kind == "overflow":
            with torch.no_grad():
                for block in model.blocks:
                    block.attn.q_proj.weight.mul_(1.1)  # type: ignore[union-attr, operator]
        yield step, float(loss.detach())


def first_shown(losses: list[float]) -> int | None:
    for index in range(20, len(losses)):
        usual = statistics.median(losses[index - 20 : index])
        if not math.isfinite(losses[index]) or losses[index] > usual + 1:
            return index + 1
    return None


def largest_rise(values: list[float]) -> float:
    """Return by how much two values in a row lay above the lowest before them, at most."""
    values = [value for value in values if math.isfinite(value)]
    pairs = [
        min(values[index - 1 : index + 1]) - min(values[:index]) for index in range(1, len(values))
    ]
    return max(pairs)


@contextmanager
def half_precision_logits(wanted: bool) -> Iterator[None]:
    """Let the demo's attention compute its logits in half precision, where infinity begins at
    65,504."""
    own = F.scaled_dot_product_attention

    def attend(query: Tensor, key: Tensor, value: Tensor, **_options: Any) -> Tensor:
        logits = (query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])).half().float()
        ahead = torch.ones_like(logits, dtype=torch.bool).triu(1)
        return torch.softmax(logits.masked_fill(ahead, -math.inf), dim=-1) @ value

    try:
        if wanted:
            demo_model.F.scaled_dot_product_attention = attend
        yield
    finally:
        demo_model.F.scaled_dot_product_attention = own


def report(trainings: list[Training]) -> str:
    """Return the page of results."""
    healthy = [each for each in trainings if each.kind == "healthy"]
    n_false = sum(bool(each.alarms) for each in healthy)
    n_before = sum(
        any(step < BREAKS_AT for step, _ in each.alarms)
        for each in trainings
        if each.kind != "healthy"
    )
    lines = [
        "# Alarms: how many steps before the loss",
        "",
        "Written by `benchmarks/alarms.py`, whose docstring says how each training run is made",
        f"unstable: two blocks of four heads, {STEPS} steps, unstable from step {BREAKS_AT} on,",
        f"about {CAPTURES} captures.",
        "",
        f"**False alarms:** in {n_false} of {len(healthy)} healthy trainings, and before step "
        f"{BREAKS_AT} in {n_before} of {len(trainings) - len(healthy)} others.",
        "",
        "| made unstable by | trainings | with an alarm | loss shows it at step | first alarm | "
        "steps before the loss | kinds |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in KINDS[1:]:
        lines.append(_row(kind, [each for each in trainings if each.kind == kind]))
    lines += [
        "",
        "The probe's loss on text lay at two captures in a row at most",
        f"{max(each.text_rise for each in healthy):.2f} nats above its lowest in healthy "
        f"trainings, and rings from {PROBE_RISE} on.",
        "",
        "Duplicated data make the training's loss better, not worse; it jumps when other data",
        "come back. Noisy targets raise the loss by less than 1 nat in 20 steps, so that it never",
        "shows by this rule: in the end it is 0.9 higher, which its curve tells. Batches of one",
        "token show in their own loss about when the next capture is taken.",
        "",
    ]
    return "\n".join(lines)


def _row(kind: str, trainings: list[Training]) -> str:
    rung = [each for each in trainings if any(step >= BREAKS_AT for step, _ in each.alarms)]
    first = [min(step for step, _ in each.alarms if step >= BREAKS_AT) for each in rung]
    shown = [each.shown_at for each in trainings if each.shown_at is not None]
    leads = [each.lead for each in trainings if each.lead is not None]
    kinds = Counter(name for each in rung for name in dict.fromkeys(n for _, n in each.alarms))
    named = ", ".join(f"`{name}` {count}" for name, count in kinds.most_common())
    return (
        f"| {kind} | {len(trainings)} | {len(rung)} | {_range(shown)} | {_range(first)} | "
        f"{_range(leads)} | {named} |"
    )


def _range(values: list[int]) -> str:
    if not values:
        return "never"
    return f"{statistics.median(values):g} ({min(values)} to {max(values)})"


if __name__ == "__main__":
    main()
