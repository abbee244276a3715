"""Labels of runs, notes on what limits a comparison, and the captures that are shown side by
side."""

from __future__ import annotations

import numpy as np
import pytest

from tracker_viz.comparison import (
    NOT_YET,
    ComparedRun,
    align,
    check_runs,
    comparability_notes,
    differing_settings,
    in_order_of_settings,
    positions,
    run_labels,
    run_title,
    trajectories,
)
from tracker_viz.comparison.align import shared_stretch
from tracker_viz.comparison.runs import flat_config
from tracker_viz.errors import ConfigError
from tracker_viz.metrics import ScoreSeries


def make_run(
    name,
    steps,
    *,
    config=None,
    shape=(2, 3),
    tokens_per_step=None,
    uniform=0.05,
    state="finished",
    values=None,
):
    steps = np.asarray(steps)
    scores = (
        np.zeros((len(steps), *shape), np.float32)
        if values is None
        else np.asarray(values, np.float32)
    )
    tokens = (
        np.full(len(steps), np.nan) if tokens_per_step is None else steps * float(tokens_per_step)
    )
    series = ScoreSeries(
        steps, {"induction": scores}, uniform={"induction": uniform}, tokens_seen=tokens
    )
    return ComparedRun(name, series, config or {}, state)


def test_runs_are_called_by_the_settings_in_which_they_differ():
    runs = [
        make_run(
            f"mlflow:{seed}{n_heads}",
            [0, 1],
            config={
                "seed": seed,
                "model": {"n_heads": n_heads, "n_blocks": 4},
                "tracker.uri": f"x{seed}",
            },
        )
        for seed in (0, 1)
        for n_heads in (4, 8)
    ]
    assert differing_settings(runs)["mlflow:08"] == {"model.n_heads": 8, "seed": 0}
    assert list(run_labels(runs).values()) == [
        "n_heads=4 seed=0",
        "n_heads=8 seed=0",
        "n_heads=4 seed=1",
        "n_heads=8 seed=1",
    ]


def test_settings_with_the_same_last_name_keep_their_whole_one():
    runs = [
        make_run("a", [0], config={"model.size": 1, "data.size": 2}),
        make_run("b", [0], config={"model.size": 3, "data.size": 4}),
    ]
    assert run_labels(runs)["a"] == "data.size=2 model.size=1"


def test_runs_that_no_setting_tells_apart_are_called_by_name():
    runs = [
        make_run("local:a", [0], config={"seed": 1}),
        make_run("local:b", [0], config={"seed": 1}),
    ]
    assert list(run_labels(runs).values()) == ["local:a", "local:b"]
    runs.append(make_run("local:c", [0], config={"seed": 2}))
    assert list(run_labels(runs).values()) == ["seed=1 local:a", "seed=1 local:b", "seed=2"]


def test_runs_of_a_sweep_stand_in_the_order_of_their_settings_numbers_by_size_and_before_words():
    settings = [
        (10, "sgd"),
        (9, "sgd"),
        ("auto", "adam"),
        (9, "adam"),
        (0.5, "sgd"),
        (None, "adam"),
    ]
    runs = [
        make_run(str(index), [0], config={"n": n, "optimizer": name, "same": 1})
        for index, (n, name) in enumerate(settings)
    ]
    assert [settings[int(run.name)] for run in in_order_of_settings(runs)] == [
        (0.5, "sgd"),
        (9, "adam"),
        (9, "sgd"),
        (10, "sgd"),
        (None, "adam"),
        ("auto", "adam"),
    ]


@pytest.mark.parametrize(
    "name", ["hydra.job.num", "tracker.uri", "tracker_viz/version", "mlflow.runName", "_wandb.t"]
)
def test_what_a_tracker_adds_is_no_setting(name):
    runs = [make_run(str(value), [0], config={name: value, "trackers": value}) for value in (1, 2)]
    assert differing_settings(runs) == {"1": {"trackers": 1}, "2": {"trackers": 2}}


def test_what_a_configuration_holds_twice_or_follows_from_a_setting_is_named_once():
    """As the public template for Lightning and Hydra logs it."""
    runs = [
        make_run(
            str(n_heads),
            [0],
            config={
                "model/n_heads": n_heads,
                "n_heads": n_heads,
                "model/params/total": 9000 * n_heads,
                "model/params/trainable": 9000 * n_heads,
                "n_params": 9000 * n_heads,
                "hyperparameters": n_heads - 1,
            },
        )
        for n_heads in (2, 4)
    ]
    settings = differing_settings(runs)
    assert settings["4"] == {"hyperparameters": 3, "n_heads": 4}


def test_a_label_stands_on_one_line():
    runs = [
        make_run("a", [0], config={"prompt": "one\ntwo"}),
        make_run("b", [0], config={"prompt": "one"}),
    ]
    assert run_labels(runs) == {"a": "prompt=one two", "b": "prompt=one"}


def test_names_that_a_logger_joined_with_slashes_are_short_too():
    assert run_title("demo", {"model/n_heads": 4, "seed": 0}) == "demo · n_heads=4 seed=0"


def test_numbers_in_labels_are_short():
    runs = [
        make_run(name, [0], config={"lr": lr, "n": n})
        for name, lr, n in (("a", 0.00030000000000000003, 1), ("b", "1e-3", None))
    ]
    assert run_labels(runs) == {"a": "lr=0.0003 n=1", "b": "lr=0.001 n=None"}


