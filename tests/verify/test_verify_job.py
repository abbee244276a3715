"""``tracker-viz verify`` as a person calls it, in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import induction_model
import pytest

import tracker_viz as tv
from tracker_viz.jobs.verify import report

ROWS = """
import torch

def held_out():
    rows = torch.arange(8).repeat(4)[None].repeat(3, 1)
    text = torch.arange(24)[None].repeat(2, 1)
    return {"repeated": rows + torch.arange(3)[:, None], "text": text}
"""


@pytest.fixture
def tracker_viz(tmp_path):
    """``tracker_viz("verify", ...)`` in a directory that holds what builds the model."""
    directory = tmp_path / "cwd"
    directory.mkdir()
    shutil.copy(Path(__file__).with_name("induction_model.py"), directory / "my_induction_model.py")
    (directory / "my_rows.py").write_text(ROWS)

    def call(*words):
        program = "from tracker_viz.jobs import main; main()"
        environment = os.environ | {"COLUMNS": "120", "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, "-c", program, *map(str, words)],
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return call


def test_a_run_is_verified_with_checkpoints_and_what_builds_their_model(recorded, tracker_viz):
    result = tracker_viz(
        "verify",
        f"run={recorded.ref}",
        f"checkpoints={recorded.checkpoints}",
        "model=my_induction_model.build",
        "rows=my_rows.held_out",
        "draws=5",
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "Step 10"
    assert lines[3].startswith("Without its 2 induction heads the loss on what can be copied rises")
    header, _, nothing, *others = lines[lines.index("") + 4 :]
    assert header.split() == [
        "without",
        "role",
        "later",
        "copies",
        "first",
        "copies",
        "text",
        "others",
        "at",
        "most",
        "label",
    ]
    assert nothing.startswith("nothing  ")
    assert [line.split("  ")[0] for line in others[:2]] == ["all previous token", "all induction"]
    assert all(line.endswith("  holds") for line in others[:3])
    assert others[2].startswith("L0H1                previous token  ")
    assert lines[-1] == f"In the run: {recorded.directory.as_uri()}/spool/tables/verified_heads.csv"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model=my_induction_model.build"], "model= needs checkpoints=: a model is built with"),
        (["rows=my_rows.nothing"], "rows must be a function that needs no arguments"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(recorded, tracker_viz, words, message):
    result = tracker_viz("verify", f"run={recorded.ref}", *words)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_table_without_labels_has_no_columns_for_them(recorded):
    model = induction_model.build()
    result = tv.verify(
        recorded.ref,
        checkpoints=recorded.checkpoints,
        model=model,
        steps=[2],
        n_rows=4,
        progress=False,
    )
    lines = report(result).splitlines()
    assert lines[:3] == ["Step 2", "", "No head carries a label."]
    assert lines[4].split() == ["without", "later", "copies", "first", "copies"]
    assert {line.split()[0] for line in lines[7:15]} == {
        f"L{block}H{head}" for block in range(2) for head in range(4)
    }
