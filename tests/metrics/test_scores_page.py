"""The page that tells users what every score is names all of them, and gives their true values of
chance."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tracker_viz.metrics import HEAD_SCORES, ROLES, WEIGHT_SCORES, ProbeRow

PAGE = (Path(__file__).parents[2] / "examples" / "scores.md").read_text()
# of the demo: 64 tokens, four copies behind a BOS
PROBE = (ProbeRow("repeated", 64, 15, 1), ProbeRow("text", 64))


def table(heading):
    """Names in the first column -> the cells of their row."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in section.splitlines()
        if line.startswith("| `")
    ]
    return {name: cells for cells in rows for name in re.findall(r"`(\w+)`", cells[0])}


def test_every_score_of_heads_is_on_the_page_with_its_value_for_uniform_attention():
    found = table("Heads")
    assert set(found) == set(HEAD_SCORES)
    for name, cells in found.items():
        stated = cells[3]
        digits = len(stated.partition(".")[2])
        assert float(stated) == pytest.approx(
            HEAD_SCORES[name].uniform(PROBE), abs=0.51 * 10**-digits
        ), name


def test_every_score_of_weights_is_on_the_page():
    assert set(table("Weights and neurons")) == set(WEIGHT_SCORES)


def test_thresholds_of_roles_are_those_on_the_page():
    assert {(role.enter, role.leave) for role in ROLES} == {(0.3, 0.2)}
    assert "0.3" in PAGE
    assert "below 0.2" in PAGE
    assert all(f"`{role.name}`" in PAGE for role in ROLES)
