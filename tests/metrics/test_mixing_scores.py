"""Scores of mixing maps, on maps whose scores are known by hand."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tracker_viz.metrics import MIXING_SCORES, score
from tracker_viz.types import Capture

PAGE = (Path(__file__).parents[2] / "docs" / "pages" / "scores.md").read_text()
LENGTH = 64


def decaying(half_life, length=LENGTH):
    """A mixer whose state halves every ``half_life`` tokens."""
    place = np.arange(length)
    back = np.maximum(place[:, None] - place, 0)
    return np.tril(0.5 ** (back / half_life)).astype(np.float32)


def measured(matrix):
    return {name: float(measure(matrix)) for name, measure in MIXING_SCORES.items()}


def test_a_mixer_that_hands_on_the_token_before_has_a_memory_of_one():
    matrix = -3.0 * np.eye(LENGTH, k=-1, dtype=np.float32)
    expected = {"previous_token": 1, "current_token": 0, "memory": 1, "negative": 1}
    assert measured(matrix) == pytest.approx(expected)


def test_memory_is_the_mean_lag_of_a_decay():
    assert measured(decaying(2, 512))["memory"] == pytest.approx(2 / np.log(2) - 0.5, rel=0.05)


def test_a_sign_and_a_scale_change_sizes_alone():
    signed = decaying(4) * np.where(np.arange(LENGTH) % 2, -2.0, 2.0).astype(np.float32)
    plain, changed = measured(decaying(4)), measured(signed)
    assert changed["negative"] == pytest.approx(0.5, abs=0.05)
    for name in ("previous_token", "current_token", "memory"):
        assert changed[name] == pytest.approx(plain[name], abs=1e-6)


def test_rows_of_zeros_do_not_count_and_what_is_zero_or_not_finite_has_no_score():
    matrix = np.eye(LENGTH, k=-1, dtype=np.float32)
    matrix[5:9] = 0
    assert measured(matrix)["previous_token"] == 1
    assert np.isnan(list(measured(np.zeros_like(matrix)).values())).all()
    matrix[40, 3] = np.inf
    assert np.isnan(list(measured(matrix).values())).all()


def test_a_capture_gets_the_scores_of_its_mixing_maps_and_no_role_scores_of_them():
    maps = np.stack([decaying(2), decaying(8)])[None].repeat(2, axis=0)
    name = "blocks.1.mixer.mixing"
    made = score(
        Capture(0, {name: maps}, {name: ("probe", "head", "query", "key")}, model={"n_blocks": 3})
    )
    memory = made.arrays["scores.mixing.memory"]
    assert memory.shape == (3, 2)
    assert np.isnan(memory[[0, 2]]).all()
    assert memory[1, 0] < 3 < memory[1, 1]
    assert not [each for each in made.arrays if each.startswith("scores.head.")]


def test_the_page_names_every_score_with_its_value_for_equal_entries():
    section = PAGE.partition("## Mixing maps\n")[2].partition("\n## ")[0]
    rows = [re.split(r"(?<!\\)\|", line) for line in section.splitlines() if line.startswith("| `")]
    stated = {row[1].strip(" `"): float(row[4]) for row in rows}
    equal = np.tril(np.ones((LENGTH, LENGTH), np.float32))
    assert stated == pytest.approx(measured(equal), abs=0.6)
    assert stated["previous_token"] == pytest.approx(measured(equal)["previous_token"], abs=0.005)
