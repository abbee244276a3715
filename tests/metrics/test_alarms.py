"""Alarms ring once for what goes wrong, and again only after it has ended."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tracker_viz.metrics import Alarms
from tracker_viz.metrics.signals.alarms import LEAST_ENTROPY, MAX_LOGIT, N_QUIET, moved_most
from tracker_viz.types import Capture


def scored(step, *, logit=5.0, entropy=0.6, loss=2.0, text=2.0, dead=0.0, rms=1.0, **model):
    """A capture of two blocks with two heads, of which L1H0 has the values given."""
    logits, entropies = np.full((2, 2), 4.0, np.float32), np.full((2, 2), 0.7, np.float32)
    logits[1, 0] = logit
    entropies[1] = entropy
    arrays = {
        "scores.head.max_logit": logits,
        "scores.head.entropy": entropies,
        "scores.stream.rms": np.array([[1, 1], [rms, rms]], np.float32),
        "scores.weight.dead_share": np.array([[np.nan, 0.0], [np.nan, dead]], np.float32),
    }
    labels = {"projection": ("attn.w_q", "mlp.w_out")}
    metrics = {"loss": loss, "probe/loss_text": text}
    return Capture(step, arrays, labels=labels, metrics=metrics, model=model)


def rung(*captures):
    """Return step -> the kinds that begin there."""
    alarms = Alarms()
    found = {}
    for capture in captures:
        if kinds := [alarm.kind for alarm in alarms(capture)]:
            found[capture.step] = kinds
    return found


QUIET = [scored(step) for step in range(8)]


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("logit", {"logit": MAX_LOGIT + 1}),
        ("logit", {"logit": 40.0}),
        ("entropy", {"entropy": LEAST_ENTROPY / 2}),
        ("dead", {"dead": 0.6}),
        ("loss", {"loss": 3.5}),
        ("not_finite", {"loss": math.nan}),
        ("not_finite", {"not_finite": "blocks.1.attn"}),
    ],
)
def test_an_alarm_rings_once_and_again_after_it_has_ended(kind, wrong):
    steps = [scored(step, **wrong) for step in (8, 9)]
    assert rung(*QUIET, *steps) == {8: [kind]}
    is_jump = kind == "loss" or wrong.get("logit", MAX_LOGIT) < MAX_LOGIT
    if is_jump:
        return  # what has become usual is no jump any more
    one_quiet = [*QUIET, scored(8, **wrong), scored(9), scored(10, **wrong)]
    assert rung(*one_quiet) == {8: [kind]}
    ended = [scored(9 + index) for index in range(N_QUIET)]
    assert rung(*QUIET, scored(8, **wrong), *ended, scored(20, **wrong)) == {8: [kind], 20: [kind]}


def test_nothing_rings_in_a_run_that_goes_well_or_holds_no_scores():
    growing = [scored(step, logit=3 + step, loss=4 - 0.1 * step) for step in range(30)]
    assert rung(*growing) == {}
    assert rung(*[Capture(step, {}) for step in range(9)]) == {}


def test_heads_and_blocks_without_scores_do_not_ring():
    empty = scored(0)
    for array in empty.arrays.values():
        array[:] = np.nan
    assert rung(empty) == {}


def test_neurons_that_were_dead_from_the_start_do_not_ring():
    assert rung(*[scored(step, dead=0.6) for step in range(9)]) == {}


def test_an_alarm_says_where_in_a_sentence():
    alarms = Alarms()
    for capture in QUIET:
        alarms(capture)
    (alarm,) = alarms(scored(40, logit=134.2))
    assert alarm.sentence == "step 40: the largest attention logit is 134 (L1H0), beyond 100"
    assert (alarm.blocks, alarm.heads) == ((1,), ((1, 0),))
    assert alarm.description()["kind"] == "logit"


def test_a_jump_of_the_loss_names_what_moved_most():
    alarms = Alarms()
    for capture in QUIET:
        alarms(capture)
    jumped = scored(8, loss=6.0, rms=3.0, entropy=0.3)
    (alarm,) = alarms(jumped)
    assert alarm.sentence == (
        "step 8: the loss has jumped from 2 to 6; since step 7 most has moved in block 1, L1H0, "
        "L1H1"
    )
    assert moved_most(QUIET[-1], scored(9)) == ((), ())


def test_the_probe_rings_where_its_text_gets_worse_at_two_captures_in_a_row():
    texts = [4.0, 3.0, 3.6, 3.2, 3.2, 3.4, 3.6, 3.8, math.nan]
    alarms = Alarms()
    found = [
        alarms(scored(step, text=text, loss=2.4 - 0.1 * step)) for step, text in enumerate(texts)
    ]
    assert [len(each) for each in found] == [0, 0, 0, 0, 0, 0, 1, 0, 0]
    assert found[6][0].sentence == (
        "step 6: the probe's loss on text has risen from 3.00 (step 1) to 3.60, while the "
        "training's fell from 2.30 to 1.80: look at the data"
    )
    learned = [scored(0, text=2.5), *QUIET[1:]]
    (risen,) = rung(*learned, *[scored(step, text=2.4, loss=2.2) for step in (8, 9)])
    assert risen == 9
    assert rung(*QUIET, *[scored(step, text=2.4) for step in (8, 9)]) == {}, "it never learned it"


def test_losses_that_scatter_do_not_ring():
    scatter = np.random.default_rng(0).normal(3, 0.4, 200)
    assert rung(*[scored(step, loss=float(loss)) for step, loss in enumerate(scatter)]) == {}
