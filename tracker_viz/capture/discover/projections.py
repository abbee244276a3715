"""Which parameter of a decoder block is which projection: by its name where that is a usual one,
else by its shape and place.

Called once per block by ``blocks.discover``; gives ``Projection`` values that ``weights.read``
follows.
"""

from __future__ import annotations

import fnmatch
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor, nn

from tracker_viz.capture.parameter_trace import ParameterTrace
from tracker_viz.capture.weights.matrices import Projection, Ranges

_FEED_FORWARD_PART = re.compile(
    r"mlp|ffn|feed_?forward|(^|\.)ff(n|$|\.)|moe|expert|_4h|4h_|(^|\.)fc", re.IGNORECASE
)
_ATTENTION_PART = re.compile(r"attn|attention|mha|(^|\.)sa($|\.)", re.IGNORECASE)
SKIPPED_NAMES = re.compile(
    r"lora_|(^|\.)[^.]*(norm|embed|rotary|router|conv)[^.]*$|(^|\.)(ln_?\d?|rel_[^.]*)$",
    re.IGNORECASE,
)
_NOTHING = re.compile(r"(?!)")
_EXPERT = re.compile(r"^(?P<before>.*experts?\.)(?P<index>\d+)(?P<after>\..*)$")

# Last part of a parameter's path (without "weight"), lower case -> its role. Attention and
# feed-forward use "proj", "c_proj", "w2", "out" for different things, so each side has its own
# list. Names as found in some sixty public decoder models.
_ATTENTION_NAMES = {
    "qkv": (
        "c_attn qkv qkv_proj wqkv w_qkv query_key_value to_qkv in_proj in_proj_weight "
        "att_proj attn_qkv qkv_linear"
    ),
    "kv": "kv_proj to_kv wkv key_value kv",
    "w_q": (
        "q q_proj query wq w_q to_q q_lin query_proj c_q q_linear linear_q queries "
        "q_proj_weight query_layer"
    ),
    "w_k": (
        "k k_proj key wk w_k to_k k_lin key_proj c_k k_linear linear_k keys k_proj_weight key_layer"
    ),
    "w_v": (
        "v v_proj value wv w_v to_v v_lin value_proj c_v v_linear linear_v values "
        "v_proj_weight value_layer"
    ),
    # multi-head latent attention (DeepSeek-V2, arXiv:2405.04434): down to a latent (a), up again
    # (b)
    "w_q_a": "q_a_proj wq_a q_down_proj",
    "w_q_b": "q_b_proj wq_b q_up_proj",
    "w_kv_a": "kv_a_proj_with_mqa wkv_a kv_a_proj kv_down_proj",
    "w_kv_b": "kv_b_proj wkv_b kv_up_proj",
    "w_o": (
        "o o_proj out_proj wo w_o to_out dense c_proj proj out out_lin output output_proj "
        "attn_out proj_out linear_out o_linear linear_o projection"
    ),
}
_FEED_FORWARD_NAMES = {
    "gate_up": (
        "gate_up_proj w12 input_linear gate_up w_gate_up up_gate_proj wi_fused gate_and_up_proj"
    ),
    "w_gate": "gate_proj gate wi_0 c_fc_0 w_gate linear_gate",
    "w_up": "up_proj wi_1 c_fc_1 w_up w3 v1 up linear_up",
    "w_down": "down_proj w_down down linear_down output_linear",
    "w_in": (
        "c_fc fc1 dense_h_to_4h fc_in lin1 linear1 w_in fc wi linear_1 w1 dense_in "
        "linear_in in proj_1 fc_1"
    ),
    "w_out": (
        "c_proj fc2 dense_4h_to_h fc_out lin2 linear2 w_out wo linear_2 w2 dense_out "
        "linear_out out proj proj_2 fc_2"
    ),
}
_ATTENTION_ROLE = {name: role for role, names in _ATTENTION_NAMES.items() for name in names.split()}
_FEED_FORWARD_ROLE = {
    name: role for role, names in _FEED_FORWARD_NAMES.items() for name in names.split()
}
# What a layer is called inside the wrapper that took its place.
_WRAPPED = {
    "base_layer",
    "base",
    "linear",
    "original",
    "original0",
    "original1",
    "weight",
    "parametrizations",
    "weight_v",
    "weight_g",
}
_ATTENTION_ORDER = ("w_q", "w_q_a", "w_q_b", "w_k", "w_v", "w_kv_a", "w_kv_b", "w_o")
_ORDER = (*_ATTENTION_ORDER, "w_gate", "w_up", "w_down", "w_in", "w_out")
# Names that say "attention" even where they are directly in the block.
_SURELY_ATTENTION = {name for name, role in _ATTENTION_ROLE.items() if role != "w_o"}


