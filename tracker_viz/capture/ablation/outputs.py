"""Find the tensor that holds the heads of a block side by side: the input of its output
projection, ``[..., head * d_head]``.

There one head can be replaced without touching the others, whatever the attention in front of it
is: fused, with shared keys and values, or in a kernel of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from tracker_viz.capture.discover.model_info import ModelStructure, matrices_of
from tracker_viz.capture.weights.adapters import owner
from tracker_viz.capture.weights.matrices import Projection
from tracker_viz.errors import UnsupportedModelError


@dataclass(frozen=True, slots=True)
class HeadOutputs:
    """The heads of one block.

    Attributes:
        module: name of the module whose input they are.
        n_heads, d_head: heads, and numbers of each; head ``h`` is ``h * d_head`` and after.
    """

    block: int
    module: str
    n_heads: int
    d_head: int

    @property
    def width(self) -> int:
        return self.n_heads * self.d_head


def find_outputs(model: nn.Module, structure: ModelStructure) -> dict[int, HeadOutputs]:
    """Return block -> its heads, for every block that attends.

    Raises:
        UnsupportedModelError: a block has no output projection that is known, or one that cannot be
            split by heads.
    """
    projections = {each.block: each for each in structure.projections if each.name == "attn.w_o"}
    found: dict[int, HeadOutputs] = {}
    taken: dict[nn.Module, int] = {}
    for block, n_heads in enumerate(structure.n_heads):
        if n_heads == 0:
            continue
        if block not in projections:
            raise UnsupportedModelError(_unknown(model, structure, block))
        outputs = _outputs(model, projections[block], n_heads)
        module = model.get_submodule(outputs.module)
        if module in taken:
            raise UnsupportedModelError(
                f"blocks {taken[module]} and {block} share their output "
                f"projection ({outputs.module}), so a head of one of them cannot "
                "be ablated alone"
            )
        taken[module] = block
        found[block] = outputs
    return found


def _outputs(model: nn.Module, projection: Projection, n_heads: int) -> HeadOutputs:
    width = projection.shape[1]
    if len(projection.parameters) != 1 or width % n_heads:
        raise UnsupportedModelError(
            f"the output projection of block {projection.block} "
            f"({', '.join(projection.parameters)}) takes {width} inputs, which "
            f"are not {n_heads} concatenated heads, so heads cannot be ablated"
        )
    name = owner(model, projection.parameters[0])
    parent, _, own_name = name.rpartition(".")
    if isinstance(model.get_submodule(parent), nn.MultiheadAttention) and own_name == "out_proj":
        raise UnsupportedModelError(
            f"{parent} is an nn.MultiheadAttention, which applies its out_proj "
            "inside torch, so heads cannot be ablated; expected an attention "
            "that calls its output projection as a module, like nn.Linear"
        )
    return HeadOutputs(projection.block, name, n_heads, width // n_heads)


def _unknown(model: nn.Module, structure: ModelStructure, block: int) -> str:
    known = [each.name for each in structure.projections if each.block == block]
    name = structure.blocks[block]
    return (
        f"the output projection of block {block} ({name or 'the model itself'}) was not found, and "
        f"heads are taken out of its input; found there: {_listed(known)}. Say which parameter it "
        "is with projections={'attn.w_o': '<name within the block>'}; the block has "
        f"{_listed(matrices_of(model, name))}"
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"
