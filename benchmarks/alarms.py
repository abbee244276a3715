"""Measure when alarms are raised: in healthy training runs, and in runs that are made unstable.

    python benchmarks/alarms.py           # some minutes

In healthy runs every alarm is a false one. In the others, alarms should come before the loss shows
that something is wrong. Runs are made unstable in five ways:

* ``learning rate``: from a third of the training on, it grows by 5 % a step, and gradients are no
  longer clipped;
* ``duplicated data``: over 40 steps, a growing share of each batch becomes one and the same row, as
  if a shard held one document many times; 80 steps later the data are as before;
* ``noisy targets``: over 40 steps, a growing share of the rows gets random targets;
* ``poisoned batches``: every batch is one repeated random token, at ten times the learning rate;
* ``overflow``: attention logits are computed in half precision, and the weights of the queries grow
  by 10 % a step, until a logit is infinite.

The loss shows it at the first step with a loss that is not finite, or 1 nat above the median of the
20 steps before. One step in four is captured on average, more at the start.

Writes alarms.json and alarms.md beside this file.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from measuring import options_parser, table, wrapped, write_results
from torch import Tensor, nn

from tracker_viz.capture import Schedule, make_probe, record
from tracker_viz.demo import model as demo_model
from tracker_viz.demo.data import BOS, SPAN_TOKENS, VOCAB_SIZE, DataConfig, Mixture
from tracker_viz.demo.model import Decoder, ModelConfig
from tracker_viz.metrics import Alarm, Alarms, Scorer
from tracker_viz.metrics.signals.alarms import PROBE_RISE
from tracker_viz.types import Capture

STEPS, CAPTURES, BREAKS_AT = 240, 60, 80
# The number of steps over which data go bad, and for which duplicates stay.
GOES_BAD, DUPLICATES_STAY = 40, 80
KINDS = (
    "healthy",
    "learning rate",
    "overflow",
    "duplicated data",
    "noisy targets",
    "poisoned batches",
)
PAGE = """
# Alarms: how many steps before the loss

Measured by `python benchmarks/alarms.py`. Its docstring describes how each training run is made
unstable. The models have two blocks of four heads and train for {steps} steps, with about
{captures} captures. Runs become unstable at step {breaks_at}.

**False alarms:** {n_false} of {n_healthy} healthy runs had one, and {n_before} of {n_unstable}
others had one before step {breaks_at}.

{kinds}

The columns give the median and the range over the runs. The probe's loss on text raises an alarm
when it is {probe_rise} nats above its lowest value so far, in two captures in a row. In healthy
runs it was at most {text_rise:.2f} nats above.

Duplicated data make the training loss better, not worse. It jumps when other data come back. Noisy
targets raise the loss by less than 1 nat in 20 steps, so this rule never sees it, but the curve
shows it at the end. Batches of one token show in their own loss at about the time when the next
capture is taken.
"""


@dataclass(frozen=True, slots=True)
class Training:
    """What happened in one training run.

    Attributes:
        alarms: (step, kind) of each.
        shown_at: the first step whose loss shows that something is wrong, or None.
        text_rise: the largest rise of the probe's loss on text above its lowest value before, at
            two captures in a row.
    """

    kind: str
    seed: int
    alarms: Sequence[tuple[int, str]]
    shown_at: int | None
    text_rise: float

    @property
    def true_alarms(self) -> list[tuple[int, str]]:
        """The alarms since the run became unstable."""
        return [(step, kind) for step, kind in self.alarms if step >= BREAKS_AT]

    @property
    def lead(self) -> int | None:
        """Steps from the first alarm to the loss that shows it; None without one of them."""
        if not self.true_alarms or self.shown_at is None:
            return None
        return self.shown_at - self.true_alarms[0][0]


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--healthy", type=int, default=20, help="healthy training runs")
    parser.add_argument("--broken", type=int, default=3, help="training runs of each other kind")
    options = parser.parse_args()
    torch.set_num_threads(1)
    trainings = []
    for kind in KINDS:
        n_seeds = options.broken
        if kind == "healthy":
            n_seeds = options.healthy
        for seed in range(n_seeds):
            trainings.append(train(kind, seed))
            print(trainings[-1], flush=True)
    settings = {
        "steps": STEPS,
        "captures": CAPTURES,
        "breaks_at": BREAKS_AT,
        "probe_rise": PROBE_RISE,
    }
    described = [asdict(training) for training in trainings]
    write_results("alarms", settings | {"trainings": described}, report, options.output)


def train(kind: str, seed: int) -> Training:
    """Train a small decoder, and check its captures as ``watch`` does."""
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
    scorer, alarms = Scorer(), Alarms()
    raised: list[Alarm] = []
    text: list[float] = []

    def check(capture: Capture) -> None:
        scored = scorer(capture)
        text.append(scored.metrics.get("probe/loss_text", math.nan))
        raised.extend(alarms(scored))

    schedule = Schedule.for_total(STEPS, CAPTURES)
    losses = []
    recorder = record(model, probe, schedule, check, projections=["mlp.w_down"])
    with half_precision_logits(kind == "overflow"), recorder:
        for step, loss in steps_of(model, mixture, kind):
            losses.append(loss)
            recorder.step(step, loss=loss)
    found = tuple((alarm.step, alarm.kind) for alarm in raised)
    return Training(kind, seed, found, first_shown(losses), largest_rise(text))


def steps_of(model: Decoder, mixture: Mixture, kind: str) -> Iterator[tuple[int, float]]:
    """Train, and yield (finished steps, loss)."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.999))
    document = tuple(part[0].clone() for part in mixture.batch())
    for step in range(1, STEPS + 1):
        is_broken = step > BREAKS_AT and kind != "healthy"
        inputs, targets = mixture.batch()
        spoil(inputs, targets, kind, step, document)
        rate = 1e-3 * min(1.0, step / 50)
        if is_broken and kind == "learning rate":
            rate *= 1.05 ** (step - BREAKS_AT)
        if is_broken and kind == "poisoned batches":
            rate *= 10
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


