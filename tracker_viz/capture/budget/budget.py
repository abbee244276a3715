"""Cut the captures of a run to their size, all alike. Called behind the ``Recorder``'s sink."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from tracker_viz.capture.budget.heads import HEAD_AXIS, HeadChoice
from tracker_viz.capture.budget.maps import (
    MIXING,
    PATTERN,
    MapSize,
    cut_map,
    cut_probe,
    labels_of_mixing,
    size_that_fits,
    whole_size,
)
from tracker_viz.capture.budget.shares import (
    ATTENTION_SHARE,
    BYTES,
    DEFAULT_MAX_MB,
    HEADER_BYTES,
    sample,
    weight_side,
)
from tracker_viz.capture.routing.cut import (
    ROUTER_SHARE,
    router_bytes,
    routers_of,
    shown_of_routers,
    thinned_routers,
)
from tracker_viz.capture.weights.matrices import evenly_spaced
from tracker_viz.capture_file import compact
from tracker_viz.errors import ConfigError
from tracker_viz.metrics import PROBE_LOSS
from tracker_viz.types import Capture

log = logging.getLogger("tracker_viz.capture")

Arrays = dict[str, NDArray[Any]]

_BYTES_AN_ID = 8  # as text, with comma and space
_NORMS = ".attn.value_norm"  # of all heads, whichever maps are kept


class Budget:
    """Cuts the captures of one run to size, all alike. Call it from one thread at a time, in the
    order of steps.

    Where not all heads of a model fit, it keeps the same number of every block (``HeadChoice``).
    Which heads a capture holds is in its labels: pictures show a head only from the capture on that
    has it.

    Args:
        max_mb: megabytes (10**6 bytes) that the arrays of a capture may take.
    """

    def __init__(self, max_mb: float = DEFAULT_MAX_MB) -> None:
        if not max_mb > 0:
            raise ConfigError(f"max_mb must be greater than 0; got {max_mb}")
        self.max_mb = max_mb
        self._heads = HeadChoice()
        self._was_logged = False
        self._routers_were_logged = False

    def resume(self, labels: Mapping[str, Sequence[str]], scored: Iterable[Capture]) -> None:
        """Go on with a run.

        Args:
            labels: of its last capture.
            scored: its captures so far, of which only the scores are used.
        """
        self._heads.resume(labels, scored)

    def fit(self, capture: Capture) -> Capture:
        """Return the capture as float16, cut until its arrays take at most ``max_mb``.

        Scores are never cut, and hidden rows of the probe, which are there for the scores alone,
        are always dropped. Attention and mixing maps go first, in this order: probe rows beyond the
        first repeated and the first text one, then all but one row, positions beyond 64 (a causal
        map's first rows are whole without the later ones), then heads, then blocks, evenly spaced.
        Weights become evenly spaced samples. Routers keep the rows and positions that attention
        keeps; where they take more than a fifth of the whole, the routers of some blocks are kept,
        evenly spaced. What was left out is named in ``labels`` (``probe``, ``blocks.<i>.head``), in
        ``model['cut']``, and once in the log.
        """
        capture = without_hidden_rows(capture)
        parts = _parts_of(capture)
        available = self.max_mb * 1e6 - HEADER_BYTES - _bytes_of_ids(capture.probe)
        available -= sum(array.nbytes for array in parts.scores.values())
        # A budget below a capture's own header leaves nothing, not less than nothing.
        for_routers = min(ROUTER_SHARE * max(available, 0.0), router_bytes(parts.routers))
        available -= for_routers
        for_maps = available
        if parts.weights:
            for_maps = max(ATTENTION_SHARE * available, available - _nbytes(parts.weights))

        made = _Made(parts.maps | parts.routers | parts.by_position, capture.probe)
        if parts.maps and _nbytes(parts.maps) > for_maps:
            made = self._with_cut_maps(capture, parts, for_maps)
        kept, n_routers, n_routers_there = thinned_routers(made.arrays, for_routers)
        if n_routers < n_routers_there:
            made.cut["router_blocks"] = n_routers
            self._log_routers_once(n_routers, n_routers_there)

        weights, for_weights = parts.weights, available + for_routers - _nbytes(kept)
        if weights and _nbytes(weights) > for_weights:
            side = weight_side([array.shape for array in weights.values()], for_weights)
            made.cut["weight_side"] = side
            weights = {name: sample(array, side) for name, array in weights.items()}
        compacted = {name: compact(array) for name, array in (kept | weights).items()}
        arrays = parts.scores | compacted
        return replace(
            capture,
            arrays=arrays,
            axes={name: axes for name, axes in capture.axes.items() if name in arrays},
            labels={**capture.labels, **made.labels},
            probe=made.probe,
            model={**capture.model, "cut": made.cut} if made.cut else capture.model,
        )

    def _with_cut_maps(self, capture: Capture, parts: _Parts, nbytes: float) -> _Made:
        """Return the maps cut to ``nbytes``, and all that goes by their rows and positions."""
        size, whole = size_that_fits(parts.maps, capture, nbytes), whole_size(parts.maps)
        made = _Made({}, cut_probe(capture.probe, size))
        names = list(parts.maps)
        for place in evenly_spaced(len(names), size.blocks):
            self._add_cut_map(made, names[place], size, capture)
        if "probe" in capture.labels:
            made.labels["probe"] = tuple(capture.labels["probe"][row] for row in size.rows)
        made.arrays |= shown_of_routers(capture.arrays, size.rows, size.positions)
        for name, array in parts.by_position.items():
            made.arrays[name] = array[list(size.rows), ..., : size.positions]
        made.cut |= {**size.description(), "of": whole.description()}
        self._log_once(size.description(), whole.description())
        return made

    def _add_cut_map(self, made: _Made, name: str, size: MapSize, capture: Capture) -> None:
        array = capture.arrays[name]
        n_heads = array.shape[1]
        if name.endswith(MIXING):
            spaced = evenly_spaced(n_heads, size.heads).tolist()
            made.arrays[name] = cut_map(array, size, spaced)
            if len(spaced) < n_heads:
                made.labels |= labels_of_mixing(name, array, spaced, capture)
            return
        axis = name.removesuffix(PATTERN) + HEAD_AXIS
        there = capture.labels.get(axis, tuple(map(str, range(n_heads))))
        chosen = self._heads.indices(axis, there, size.heads, capture)
        made.arrays[name] = cut_map(array, size, chosen)
        if len(chosen) < len(there) or axis in capture.labels:
            made.labels[axis] = tuple(there[index] for index in chosen)

    def _log_once(self, cut: Mapping[str, int], whole: Mapping[str, int]) -> None:
        if self._was_logged:
            return
        self._was_logged = True
        names = {"heads": "heads a block", "probe_rows": "probe rows"}
        parts = []
        for name in ("probe_rows", "positions", "heads", "blocks"):
            if cut[name] < whole[name]:
                parts.append(f"{cut[name]} of {whole[name]} {names.get(name, name)}")
        log.info(
            "to fit max_mb=%g, captures keep the attention of %s; scores still "
            "cover all heads, rows and positions",
            self.max_mb,
            ", ".join(parts),
        )

    def _log_routers_once(self, n_kept: int, n_there: int) -> None:
        if self._routers_were_logged:
            return
        self._routers_were_logged = True
        log.info(
            "to fit max_mb=%g, captures keep the routers of %d of %d blocks "
            "token by token; scores still cover all experts and tokens",
            self.max_mb,
            n_kept,
            n_there,
        )


@dataclass(frozen=True, slots=True)
class _Parts:
    """The arrays of a capture by what limits them.

    Attributes:
        maps: of attention and of mixers.
        by_position: (probe, ..., position), and small: cut as the maps are.
        scores: all others, which are never cut.
    """

    maps: Arrays = field(default_factory=dict)
    weights: Arrays = field(default_factory=dict)
    routers: Arrays = field(default_factory=dict)
    by_position: Arrays = field(default_factory=dict)
    scores: Arrays = field(default_factory=dict)


@dataclass(slots=True)
class _Made:
    """A capture that was cut to its budget, without its weights.

    Attributes:
        cut: how much is kept, as ``model["cut"]`` says it; empty where all is.
    """

    arrays: Arrays
    probe: Mapping[str, Any]
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    cut: dict[str, Any] = field(default_factory=dict)


def fit(capture: Capture, max_mb: float = DEFAULT_MAX_MB) -> Capture:
    """Return one capture cut to ``max_mb``, as ``Budget.fit`` does. Heads are chosen by this
    capture alone: for captures of one run use one ``Budget``."""
    return Budget(max_mb).fit(capture)


def without_hidden_rows(capture: Capture) -> Capture:
    """Return the capture without what was seen on rows that are scored and never drawn."""
    rows = capture.probe.get("rows", ())
    drawn = [index for index, row in enumerate(rows) if not row.get("hidden")]
    if len(drawn) == len(rows):
        return capture
    parts = _parts_of(capture)
    arrays = dict(capture.arrays)
    for name in (*parts.maps, *parts.routers, *parts.by_position):
        arrays[name] = arrays[name][drawn]
    labels = dict(capture.labels)
    if "probe" in labels:
        labels["probe"] = tuple(labels["probe"][row] for row in drawn)
    probe = {**capture.probe, "rows": [rows[row] for row in drawn]}
    return replace(capture, arrays=arrays, labels=labels, probe=probe)


def _parts_of(capture: Capture) -> _Parts:
    parts = _Parts(routers=routers_of(capture.arrays))
    for name, array in capture.arrays.items():
        if name.endswith((PATTERN, MIXING)):
            parts.maps[name] = array
        elif capture.axes.get(name) == ("out", "in"):
            parts.weights[name] = array
        elif name == PROBE_LOSS or name.endswith(_NORMS):
            parts.by_position[name] = array
        elif name not in parts.routers:
            parts.scores[name] = array
    return parts


def _nbytes(arrays: Mapping[str, NDArray[Any]]) -> int:
    """Return how many bytes arrays take as float16."""
    return sum(array.size for array in arrays.values()) * BYTES


def _bytes_of_ids(probe: Mapping[str, Any]) -> int:
    """Return about how many bytes a file's header takes for the ids of all rows, drawn and
    scored."""
    rows = (*probe.get("rows", ()), *probe.get("scored", ()))
    return _BYTES_AN_ID * sum(len(row.get("ids", ())) for row in rows)