@dataclass(slots=True)
class _Matrix:
    path: str  # within the block, without ".weight"
    parameter: str  # in the model
    shape: tuple[int, ...]  # as [..., out, in]
    transposed: bool
    # A fused gate and up take every second row, as the module itself says.
    alternating: bool = False
    # Parameters, one per expert, where experts are modules of their own.
    experts: list[str] = field(default_factory=list)

    @property
    def out(self) -> int:
        return self.shape[-2]

    @property
    def into(self) -> int:
        return self.shape[-1]

    @property
    def leaf(self) -> str:
        """The last part of the path that says anything: a wrapper around a layer (LoRA's, a
        parametrization's) is looked through."""
        parts = [part.lower() for part in self.path.split(".")]
        while len(parts) > 1 and (parts[-1].isdigit() or parts[-1] in _WRAPPED):
            parts.pop()
        return parts[-1]


def find_projections(
    block: nn.Module,
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
        every = _matrices(block, prefix, d_model, evidence, skipped=_NOTHING)
        return _named(_merge_experts(every), index, prefix, named)

    matrices = _merge_experts(_matrices(block, prefix, d_model, evidence, skipped=SKIPPED_NAMES))
    parts = _attention_parts(block, attention)
    attn = [matrix for matrix in matrices if _is_attention(matrix, parts)]
    rest = [matrix for matrix in matrices if matrix not in attn]
    found = [*_attention(attn, index, parts, d_model, evidence)]
    if attends and not any(projection.name == "attn.w_o" for projection in found):
        found += _output_beside(rest, index, found)
    taken = set(itertools.chain(*(projection.parameters for projection in found)))
    rest = [matrix for matrix in rest if matrix.parameter not in taken]
    for part, group in _feed_forward_groups(rest).items():
        found += _feed_forward(group, index, part, d_model, evidence, max_experts)
    # Of one name the first that was found.
    by_name = {projection.name: projection for projection in reversed(found)}
    return sorted(by_name.values(), key=_usual_place)


def _named(
    matrices: list[_Matrix], index: int, prefix: str, named: Mapping[str, str]
) -> list[Projection]:
    found = []
    for name, pattern in named.items():
        matrix = _first_matching(matrices, prefix, pattern)
        if matrix is not None:
            found.append(_whole(matrix, index, name))
    return found


def _first_matching(matrices: list[_Matrix], prefix: str, pattern: str) -> _Matrix | None:
    """Return the first matrix whose parameter has that name within the block, with or without
    ``.weight``."""
    for matrix in matrices:
        with_weight = matrix.parameter.removeprefix(f"{prefix}.")
        if fnmatch.filter((matrix.path, with_weight), pattern):
            return matrix
    return None


def _usual_place(projection: Projection) -> tuple[str, int, str]:
    """Sort key: q, k, v, o; gate, up, down; single experts last."""
    where, _, role = projection.name.rpartition(".")
    place = _ORDER.index(role) if role in _ORDER else len(_ORDER)
    return where, place, role


def _matrices(
    block: nn.Module,
    prefix: str,
    d_model: int,
    evidence: ParameterTrace,
    *,
    skipped: re.Pattern[str],
) -> Iterable[_Matrix]:
    for module_name, module in block.named_modules():
        if isinstance(module, nn.Embedding | nn.modules.conv._ConvNd):
            continue
        for name, parameter in module.named_parameters(recurse=False):
            in_block = f"{module_name}.{name}".strip(".")
            if parameter.ndim not in (2, 3) or not parameter.is_floating_point():
                continue
            if min(parameter.shape[-2:]) < 2:
                continue
            if skipped.search(in_block.removesuffix(".weight")) or name.endswith("bias"):
                continue
            in_model = f"{prefix}.{in_block}".strip(".")
            path = module_name if name == "weight" else in_block.removesuffix("_weight")
            transposed = evidence.transposed.get(in_model)
            if transposed is None:
                transposed = _is_transposed(module, parameter, path, d_model)
            shape = tuple(parameter.shape)
            if transposed:
                shape = (*shape[:-2], shape[-1], shape[-2])
            yield _Matrix(
                path,
                in_model,
                shape,
                transposed,
                alternating=getattr(module, "is_concatenated", True) is False,
            )


def _is_transposed(module: nn.Module, parameter: Tensor, path: str, d_model: int) -> bool:
    """Guess where the pass did not show it: nn.Linear stores [out, in], Hugging Face's Conv1D and
    some stacks of experts [in, out]."""
    if isinstance(module, nn.Linear):
        return False
    said = getattr(module, "is_transposed", None)  # Hugging Face's stacks of experts say it
    if isinstance(said, bool):
        return said
    if type(module).__name__ == "Conv1D":
        return True
    if parameter.ndim == 2:
        return False
    rows, columns = parameter.shape[-2:]
    role = _FEED_FORWARD_ROLE.get(path.rpartition(".")[2].lower())
    if role in ("w_down", "w_out"):
        return rows != d_model and columns == d_model
    return rows == d_model and columns != d_model


def _merge_experts(matrices: Iterable[_Matrix]) -> list[_Matrix]:
    """Return one matrix for all experts of a mixture that are modules of their own."""
    merged: dict[str, _Matrix] = {}
    for matrix in matrices:
        match = _EXPERT.match(matrix.path)
        if match is None:
            merged.setdefault(matrix.path, replace(matrix))
            continue
        path = match["before"] + match["after"].lstrip(".")
        first = merged.setdefault(path, replace(matrix, path=path))
        first.experts.append(matrix.parameter)
    return list(merged.values())


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


def _is_attention(matrix: _Matrix, parts: tuple[str, ...]) -> bool:
    if parts and f"{matrix.path}.".startswith(parts):
        return True
    if _FEED_FORWARD_PART.search(matrix.path):
        return False
    return bool(_ATTENTION_PART.search(matrix.path)) or matrix.leaf in _SURELY_ATTENTION


def _attention(
    matrices: list[_Matrix],
    index: int,
    parts: tuple[str, ...],
    d_model: int,
    evidence: ParameterTrace,
) -> Iterable[Projection]:
    """Known names first; the rest, in the order of definition, fills what is missing."""
    by_role: dict[str, list[_Matrix]] = {}
    for matrix in matrices:
        if len(matrix.shape) == 2 or matrix.experts:
            by_role.setdefault(_ATTENTION_ROLE.get(matrix.leaf, "unknown"), []).append(matrix)
    unknown = by_role.pop("unknown", [])
    if not by_role and len(unknown) in (2, 4):
        roles = ["w_q", "w_k", "w_v", "w_o"]
        if len(unknown) == 2:
            roles = ["qkv", "w_o"]
        by_role = {role: [matrix] for role, matrix in zip(roles, unknown, strict=True)}
    for role, group in by_role.items():
        # An attention that took no part, such as one to an encoder, is left out.
        by_role[role] = [matrix for matrix in group if f"{matrix.path}.".startswith(parts)] or group

    query_width = {"qkv": d_model, "kv": 0}
    if "w_o" in by_role:
        query_width["qkv"] = by_role["w_o"][-1].into
    for role, group in by_role.items():
        for number, matrix in enumerate(group):
            # Of several, each module is a head, or a stream of attention.
            where = "attn" if len(group) == 1 else f"attn.{number}"
            if role in query_width:
                value_rows = evidence.value_rows.get(matrix.parameter)
                yield from _split_values(matrix, role, index, where, query_width[role], value_rows)
            else:
                yield _whole(matrix, index, f"{where}.{role}")


def _split_values(
    matrix: _Matrix,
    role: str,
    index: int,
    where: str,
    query_width: int,
    value_rows: np.ndarray | None,
) -> Iterable[Projection]:
    """Split rows of a fused query, key and value. ``value_rows`` tells the order; without them it
    is taken to be q, k, v, each whole.

    The rows fall into equal groups (one; or one per key/value head, as in GPT-NeoX and Falcon; or
    one per device, as in CodeGen). Queries come first in every group known, and are as wide as is
    left by values and keys of equal width.
    """
    if value_rows is None:
        width, rest = divmod(matrix.out - query_width, 2)
        if rest or width <= 0:
            yield _whole(matrix, index, f"{where}.w_{role}")
            return
        value_rows = np.arange(matrix.out - width, matrix.out)
    values = runs(value_rows)
    n_groups = len(values)
    group, rest = divmod(matrix.out, n_groups)
    value_start, value_end = values[0]
    width = value_end - value_start
    expected = [
        (number * group + value_start, number * group + value_end) for number in range(n_groups)
    ]
    if rest or list(values) != expected:
        yield _whole(matrix, index, f"{where}.w_{role}")
        return
    # Keys come just before the values where these end the group, else at its end.
    key_start = group - width
    if value_end == group:
        key_start = value_start - width
    for name, start, size in (
        ("w_q", 0, group - 2 * width),
        ("w_k", key_start, width),
        ("w_v", value_start, width),
    ):
        if size > 0:
            firsts = range(start, start + n_groups * group, group)
            yield replace(
                _whole(matrix, index, f"{where}.{name}"),
                shape=(size * n_groups, matrix.into),
                rows=tuple((first, first + size) for first in firsts),
            )


def runs(rows: np.ndarray) -> Ranges:
    """Return ascending row numbers as half-open ranges."""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    return tuple((int(run[0]), int(run[-1]) + 1) for run in np.split(rows, breaks))


def _output_beside(
    matrices: list[_Matrix], index: int, found: list[Projection]
) -> list[Projection]:
    """Return an output projection that is directly in the block, beside the feed-forward part."""
    widths = {projection.shape[0] for projection in found if projection.name == "attn.w_q"}
    for matrix in matrices:
        is_output = "." not in matrix.path and _ATTENTION_ROLE.get(matrix.leaf) == "w_o"
        if is_output and matrix.into in widths:
            return [_whole(matrix, index, "attn.w_o")]
    return []


def _feed_forward_groups(matrices: list[_Matrix]) -> dict[str, list[_Matrix]]:
    groups: dict[str, list[_Matrix]] = {}
    for matrix in matrices:
        if _is_attention(matrix, ()):
            continue
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


def _feed_forward(
    matrices: list[_Matrix],
    index: int,
    part: str,
    d_model: int,
    evidence: ParameterTrace,
    max_experts: int,
) -> Iterable[Projection]:
    by_role: dict[str, _Matrix] = {}
    for matrix in matrices:
        role = _FEED_FORWARD_ROLE.get(matrix.leaf)
        if role and role not in by_role:
            by_role[role] = matrix
    if not _is_pair(by_role):
        by_role = _by_shape(matrices, d_model)
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
    for role, matrix in by_role.items():
        if role == "gate_up":
            gate_rows = evidence.gate_rows.get(matrix.parameter)
            projections = _split_gate_up(matrix, index, part, gate_rows)
        else:
            projections = [_whole(matrix, index, f"{_pooled(part)}.{names.get(role, role)}")]
        for projection in projections:
            yield from _each_expert(projection, matrix, max_experts)


def _is_pair(by_role: dict[str, _Matrix]) -> bool:
    inner, outer = {"w_in", "w_up", "gate_up"}, {"w_out", "w_down"}
    return bool(inner & set(by_role)) and bool(outer & set(by_role))


def _by_shape(matrices: list[_Matrix], d_model: int) -> dict[str, _Matrix]:
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
    matrix: _Matrix, index: int, part: str, gate_rows: np.ndarray | None
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
        whole = _whole(matrix, index, f"{_pooled(part)}.{name}")
        split.append(replace(whole, shape=(half, matrix.into), rows=(rows,), stride=stride))
    return split


def _each_expert(pooled: Projection, matrix: _Matrix, max_experts: int) -> Iterable[Projection]:
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


def _whole(matrix: _Matrix, index: int, name: str) -> Projection:
    parameters = tuple(matrix.experts) or (matrix.parameter,)
    return Projection(index, name, parameters, (matrix.out, matrix.into), matrix.transposed)
