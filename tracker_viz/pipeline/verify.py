"""``tv.verify``: ablate the labeled heads at a run's checkpoints, measure what the model can no
longer predict, and write the verdicts into the run.

    run ──▶ labels                 checkpoints ──▶ model ──▶ losses without each head, each role's
                                                             heads, and as many others
    run ◀── table, files, summary, marks in the table of heads ◀──┘

Measurements are kept in a journal on this machine: a verification that is killed continues where it
stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracker_viz import notebook
from tracker_viz.files import append_lines, read_lines
from tracker_viz.metrics import AblatedSet, RolePlan, labels_at, role_plans, verdict_rows
from tracker_viz.pipeline.load import TrackerOptions, open_run
from tracker_viz.pipeline.options import Ablation, VerifyOptions
from tracker_viz.pipeline.results.verified import Results, put_results
from tracker_viz.progress import progress_bar
from tracker_viz.trackers import cache_directory
from tracker_viz.types import HeadId, RunRef

if TYPE_CHECKING:
    import torch
    from torch import nn

    from tracker_viz.capture import Forward, HeldOutRows, Losses, LossMeter
    from tracker_viz.pipeline.verify_subject import Subject


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """The result of a verification. Path-like: it is the path of the table.

    Attributes:
        rows: the table, see ``metrics.verdict_rows``, of every checkpoint that was measured.
        sentences: step -> the verdict on each role.
        notes: caveats of the measurement.
        path: the table on this machine, as CSV; the JSON file is next to it.
        url: link of the table in the run; None if nothing was uploaded.
    """

    rows: tuple[Mapping[str, str | float | int | None], ...]
    sentences: Mapping[int, tuple[str, ...]]
    notes: tuple[str, ...]
    path: Path
    url: str | None

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        steps = ", ".join(map(str, list(self.sentences)[:5]))
        return f"VerifyResult({str(self.path)!r}, {len(self.rows)} rows, steps {steps})"

    def _repr_html_(self) -> str:
        """Show the verdicts of the last checkpoint, and the caveats, in a notebook."""
        last = max(self.sentences, default=None)
        verdicts = self.sentences[last] if last is not None else ()
        where = f"<code>{notebook.text(self.path)}</code>"
        if self.url:
            where = f"{notebook.link(self.url, 'in the run')} · {where}"
        head = f"Verdicts at step {last:,}" if last is not None else "No role was verified"
        return notebook.box(
            [
                head,
                notebook.lines(map(notebook.text, verdicts)),
                notebook.lines(map(notebook.text, self.notes)),
                where,
            ]
        )


def verify(
    run: RunRef | str,
    *,
    checkpoints: str | None = None,
    model: nn.Module | None = None,
    rows: HeldOutRows | Mapping[str, Any] | None = None,
    steps: Sequence[int] | None = None,
    ablation: Ablation = "mean",
    n_rows: int = 32,
    draws: int = 20,
    seed: int = 0,
    device: str = "auto",
    blocks: str | Sequence[str] | None = None,
    projections: Mapping[str, str] | None = None,
    forward: Forward | None = None,
    autocast: torch.dtype | None = None,
    upload: bool = True,
    output: str | Path | None = None,
    cache: str | Path | None = None,
    tracker_options: TrackerOptions | None = None,
    progress: bool = True,
) -> VerifyResult:
    """Ablate the labeled heads of a run, and write the result into the run, as ``tracker-viz
    verify`` does.

    Args:
        run: the run's reference. A run of ``train.py`` needs nothing else.
        checkpoints: for other runs: glob pattern, as in ``backfill``.
        model: with the class and configuration of the checkpoints, which overwrite its weights.
            Without ``checkpoints`` it is measured as it is now, for the run's last capture.
        rows: held-out rows, ``HeldOutRows`` or {"repeated": ids, "text": ids}, each [row, token].
            By default repeated random tokens, and for a run of ``train.py`` its held-out text.
        steps, ablation, n_rows, draws, seed, upload, output, cache: see ``VerifyOptions``.
        device: see ``VerifyOptions``; a ``model`` that is passed stays where it is.
        blocks, projections, forward, autocast: as in ``watch``. ``forward`` must return the logits,
            or an output that has them.
        tracker_options: tracker -> options of its adapter.
        progress: show progress on standard error.

    Raises:
        ConfigError: an option is invalid, or the checkpoints do not belong to the run; raised
            before anything is measured.
        CaptureError: a checkpoint does not fit the model, or its heads cannot be ablated.
        RunNotFoundError, TrackerError: the run cannot be read, or cannot be written; in the latter
            case the files are already on this machine.
    """
    import tracker_viz.capture  # noqa: F401  names the install line where torch is missing
    from tracker_viz.pipeline.verify_subject import find_subject

    options = VerifyOptions(
        steps=steps,
        ablation=ablation,
        n_rows=n_rows,
        draws=draws,
        seed=seed,
        device=device,
        upload=upload,
        output=output,
        cache=cache,
    )
    opened = open_run(run, tracker_options)
    directory = cache_directory(opened.ref, options.cache)
    subject = find_subject(
        opened,
        checkpoints=checkpoints,
        model=model,
        rows=rows,
        options=options,
        blocks=blocks,
        projections=projections,
        forward=forward,
        autocast=autocast,
        tracker_options=tracker_options,
    )
    with progress_bar("ablating", "sets of heads", shown=progress) as advance:
        table, labels_steps = _measured(subject, options, directory / "verify", advance)
    results = Results.of(
        table,
        labels_steps,
        settings={
            "ablation": options.ablation,
            "rows": subject.rows_description(),
        },
    )
    stored = put_results(opened, results, subject.series, options, directory)
    return VerifyResult(
        tuple(stored.results.table),
        stored.results.sentences,
        (*subject.notes, *stored.notes),
        stored.path,
        stored.url,
    )


def _measured(
    subject: Subject,
    options: VerifyOptions,
    journals: Path,
    advance: Callable[[int, int, str], None],
) -> tuple[list[dict[str, Any]], dict[int, int | None]]:
    """Measure every checkpoint; return the table, and step -> step of the labels that were used."""
    plans: dict[int, tuple[RolePlan, ...]] = {}
    labels: dict[int, dict[HeadId, tuple[str, ...]]] = {}
    labels_steps: dict[int, int | None] = {}
    sets: dict[int, list[tuple[HeadId, ...]]] = {}
    for step in subject.steps:
        labels[step], labels_steps[step] = labels_at(subject.series, step, subject.meter.n_heads)
        plans[step] = role_plans(labels[step], draws=options.draws, seed=options.seed)
        sets[step] = _sets(labels[step], plans[step])

    total = sum(map(len, sets.values()))
    n_before = 0
    table: list[dict[str, Any]] = []
    for step in subject.steps:
        digest = subject.load(step)
        journal = journals / f"{_fingerprint(digest, subject, options.ablation)}.jsonl"
        known = _journal(journal)
        whole = subject.meter.whole()
        measured = {}
        for index, heads in enumerate(sets[step]):
            if heads not in known:
                known[heads] = _ablated(subject.meter, heads, whole)
                # Each measurement at once: a kill loses none of those before it.
                append_lines([json.dumps(known[heads].description())], journal)
            measured[heads] = known[heads]
            advance(n_before + index + 1, total, f"step {step}")
        n_before += len(sets[step])
        table += verdict_rows(step, whole.means(), labels[step], plans[step], measured)
    return table, labels_steps


def _sets(labels: Collection[HeadId], plans: Sequence[RolePlan]) -> list[tuple[HeadId, ...]]:
    """Return every set of heads to take out, each once. Whole roles come first, because an
    interrupted run should have measured those."""
    sets = [plan.heads for plan in plans]
    sets += [(head,) for head in sorted(labels)]
    for plan in plans:
        sets += plan.sets()
    return list(dict.fromkeys(sets))


def _ablated(meter: LossMeter, heads: tuple[HeadId, ...], whole: Losses) -> AblatedSet:
    without = meter.without(heads)
    changes = without.changes_since(whole)
    return AblatedSet(
        heads,
        without.means(),
        {kind: change for kind, (change, _) in changes.items()},
        {kind: tuple(residuals.tolist()) for kind, (_, residuals) in changes.items()},
    )


def _fingerprint(weights: str, subject: Subject, ablation: str) -> str:
    """Return the journal's name: equal for measurements whose numbers must be equal."""
    described = {
        "weights": weights,
        "rows": subject.rows_description(),
        "ablation": ablation,
        "autocast": str(subject.autocast),
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:24]


def _journal(path: Path) -> dict[tuple[HeadId, ...], AblatedSet]:
    known = {}
    for line in read_lines(path):
        try:
            ablated = AblatedSet.of(line)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            continue
        known[ablated.heads] = ablated
    return known
