"""The events of a run: what is one, when, whose, and in which words."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from tracker_viz.metrics import (
    Event,
    RoleEvent,
    ScoreSeries,
    find_events,
    run_sentence,
    strongest_event,
)

N = 40
STEPS = np.arange(N) * 10


def rising(at, top=0.9, low=0.05):
    """A score that is low before capture ``at`` and high from then on."""
    return np.where(np.arange(N) < at, low, top).astype(np.float32)


def series_of(loss=None, **scores):
    """Two blocks of two heads; ``scores`` maps a score to {(block, head): values over time}."""
    heads = {}
    for name, found in scores.items():
        heads[name] = np.full((N, 2, 2), 0.5 if name == "entropy" else 0.05, np.float32)
        for (block, head), values in found.items():
            heads[name][:, block, head] = values
    metrics = {} if loss is None else {"loss": np.asarray(loss, np.float64)}
    return ScoreSeries(STEPS, heads, uniform=dict.fromkeys(heads, 0.05), metrics=metrics)


def test_heads_that_take_a_role_together_are_one_event_led_by_the_strongest():
    series = series_of(induction={(1, 0): rising(20, top=0.6), (1, 1): rising(21, top=0.9)})
    (event,) = find_events(series)
    assert (event.kind, event.role, event.heads) == ("role", "induction", ((1, 1), (1, 0)))
    assert (event.first_step, event.last_step) == (200, 210), "when the strongest took it"
    assert event.text.startswith("200–210: L1H1 and L1H0 look back to what")
    assert event.text.endswith("(induction)")


def test_a_role_is_one_event_however_late_weaker_heads_take_it():
    series = series_of(previous_token={(0, 0): rising(10, top=0.9), (1, 1): rising(30, top=0.5)})
    (event,) = find_events(series)
    assert (event.heads, event.holders) == (((0, 0),), ((0, 0), (1, 1)))
    assert "L0H0 looks at the token before (previous token), 2 heads in the end" in event.text
    assert run_sentence([event]) == "2 previous token heads in blocks 0 and 1"


def test_a_role_on_text_is_an_event_of_its_own_and_named_so():
    series = series_of(
        previous_token_repeated={(0, 0): rising(10)}, previous_token_text={(1, 1): rising(30)}
    )
    repeats, text = find_events(series)
    assert (repeats.headline, text.headline) == ("previous token", "previous token (text)")
    assert text.caption == "L1H1 looks at the token before in text"
    assert text.past_headline == "since 300: previous token (text)"
    assert run_sentence([text]) == "1 previous token head (text) in block 1"


def test_a_role_that_brings_the_loss_down_says_so_and_the_fall_is_no_event_of_its_own():
    loss = np.where(np.arange(N) < 20, 3.2, 1.6)
    (event,) = find_events(series_of(loss, induction={(1, 1): rising(20)}))
    assert event.text.endswith("; loss 3.2 → 1.6 over steps 180–230")


def test_a_fall_that_roles_share_is_credited_once_to_the_strongest():
    loss = np.where(np.arange(N) < 20, 3.2, 1.6)
    found = find_events(
        series_of(
            loss,
            previous_token={(0, 0): rising(19, top=0.8)},
            induction={(1, 1): rising(20, top=0.9)},
        )
    )
    assert [(event.role, event.metric) for event in found] == [
        ("previous_token", ""),
        ("induction", "loss"),
    ]
    assert "loss" not in found[0].text


def test_figures_are_values_of_the_steps_that_are_named_and_not_of_odd_batches():
    loss = np.linspace(5, 2, N) + 0.05 * np.random.default_rng(0).standard_normal(N)
    loss[15:25] -= np.linspace(0, 2, 10)
    loss[25:] -= 2
    loss[18], loss[23] = 9.0, 0.5
    (role,) = find_events(series_of(loss, induction={(1, 1): rising(20)}))
    first, last = (int(np.searchsorted(STEPS, step)) for step in role.metric_steps)
    assert (role.before, role.after) == (loss[first], loss[last])
    assert not {first, last} & {18, 23}


def test_a_loss_that_falls_alone_and_one_that_jumps_are_events_with_their_figures():
    falling = np.concatenate([np.linspace(5, 2, 6), np.full(N - 6, 2.0)])
    (fall,) = find_events(series_of(falling, induction={}))
    assert (fall.kind, round(fall.before), round(fall.after)) == ("loss_fall", 5, 2)
    assert fall.first_step < fall.last_step <= 60

    jumping = np.concatenate([np.full(30, 2.0), np.full(N - 30, 4.0)])
    (jump,) = find_events(series_of(jumping, induction={}))
    assert (jump.kind, jump.first_step <= 300 <= jump.last_step) == ("loss_jump", True)
    assert (jump.headline, jump.caption) == ("loss jumps", "from 2.0 to 4.0")
    assert jump.text.endswith(": loss jumps: 2.0 → 4.0")
    assert jump.past_headline == f"last: loss jumps · {jump.steps_text}"


def test_a_fall_that_the_figures_do_not_show_is_no_event():
    def falling(by):
        loss = np.full(N, 4.3)
        loss[20:] -= by
        return [each for each in find_events(series_of(loss)) if "falls" in each.headline]

    assert len(falling(0.3)) == 1
    assert not falling(0.004)


def test_a_jump_names_the_heads_and_blocks_that_moved_first():
    loss = np.concatenate([np.full(30, 2.0), np.full(N - 30, 4.0)])
    series = series_of(
        loss,
        entropy={
            (0, 1): rising(31, top=0.2, low=0.5),
            (1, 0): rising(30, top=0.3, low=0.5),
            (1, 1): rising(28, top=0.45, low=0.5),
        },
    )
    rms = np.ones((N, 2, 2), np.float32)
    rms[30:, 1, 0] = 3.0
    (jump,) = find_events(replace(series, streams={"rms": rms}))
    assert (jump.heads, jump.blocks) == (((1, 0), (0, 1)), (1,))
    assert jump.sentence == (
        "loss jumps: 2.0 → 4.0; first moved the attention of L1H0 and L0H1 and the residual stream "
        "of block 1"
    )


def test_a_logit_beyond_the_bound_of_an_alarm_is_told_with_its_head():
    (event,) = find_events(series_of(max_logit={(1, 0): rising(30, top=134.0, low=23.0)}))
    assert (event.kind, event.first_step, event.last_step) == ("large_logits", 290, 300)
    assert event.caption == "the largest attention logit of L1H0 passes 100: 23.0 → 134.0"
    assert find_events(series_of(max_logit={(1, 0): rising(30, top=90.0)})) == []


def test_text_that_gets_worse_while_the_training_loss_falls_is_told():
    text = np.concatenate([np.linspace(5, 3, 30), np.linspace(3, 3.8, N - 30)])
    loss = np.linspace(3, 1, N)
    series = series_of(loss, induction={})
    series = replace(series, metrics={**series.metrics, "probe/loss_text": text})
    (event,) = [each for each in find_events(series) if each.kind == "text_worsens"]
    at = event.last_step // 10
    assert (event.first_step, text[at - 1] >= 3.3, text[at - 2] >= 3.3) == (290, True, False)
    assert event.caption == (
        f"the loss on the probe's text rises: 3.0 → {text[at]:.1f}; the training's own falls: "
        f"{loss[29]:.1f} → {loss[at]:.1f}"
    )


def test_noise_of_single_batches_is_no_event():
    loss = 2 + 0.02 * np.random.default_rng(0).standard_normal(N)
    loss[13] = 9.0
    kinds = {event.kind for event in find_events(series_of(loss, induction={}))}
    assert "loss_fall" not in kinds
    assert "loss_jump" not in kinds


def test_a_block_that_collapses_and_a_loss_that_is_no_longer_finite_are_told():
    flat = {(0, 0): rising(25, 0.01, 0.6), (0, 1): rising(25, 0.01, 0.6)}
    (collapse,) = find_events(series_of(entropy=flat))
    assert (collapse.kind, collapse.heads) == ("collapse", ((0, 0), (0, 1)))
    assert "block 0" in collapse.text
    assert "0.60 → 0.01" in collapse.text

    loss = np.where(np.arange(N) < 30, 2.0, np.nan)
    (broken,) = find_events(series_of(loss, induction={}))
    assert (broken.kind, broken.first_step, broken.last_step) == ("nonfinite", 290, 300)


@pytest.mark.parametrize("n", [0, 1])
def test_a_run_of_one_capture_or_none_has_no_events(n):
    series = ScoreSeries(STEPS[:n], {"induction": np.ones((n, 1, 1), np.float32)})
    assert find_events(series) == []
    assert strongest_event([]) is None


def test_events_come_in_the_order_of_their_steps_and_the_strongest_is_found():
    series = series_of(
        previous_token={(0, 0): rising(10, top=0.5)}, induction={(1, 1): rising(30, top=0.95)}
    )
    events = find_events(series)
    assert [event.role for event in events] == ["previous_token", "induction"]
    assert strongest_event(events).role == "induction"


def test_of_many_roles_a_run_says_how_many_heads_have_each():
    names = ("previous_token", "induction", "sink_text")
    events = [RoleEvent(0, 10, ((0, 1),), name) for name in names]
    assert run_sentence(events) == "1 previous token head, 1 induction; on text 1 sink"
    events = [
        RoleEvent(0, 10, ((0, 1), (1, 1)), f"{name}_text", strength=strength)
        for name, strength in (("previous_token", 0.4), ("sink", 0.5), ("current_token", 0.9))
    ]
    assert run_sentence(events) == "on text 2 current token heads, 2 sink, 2 previous token"


def kinds_of_events():
    """All kinds of one run's; a class with slots stands for the one without that it was made
    from."""
    found = {each for each in Event.__subclasses__() if ".metrics.events." in each.__module__}
    return [kind for kind in found if getattr(sys.modules[kind.__module__], kind.__name__) is kind]


def test_every_kind_of_event_has_a_headline_and_a_sentence_of_its_own():
    kinds = kinds_of_events()
    assert len({kind.kind for kind in kinds}) == len(kinds) >= 9
    said = set()
    for kind in kinds:
        event = kind(
            10, 20, ((0, 1),), role="sink", metric="loss", before=1.0, after=0.5, experts=((1, 2),)
        )
        assert event.headline
        assert event.text.startswith("10–20: ")
        said.add(event.text)
    assert len(said) == len(kinds)


def test_the_heads_of_a_role_are_counted_once_for_flag_and_sentence():
    series = series_of(previous_token={(0, 0): rising(10, top=0.9), (1, 1): rising(30, top=0.5)})
    (event,) = find_events(series)
    assert event.who == "2 heads"
    assert run_sentence([event]).startswith("2 previous token heads")
    (alone,) = find_events(series_of(induction={(1, 1): rising(20)}))
    assert alone.who == "L1H1"
