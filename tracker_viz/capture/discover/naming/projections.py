"""Tell which parameter of a decoder block is which projection: by its use in the watched pass, else
by its name where that is a common one, else by its shape and place.

Called once per block by ``blocks.discover``; returns ``Projection`` values for ``matrices.read``.
"""

from __future__ import annotations

import fnmatch
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from tracker_viz.capture.discover.naming.attention_roles import (
    Seen,
    attention_projections,
    unseen_projections,
)
from tracker_viz.capture.discover.naming.feed_forward import feed_forward_projections
from tracker_viz.capture.discover.naming.matrix import (
    ATTENTION_ROLE,
    SKIPPED_NAMES,
    Matrix,
    matrices_in,
    whole,
)
from tracker_viz.capture.tracing.origins import Origins, SeenAttention
from tracker_viz.capture.tracing.parameter_trace import ParameterTrace
from tracker_viz.capture.weights.adapters import layers_of
from tracker_viz.capture.weights.matrices import Projection
from tracker_viz.capture.weights.packed import named_matrices

# Matches no name.
_NOTHING = re.compile(r"(?!)")
_ATTENTION_ORDER = ("w_q", "w_q_a", "w_q_b", "w_k", "w_v", "w_kv_a", "w_kv_b", "w_o")
_ORDER = (*_ATTENTION_ORDER, "w_gate", "w_up", "w_down", "w_in", "w_out")


def find_projections(
    modules: Mapping[str, nn.Module],
    *,
    index: int,
    prefix: str,
    attention: Sequence[str],
    attends: bool,
    d_model: int,
    evidence: ParameterTrace,
    max_experts: int = 4,
    named: Mapping[str, str] | None = None,
) -> list[Projection]:
    """Return the projections of one block.

    Args:
        modules: the block's by name in the model: its own, and what is beside it.
        prefix: the block's name in the model.
        attention: names, within the block, of the modules that made its attention calls.
        attends: attention was seen in this block.
        evidence: what the pass showed of the parameters.
        named: projection -> pattern of its parameter's name within the block (``attn.w_q`` ->
            ``mixer.query.weight``): these and no others.
        max_experts: so many experts of a mixture are given one by one, evenly spaced, besides the
            mean over all.
    """
    if named is not None:
        every = matrices_in(modules, prefix, d_model, evidence, skipped=_NOTHING)
        return _named(every, index, prefix, named)

    matrices = matrices_in(modules, prefix, d_model, evidence, skipped=SKIPPED_NAMES)
    seen = _seen(modules, prefix, attention, evidence)
    found = unseen_projections(matrices, index)
    if attends:
        parts = _attention_parts(modules[prefix], attention)
        found = attention_projections(matrices, index, parts, d_model, evidence, seen)
        if not any(projection.name == "attn.w_o" for projection in found):
            found += _output_beside(matrices, index, found)
        matrices = [matrix for matrix in matrices if not _is_inside(matrix, parts)]
    taken = set(itertools.chain(*(projection.parameters for projection in found)))
    rest = [matrix for matrix in matrices if matrix.parameter not in taken]
    found += feed_forward_projections(
        modules[prefix], rest, index, d_model, evidence, seen, max_experts
    )
    # Where two have the same name, keep the first that was found.
    by_name = {projection.name: projection for projection in reversed(found)}
    return sorted(by_name.values(), key=_usual_place)


def unnamed_matrices(
    modules: Mapping[str, nn.Module],
    *,
    prefix: str,
    d_model: int,
    evidence: ParameterTrace,
    found: Sequence[Projection],
) -> list[str]:
    """Return the paths of a block's matrices that none of ``found`` shows; numbers in them are
    ``*``, so that experts are named once."""
    shown = set(itertools.chain(*(projection.parameters for projection in found)))
    matrices = matrices_in(modules, prefix, d_model, evidence, skipped=SKIPPED_NAMES)
    paths = [matrix.path for matrix in matrices if not shown & set(matrix.parameters)]
    return list(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.)", "*", path) for path in paths))


