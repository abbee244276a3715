"""List the weight matrices of a decoder block, as [out, in], with what their names say.

For ``projections.find_projections``, which finds out what each of them does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from tracker_viz.capture.tracing.parameter_trace import ParameterTrace
from tracker_viz.capture.weights.adapters import layers_of
from tracker_viz.capture.weights.matrices import Projection
from tracker_viz.capture.weights.packed import named_matrices

SKIPPED_NAMES = re.compile(
    r"lora_|(^|\.)[^.]*(norm|embed|rotary|router|conv)[^.]*$|(^|\.)(ln_?\d?|rel_[^.]*)$",
    re.IGNORECASE,
)
# ``bias``, and biases of every head in one, such as ``b_Q`` [head, channel].
_BIAS = re.compile(r"bias$|^_?b_[A-Za-z]+$")
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


def _by_name(names_of_roles: dict[str, str]) -> dict[str, str]:
    """Return name -> role."""
    by_name: dict[str, str] = {}
    for role, names in names_of_roles.items():
        by_name |= dict.fromkeys(names.split(), role)
    return by_name


ATTENTION_ROLE = _by_name(_ATTENTION_NAMES)
FEED_FORWARD_ROLE = _by_name(_FEED_FORWARD_NAMES)
# The name of a layer inside the wrapper that took its place.
_WRAPPED = {
    "base_layer",
    "original_module",
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


@dataclass(slots=True)
class Matrix:
    """One weight matrix, or stack of them, of a block.

    Attributes:
        path: within the block, without ``.weight``.
        parameter: name in the model.
        shape: as [..., out, in].
        transposed: the model stores [..., in, out].
        alternating: a fused gate and up take every second row, as the module itself says.
        experts: parameters, one per expert, where experts are modules of their own.
    """

    path: str
    parameter: str
    shape: tuple[int, ...]
    transposed: bool
    alternating: bool = False
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

    @property
    def part(self) -> str:
        """The path of the module around the layer, within the block."""
        path = self.path.lower()
        return path[: path.rfind(self.leaf)].rstrip(".")

    @property
    def parameters(self) -> tuple[str, ...]:
        return tuple(self.experts) or (self.parameter,)


def matrices_in(
    modules: Mapping[str, nn.Module],
    prefix: str,
    d_model: int,
    evidence: ParameterTrace,
    *,
    skipped: re.Pattern[str],
) -> list[Matrix]:
    """Return the matrices of a block; one for all experts that are modules of their own.

    Args:
        modules: the block's, by name in the model; what is beside it has paths with its whole name.
        prefix: the block's name in the model.
        skipped: leave out what has such a name.
    """
    found: list[Matrix] = []
    for name, module in modules.items():
        matrices = _merge_experts(_each(module, name, d_model, evidence, skipped))
        if name != prefix:
            matrices = [replace(each, path=f"{name}.{each.path}".strip(".")) for each in matrices]
        found += matrices
    return found


def _each(
    block: nn.Module,
    prefix: str,
    d_model: int,
    evidence: ParameterTrace,
    skipped: re.Pattern[str],
) -> Iterator[Matrix]:
    for module_name, module in layers_of(block):
        if isinstance(module, nn.Embedding | nn.modules.conv._ConvNd):
            continue
        for name, parameter in named_matrices(module):
            in_block = f"{module_name}.{name}".strip(".")
            if parameter.ndim not in (2, 3) or not parameter.is_floating_point():
                continue
            if min(parameter.shape[-2:]) < 2:
                continue
            if skipped.search(in_block.removesuffix(".weight")) or _BIAS.search(name):
                continue
            in_model = f"{prefix}.{in_block}".strip(".")
            path = module_name if name == "weight" else in_block.removesuffix("_weight")
            transposed = evidence.transposed.get(in_model)
            if transposed is None:
                transposed = _is_transposed(module, parameter, path, d_model)
            shape = tuple(parameter.shape)
            if transposed:
                shape = (*shape[:-2], shape[-1], shape[-2])
            alternating = getattr(module, "is_concatenated", True) is False
            yield Matrix(path, in_model, shape, transposed, alternating)


def _is_transposed(module: nn.Module, parameter: Tensor, path: str, d_model: int) -> bool:
    """Guess where the pass did not show it: nn.Linear stores [out, in], Hugging Face's Conv1D and
    some stacks of experts [in, out]."""
    if isinstance(module, nn.Linear):
        return False
    is_transposed = getattr(module, "is_transposed", None)  # of Hugging Face's stacks of experts
    if isinstance(is_transposed, bool):
        return is_transposed
    if type(module).__name__ == "Conv1D":
        return True
    if parameter.ndim == 2:
        return False
    rows, columns = parameter.shape[-2:]
    role = FEED_FORWARD_ROLE.get(path.rpartition(".")[2].lower())
    if role in ("w_down", "w_out"):
        return rows != d_model and columns == d_model
    return rows == d_model and columns != d_model


def _merge_experts(matrices: Iterable[Matrix]) -> list[Matrix]:
    """Return one matrix for all experts of a mixture that are modules of their own."""
    merged: dict[str, Matrix] = {}
    for matrix in matrices:
        match = _EXPERT.match(matrix.path)
        if match is None:
            merged.setdefault(matrix.path, replace(matrix))
            continue
        path = match["before"] + match["after"].lstrip(".")
        first = merged.setdefault(path, replace(matrix, path=path))
        first.experts.append(matrix.parameter)
    return list(merged.values())


def whole(matrix: Matrix, index: int, name: str) -> Projection:
    """Return the projection ``name`` of block ``index`` that is all of one matrix."""
    return Projection(index, name, matrix.parameters, (matrix.out, matrix.into), matrix.transposed)