def spoil(
    inputs: Tensor, targets: Tensor, kind: str, step: int, document: tuple[Tensor, ...]
) -> None:
    """Change a batch in place to what a run of this kind sees at this step.

    Args:
        document: the inputs and targets of the row that is duplicated.
    """
    share = min(1.0, max(0, step - BREAKS_AT) / GOES_BAD)
    n_bad = round(share * len(inputs))
    if kind == "poisoned batches" and step > BREAKS_AT:
        inputs[:] = targets[:] = 1 + step % 200
    if kind == "duplicated data" and step <= BREAKS_AT + DUPLICATES_STAY:
        inputs[:n_bad], targets[:n_bad] = document
    if kind == "noisy targets":
        targets[:n_bad] = torch.randint(0, BOS, targets[:n_bad].shape)


def first_shown(losses: list[float]) -> int | None:
    """Return the first step whose loss shows that something is wrong, or None."""
    for index in range(20, len(losses)):
        usual = statistics.median(losses[index - 20 : index])
        if not math.isfinite(losses[index]) or losses[index] > usual + 1:
            return index + 1
    return None


def largest_rise(values: list[float]) -> float:
    """Return by how much two values in a row were above the lowest before them, at most."""
    values = [value for value in values if math.isfinite(value)]
    rises = []
    for index in range(1, len(values)):
        rises.append(min(values[index - 1], values[index]) - min(values[:index]))
    return max(rises)


@contextmanager
def half_precision_logits(wanted: bool) -> Iterator[None]:
    """If wanted, compute the logits of the demo's attention in half precision.

    Half precision is infinite from 65,504 on.
    """
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


def report(found: dict[str, Any]) -> str:
    """Return the page of the results."""
    trainings = [Training(**each) for each in found["trainings"]]
    healthy = [each for each in trainings if each.kind == "healthy"]
    unstable = [each for each in trainings if each.kind != "healthy"]
    rows = []
    for kind in dict.fromkeys(each.kind for each in unstable):
        rows.append(_row(kind, [each for each in unstable if each.kind == kind]))
    return wrapped(
        PAGE.format(
            **found,
            n_false=sum(bool(each.alarms) for each in healthy),
            n_healthy=len(healthy),
            n_before=sum(len(each.alarms) > len(each.true_alarms) for each in unstable),
            n_unstable=len(unstable),
            kinds=table(rows, text=("kinds of alarms, and in how many runs",)),
            text_rise=max(each.text_rise for each in healthy),
        )
    )


def _row(kind: str, trainings: list[Training]) -> dict[str, object]:
    """Return the row of the table for one kind of unstable run."""
    alarmed = [each for each in trainings if each.true_alarms]
    first = [each.true_alarms[0][0] for each in alarmed]
    shown = [each.shown_at for each in trainings if each.shown_at is not None]
    leads = [each.lead for each in trainings if each.lead is not None]
    counts = Counter(name for each in alarmed for name in dict.fromkeys(n for _, n in each.alarms))
    return {
        "made unstable by": kind,
        "runs": len(trainings),
        "with an alarm": len(alarmed),
        "loss shows it at step": _range(shown),
        "first alarm": _range(first),
        "steps before the loss": _range(leads),
        "kinds of alarms, and in how many runs": ", ".join(
            f"`{name}` {count}" for name, count in counts.most_common()
        ),
    }


def _range(values: list[int]) -> str:
    """Return the median and the range."""
    if not values:
        return "never"
    return f"{statistics.median(values):g} ({min(values)} to {max(values)})"


if __name__ == "__main__":
    main()
