"""The page that tells users what every score is names all of them, and gives their true values of
chance."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tracker_viz.metrics import HEAD_SCORES, ROLES, WEIGHT_SCORES, ProbeRow, evidence

PAGE = (Path(__file__).parents[2] / "docs" / "pages" / "scores.md").read_text()
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


def test_every_role_is_on_the_page_with_its_lines_and_its_scores():
    found = table("Roles")
    for role in ROLES:
        cells = found[role.name]
        assert [float(cells[2]), float(cells[3])] == [role.enter, role.leave]
        needed = [(role.scores or (role.name,))[0], *([role.also] if role.also else [])]
        assert re.findall(r"`(\w+)`", cells[1]) == needed
        assert {"repeated": "repeats", "text": "text"}[role.rows] in cells[1]


def test_what_the_page_says_of_evidence_is_so():
    for value in (evidence.EVIDENCE, evidence.MOST_PER_CAPTURE, evidence.UNKNOWN_ROW_NOISE):
        assert f"{value:g}" in PAGE
    assert all(str(threshold) in PAGE for threshold in (0.1, 0.2, 0.9))
