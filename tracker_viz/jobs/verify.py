"""``tracker-viz verify``: ablate the heads that carry a label in a run's checkpoints, and put the
rise of the loss into the run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from tracker_viz import pipeline
from tracker_viz.errors import ConfigError
from tracker_viz.jobs.application import application
from tracker_viz.jobs.builders import build_model, call
from tracker_viz.jobs.report import aligned_table
from tracker_viz.jobs.settings.config import TrackerSettings
from tracker_viz.metrics import role_label, shown_heads
from tracker_viz.pipeline import VerifyOptions, VerifyResult
from tracker_viz.types import RunRef

# Read when torch loads: OpenMP threads that spin while they wait make a pass on a busy machine ten
# times slower.
os.environ.setdefault("GOMP_SPINCOUNT", "0")

_MOST_HEADS = 32


class VerifySettings(TrackerSettings, VerifyOptions):
    """Ablates each head, and all heads of each role, at a run's checkpoints, and measures the loss
    on held-out rows: on repeated random tokens (first and later copies separately) and on text. A
    label holds if this costs more than ablating any of several random sets of equally many other
    heads. Uploads the results to the run, and adds a column with the verdicts to the table of
    heads. If it is killed and started again, it continues."""

    usage = (
        "run=<RunRef of a run of train.py> [key=value ...]",
        "run=<RunRef> checkpoints='<glob>' model=<builder> [rows=<function>] [key=value ...]",
    )

    run: str
    """The run: mlflow:<run_id>, wandb:<entity>/<project>/<run_id>, local:<directory>."""

    checkpoints: str | None = None
    """Glob of safetensors or torch.save files, or of Hugging Face directories, with the step in the
    name: 'out/checkpoint-*'; null: the checkpoints that train.py stored in the run."""

    model: str | None = None
    """Builder of the model of these checkpoints: a function without arguments,
    my_package.build_model, or a directory with a config.json."""

    rows: str | None = None
    """A function without arguments that returns held-out rows, {"repeated": ids, "text": ids}, each
    [row, token]; null: repeated random tokens, and for runs of train.py their held-out text."""


@application(VerifySettings, name="verify")
def main(settings: VerifySettings) -> None:
    options = {name: getattr(settings, name) for name in VerifyOptions.model_fields}
    rows = None
    if settings.rows is not None:
        rows = call(
            settings.rows,
            "rows must be a function that needs no arguments, like my_package.held_out_rows",
        )
    result = pipeline.verify(
        settings.run,
        checkpoints=settings.checkpoints,
        model=_model(settings),
        rows=rows,
        tracker_options={RunRef.parse(settings.run).scheme: settings.tracker_addresses()},
        **options,
    )
    print(report(result))
    print(f"The whole table: {result.path}")
    if result.url:
        print(f"In the run: {result.url}")


def _model(settings: VerifySettings) -> Any:
    if settings.model is None:
        return None
    if settings.checkpoints is None:
        raise ConfigError("model= needs checkpoints=: a model is built with random weights")

    from tracker_viz.demo import choose_device

    return build_model(settings.model).to(choose_device(settings.device))


def report(result: VerifyResult) -> str:
    """Return the result as text: for each checkpoint the sentences, and the heads with a role."""
    lines: list[str] = []
    for step, sentences in result.sentences.items():
        rows = [row for row in result.rows if row["step"] == step]
        lines += [f"Step {step:,}", ""]
        lines += sentences or ["No head carries a label."]
        lines += ["", *_table(rows), ""]
    lines += [f"Note: {note}" for note in result.notes]
    return "\n".join(lines)


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the losses without each role's heads and without single heads: those with a role, and
    the others that cost most."""
    model, *others = rows
    roles = [row for row in others if row["what"] == row["role"]]
    heads = [row for row in others if row["what"] != row["role"]]
    heads.sort(key=_most_costly_first)

    kinds = [kind for kind in ("later_copies", "first_copies", "text") if model[kind] is not None]
    lines = [["without", *(kind.replace("_", " ") for kind in kinds)]]
    if roles:
        lines[0][1:1] = ["role"]
        lines[0] += ["others", "at most", "label"]
    for row in [model, *roles, *heads[:_MOST_HEADS]]:
        name = "nothing" if row is model else shown_heads(row["what"])
        if row in roles:
            name = f"all {role_label(row['role'])}"
        role = "" if row["role"] is None or row in roles else role_label(row["role"])
        losses = [f"{row[kind]:.3f}" for kind in kinds]
        if roles:
            lines.append([name, role, *losses, *_others(row, model), row["verdict"] or ""])
        else:
            lines.append([name, *losses])

    text_columns = {0, 1, len(lines[0]) - 1} if roles else {0}
    table = aligned_table(lines, text_columns=text_columns)
    if len(heads) > _MOST_HEADS:
        table.append(f"and {len(heads) - _MOST_HEADS:,} more heads")
    return table


def _most_costly_first(row: Mapping[str, Any]) -> tuple[bool, float]:
    """Order heads: those with a role first, by the rise of the loss that they are judged by."""
    rise = row[f"{row['judged_by']}_change"]
    return row["role"] is None, -(rise or 0.0)


def _others(row: Mapping[str, Any], model: Mapping[str, Any]) -> list[str]:
    """Return the mean and the largest loss without as many other heads."""
    if row["others_largest"] is None:
        return ["", ""]
    whole = model[row["judged_by"]]
    return [f"{row['others_loss']:.3f}", f"{whole + row['others_largest']:.3f}"]
