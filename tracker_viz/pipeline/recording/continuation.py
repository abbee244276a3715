"""Decide whether a training may record into a run that holds captures already. Called by ``watch``
and ``backfill`` once the run is reached.

A run holds the captures of one training, because a film shows one model. A training continues a run
when its model has the same structure and, if it starts at step 0, the same weights as the run's
capture of step 0: the same training started over. Everything else is another training, which would
overwrite those captures.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tracker_viz.delivery import Outbox
from tracker_viz.errors import RunTakenError
from tracker_viz.pipeline.scoring import EarlierCaptures, Scores, earlier_captures
from tracker_viz.trackers import LocalRun, Run
from tracker_viz.types import Capture, RunRef

log = logging.getLogger(__name__)

_STRUCTURE = ("n_blocks", "n_heads", "d_model")
_WAY_OUT = (
    "give this one a separate run: another spool= if you pass one, a new wandb.Run or MLflow run, "
    "or run='local'"
)

# Runs that this process records or recorded into -> the last outbox that did, and its spool.
_recorded: dict[RunRef, tuple[weakref.ref[Outbox], Path]] = {}


def continue_run(outbox: Outbox, scores: Scores, first: Capture) -> None:
    """Continue from the captures that the spool and the runs hold, if any, and remember that this
    process records into them.

    Args:
        first: the model's first capture, as the camera took it.

    Raises:
        RunTakenError: they hold, or are receiving, the captures of another training.
    """
    spools = _earlier_spools(outbox)
    if outbox.holds_captures or spools:
        earlier = earlier_captures(outbox, spools)
        if earlier is not None:
            _check_structure(earlier, first)
            if first.step == 0:
                _check_first_weights(earlier, scores.like_new().score_and_cut(first))
                _warn_of_steps(earlier)
            scores.resume(earlier)
    for ref in outbox.refs:
        _recorded[ref] = (weakref.ref(outbox), outbox.directory)


def _earlier_spools(outbox: Outbox) -> dict[RunRef, Run]:
    """Return, for each run, the spool from which this process recorded into it before. Captures
    that its tracker did not take, as while offline, are only there.

    Raises:
        RunTakenError: this process still records into a run.
    """
    spools: dict[RunRef, Run] = {}
    for ref in outbox.refs:
        last, directory = _recorded.get(ref, (None, outbox.directory))
        other = last() if last else None
        if other is not None and not other.closed:
            raise RunTakenError(
                f"{ref} is being recorded by another watch() in this process, and two models would "
                f"overwrite each other's captures: close that one first, or {_WAY_OUT}",
                ref,
            )
        if directory != outbox.directory:
            spools[ref] = LocalRun(directory)
    return spools


def _check_structure(earlier: EarlierCaptures, first: Capture) -> None:
    there, here = earlier.first.model, first.model
    if any(there.get(name, here[name]) != here[name] for name in _STRUCTURE):
        raise RunTakenError(
            f"{earlier.where} holds captures of another model, {_described(there)} "
            f"({_steps(earlier)}); this one is {_described(here)}: {_WAY_OUT}",
            earlier.where,
        )


def _check_first_weights(earlier: EarlierCaptures, first: Capture) -> None:
    """Compare the weights at step 0. ``first``: scored and cut, as the run's own capture is."""
    there = earlier.first
    if there.step != first.step:
        return
    for name, axes in first.axes.items():
        if axes != ("out", "in") or name not in there.arrays:
            continue
        # Arrays of other shapes were cut to another size, which says nothing about the training.
        ours, theirs = first.arrays[name], there.arrays[name]
        if ours.shape == theirs.shape and not np.array_equal(ours, theirs, equal_nan=True):
            raise RunTakenError(
                f"{earlier.where} holds captures of another training run "
                f"({_steps(earlier)}), whose {name} started with other values: to "
                f"continue that one, pass start_step=; else {_WAY_OUT}",
                earlier.where,
            )


def _warn_of_steps(earlier: EarlierCaptures) -> None:
    latest = earlier.refs[-1].step
    if latest > 0:
        log.warning(
            "the run already holds captures up to step %d; they are not taken "
            "again. Another training run needs a separate run and spool",
            latest,
        )


def _described(model: Mapping[str, Any]) -> str:
    return (
        f"{model.get('name', 'a model')} with {model.get('n_blocks', '?')} blocks of "
        f"{model.get('n_heads', '?')} heads, {model.get('d_model', '?')} wide"
    )


def _steps(earlier: EarlierCaptures) -> str:
    return f"steps {earlier.refs[0].step} to {earlier.refs[-1].step}"
