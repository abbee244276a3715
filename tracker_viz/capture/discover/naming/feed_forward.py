"""Tell which matrices of a block are its feed-forward part: in and out, or gate, up and down; also
of the experts of a mixture.

A pair is found by the watched pass: the input of the one that goes out came from those that go
in. Names, then shapes, decide where nothing was seen. Called by
``projections.find_projections``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from tracker_viz.capture.discover.naming.attention_roles import (
    Seen,
    is_called_attention,
    is_called_feed_forward,
)
from tracker_viz.capture.discover.naming.matrix import FEED_FORWARD_ROLE, Matrix, whole
from tracker_viz.capture.tracing.parameter_trace import ParameterTrace
from tracker_viz.capture.weights.matrices import Projection


def feed_forward_projections(
    block: nn.Module,
    matrices: Sequence[Matrix],
    index: int,
    d_model: int,
    evidence: ParameterTrace,
    seen: Seen,
    max_experts: int,
) -> list[Projection]:
    """Return the feed-forward projections of block ``index``.

    Args:
        matrices: of the block, without those of its attention.
    """
    mixers = _mixers(block)
    found: list[Projection] = []
    candidates = []
    for matrix in matrices:
        is_in_mixer = f"{matrix.path}.".startswith(mixers) and not is_called_feed_forward(matrix)
        if not is_in_mixer and not is_called_attention(matrix):
            candidates.append(matrix)
    for part, group in _parts(candidates).items():
        found += _projections_of(group, index, part, d_model, evidence, seen, max_experts)
    return found


def _mixers(block: nn.Module) -> tuple[str, ...]:
    """Return the paths, with a dot at their end, of modules that hold a convolution: along the
    positions, which no feed-forward part mixes (Mamba, RG-LRU, gated convolutions)."""
    convolutions: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d)
    paths = set()
    for name, module in block.named_modules():
        around = name.rpartition(".")[0]
        if isinstance(module, convolutions) and around:
            paths.add(around + ".")
    return tuple(paths)


def _parts(matrices: Iterable[Matrix]) -> dict[str, list[Matrix]]:
    groups: dict[str, list[Matrix]] = {}
    for matrix in matrices:
        part = "mlp"
        if re.search(r"shared_?(expert|mlp)", matrix.path, re.IGNORECASE):
            part = "mlp.shared"
        elif matrix.experts or len(matrix.shape) == 3:
            part = "mlp.experts"
        groups.setdefault(part, []).append(matrix)
    if "mlp.experts" in groups and "mlp" in groups:
        # A dense layer beside the mixture, or its router.
        dense = [matrix for matrix in groups.pop("mlp") if matrix.leaf != "gate"]
        groups["mlp.shared"] = groups.get("mlp.shared", []) + dense
    return {part: group for part, group in groups.items() if group}


def _projections_of(
    matrices: list[Matrix],
    index: int,
    part: str,
    d_model: int,
    evidence: ParameterTrace,
    seen: Seen,
    max_experts: int,
) -> Iterable[Projection]:
    by_role = _seen_roles(matrices, d_model, seen)
    if not by_role:
        unseen = [matrix for matrix in matrices if not seen.reads(matrix)]
        by_role = _named_roles(unseen, d_model)
    gated = "w_gate" in by_role or "gate_up" in by_role or {"w_in", "w_up"} <= set(by_role)
    if {"w_in", "w_up"} <= set(by_role) and "w_gate" not in by_role:  # LLaMA's w1, w3, w2
        by_role["w_gate"] = by_role.pop("w_in")
    inner = by_role.get("w_in", by_role.get("w_up"))
    outer = by_role.get("w_out", by_role.get("w_down"))
    if not gated and inner and outer and inner.out == 2 * outer.into:
        by_role = {"gate_up": inner, "w_down": outer}
        gated = True

    # With a gate, the other inner matrix is the up projection; without one there is but one.
    names = {"w_up": "w_in", "w_down": "w_out"}
    if gated:
        names = {"w_in": "w_up", "w_out": "w_down"}
        names |= {"w_out_a": "w_down_a", "w_out_b": "w_down_b"}
    for role, matrix in by_role.items():
        if role == "gate_up":
            gate_rows = evidence.gate_rows.get(matrix.parameter)
            projections = _split_gate_up(matrix, index, part, gate_rows)
        else:
            projections = [whole(matrix, index, f"{_pooled(part)}.{names.get(role, role)}")]
        for projection in projections:
            yield from _each_expert(projection, matrix, max_experts)


def _seen_roles(matrices: list[Matrix], d_model: int, seen: Seen) -> dict[str, Matrix]:
    """Return the first matrix whose input one or two others of the group made, and those; empty
    if there is none. A matrix of two factors has both, ``_a`` and ``_b``."""
    for outer in matrices:
        if outer.out != d_model:
            continue
        roles = {"w_out": outer}
        before = _sources(outer, matrices, seen)
        if len(before) == 1 and _is_factor(before[0], d_model, seen):
            roles = {"w_out_a": before[0], "w_out_b": outer}
            before = _sources(before[0], matrices, seen)
        inner = [each for each in before if each.into == d_model]
        if len(inner) in (1, 2):
            return _inner_roles(inner, seen) | roles
        factors = [_sources(each, matrices, seen) for each in before]
        if len(before) == 1 and len(factors[0]) == 1 and factors[0][0].into == d_model:
            return {"w_in_a": factors[0][0], "w_in_b": before[0]} | roles
    return {}


def _sources(matrix: Matrix, matrices: list[Matrix], seen: Seen) -> list[Matrix]:
    """Return the matrices of the group whose products it was multiplied with; none where the
    residual stream was among them, which comes from other blocks as well."""
    reads = seen.reads(matrix)
    if not reads <= seen.own:
        return []
    return [each for each in matrices if each is not matrix and seen.names(each) & reads]


def _is_factor(matrix: Matrix, d_model: int, seen: Seen) -> bool:
    """Return whether no activation follows and it is narrow: the first factor of a product."""
    is_activated = bool(seen.names(matrix) & seen.origins.activated)
    return not is_activated and matrix.out < min(matrix.into, d_model)


def _inner_roles(inner: list[Matrix], seen: Seen) -> dict[str, Matrix]:
    if len(inner) == 1:
        return {"w_in": inner[0]}
    gate, up = inner
    gates = [each for each in inner if seen.names(each) & seen.origins.activated]
    if gates == [up]:
        gate, up = up, gate
    return {"w_gate": gate, "w_up": up}


def _named_roles(matrices: list[Matrix], d_model: int) -> dict[str, Matrix]:
    by_role: dict[str, Matrix] = {}
    for matrix in matrices:
        role = FEED_FORWARD_ROLE.get(matrix.leaf)
        if role and role not in by_role:
            by_role[role] = matrix
    if _is_pair(by_role):
        return by_role
    return _by_shape(matrices, d_model)


def _is_pair(by_role: dict[str, Matrix]) -> bool:
    inner, outer = {"w_in", "w_up", "gate_up"}, {"w_out", "w_down"}
    return bool(inner & set(by_role)) and bool(outer & set(by_role))


def _by_shape(matrices: list[Matrix], d_model: int) -> dict[str, Matrix]:
    """Tell matrices apart by shape and order of definition: one or two that read the residual
    stream, then one that writes it."""
    writing = [matrix for matrix in matrices if matrix.out == d_model]
    if not writing:
        return {}
    last = writing[-1]
    reading = [matrix for matrix in matrices if matrix is not last and matrix.into == d_model]
    if len(reading) == 1:
        return {"w_in": reading[0], "w_out": last}
    if len(reading) == 2:
        return {"w_gate": reading[0], "w_up": reading[1], "w_down": last}
    return {}


def _split_gate_up(
    matrix: Matrix, index: int, part: str, gate_rows: np.ndarray | None
) -> list[Projection]:
    """Split a fused gate and up: two halves, or every second row. The gate is what was seen to go
    through the activation, else the first."""
    half = matrix.out // 2
    alternating = matrix.alternating
    gate_first = True
    if gate_rows is not None:
        alternating = alternating or (half > 1 and int(gate_rows[1] - gate_rows[0]) == 2)
        gate_first = int(gate_rows[0]) == 0

    halves, stride = [(0, half), (half, matrix.out)], 1
    if alternating:
        halves, stride = [(0, matrix.out), (1, matrix.out)], 2
    if not gate_first:
        halves.reverse()
    split = []
    for name, rows in zip(("w_gate", "w_up"), halves, strict=True):
        projection = whole(matrix, index, f"{_pooled(part)}.{name}")
        split.append(replace(projection, shape=(half, matrix.into), rows=(rows,), stride=stride))
    return split


def _each_expert(pooled: Projection, matrix: Matrix, max_experts: int) -> Iterable[Projection]:
    """Yield the mean over the experts, and some of them one by one."""
    yield pooled
    n_experts = len(matrix.experts)
    if not n_experts and len(matrix.shape) == 3:
        n_experts = matrix.shape[0]
    shown = min(n_experts, max_experts)
    for number in range(shown):
        expert = number * n_experts // shown
        name = f"mlp.experts.{expert}.{pooled.name.rpartition('.')[2]}"
        if matrix.experts:
            yield replace(pooled, name=name, parameters=(matrix.experts[expert],))
        else:
            yield replace(pooled, name=name, expert=expert)


def _pooled(part: str) -> str:
    return "mlp" if part == "mlp.experts" else part
