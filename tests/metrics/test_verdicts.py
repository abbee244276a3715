"""Conclusions from losses without heads: the sets that a role is compared with, the rule, and
its words."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from tracker_viz.metrics import (
    VERDICT_COLUMNS,
    AblatedSet,
    ScoreSeries,
    labels_at,
    marked_rows,
    role_plans,
    sentences,
    verdict_rows,
)

WHOLE = {"later_copies": 0.03, "first_copies": 4.0, "text": 2.0}


def labels_of(n_blocks, n_heads, **roles):
    """``labels_of(2, 4, induction=[(1, 0)])``: every other head carries no role."""
    labels = {(block, head): () for block in range(n_blocks) for head in range(n_heads)}
    for role, heads in roles.items():
        for head in heads:
            labels[head] = (*labels[head], role)
    return labels


def ablated(heads, later_copies=0.0, text=0.0, error=0.0):
    changes = {"later_copies": later_copies, "first_copies": 0.0, "text": text}
    losses = {kind: WHOLE[kind] + change for kind, change in changes.items()}
    # Over two rows a standard error of ``error``.
    return AblatedSet(tuple(heads), losses, changes, dict.fromkeys(WHOLE, (error, -error)))


def judged(labels, plans, **options):
    """The rows of a checkpoint at which each set costs what ``options`` say of it: its rise of the
    loss on what can be copied, by heads such as ``L01H00_L01H01``."""
    sets = {(head,) for head in labels}
    for plan in plans:
        sets |= set(plan.sets())
    measured = {}
    for heads in sets:
        name = "_".join(f"L{block:02d}H{head:02d}" for block, head in heads)
        measured[heads] = ablated(heads, **options.get(name, {}))
    rows = verdict_rows(100, WHOLE, labels, plans, measured)
    assert all(tuple(row) == VERDICT_COLUMNS for row in rows)
    return {row["what"]: row for row in rows}


INDUCTION = labels_of(2, 4, induction=[(1, 0), (1, 1)])


@pytest.fixture
def plans():
    return role_plans(INDUCTION, draws=10, seed=0)


def test_a_role_is_compared_with_different_sets_of_as_many_heads_without_a_role():
    labels = labels_of(4, 4, induction=[(1, 0), (1, 1), (1, 2)], previous_token=[(0, 0)])
    induction = next(
        plan for plan in role_plans(labels, draws=20, seed=0) if plan.role == "induction"
    )
    assert induction.heads == ((1, 0), (1, 1), (1, 2))
    assert induction.are_unlabeled
    assert len(induction.others) == len(set(induction.others)) == 20
    for heads in induction.others:
        assert len(set(heads)) == 3
        assert list(heads) == sorted(heads)
        assert all(labels[head] == () for head in heads)
    assert role_plans(labels, draws=20, seed=0) == role_plans(labels, draws=20, seed=0)
    assert role_plans(labels, draws=20, seed=1) != role_plans(labels, draws=20, seed=0)


def test_other_heads_are_mostly_drawn_near_those_of_the_role():
    labels = labels_of(8, 8, induction=[(3, 0)])
    (plan,) = role_plans(labels, draws=40, seed=0)
    distances = Counter(abs(heads[0][0] - 3) for heads in plan.others)
    assert distances[0] > 3
    assert distances[0] + distances[1] > sum(distances.values()) / 2


def test_where_few_heads_carry_no_role_others_are_drawn_from_all():
    labels = labels_of(2, 2, induction=[(1, 0), (1, 1)], previous_token=[(0, 0)])
    (_, induction) = role_plans(labels, draws=20, seed=0)
    assert (induction.role, induction.are_unlabeled) == ("induction", False)
    assert induction.others == (((0, 0), (0, 1)),)
    everything = labels_of(1, 2, induction=[(0, 0), (0, 1)])
    (alone,) = role_plans(everything, draws=20, seed=0)
    assert alone.others == ()
    row = judged(everything, (alone,), L00H00_L00H01={"later_copies": 3.0})["induction"]
    assert row["verdict"] is None
    assert sentences([row])[0].endswith("there are no other heads to compare with.")


def test_a_label_holds_above_the_largest_of_the_others_by_two_errors(plans):
    others = {
        "_".join(f"L{block:02d}H{head:02d}" for block, head in heads) for heads in plans[0].others
    }
    largest = {sorted(others)[0]: {"later_copies": 1.0}}
    for rise, error, verdict in ((1.1, 0.04, "holds"), (1.1, 0.06, "no"), (0.9, 0.0, "no")):
        role = {"L01H00_L01H01": {"later_copies": rise, "error": error}}
        row = judged(INDUCTION, plans, **largest, **role)["induction"]
        assert row["verdict"] == verdict, (rise, error)
        assert row["others_largest"] == 1.0
        assert row["others_change"] == pytest.approx(0.1)
        assert row["n_others"] == 10


def test_a_rise_that_is_sure_and_tiny_is_no_verdict(plans):
    tiny = judged(INDUCTION, plans, L01H00_L01H01={"later_copies": 0.009})
    assert tiny["induction"]["verdict"] == "no"


def test_a_head_holds_alone_or_because_it_rescues_the_others(plans):
    found = judged(
        INDUCTION,
        plans,
        L01H00_L01H01={"later_copies": 3.0},
        L01H00={"later_copies": 2.5},
        L01H01={"later_copies": 0.0},
    )
    # With L01H01 as the only one left in, L01H00 is out: that costs 2.5 of the 3.0.
    assert (found["L01H00"]["verdict"], found["L01H00"]["rescue"]) == ("holds", 3.0)
    assert found["L01H01"]["verdict"] == "with its set"
    assert found["L01H01"]["rescue"] == pytest.approx(0.5)


def test_a_head_beside_the_one_that_does_the_work_does_not_hold(plans):
    found = judged(
        INDUCTION,
        plans,
        L01H00_L01H01={"later_copies": 3.0},
        L01H00={"later_copies": 3.0},
    )
    assert found["induction"]["verdict"] == "holds"
    assert found["L01H01"]["verdict"] == "no"
    assert found["L00H00"]["verdict"] is None


def test_what_a_head_rescues_is_measured_row_by_row(plans):
    """Where both losses err in the same rows, their difference is sure."""
    for error, verdict in ((1.0, "with its set"), (0.0, "no")):
        found = judged(
            INDUCTION,
            plans,
            L01H00_L01H01={"later_copies": 3.0, "error": 1.0},
            L01H00={"later_copies": 2.5, "error": error},
        )
        assert found["L01H01"]["verdict"] == verdict


def test_a_role_on_text_is_judged_by_the_loss_on_text():
    labels = labels_of(2, 4, previous_token_text=[(0, 0)])
    plans = role_plans(labels, draws=10, seed=0)
    found = judged(labels, plans, L00H00={"text": 0.5})
    assert found["previous_token_text"]["judged_by"] == "text"
    assert found["previous_token_text"]["verdict"] == "holds"
    assert judged(labels, plans, L00H00={"later_copies": 0.5})["L00H00"]["verdict"] == "no"
    said = sentences([found["previous_token_text"]])[0]
    assert said.startswith(
        "Without its previous token (text) head the loss on text rises 2.00 -> 2.50; "
    )


def test_a_role_is_not_judged_by_rows_that_there_are_none_of():
    labels = labels_of(2, 4, previous_token_text=[(0, 0), (0, 1)])
    plans = role_plans(labels, draws=10, seed=0)
    measured = {}
    for heads in {*((head,) for head in labels), *(each for plan in plans for each in plan.sets())}:
        whole = ablated(heads)
        measured[heads] = AblatedSet(
            heads,
            *(
                {kind: value for kind, value in numbers.items() if kind != "text"}
                for numbers in (whole.losses, whole.changes, whole.residuals)
            ),
        )
    whole = {kind: value for kind, value in WHOLE.items() if kind != "text"}
    rows = {row["what"]: row for row in verdict_rows(100, whole, labels, plans, measured)}
    assert rows["previous_token_text"]["verdict"] is None
    assert rows["model"]["text"] is None
    said = sentences([rows["previous_token_text"]])
    assert said == [
        "Without its 2 previous token (text) heads: not measured, because there are no rows of "
        "text."
    ]


def test_what_is_said_of_a_role_names_both_losses(plans):
    found = judged(INDUCTION, plans, L01H00_L01H01={"later_copies": 4.73})
    assert sentences(list(found.values())) == [
        "Without its 2 induction heads the loss on what can be copied rises 0.03 -> 4.76; without "
        "as many others it is 0.03 on average and 0.03 at most (10 sets of heads without a role "
        "among repeats). The label holds."
    ]
    falls = judged(INDUCTION, plans, L01H00_L01H01={"later_copies": -0.01})
    assert "what can be copied falls 0.03 -> 0.02; " in sentences(list(falls.values()))[0]
    assert sentences(list(falls.values()))[0].endswith("The label does not hold.")


def test_a_head_with_a_role_on_each_kind_of_row_is_in_both_sets():
    labels = labels_of(2, 4, induction=[(1, 0), (1, 1)], sink_text=[(1, 0)])
    plans = role_plans(labels, draws=10, seed=0)
    assert {plan.role: plan.heads for plan in plans} == {
        "induction": ((1, 0), (1, 1)),
        "sink_text": ((1, 0),),
    }
    found = judged(labels, plans)
    assert found["L01H00"]["role"] == "induction", "the table of heads shows the first"


def test_heads_with_a_role_on_text_are_others_for_a_role_among_repeats():
    labels = labels_of(2, 4, induction=[(1, 0)], sink_text=[(0, 0), (0, 1), (0, 2)])
    plans = {plan.role: plan for plan in role_plans(labels, draws=99, seed=0)}
    assert len(plans["induction"].others) == 7
    assert {head for heads in plans["sink_text"].others for head in heads} == {
        head for head, roles in labels.items() if "sink_text" not in roles
    }
    found = judged(labels, plans.values(), L01H00={"later_copies": 2.0})
    assert found["L01H00"]["n_others"] == 7
    assert found["L00H00"]["n_others"] == 5


def test_labels_are_those_of_the_last_capture_until_a_step():
    steps = np.array([0, 10, 20, 30, 40])
    scores = np.zeros((5, 2, 2), np.float32)
    scores[2:, 1, 0] = 0.9
    series = ScoreSeries(steps, {"induction": scores})
    for step, of, roles in ((19, 10, ()), (20, 20, ("induction",)), (99, 40, ("induction",))):
        labels, labels_step = labels_at(series, step, (2, 2))
        assert (labels[1, 0], labels_step) == (roles, of)
        assert labels[0, 0] == ()
    assert labels_at(ScoreSeries(np.zeros(0, np.int64), {}), 5, (1,)) == ({(0, 0): ()}, None)


def test_the_table_of_heads_is_marked_by_the_loss_of_each_role(plans):
    found = judged(
        INDUCTION,
        plans,
        L01H00_L01H01={"later_copies": 3.0},
        L01H00={"later_copies": 2.5, "text": 0.1},
    )
    heads = [{"head": "L01H00", "role": "induction"}, {"head": "L09H09", "role": None}]
    assert marked_rows(heads, found) == [
        {"head": "L01H00", "role": "induction", "verified": "holds", "verified_change": 2.5},
        {"head": "L09H09", "role": None, "verified": None, "verified_change": None},
    ]


def test_the_columns_of_the_stored_table_keep_their_names():
    assert (
        *("step", "what", "role", "heads", "n_heads", "later_copies", "first_copies", "text"),
        *("later_copies_change", "first_copies_change", "text_change", "judged_by"),
        *("change_error", "others_loss", "others_change", "others_sd", "others_largest"),
        *("n_others", "others_are", "rescue", "verdict"),
    ) == VERDICT_COLUMNS


def test_a_measurement_survives_the_journal():
    measured = ablated([(0, 1), (2, 3)], later_copies=0.1234567890123, text=-0.5, error=1e-9)
    assert measured.error("text") == pytest.approx(1e-9)
    assert AblatedSet.of(json.loads(json.dumps(measured.description()))) == measured
