"""Define the values that all packages pass to each other. They need numpy and the standard library
only.

model ──Recorder──▶ Capture ──▶ capture file ──▶ CaptureRef in a run (RunRef) ──▶ Capture ──▶ Frame
──▶ video
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz import notebook, plugins
from tracker_viz.errors import ConfigError

# (block, head): one attention head of a model.
HeadId = tuple[int, int]

_SCHEME = re.compile(r"[a-z][a-z0-9_]*")
_CAPTURE_NAME = re.compile(r"step-(\d{8,12})\.safetensors")


@dataclass(frozen=True, slots=True)
class RunRef:
    """The name of one run of one tracker; ``str(ref)`` and ``RunRef.parse`` are inverses.

    The address of the tracker's server is not part of the name: it comes from the tracker's own
    environment variables or from an option.

    Attributes:
        scheme: the tracker, one of ``plugins.schemes()``. A run may store the name of a run of a
            tracker that is not installed here: it can be shown, but not opened.
        path: the run in it, in the form that the tracker's class declares.
    """

    scheme: str
    path: str

    def __post_init__(self) -> None:
        if not _SCHEME.fullmatch(self.scheme) or not self.path:
            raise ConfigError(f"a run must look like one of {_forms()}; got {str(self)!r:.200}")
        if self.scheme not in plugins.schemes():
            return

        tracker = plugins.tracker_class(self.scheme)
        if not re.fullmatch(tracker.reference_pattern, self.path, re.DOTALL):
            raise ConfigError(
                f"a {self.scheme} run must look like '{tracker.reference_form}'; got "
                f"'{self!s:.200}'"
            )

    @classmethod
    def parse(cls, text: str) -> RunRef:
        """Read a reference that a user typed, such as ``mlflow:<run_id>``,
        ``wandb:<entity>/<project>/<run_id>`` or ``local:<directory>``.

        Raises:
            ConfigError: the text has none of the installed trackers' forms.
        """
        scheme, _, path = str(text).strip().partition(":")
        if not path or scheme not in plugins.schemes():
            raise ConfigError(f"a run must look like one of {_forms()}; got {text!r}")
        return cls(scheme, path)

    @classmethod
    def from_stored(cls, text: str) -> RunRef:
        """Read a reference that a run or a spool has stored; its tracker need not be installed.

        Raises:
            ConfigError: the text is no reference.
        """
        scheme, _, path = text.partition(":")
        return cls(scheme, path)

    def __str__(self) -> str:
        return f"{self.scheme}:{self.path}"


def _forms() -> str:
    return ", ".join(tracker.reference_form for tracker in plugins.tracker_classes().values())


@dataclass(frozen=True, slots=True)
class Capture:
    """One training step's named arrays, with the metadata to read them without the model.

    Attributes:
        step: optimizer steps finished when this was taken; 0 is the untrained model.
        arrays: name -> float16 or float32 array. Names in use, with their axes:

            * ``blocks.<i>.attn.pattern`` (probe, head, query, key): attention probabilities, rows
              sum to 1. Where heads were cut to fit a budget, ``labels['blocks.<i>.head']`` names
              those that remain.
            * ``blocks.<i>.mixer.mixing`` (probe, head, query, key), or (probe, channel, query, key)
              where every channel mixes on its own: the matrix by which a token mixer without a
              softmax mixes its values; entries of any sign, rows of any sum. Where not all are
              kept, ``labels['blocks.<i>.mixing_channel']`` and ``mixing_head`` name those that are;
              ``model['found']['mixing']`` names the kind of matrix.
            * ``blocks.<i>.attn.w_q``, ``w_k``, ``w_v``, ``w_o`` (out, in) and
              ``blocks.<i>.mlp.w_gate``, ``w_up``, ``w_down`` (or ``w_in``, ``w_out``): weights as
              they multiply a column vector, ``y = W x``; whole, or an evenly spaced sample of rows
              and columns where that would be too big.
            * ``scores.head.<score>`` (block, head): one behavior score of every head; NaN where
              there is no such head.
            * ``scores.head_sd.<score>`` (block, head): its standard deviation over the probe's
              rows, where there are two or more.
            * ``scores.weight.<score>`` (block, projection): one score of every weight matrix.
            * ``blocks.<i>.mlp.router`` (probe, token, expert): a router's probabilities in a
              mixture of experts; beside them, (probe, token, choice), ``.chosen``: the numbers of
              the experts that each token went to, and ``.weight``: what their outputs were
              multiplied by. ``blocks.<i>.attn.router`` and so on: the same of a mixture of heads.
            * ``blocks.<i>.attn.indexer`` (probe, query, key): 1 where the indexer of sparse
              attention chose the key for the query, else 0.
            * ``scores.expert.<score>`` (block, expert), ``scores.router.<score>`` (block, router):
              scores of every expert, and of every router; NaN where there is none.
            * ``probe.loss`` (probe, token): loss of predicting each token from those before it, in
              nats; NaN at the first token, and in rows that were not measured.
            * ``scores.stream.<score>`` (block, place): scores of the residual stream behind every
              block, at the first position of a row and over the others.
        axes: array name -> names of its axes, as above.
        labels: axis name -> name of each index along it, e.g. ``{"probe": ("repeated", "text"),
            "projection": (...)}``.
        tokens_seen: training tokens consumed so far; None where the training loop did not pass it.
        metrics: scalars at this step: ``loss``, others that the loop passed, and summaries of the
            scores.
        model: JSON-like description: ``name``, ``n_blocks``, ``n_heads``, ``n_parameters``, ...
        probe: JSON-like description of the probe batch: ``length``, and ``rows`` along the axis
            ``probe``, each with ``kind``, ``tokens`` (text of every token), ``ids``, and ``period``
            and ``start`` where it repeats; in captures that were scored also ``scored``: the rows
            that scores were measured on, hidden ones included, without text.
    """

    step: int
    arrays: Mapping[str, NDArray[Any]]
    axes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tokens_seen: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    probe: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.step < 0:
            raise ConfigError(
                f"a step counts finished optimizer steps and is never negative; got {self.step}"
            )

    @property
    def file_name(self) -> str:
        """``step-00000100.safetensors``: sorts by step, and differs between captures for trackers
        that compare names."""
        return capture_file_name(self.step)

    def __repr__(self) -> str:
        return f"Capture({self._brief()})"

    def _brief(self) -> str:
        """Return ``step=100, 38 arrays, 1.2 MB, loss=3.214``."""
        megabytes = sum(array.nbytes for array in self.arrays.values()) / 1e6
        n_arrays = notebook.count(len(self.arrays), "array")
        words = f"step={self.step}, {n_arrays}, {megabytes:.1f} MB"
        if "loss" in self.metrics:
            words += f", loss={self.metrics['loss']:.3f}"
        return words

    def _repr_html_(self) -> str:
        """Show the heads of the probe's first row, and the arrays by name, in a notebook."""
        shown = ""
        heads = notebook.heads_maps(self.arrays)
        if heads is not None:
            png = notebook.maps_png(heads)
            shown = notebook.picture(png, "png", "attention of every head; a row is a block")
        return notebook.box(
            [notebook.text(self._brief()), shown, notebook.arrays_table(self.arrays, self.axes)]
        )


