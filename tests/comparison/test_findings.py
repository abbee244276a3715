"""A sweep is read as an experiment: seeds are replicates, and every sentence can be defended."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tracker_viz.comparison import (
    ComparedRun,
    all_runs,
    correlations,
    distance_matrix,
    distance_sentence,
    group_sentences,
    run_table,
    setting_groups,
    settings_of,
    short_runs_note,
    strongest_sentence,
)
from tracker_viz.comparison.findings import onset_sentence, place_text
from tracker_viz.comparison.onsets import RoleOnset
from tracker_viz.comparison.runs import is_seed
from tracker_viz.comparison.statistics import onset_times
from tracker_viz.metrics import ScoreSeries

STEPS = np.arange(0, 1001, 10)


def make_run(name, config, *, onset=None, loss=1.5, end=1000, tokens_per_step=None):
    """A run with one induction head from ``onset`` on (None: never)."""
    steps = STEPS[end >= STEPS]
    induction = np.full((len(steps), 2, 4), 0.03, np.float32)
    if onset is not None:
        induction[onset <= steps, 1, 0] = 0.9
    tokens = np.full(len(steps), np.nan) if tokens_per_step is None else steps * tokens_per_step
    series = ScoreSeries(
        steps,
        {"induction": induction},
        uniform={"induction": 0.03},
        tokens_seen=tokens.astype(float),
        metrics={"loss": np.full(len(steps), loss)},
    )
    return ComparedRun(name, series, config)


def sweep(onsets=(460, 470, 480, 500, 630, None)):
    return [
        make_run(f"run{seed}", {"seed": seed}, onset=onset, loss=1.5 + 0.01 * seed)
        for seed, onset in enumerate(onsets)
    ]


def sentences(runs, axis="step"):
    return group_sentences(setting_groups(runs, axis=axis), all_runs(runs, axis=axis), axis)


@pytest.mark.parametrize(
    "name", ["seed", "trainer.seed", "data.random_seed", "seed_everything", "seeds.model", "rng"]
)
def test_names_of_seeds_are_known(name):
    assert is_seed(name)


@pytest.mark.parametrize("name", ["seed_tokens", "model.n_heads", "speed", "seeded_layers", "lr"])
def test_other_names_are_settings(name):
    assert not is_seed(name)


def test_a_sentence_counts_the_seeds_and_gives_the_median_and_its_range():
    (sentence,) = sentences(sweep())
    assert sentence == (
        "all runs: induction formed in 5 of 6 seeds, median step 480 (460 to 630); "
        "loss 1.525 ± 0.019."
    )


def test_every_setting_has_a_sentence_of_its_own():
    runs = [
        make_run(f"{n_heads}-{seed}", {"seed": seed, "model": {"n_heads": n_heads}}, onset=onset)
        for n_heads, onsets in ((4, (460, 480, 500)), (8, (None, None, 900)))
        for seed, onset in enumerate(onsets)
    ]
    together, few, none = sentences(runs)
    assert together.startswith("all runs: induction formed in 4 of 6 runs, median step 500 (460 to")
    assert few.startswith(
        "n_heads=4: induction formed in 3 of 3 seeds, median step 480 (460 to 500)"
    )
    assert none.startswith(
        "n_heads=8: induction formed in 1 of 3 seeds, at step 900, too few for a"
    )
    never = [make_run(str(seed), {"seed": seed}, onset=None) for seed in range(3)]
    (sentence,) = sentences(never)
    assert sentence == "all runs: loss 1.500 ± 0.000.", "a role that no run formed is not mentioned"


def test_runs_that_differ_in_no_known_setting_are_runs_and_not_seeds():
    runs = [make_run("a", {}, onset=400), make_run("b", {}, onset=500)]
    assert "in 2 of 2 runs" in sentences(runs)[0]


def test_places_are_told_on_the_axis_of_the_comparison():
    runs = [
        make_run(str(batch), {"batch": batch}, onset=500, tokens_per_step=1000 * batch)
        for batch in (1, 4)
    ]
    (sentence,) = sentences(runs, "tokens")
    assert "formed in 2 of 2 runs, median 500k tokens (500k to 2M)" in sentence
    (sentence,) = sentences(runs, "progress")
    assert "formed in 2 of 2 runs, median 50 % (50 %)" in sentence


@pytest.mark.parametrize(
    ("place", "text"),
    [(0, "0"), (999, "999"), (999_499, "999k"), (999_500, "1M"), (999_999_999, "1B")],
)
def test_tokens_have_three_digits_and_the_unit_that_they_round_up_to(place, text):
    assert place_text(place, "tokens") == text


def test_settings_without_replicates_are_told_together():
    runs = [make_run(str(lr), {"lr": lr}, onset=100 * lr) for lr in range(1, 6)]
    assert len(sentences(runs)) == 1
    assert "in 5 of 5 runs, median step 300 (100 to 500)" in sentences(runs)[0]


def test_onsets_near_the_line_are_said_to_be():
    near = RoleOnset(90, 100, near_line=True)
    times = onset_times([near, RoleOnset(190, 200)])
    sentence = onset_sentence("induction", times, replicates="seeds", axis="step")
    assert sentence.endswith("(100 to 200), 1 of them near the line")
    alone = onset_sentence("sink", onset_times([near]), replicates="runs", axis="step")
    assert alone == "sink formed at step 100, near the line"


def test_runs_that_ended_while_a_head_rose_are_neither_formed_nor_never():
    """One run stops at the first capture above the line; Kaplan-Meier counts it up to the one
    before."""
    runs = [*sweep((460, 470, 480)), make_run("cut", {"seed": 3}, onset=500, end=500)]
    (sentence,) = sentences(runs)
    assert "formed in 3 of 4 seeds" in sentence
    assert "(1 just above the line when they ended)" in sentence
    (group,) = setting_groups(runs, axis="step")
    (cut,) = [onset for onset in group.onsets["induction"] if not onset.formed]
    assert (cut.after, cut.censored) == (490, True)


def test_runs_that_ended_early_are_named():
    labels, ends = {"a": "seed=0", "b": "seed=1"}, {"a": 1000.0, "b": 460.0}
    note = short_runs_note(labels, ends, "step")
    assert note == "Compared only up to where they end: seed=1 (at step 460)."
    assert short_runs_note(labels, ends | {"b": 900.0}, "step") is None


def test_distances_are_said_beside_those_of_seeds_and_of_chance():
    runs = [
        make_run(f"{lr}-{seed}", {"lr": lr, "seed": seed}, onset=300 * lr)
        for lr in (1, 2)
        for seed in (0, 1)
    ]
    sentence = distance_sentence(distance_matrix(runs), settings_of(runs))
    assert "runs of one setting 0.000 to 0.000" in sentence
    assert "different settings" in sentence
    assert "shuffled heads" in sentence
    assert "of 6 pairs are more alike than 95 % of 200 shuffles" in sentence
    alike = distance_matrix(runs).between_seeds(settings_of(runs))
    assert alike.sum() == 4


def test_where_a_run_writes_and_what_it_is_called_is_no_setting():
    runs = [
        make_run(
            f"run{seed}",
            {"seed": seed, "output_dir": f"out/{seed}", "name": f"n{seed}", "args.run_name": "x"},
        )
        for seed in range(3)
    ]
    assert settings_of(runs) == {run.name: {} for run in runs}
    assert len(setting_groups(runs)) == 1


def factorial(effect_on_loss=0.0, n_seeds=3, shift=0, rng=None):
    rng = rng or np.random.default_rng(0)
    runs = []
    for n_heads in (4, 8):
        for size in ("small", "large"):
            for seed in range(n_seeds):
                onset = int(rng.integers(30, 60)) * 10 + shift * (n_heads == 8)
                loss = rng.normal(2, 0.1) + 0.1 * effect_on_loss * (n_heads == 8)
                config = {
                    "seed": seed,
                    "model": {"n_heads": n_heads, "d_head": 64 // n_heads},
                    "data": size,
                }
                name = f"{n_heads}-{size}-{seed}"
                runs.append(make_run(name, config, onset=min(onset, 900), loss=loss))
    return runs


def test_seeds_are_not_tested_and_settings_that_vary_together_are_tested_once():
    runs = factorial()
    found = correlations(runs, run_table(runs))
    assert {each.setting for each in found} == {"model.d_head", "data"}
    heads = next(each for each in found if each.setting == "model.d_head")
    assert heads.same_as == ("model.n_heads",)
    assert heads.n_tests == len(found) == 4
    assert {each.kind for each in found} == {"spearman", "eta"}


def test_a_setting_that_moves_the_onset_is_found_and_said_with_its_interval():
    runs = factorial(shift=300, n_seeds=5)
    found = correlations(runs, run_table(runs))
    first = found[0]
    assert (first.setting, first.outcome) == ("model.d_head", "onset/induction")
    assert first.p_value < 0.01
    assert first.p_alone <= first.p_value
    assert -1 <= first.low < first.coefficient < first.high < 0
    sentence = strongest_sentence(found, len(runs))
    assert sentence.startswith("Strongest of 4 tests: model.d_head = model.n_heads and onset/indu")
    assert "corrected for all of them" in sentence


def test_of_a_number_its_order_counts_and_not_its_size():
    runs = [make_run(f"{i}", {"lr": 10.0**-i}, loss=1 + 0.1 * i) for i in range(6)]
    (found,) = correlations(runs, run_table(runs))
    assert (found.outcome, found.coefficient) == ("loss", pytest.approx(-1))


def test_no_effect_is_said_to_be_none():
    runs = factorial()
    sentence = strongest_sentence(correlations(runs, run_table(runs)), len(runs))
    assert sentence.startswith(
        "No setting goes with an outcome beyond chance. Strongest of 4 tests"
    )


@pytest.mark.parametrize("n_runs", [2, 5])
def test_few_runs_are_not_tested_and_that_is_said(n_runs):
    runs = factorial()[:n_runs]
    assert correlations(runs, run_table(runs)) == []
    assert f"that takes 6 runs, and there are {n_runs}" in strongest_sentence([], n_runs)


def test_seeds_alone_leave_nothing_to_test():
    runs = sweep((450, 460, 470, 480, 490, 500, 510))
    assert correlations(runs, run_table(runs)) == []
    assert "none of them varies beside the seed" in strongest_sentence([], len(runs))


def test_runs_that_never_formed_a_role_take_part_in_its_test():
    runs = [
        make_run(f"{lr}-{seed}", {"seed": seed, "lr": lr}, onset=500 + seed if lr == 1 else None)
        for lr in (1, 2)
        for seed in range(6)
    ]
    onset = next(each for each in correlations(runs, run_table(runs)) if "onset" in each.outcome)
    assert onset.n_runs == 12
    assert onset.coefficient > 0.8, "later with the larger rate: not by the end"
    assert onset.p_value < 0.01


def test_jobs_that_were_killed_early_look_neither_late_nor_early():
    """The killed ones, all of one setting, ended before any run of the other formed the role."""
    runs = [
        make_run(f"a{seed}", {"lr": 1, "seed": seed}, onset=500 + 10 * seed) for seed in range(6)
    ]
    runs += [make_run(f"b{seed}", {"lr": 2, "seed": seed}, end=100) for seed in range(6)]
    found = [each for each in correlations(runs, run_table(runs)) if "onset" in each.outcome]
    assert all(abs(each.coefficient) < 0.2 for each in found)


@pytest.mark.parametrize("n_seeds", [2, 5])
def test_without_effect_the_first_line_of_a_sweep_is_rarely_significant(n_seeds, monkeypatch):
    monkeypatch.setattr("tracker_viz.comparison.statistics.N_PERMUTATIONS", 200)
    rng = np.random.default_rng(n_seeds)
    significant = 0
    for _ in range(20):
        runs = factorial(n_seeds=n_seeds, rng=rng)
        significant += correlations(runs, run_table(runs))[0].p_value < 0.05
    assert significant <= 4, "5 %, and the chance of 20 sweeps"


def test_a_job_that_was_killed_has_no_final_loss():
    """All jobs of one setting were killed on their way down."""
    runs = [make_run(f"a{seed}", {"lr": 1, "seed": seed}, loss=1.5) for seed in range(6)]
    for seed in range(6):
        killed = make_run(f"b{seed}", {"lr": 2, "seed": seed}, loss=3.0, end=200)
        runs.append(dataclasses.replace(killed, state="killed"))
    assert not [each for each in correlations(runs, run_table(runs)) if each.outcome == "loss"]
    groups = setting_groups(runs)
    assert (groups[0].loss.mean, groups[1].loss) == (1.5, None)
    assert run_table(runs)[-1]["loss"] == 3.0, "the table has it all the same"
