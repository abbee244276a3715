"""Check whether labels hold: ablate the labeled heads of the demo, as ``tracker-viz verify`` does.

    python benchmarks/ablation.py                             # trains the demo first: some minutes
    python benchmarks/ablation.py --run local:<directory>     # verifies a run of train.py

Writes ablation.json and ablation.md beside this file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measuring import REPOSITORY, options_parser, table, wrapped, write_results

import tracker_viz as tv
from tracker_viz.metrics import role_label

PAGE = """
# Ablation: what a model loses without the heads that carry a label

Measured by `python benchmarks/ablation.py`, which trains `train.py experiment=demo` (4 blocks x 4
heads, seed 0) and runs `tracker-viz verify` with its defaults. An ablated head's output is replaced
by its mean over all positions and all rows of the same kind. Losses are in nats per token, on
{n_rows} held-out rows of each kind.

The rule: {rule}.

{sentences}

*Later copies* are the tokens of repeated random spans that can be predicted by looking back.
*Others* and *at most* are the mean and the largest loss without as many other heads.

{losses}

Induction is built on previous-token heads in earlier blocks (Elhage et al. 2021), so both serve the
same loss: without either of them, nothing is copied.
"""


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--run", help="a run of train.py; by default the demo is trained")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        run = options.run or train_demo(Path(directory))
        tv.verify(run, upload=False, output=directory, cache=directory)
        found = json.loads((Path(directory) / "verify.json").read_text())
    write_results("ablation", found, report, options.output)


def train_demo(directory: Path) -> str:
    """Train the demo and return its run."""
    words = ["experiment=demo", "render=false", "tracker=local", f"spool={directory}/spool"]
    subprocess.run([sys.executable, REPOSITORY / "train.py", *words], cwd=directory, check=True)
    return f"local:{directory}/spool"


def report(found: dict[str, Any]) -> str:
    """Return the page of the last checkpoint."""
    step = max(found["sentences"], key=int)
    measured = [row for row in found["table"] if row["step"] == int(step)]
    return wrapped(
        PAGE.format(
            n_rows=found["settings"]["rows"]["text"][0],
            rule=found["rule"],
            sentences="\n".join(f"* {sentence}" for sentence in found["sentences"][step]),
            losses=table(list(loss_rows(measured)), text=("role", "label")),
        )
    )


def loss_rows(measured: list[dict[str, Any]]) -> Iterator[dict[str, str]]:
    """Yield a row for the whole model, for the heads of each role, and for single heads.

    Heads with a role come first. The heads that cost most are above the others.
    """
    model, *others = measured
    roles = [row for row in others if row["what"] == row["role"]]
    heads = [row for row in others if row["what"] != row["role"]]
    heads.sort(key=lambda row: (row["role"] is None, -row[f"{row['judged_by']}_change"]))

    yield loss_row(model, model, "nothing", "")
    for row in roles:
        yield loss_row(row, model, f"all {role_label(row['role'])}", "")
    for row in heads:
        role = ""
        if row["role"] is not None:
            role = role_label(row["role"])
        yield loss_row(row, model, row["what"], role)


def loss_row(row: dict[str, Any], model: dict[str, Any], name: str, role: str) -> dict[str, str]:
    """Return what the model loses without some of its heads."""
    others = at_most = ""
    if row["others_largest"] is not None:
        others = f"{row['others_loss']:.3f}"
        at_most = f"{model[row['judged_by']] + row['others_largest']:.3f}"
    return {
        "without": name,
        "role": role,
        "later copies": f"{row['later_copies']:.3f}",
        "first copies": f"{row['first_copies']:.3f}",
        "text": f"{row['text']:.3f}",
        "others": others,
        "at most": at_most,
        "label": row["verdict"] or "",
    }


if __name__ == "__main__":
    main()