@dataclass(frozen=True, slots=True)
class ArrayInfo:
    """Statistics of one array in a capture file's header, so that a color scale over a run reads
    headers only.

    Attributes:
        quantiles: values at ``QUANTILES`` over the finite entries, each one that occurs; empty when
            there are none.
        minimum, maximum: over the finite entries; NaN when there are none.
        n_nonfinite: number of NaN and infinite entries.
    """

    shape: tuple[int, ...]
    dtype: str
    axes: tuple[str, ...]
    minimum: float
    maximum: float
    quantiles: tuple[float, ...]
    n_nonfinite: int


QUANTILES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)


@dataclass(frozen=True, slots=True)
class CaptureHeader:
    """A Capture without its arrays' values, enough to plan a layout, a timeline and a color
    scale."""

    step: int
    arrays: Mapping[str, ArrayInfo]
    labels: Mapping[str, tuple[str, ...]]
    tokens_seen: int | None
    metrics: Mapping[str, float]
    model: Mapping[str, Any]
    probe: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"CaptureHeader(step={self.step}, {len(self.arrays)} arrays)"

    def capture(self, arrays: Mapping[str, NDArray[Any]]) -> Capture:
        """Return the capture with these of its arrays."""
        return Capture(
            step=self.step,
            arrays=arrays,
            axes={name: self.arrays[name].axes for name in arrays},
            labels=self.labels,
            tokens_seen=self.tokens_seen,
            metrics=self.metrics,
            model=self.model,
            probe=self.probe,
        )


@dataclass(frozen=True, slots=True)
class CaptureRef:
    """One capture file as a run lists it. ``sha256`` is of the whole file, in lower-case
    hexadecimal."""

    step: int
    file_name: str
    nbytes: int
    sha256: str

    def __post_init__(self) -> None:
        if capture_step(self.file_name) != self.step:
            raise ConfigError(
                f"capture {self.file_name!r} is listed for step {self.step}; its name must say the "
                "same step"
            )
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ConfigError(
                f"capture {self.file_name!r} needs a sha256 of 64 hexadecimal digits; got "
                f"{self.sha256!r}"
            )


@dataclass(frozen=True, slots=True)
class CapturePath:
    """A capture file on this machine, whole and checked against its ref."""

    ref: CaptureRef
    path: Path


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of the video. ``pixels``: uint8 [height, width, 3], RGB."""

    step: int
    pixels: NDArray[np.uint8]

    def __repr__(self) -> str:
        height, width = self.pixels.shape[:2]
        return f"Frame(step={self.step}, {width} x {height} pixels)"


def capture_file_name(step: int) -> str:
    """Return the file name of the capture of ``step``: ``step-00000100.safetensors``."""
    return f"step-{step:08d}.safetensors"


def capture_step(file_name: str) -> int:
    """Return the step of a capture file, from its name alone.

    Raises:
        ConfigError: the name is not a capture's; nothing else may be read from, or written for, a
            run.
    """
    match = _CAPTURE_NAME.fullmatch(file_name)
    if not match or capture_file_name(int(match[1])) != file_name:
        raise ConfigError(
            f"a capture is named like 'step-00000100.safetensors'; got {file_name!r:.200}"
        )
    return int(match[1])