def _seen(
    modules: Mapping[str, nn.Module],
    prefix: str,
    attention: Sequence[str],
    evidence: ParameterTrace,
) -> Seen:
    origins = evidence.origins
    own = {origins.first_name(name) for name in _own_parameters(modules)}
    return Seen(origins, frozenset(own), tuple(seen_attentions(origins, prefix, attention)))


def seen_attentions(origins: Origins, prefix: str, attention: Sequence[str]) -> list[SeenAttention]:
    """Return what the pass showed of the attention of a block's modules, by their names in it."""
    callers = [f"{prefix}.{name}".strip(".") for name in attention]
    return [each for each in origins.attentions if _is_of(each, callers)]


def _own_parameters(modules: Mapping[str, nn.Module]) -> Iterator[str]:
    for around, block in modules.items():
        for module_name, module in layers_of(block):
            if isinstance(module, nn.Embedding):
                continue
            for name, parameter in named_matrices(module):
                if parameter.ndim >= 2:
                    yield ".".join(filter(None, (around, module_name, name)))


def _is_of(seen: SeenAttention, callers: Sequence[str]) -> bool:
    """Return whether one of ``callers`` made the attention: itself, or around or inside the module
    that ran (a bare ``nn.Softmax`` may be the caller)."""
    where = seen.modules[-1] if seen.modules else ""
    for caller in callers:
        if where == caller or where == "" or caller == "":
            return True
        if where.startswith(f"{caller}.") or caller.startswith(f"{where}."):
            return True
    return False


def _named(
    matrices: list[Matrix], index: int, prefix: str, named: Mapping[str, str]
) -> list[Projection]:
    found = []
    for name, pattern in named.items():
        matrix = _first_matching(matrices, prefix, pattern)
        if matrix is not None:
            found.append(whole(matrix, index, name))
    return found


def _first_matching(matrices: list[Matrix], prefix: str, pattern: str) -> Matrix | None:
    """Return the first matrix whose parameter has that name within the block, with or without
    ``.weight``."""
    for matrix in matrices:
        with_weight = matrix.parameter.removeprefix(f"{prefix}.")
        if fnmatch.filter((matrix.path, with_weight), pattern):
            return matrix
    return None


def _usual_place(projection: Projection) -> tuple[str, int, str]:
    """Return a sort key: q, k, v, o; gate, up, down; single experts last."""
    where, _, role = projection.name.rpartition(".")
    place = _ORDER.index(role) if role in _ORDER else len(_ORDER)
    return where, place, role


def _attention_parts(block: nn.Module, callers: Sequence[str]) -> tuple[str, ...]:
    """Return the calling modules, or those around them that hold matrices (the caller may be a bare
    ``nn.Softmax``)."""
    parts = set()
    for caller in callers:
        while caller and not _holds_matrices(block.get_submodule(caller)):
            caller = caller.rpartition(".")[0]
        if caller:
            parts.add(caller + ".")
    return tuple(parts)


def _holds_matrices(module: nn.Module) -> bool:
    return any(parameter.ndim >= 2 for parameter in module.parameters())


def _is_inside(matrix: Matrix, parts: tuple[str, ...]) -> bool:
    return bool(parts) and f"{matrix.path}.".startswith(parts)


def _output_beside(
    matrices: Sequence[Matrix], index: int, found: list[Projection]
) -> list[Projection]:
    """Return an output projection that is directly in the block, beside the feed-forward part."""
    widths = {projection.shape[0] for projection in found if projection.name == "attn.w_q"}
    for matrix in matrices:
        is_output = "." not in matrix.path and ATTENTION_ROLE.get(matrix.leaf) == "w_o"
        if is_output and matrix.into in widths:
            return [whole(matrix, index, "attn.w_o")]
    return []
