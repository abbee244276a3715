"""Gather the inputs of ``verify`` and check that they belong together: the run with its labels, the
model with its checkpoints, and held-out rows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tracker_viz import capture_file
from tracker_viz.capture import (
    Forward,
    HeldOutRows,
    LossMeter,
    check_checkpoint,
    find_checkpoints,
    load_checkpoint,
    unwrapped,
)
from tracker_viz.errors import ConfigError, TrackerError
from tracker_viz.metrics import ScoreSeries
from tracker_viz.pipeline.comparing.scored_runs import ScoredRun, score_runs
from tracker_viz.pipeline.load import TrackerOptions
from tracker_viz.pipeline.options import VerifyOptions
from tracker_viz.pipeline.recording.arguments import checked_model
from tracker_viz.pipeline.verify_rows import as_rows, check_rows, default_rows
from tracker_viz.trackers import Run, cache_directory, pull
from tracker_viz.types import Capture, CaptureRef

# Checkpoints may be saved in a shorter floating-point format than the captures: their values agree
# to a hundredth. The weights of another training differ by as much as their own norm.
_SAME_WEIGHTS = 0.05
_COMPARED_WEIGHT = "attn.w_q"
_VALUES_OF_EACH = 4096


@dataclass(frozen=True, slots=True)
class Subject:
    """The run, the model and the rows that are measured.

    Attributes:
        meter: measures the model.
        checkpoints: step -> its file; None where the model is measured as it is.
        scored: the run's scores; None where it has no captures.
        notes: for the user.
    """

    model: nn.Module
    meter: LossMeter
    rows: HeldOutRows
    checkpoints: Mapping[int, Path | None]
    scored: ScoredRun | None
    autocast: torch.dtype | None
    notes: tuple[str, ...]

    @property
    def steps(self) -> list[int]:
        return sorted(self.checkpoints)

    @property
    def series(self) -> ScoreSeries:
        if self.scored is None:
            return ScoreSeries(np.zeros(0, np.int64), {})
        return self.scored.compared.series

    def load(self, step: int) -> str:
        """Put the weights of a checkpoint into the model and return a digest of them."""
        path = self.checkpoints[step]
        if path is not None:
            load_checkpoint(self.model, path)
        return _weights_digest(self.model)

    def rows_description(self) -> dict[str, Any]:
        """Return how many rows of each kind there are, and a digest of their tokens."""
        digest = hashlib.sha256(self.rows.repeated.numpy().tobytes())
        described: dict[str, Any] = {"repeated": list(self.rows.repeated.shape), "text": None}
        if self.rows.text is not None:
            digest.update(self.rows.text.numpy().tobytes())
            described["text"] = list(self.rows.text.shape)
        return described | {"sha256": digest.hexdigest()}


def find_subject(
    run: Run,
    *,
    checkpoints: str | None,
    model: nn.Module | None,
    rows: HeldOutRows | Mapping[str, Any] | None,
    options: VerifyOptions,
    blocks: str | Sequence[str] | None,
    projections: Mapping[str, str] | None,
    forward: Forward | None,
    autocast: torch.dtype | None,
    tracker_options: TrackerOptions | None,
) -> Subject:
    """Find the model, its checkpoints and rows, and check all of them against the run.

    Raises:
        ConfigError, CaptureError: see ``verify``.
    """
    if checkpoints is not None and model is None:
        raise ConfigError(
            "checkpoints= needs model=: a model with the class and configuration "
            "of the checkpoints, or its builder"
        )
    scored_runs, _ = score_runs(
        [run.ref],
        cache=options.cache,
        may_lack=True,
        tracker_options=tracker_options,
        progress=False,
    )
    scored = scored_runs[0] if scored_runs else None
    notes = [] if scored else [f"The run has no labels: {run.why_no_captures()}."]

    held_out = None if rows is None else as_rows(rows)
    if model is None:
        model, found, own_rows = _trained_by_train_py(run, options)
        held_out = held_out or own_rows
    else:
        model = unwrapped(checked_model(model))
        found = _chosen(checkpoints, options, scored)
    _check_checkpoints(run, model, found, scored)
    if held_out is None:
        held_out, notes_on_rows = default_rows(model, scored, options)
        notes += notes_on_rows
    check_rows(model, held_out)
    if held_out.text is None:
        notes.append("There are no rows of text; pass rows= to measure the loss on text, too.")

    first = found[min(found)]
    if first is not None:
        load_checkpoint(model, first)
    meter = LossMeter(
        model,
        held_out,
        ablation=options.ablation,
        blocks=blocks,
        projections=projections,
        forward=forward,
        autocast=autocast,
    )
    subject = Subject(model, meter, held_out, found, scored, autocast, tuple(notes))
    if scored is not None:
        _check_model(run, subject, scored, options)
    return subject


# -- the model and its checkpoints -----------------------------------------------------------------


def _trained_by_train_py(
    run: Run, options: VerifyOptions
) -> tuple[nn.Module, dict[int, Path | None], HeldOutRows]:
    from tracker_viz.demo import choose_device, stored_training

    directory = cache_directory(run.ref, options.cache)
    try:
        stored = stored_training(run, options.steps, n_rows=options.n_rows, directory=directory)
    except ConfigError as error:
        raise ConfigError(
            f"{run.ref}: {error}. For a run of other code, pass "
            "checkpoints='<glob>' and the builder of their model, model=..."
        ) from error
    model = stored.model.to(choose_device(options.device))
    return model, dict(stored.checkpoints), HeldOutRows(stored.repeated, stored.text)


def _chosen(
    pattern: str | None, options: VerifyOptions, scored: ScoredRun | None
) -> dict[int, Path | None]:
    """Return the checkpoints to measure; without a pattern the model as it is."""
    if pattern is None:
        if options.steps is not None and len(options.steps) != 1:
            raise ConfigError(
                "a model without checkpoints= is of one step; got "
                f"steps={list(options.steps)}. Pass checkpoints= to measure "
                "several"
            )
        if options.steps is not None:
            return {options.steps[0]: None}
        if scored is None:
            raise ConfigError(
                "the run has no captures, so the model's step is unknown; pass "
                "steps=[<step>], or checkpoints="
            )
        return {int(scored.compared.series.steps[-1]): None}

    there = {each.step: each.path for each in find_checkpoints(pattern)}
    missing = [step for step in options.steps or () if step not in there]
    if missing:
        raise ConfigError(
            f"no checkpoint of step {', '.join(map(str, missing))} matches {pattern!r}; there are "
            f"those of {_some_steps(sorted(there))}"
        )
    return {step: there[step] for step in options.steps or (max(there),)}


# -- do they belong together? ----------------------------------------------------------------------


def _check_checkpoints(
    run: Run, model: nn.Module, found: Mapping[int, Path | None], scored: ScoredRun | None
) -> None:
    if scored is not None:
        _check_steps(run, found, scored)
    for path in found.values():
        if path is not None:
            check_checkpoint(model, path)


def _check_steps(run: Run, found: Mapping[int, Path | None], scored: ScoredRun) -> None:
    captured = scored.compared.series.steps
    gaps = np.diff(captured)
    # The last checkpoint may be saved after the last capture, but no whole gap later.
    last = int(captured[-1]) + int(gaps.max(initial=0))
    wrong = [step for step in found if not captured[0] <= step <= last]
    if wrong:
        raise ConfigError(
            f"checkpoints of step {_some_steps(sorted(wrong))} do not belong to {run.ref}, whose "
            f"captures go from step {captured[0]} to {captured[-1]}; choose others with steps=[...]"
        )


def _check_model(run: Run, subject: Subject, scored: ScoredRun, options: VerifyOptions) -> None:
    """Compare the model with the one in the captures, and its weights with those that were captured
    at the same steps.

    Raises:
        ConfigError: they are of another model, or of another training.
    """
    last = _pulled(run, scored.captures[-1], options)
    here = subject.meter.model_info
    for name in ("name", "n_blocks", "n_heads", "d_model", "n_parameters"):
        there = last.model.get(name, here[name])
        if there != here[name]:
            raise ConfigError(
                f"{run.ref} holds captures of another model: its {name} is {there}, and that of "
                f"model= is {here[name]}"
            )
    captured = {ref.step: ref for ref in scored.captures}
    for step in subject.steps:
        if step in captured:
            subject.load(step)
            capture = last if step == last.step else _pulled(run, captured[step], options)
            _check_weights(run, subject.meter, capture)


def _pulled(run: Run, ref: CaptureRef, options: VerifyOptions) -> Capture:
    pulled = pull(run, options.cache, refs=[ref])
    if not pulled.captures:
        raise TrackerError(
            f"the capture of step {ref.step} of {run.ref} could not be pulled: "
            f"{next(iter(pulled.damaged.values()))}"
        )
    return capture_file.read(pulled.captures[0].path)


def _check_weights(run: Run, meter: LossMeter, capture: Capture) -> None:
    for name, here in meter.weights(_COMPARED_WEIGHT):
        there = capture.arrays.get(name)
        # Arrays that were made smaller cannot be compared.
        if there is None or there.shape != here.shape:
            continue
        difference = np.linalg.norm(here - there.astype(np.float32))
        if not difference <= _SAME_WEIGHTS * np.linalg.norm(here):
            raise ConfigError(
                f"the checkpoint of step {capture.step} does not belong to "
                f"{run.ref}: its {name} has other values than the capture of that "
                "step; is it from another training run?"
            )


def _weights_digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        values = parameter.detach().flatten()
        every = max(1, len(values) // _VALUES_OF_EACH)
        sampled = torch.cat([values[::every].float(), values.float().sum()[None]])
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        digest.update(sampled.cpu().numpy().tobytes())
    return digest.hexdigest()


def _some_steps(steps: Sequence[int]) -> str:
    shown = ", ".join(map(str, steps[:8]))
    return f"{shown}, ... ({len(steps)} in all)" if len(steps) > 8 else shown
