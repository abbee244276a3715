"""Read from an ``einsum`` by which matrix it mixes tokens. Called by ``AttentionWatch``: attention
and linear attention that are written out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def mixing_operands(args: Sequence[Any], length: int) -> tuple[Tensor, Tensor] | None:
    """Return the matrix [..., query, key] of an ``einsum`` that may mix tokens by it, and the
    values [..., key, channel] that it mixes; None for any other.

    Args:
        args: of ``torch.einsum``: an equation, then its two operands.
        length: tokens in a row.
    """
    equation = args[0] if args and isinstance(args[0], str) else ""
    operands = args[1] if len(args) == 2 and isinstance(args[1], list | tuple) else args[1:]
    terms, _, result = equation.replace(" ", "").partition("->")
    letters = terms.split(",")
    if "." in equation or not result or len(letters) != 2 or len(operands) != 2:
        return None
    return _mixed(letters, result, operands, length) or _mixed(
        letters[::-1], result, operands[::-1], length
    )


def _mixed(
    letters: Sequence[str], result: str, operands: Sequence[Tensor], length: int
) -> tuple[Tensor, Tensor] | None:
    """Return the first operand as a matrix and the second as values, if one axis of it is summed
    over and one other is the first operand's alone, both as long as a row."""
    of_matrix, of_values = letters
    keys = [each for each in of_matrix if each in of_values and each not in result]
    queries = [each for each in of_matrix if each not in of_values and each in result]
    channels = [each for each in of_values if each not in of_matrix and each in result]
    shared = [each for each in of_matrix if each in of_values and each in result]
    is_whole = len(keys) + len(queries) + len(shared) == len(of_matrix)
    if not is_whole or len(keys) != 1 or len(queries) != 1:
        return None
    if not shared or not channels:  # a layer, or no values
        return None
    matrix = _in_order(operands[0], of_matrix, [*shared, *queries, *keys])
    values = _in_order(operands[1], of_values, [*shared, *keys, *channels])
    if matrix.shape[-2:] != (length, length):
        return None
    return matrix, values.flatten(len(shared) + 1)


def _in_order(tensor: Tensor, letters: str, wanted: Sequence[str]) -> Tensor:
    return tensor.permute([letters.index(each) for each in wanted])