def test_numbers_that_mlflow_keeps_as_text_equal_those_of_wandb():
    assert flat_config({"a": {"b": "4", "c": "0.5", "d": "True", "e": "adam"}, "f": 4}) == {
        "a.b": 4,
        "a.c": 0.5,
        "a.d": True,
        "a.e": "adam",
        "f": 4,
    }
    runs = [
        make_run("mlflow:a", [0], config={"model.n_heads": "4"}),
        make_run("wandb:b/c/d", [0], config={"model": {"n_heads": 4}}),
    ]
    assert differing_settings(runs) == {"mlflow:a": {}, "wandb:b/c/d": {}}


def test_a_comparison_of_one_run_of_twice_the_same_or_of_an_empty_one_is_refused():
    run = make_run("a", [0])
    with pytest.raises(ConfigError, match="at least two runs; got 1"):
        check_runs([run])
    with pytest.raises(ConfigError, match="got a more than once"):
        check_runs([run, run])
    with pytest.raises(ConfigError, match="no scored captures in empty"):
        check_runs([run, ComparedRun("empty", ScoreSeries(np.zeros(0, np.int64), {}))])


def test_what_keeps_runs_from_comparing_exactly_is_said():
    assert comparability_notes([make_run("a", [0, 10]), make_run("b", [0, 10])]) == []
    notes = " ".join(
        comparability_notes(
            [
                make_run("a", [0, 10]),
                make_run("b", [0, 5, 30], shape=(4, 8), uniform=0.2, state="failed"),
            ]
        )
    )
    for said in (
        "2 x 3 in 1 run, 4 x 8 in 1 run",
        "captured at different steps",
        "end at different steps (10 to 30)",
        "probes differ",
        "b (failed)",
    ):
        assert said in notes
    assert comparability_notes([make_run("a", [0, 10]), make_run("b", [0, 5, 10])]) == [
        "The runs were captured at different steps; every point of time shows the last capture "
        "before it."
    ]
    assert (
        comparability_notes(
            [make_run("a", [0, 10], uniform=0.05), make_run("b", [0, 10], uniform=0.055)]
        )
        == []
    )


@pytest.mark.parametrize(
    ("n", "said"),
    [(3, "r0 (failed), r1 (failed), r2 (failed)."), (5, "r1 (failed), r2 (failed) and 2 more.")],
)
def test_of_many_runs_that_did_not_finish_the_first_are_named(n, said):
    (note,) = comparability_notes(
        [make_run("done", [0]), *(make_run(f"r{index}", [0], state="failed") for index in range(n))]
    )
    assert note.startswith("Not finished, and without a final loss: r0")
    assert note.endswith(said)


def test_every_point_shows_the_last_capture_before_it():
    alignment = align([make_run("a", [0, 10, 40]), make_run("b", [5, 20])])
    assert alignment.points.tolist() == [0, 5, 10, 20, 40]
    assert alignment.captures.tolist() == [[0, 0, 1, 1, 2], [NOT_YET, 0, 0, 1, 1]]
    assert alignment.ended.tolist() == [[False] * 5, [False, False, False, False, True]]


def test_by_progress_every_run_begins_at_0_and_ends_at_1():
    alignment = align(
        [make_run("a", [0, 50, 100]), make_run("b", [0, 5, 10, 20])], axis="progress", n_points=3
    )
    assert alignment.points.tolist() == [0, 0.5, 1]
    assert alignment.captures.tolist() == [[0, 1, 2], [0, 2, 3]]
    assert not alignment.ended.any()


def test_by_tokens_a_run_with_larger_batches_is_ahead():
    alignment = align(
        [
            make_run("a", [0, 10, 20], tokens_per_step=100),
            make_run("b", [0, 10, 20], tokens_per_step=200),
        ],
        axis="tokens",
    )
    assert alignment.points.tolist() == [0, 1000, 2000, 4000]
    assert alignment.captures.tolist() == [[0, 1, 2, 2], [0, 0, 1, 2]]


def test_a_run_that_counted_no_tokens_cannot_be_aligned_by_them():
    with pytest.raises(ConfigError, match="align by step or progress"):
        positions(make_run("a", [0, 10]).series, "tokens")
    with pytest.raises(ConfigError, match="did you mean 'step'"):
        positions(make_run("a", [0, 10]).series, "steps")


def test_trajectories_go_straight_from_capture_to_capture_and_skip_gaps():
    values = np.zeros((4, 1, 2), np.float32)
    values[:, 0, 0] = [0, 1, np.nan, 0]
    values[:, 0, 1] = np.nan
    series = make_run("a", [0, 10, 20, 30], values=values, shape=(1, 2)).series
    paths = trajectories(series, ["induction"], axis="step", points=np.array([-5, 5, 10, 20, 99]))
    np.testing.assert_allclose(paths[0, 0, :, 0], [0, 0.5, 1, 0.5, 0])
    assert np.isnan(paths[0, 1]).all()


def test_runs_are_compared_at_the_captures_that_both_have_and_between_these():
    both = range(0, 100, 10)
    runs = [make_run("a", [*both, 145]), make_run("b", [*both, 95, 150])]
    stretch = shared_stretch(runs, axis="step", n_points=4)
    assert stretch.points.tolist() == [0, 30, 60, 90]
    assert [each.tolist() for each in stretch.captures] == [list(range(10))] * 2


def test_a_run_of_a_single_capture_stands_at_the_start():
    assert positions(make_run("a", [7]).series, "progress").tolist() == [0]
