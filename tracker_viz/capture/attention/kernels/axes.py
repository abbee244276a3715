"""Find probe rows, positions, heads and channels among the axes of a kernel's tensors.

Letters name the axes: ``b`` rows, ``s`` positions, ``h`` heads, ``d`` channels; ``p`` rows and
positions in one (packing), ``m`` rows and heads in one, ``1`` an axis of size one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

# As fla, flash_attn and xformers have it; as torch has it; Megatron's; packed rows; as convolutions
# have it.
_FORMS = ("bshd", "bhsd", "sbhd", "1phd", "1hpd", "phd", "bsd", "msd", "pd", "bds")


@dataclass(frozen=True, slots=True)
class Axes:
    """A tensor's axes, in letters, for a probe of ``n_rows`` rows of ``length`` tokens."""

    letters: str
    n_rows: int
    length: int

    def fit(self, shape: Sequence[int]) -> bool:
        """Return whether a tensor of this shape can have these axes."""
        if len(shape) != len(self.letters):
            return False
        return all(map(self._fits, self.letters, shape))

    def canonical(self, tensor: Tensor) -> Tensor:
        """Return the tensor as [row, position, head, channel]."""
        apart = self._apart()
        sizes = []
        for letter, size in zip(self.letters, tensor.shape, strict=True):
            sizes += self._sizes_apart(letter, size)
        tensor = tensor.reshape(sizes)
        if "h" not in apart:
            tensor = tensor.unsqueeze(-1)
            apart += "h"
        return tensor.permute([apart.index(letter) for letter in "bshd"])

    def original(self, tensor: Tensor) -> Tensor:
        """Return a [row, position, head, channel] tensor with the axes in their own places."""
        apart = self._apart()
        if "h" not in apart:
            tensor = tensor.squeeze(2)
        there = "bshd" if "h" in apart else "bsd"
        tensor = tensor.permute([there.index(letter) for letter in apart])

        n_rows, length = self.n_rows, self.length
        n_heads = tensor.shape[apart.index("h")] if "h" in apart else 1
        joined = {"p": n_rows * length, "m": n_rows * n_heads, "1": 1}
        sizes = dict(zip(apart, tensor.shape, strict=True)) | joined
        return tensor.reshape([sizes[letter] for letter in self.letters]).contiguous()

    def _apart(self) -> str:
        return self.letters.replace("1", "").replace("p", "bs").replace("m", "bh")

    def _sizes_apart(self, letter: str, size: int) -> list[int]:
        if letter == "1":
            return []
        if letter == "p":
            return [self.n_rows, self.length]
        if letter == "m":
            return [self.n_rows, size // self.n_rows]
        return [size]

    def _fits(self, letter: str, size: int) -> bool:
        exact = {"b": self.n_rows, "s": self.length, "p": self.n_rows * self.length, "1": 1}
        if letter in exact:
            return size == exact[letter]
        return letter != "m" or size % self.n_rows == 0


def possible_axes(shape: Sequence[int], n_rows: int, length: int) -> Iterator[Axes]:
    """Yield every possible reading of a tensor's shape, the most common first."""
    for letters in _FORMS:
        axes = Axes(letters, n_rows, length)
        if axes.fit(shape):
            yield axes
