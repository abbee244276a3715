"""Ask a kernel for its mixing matrix.

A token mixer may do anything with its queries, keys and gates, but its output is linear in its
values. Called again with the identity in place of the values, it returns the exact matrix that it
multiplies them by, as many columns a call as a head has channels. The answer is checked: the matrix
times the values must be the kernel's output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tracker_viz.capture.attention.kernels.axes import Axes, possible_axes
from tracker_viz.capture.attention.probabilities import repeated

# values -> a kernel's output for them, with all other arguments unchanged
Mix = Callable[[Tensor], Tensor]

# Channels that are kept of a mixer that mixes every channel in its own way.
N_CHANNELS = 8
# Largest ``|A V - output|`` over the output's largest entry: far above rounding (TF32 in kernels
# included), far below what a function shows that is not linear in its values.
_TOLERANCE = {torch.float32: 3e-3, torch.float64: 1e-6}
_TOLERANCE_OF_HALF = 3e-2


@dataclass(frozen=True, slots=True)
class Answer:
    """A kernel's mixing matrix.

    Attributes:
        matrix: float32 [row, head, query, key]; channels in place of heads where each has its own.
        error: largest ``|A V - output|``.
        values: the values that it mixes, [row, head, key, channel].
        channels: the channels that ``matrix`` holds; empty where it holds heads.
    """

    matrix: Tensor
    error: float
    values: Tensor
    channels: tuple[int, ...] = ()


def ask(mix: Mix, value: Tensor, output: Tensor, n_rows: int, length: int) -> Answer | None:
    """Return the matrix that a kernel multiplies its values by, or None if there is none.

    Args:
        mix: calls it; once for every ``channels`` columns, so ``length / channels`` times in all.
        value: what the model gave it, with rows and positions of the probe on axes of their own or
            packed into one; heads may be shared by those of the output.
        output: what it returned.
    """
    for axes in possible_axes(value.shape, n_rows, length):
        if not axes.fit(output.shape):
            continue
        values = axes.canonical(value).transpose(1, 2).float()
        mixed = axes.canonical(output).transpose(1, 2).float()
        if mixed.shape[-1] != values.shape[-1] or mixed.shape[1] % values.shape[1]:
            continue
        matrix = _by_columns(mix, value, axes)
        error = difference(torch.matmul(matrix, repeated(values, matrix.shape[1])), mixed)
        if error <= tolerated(output):
            return Answer(matrix, error, values)
    return None


def ask_channels(
    call: Callable[[Mapping[str, Any]], Tensor],
    arguments: Mapping[str, Any],
    output: Tensor | None,
    value: str,
    channel_axes: Mapping[str, int],
    n_rows: int,
    length: int,
) -> Answer | None:
    """Return the matrices of some channels of a mixer in which no two channels mix alike.

    One call answers for as many columns as it has channels: each channel is asked as ``length``
    copies of itself, with one column of the identity for each.

    Args:
        call: the mixer, on named arguments; its output has the axes of the values.
        arguments: what the model called it with.
        output: what it returned; None where that is not known of these arguments. The last call
            then runs the chosen channels on the model's own values, too.
        value: the name of the values, whose position axis is the one beside rows and channels.
        channel_axes: name of every argument that differs by channel -> its axis of channels.
    """
    axis = channel_axes[value]
    values = arguments[value]
    n_channels = values.shape[axis]
    chosen = chosen_channels(n_channels)
    index = torch.tensor(chosen, device=values.device)
    own = values.index_select(axis, index)
    eye = torch.eye(length, device=values.device, dtype=values.dtype)
    groups = index.split(max(1, n_channels // length))
    matrices = []
    for number, group in enumerate(groups, 1):
        channels = group.repeat_interleave(length)
        columns = eye.repeat(1, len(group)).expand(n_rows, -1, -1)  # [row, position, column]
        given = columns if axis == 2 else columns.transpose(1, 2)
        if output is None and number == len(groups):
            # The own values of the chosen channels, behind the columns.
            channels, given = torch.cat([channels, index]), torch.cat([given, own], dim=axis)
        asked = _of_channels(arguments, channels, channel_axes)
        answer = call(asked | {value: given.contiguous()})
        n_columns = len(group) * length
        matrices.append(_matrices(answer.narrow(axis, 0, n_columns), axis, length))

    matrix = torch.cat(matrices, dim=1)
    if output is None:
        mixed = output = answer.narrow(axis, n_columns, len(index))
    else:
        mixed = output.index_select(axis, index)
    own_as_heads = _channels_as_heads(own, axis)
    error = difference(torch.matmul(matrix, own_as_heads), _channels_as_heads(mixed, axis))
    if error > tolerated(output):
        return None
    return Answer(matrix, error, own_as_heads, tuple(chosen))


def _of_channels(
    arguments: Mapping[str, Any], channels: Tensor, channel_axes: Mapping[str, int]
) -> dict[str, Any]:
    """Return a mixer's arguments for these channels, which may repeat."""
    chosen = dict(arguments)
    for name, axis in channel_axes.items():
        if isinstance(arguments.get(name), Tensor):
            chosen[name] = arguments[name].index_select(axis, channels)
    return chosen


def _matrices(answer: Tensor, axis: int, length: int) -> Tensor:
    """Return [row, channel, query, key] of an answer with ``length`` columns a channel."""
    by_column = answer if axis == 2 else answer.transpose(1, 2)
    return by_column.unflatten(2, (-1, length)).permute(0, 2, 1, 3).float()


def is_trivial(matrix: Tensor) -> bool:
    """Return whether a matrix mixes nothing: all zeros, or every token keeps its own."""
    return not bool(torch.count_nonzero(matrix.tril(-1)))


def _by_columns(mix: Mix, value: Tensor, axes: Axes) -> Tensor:
    n_rows, length, n_heads, width = axes.canonical(value).shape
    columns = []
    for first in range(0, length, width):
        n_columns = min(width, length - first)
        identity = value.new_zeros(n_rows, length, n_heads, width)
        place = torch.arange(n_columns, device=value.device)
        identity[:, first + place, :, place] = 1
        answer = axes.canonical(mix(axes.original(identity)))
        columns.append(answer[..., :n_columns].float())
    return torch.cat(columns, dim=-1).transpose(1, 2)


def _channels_as_heads(tensor: Tensor, axis: int) -> Tensor:
    """Return [row, channel, position, 1]."""
    by_channel = tensor.transpose(1, 2) if axis == 2 else tensor
    return by_channel.float().unsqueeze(-1)


def chosen_channels(n_channels: int) -> list[int]:
    """Return the channels that are kept of a mixer, evenly spaced."""
    if n_channels <= N_CHANNELS:
        return list(range(n_channels))
    return [index * n_channels // N_CHANNELS for index in range(N_CHANNELS)]


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference between two tensors, where both are numbers."""
    return float((ours - theirs).abs().nan_to_num().max())


def tolerated(output: Tensor) -> float:
    """Return the largest ``|A V - output|`` of a matrix that counts as the output's."""
    relative = _TOLERANCE.get(output.dtype, _TOLERANCE_OF_HALF)
    largest = float(output.detach().abs().nan_to_num(posinf=0.0).max())
    # 1e-7: some slack for outputs near zero.
    return relative * largest + 1e-7
