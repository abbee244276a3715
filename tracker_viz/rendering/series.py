"""Read an ordered run of capture files: a layout is planned from their headers, and the renderer
reads arrays on demand.

Headers are read once and folded together, so that memory does not grow with the size of the
captures.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz import capture_file
from tracker_viz.capture_file import ArrayKey
from tracker_viz.errors import LayoutError, RenderError, unknown_name
from tracker_viz.metrics import Ablations
from tracker_viz.types import Capture, CaptureHeader, CapturePath

_PATTERN, _HEAD_AXIS = ".attn.pattern", ".head"


@dataclass(frozen=True, slots=True)
class RunArray:
    """One array over the whole run.

    Attributes:
        minimum, maximum: over all finite entries of all captures; NaN when there are none.
        most_nonfinite: the most entries that are NaN or infinite in any capture but the first.
        missing_at, reshaped_at: first step that lacks it, or that has it in another shape; None
            where none does.
    """

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    minimum: float
    maximum: float
    most_nonfinite: int = 0
    missing_at: int | None = None
    reshaped_at: tuple[int, tuple[int, ...]] | None = None


class Series:
    """The captures of one run in the order of their steps.

    Args:
        captures: files that lie on this machine; sorted here. One is enough.
        title, subtitle: what the header of every frame says; left empty, the subtitle describes the
            model.
        missing_steps: steps that were captured but could not be read; marked on the timeline.

    Raises:
        RenderError: no capture at all, or two of the same step.
        CaptureFileError: a file is damaged.
    """

    def __init__(
        self,
        captures: Sequence[CapturePath],
        title: str = "",
        subtitle: str = "",
        *,
        missing_steps: Sequence[int] = (),
    ) -> None:
        if not captures:
            raise RenderError(
                "there is no capture to draw: the run has none yet, or they are still in its spool "
                "(tracker-viz push)"
            )
        ordered = sorted(captures, key=lambda capture: capture.ref.step)
        self.paths: tuple[Path, ...] = tuple(Path(capture.path) for capture in ordered)
        self.steps: tuple[int, ...] = tuple(capture.ref.step for capture in ordered)
        repeated = {step for step, after in itertools.pairwise(self.steps) if step == after}
        if repeated:
            raise RenderError(
                f"two captures of the same step were given: {sorted(repeated)[:5]}; leave one of "
                "each out"
            )
        self.missing_steps: tuple[int, ...] = tuple(sorted(set(missing_steps) - set(self.steps)))
        # What ``verify`` found in this run, where it did.
        self.ablations: Ablations | None = None
        self.metrics: list[Mapping[str, float]] = []
        self.tokens_seen: list[int | None] = []
        self.arrays: dict[str, RunArray] = {}
        # Headers without their arrays, kept because reading one again takes longer than reading
        # the scores.
        self._headers: list[CaptureHeader] = []
        # For each capture: axis of a block's heads -> the heads that it holds, if not all.
        self._heads: list[Mapping[str, tuple[str, ...]]] = []
        for index, path in enumerate(self.paths):
            header = capture_file.read_header(path)
            if header.step != self.steps[index]:
                raise RenderError(
                    f"{path.name} contains step {header.step}; its name and its content must agree"
                )
            if index == 0:
                self.first = header
            self._add(header)
            self.last = header
        title = title or str(self.last.model.get("name", "run"))
        self.title = " ".join(title.split())  # on one line
        self.subtitle = subtitle or describe_model(self.last.model)

    def __len__(self) -> int:
        return len(self.steps)

    def names(self, pattern: str) -> list[str]:
        """Return the names of the arrays that match a pattern, such as ``blocks.*.mlp.w_*``."""
        return [name for name in self.arrays if fnmatchcase(name, pattern)]

    def require(self, name: str, layout: str) -> RunArray:
        """Return the array ``name``, which ``layout`` draws from every capture.

        Raises:
            LayoutError: it is not there, not in every capture, or not always of the same shape.
        """
        if name not in self.arrays:
            raise LayoutError(
                f"layout {layout!r} needs an array that the captures do not hold: "
                f"{unknown_name('array', name, self.arrays)}"
            )
        array = self.arrays[name]
        if array.missing_at is not None:
            raise LayoutError(
                f"layout {layout!r} needs {name!r} in every capture, and step {array.missing_at} "
                "lacks it; "
                "choose another layout, or leave out the captures that were made with other options"
            )
        if array.reshaped_at is not None:
            step, shape = array.reshaped_at
            raise LayoutError(
                f"{name!r} has shape {array.shape} at step {self.first.step} and {shape} at step "
                f"{step}: one video shows one shape; "
                f"render the captures before and from step {step} apart (steps=[null,{step - 1}] "
                f"and steps=[{step},null])"
            )
        return array

    def read(self, index: int, keys: Collection[ArrayKey]) -> dict[ArrayKey, NDArray[Any]]:
        """Return arrays, or rows of arrays, of the capture at ``index`` (0 is the first), as
        ``capture_file.read_arrays`` says.

        Attention stands in the order of the last capture's heads; NaN for a head that this capture
        does not hold, as before a head of a large model came to be kept.
        """
        if not keys:
            return {}
        arrays = capture_file.read_arrays(self.paths[index], keys)
        return {key: self._in_order(index, key, array) for key, array in arrays.items()}

    def read_ends(
        self, keys: Collection[ArrayKey]
    ) -> tuple[dict[ArrayKey, NDArray[Any]], dict[ArrayKey, NDArray[Any]]]:
        """Return the arrays of the first and of the last capture."""
        return self.read(0, keys), self.read(len(self) - 1, keys)

    def _in_order(self, index: int, key: ArrayKey, array: NDArray[Any]) -> NDArray[Any]:
        name = key if isinstance(key, str) else key[0]
        axis = name.removesuffix(_PATTERN) + _HEAD_AXIS
        held, wanted = self._heads[index].get(axis), self.last.labels.get(axis)
        if not name.endswith(_PATTERN) or held == wanted or held is None or wanted is None:
            return array
        ordered = np.full_like(array, np.nan)
        for place, label in enumerate(wanted):
            if label in held:
                ordered[..., place, :, :] = array[..., held.index(label), :, :]
        return ordered

    def capture(self, index: int, names: Iterable[str]) -> Capture:
        """Return the capture at ``index`` with the arrays called ``names``, and all else that it
        holds."""
        header = self._headers[index]
        found = capture_file.read_arrays(self.paths[index], dict.fromkeys(names))
        arrays = {name: array for name, array in found.items() if isinstance(name, str)}
        return Capture(
            step=header.step,
            arrays=arrays,
            axes={name: self.arrays[name].axes for name in arrays},
            labels=header.labels,
            tokens_seen=header.tokens_seen,
            metrics=header.metrics,
            model=header.model,
            probe=header.probe,
        )

    def metric(self, name: str) -> NDArray[np.float64]:
        """Return one metric over the run: float64 [capture], NaN where a capture lacks it."""
        return np.array([metrics.get(name, math.nan) for metrics in self.metrics], np.float64)

    def labels(self, axis: str, length: int) -> tuple[str, ...]:
        """Return the names along an axis; the indices 0.. where the captures name none."""
        names = self.last.labels.get(axis, ())
        if len(names) == length:
            return names
        return tuple(map(str, range(length)))

    def _add(self, header: CaptureHeader) -> None:
        is_first = not self.metrics
        # Most captures of a run say the same of their probe: it is held once.
        probe = self._headers[-1].probe if self._headers else header.probe
        if header.probe == probe:
            header = replace(header, probe=probe)
        self._headers.append(replace(header, arrays={}))
        self.metrics.append(dict(header.metrics))
        self.tokens_seen.append(header.tokens_seen)
        heads = {axis: names for axis, names in header.labels.items() if axis.endswith(_HEAD_AXIS)}
        is_as_before = bool(self._heads) and self._heads[-1] == heads
        self._heads.append(self._heads[-1] if is_as_before else heads)
        for name in self.arrays.keys() - header.arrays.keys():
            if self.arrays[name].missing_at is None:
                self.arrays[name] = replace(self.arrays[name], missing_at=header.step)
        for name, info in header.arrays.items():
            seen = self.arrays.get(name)
            if seen is None:
                missing_at = None if is_first else self.steps[0]
                self.arrays[name] = RunArray(
                    info.shape,
                    info.axes,
                    info.minimum,
                    info.maximum,
                    most_nonfinite=0 if is_first else info.n_nonfinite,
                    missing_at=missing_at,
                )
                continue
            reshaped_at = seen.reshaped_at
            if reshaped_at is None and info.shape != seen.shape:
                reshaped_at = (header.step, info.shape)
            self.arrays[name] = replace(
                seen,
                minimum=float(np.fmin(seen.minimum, info.minimum)),
                maximum=float(np.fmax(seen.maximum, info.maximum)),
                most_nonfinite=max(seen.most_nonfinite, info.n_nonfinite),
                reshaped_at=reshaped_at,
            )


def describe_model(model: Mapping[str, Any]) -> str:
    """Describe the model of a capture: ``llama + LoRA r=8 · 4 blocks × 4 heads · 0.87 M
    parameters``; empty when the capture says nothing about it."""
    parts = []
    if model.get("name"):
        parts = [" + ".join(map(str, (model["name"], *model.get("adapters", ()))))]
    if model.get("n_blocks") and model.get("n_heads"):
        parts.append(_blocks_and_heads(model["n_blocks"], model["n_heads"]))
    if model.get("n_parameters"):
        parts.append(f"{si_number(float(model['n_parameters']))} parameters")
    return " · ".join(parts)


def _blocks_and_heads(n_blocks: int, n_heads: int | Sequence[int]) -> str:
    blocks = _counted(n_blocks, "block")
    if isinstance(n_heads, int):
        return f"{blocks} × {_counted(n_heads, 'head')}"
    attending = [n for n in n_heads if n]
    fewest, most = min(attending, default=0), max(attending, default=0)
    heads = _counted(most, "head")
    if fewest < most:
        heads = f"{fewest} to {heads}"
    if len(attending) < n_blocks:
        return f"{blocks}, {len(attending)} with {heads}"
    return f"{blocks} × {heads}"


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def si_number(value: float) -> str:
    """Write three digits and a unit: ``950``, ``1.02 k``, ``16.4 M``, ``7.24 B``."""
    if abs(value) < 999.5:
        return f"{value:.0f}"
    for limit, divisor, unit in (
        (999.5e3, 1e3, " k"),
        (999.5e6, 1e6, " M"),
        (999.5e9, 1e9, " B"),
        (math.inf, 1e12, " T"),
    ):
        if abs(value) < limit:
            return f"{value / divisor:#.3g}".removesuffix(".") + unit
    return str(value)
