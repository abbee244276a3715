"""Tell which matrices of a block are its attention's query, key, value and output.

What a matrix was *seen* to do decides: the query of an attention came from it, or it was the first
to multiply what the attention made. Names decide where nothing was seen, as inside torch's own
``nn.MultiheadAttention``. Called by ``projections.find_projections``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tracker_viz.capture.discover.naming.matrix import ATTENTION_ROLE, Matrix, whole
from tracker_viz.capture.tracing.origins import Origins, SeenAttention, is_attention_mark
from tracker_viz.capture.tracing.parameter_trace import ParameterTrace
from tracker_viz.capture.weights.matrices import Projection, Ranges

_ATTENTION_PART = re.compile(r"attn|attention|mha|(^|\.)sa($|\.)", re.IGNORECASE)
_FEED_FORWARD_PART = re.compile(
    r"mlp|ffn|feed_?forward|(^|\.)ff(n|$|\.)|moe|expert|_4h|4h_|(^|\.)fc", re.IGNORECASE
)
# Names that say "attention" even where they are directly in the block.
_SURELY_ATTENTION = {name for name, role in ATTENTION_ROLE.items() if role != "w_o"}
_SPLIT = ("qkv", "kv")


@dataclass(frozen=True, slots=True)
class Seen:
    """Observations of one block's attention in the watched pass.

    Attributes:
        origins: of the whole pass.
        own: names of the block's parameters with two axes or more, as ``origins`` knows them.
        attentions: those of the block.
    """

    origins: Origins
    own: frozenset[str]
    attentions: tuple[SeenAttention, ...]

    def reads(self, matrix: Matrix) -> frozenset[str]:
        """Return the origins of the tensors that the matrix was multiplied with."""
        found: frozenset[str] = frozenset()
        for name in self.names(matrix):
            found |= self.origins.readers.get(name, frozenset())
        return found

    def names(self, matrix: Matrix) -> set[str]:
        return {self.origins.first_name(name) for name in matrix.parameters}

    def letters(self, matrix: Matrix) -> str:
        """Return which of q, k and v come from the matrix."""
        found = ""
        for letter, part in (("q", "query"), ("k", "key"), ("v", "value")):
            if any(self.names(matrix) & getattr(each, part) for each in self.attentions):
                found += letter
        return found

    @property
    def is_complete(self) -> bool:
        """True if the block's own matrices were seen to make the queries of all its attention."""
        return bool(self.attentions) and all(each.query & self.own for each in self.attentions)


def attention_projections(
    matrices: Sequence[Matrix],
    index: int,
    parts: tuple[str, ...],
    d_model: int,
    evidence: ParameterTrace,
    seen: Seen,
) -> list[Projection]:
    """Return the projections of the attention that was seen in block ``index``.

    Args:
        parts: paths, with a dot at their end, of the modules that attended.
    """
    if seen.is_complete:
        by_role = _with_output_factors(_seen_roles(matrices, seen), matrices, parts, seen)
    else:
        by_role = _named_roles(matrices, parts)

    query_width = {"qkv": d_model, "kv": 0}
    if "w_o" in by_role:
        query_width["qkv"] = by_role["w_o"][-1].into
    ratios = {each.key_per_value for each in seen.attentions}
    key_per_value = ratios.pop() if len(ratios) == 1 else 1.0
    found: list[Projection] = []
    for role, group in by_role.items():
        for number, matrix in enumerate(group):
            # Of several, each module is a head, or a stream of attention.
            where = "attn" if len(group) == 1 else f"attn.{number}"
            is_split_over = bool(seen.names(matrix) & seen.origins.split_over.keys())
            if role in _SPLIT and is_split_over:
                # Each process has rows of its own of all three: how they lie was not seen.
                found.append(whole(matrix, index, f"{where}.w_{role}"))
            elif role in _SPLIT and len(matrix.shape) == 2:
                value_rows = evidence.value_rows.get(matrix.parameter)
                found += _split_values(
                    matrix, role, index, where, query_width[role], value_rows, key_per_value
                )
            else:
                name = role if role.startswith("w_") else f"w_{role}"
                found.append(_of_heads(matrix, index, f"{where}.{name}", d_model))
    return found


def unseen_projections(matrices: Sequence[Matrix], index: int) -> list[Projection]:
    """Return the projections of a block in which no attention was seen, because a kernel hides it:
    only where one module has a matrix for each of query, key and value, called that."""
    by_part: dict[str, dict[str, list[Matrix]]] = {}
    for matrix in matrices:
        role = ATTENTION_ROLE.get(matrix.leaf)
        if role is not None and len(matrix.shape) == 2:
            by_part.setdefault(matrix.part, {}).setdefault(role, []).append(matrix)
    found = []
    for roles in by_part.values():
        if all(len(roles.get(role, ())) == 1 for role in ("w_q", "w_k", "w_v")):
            for role in ("w_q", "w_k", "w_v", "w_o"):
                found += [whole(matrix, index, f"attn.{role}") for matrix in roles.get(role, ())]
    return found


def is_called_attention(matrix: Matrix, parts: tuple[str, ...] = ()) -> bool:
    """Return whether the matrix is in a module that attended, or is called as one of attention
    is."""
    if parts and f"{matrix.path}.".startswith(parts):
        return True
    if is_called_feed_forward(matrix):
        return False
    return bool(_ATTENTION_PART.search(matrix.path)) or matrix.leaf in _SURELY_ATTENTION


def is_called_feed_forward(matrix: Matrix) -> bool:
    return bool(_FEED_FORWARD_PART.search(matrix.path))


def _seen_roles(matrices: Sequence[Matrix], seen: Seen) -> dict[str, list[Matrix]]:
    """Return the matrices by role, as seen; in the order of definition."""
    letters = {matrix.path: seen.letters(matrix) for matrix in matrices}
    latent: dict[str, set[str]] = {}
    for matrix in matrices:
        reads = seen.reads(matrix)
        # The residual stream comes from outside the block, too. An input made by the block's own
        # matrices alone is a latent: one matrix goes down to it, another goes up from it.
        if letters[matrix.path] and reads and reads <= seen.own:
            for other in matrices:
                if seen.names(other) & reads:
                    latent.setdefault(other.path, set()).update(letters[matrix.path])
                    latent.setdefault(matrix.path, set())

    by_role: dict[str, list[Matrix]] = {}
    for matrix in matrices:
        role = letters[matrix.path]
        fed = latent.get(matrix.path)
        if fed:
            role = f"w_{_in_order(fed | set(role))}_a"
        elif fed is not None:
            role = f"w_{role}_b"
        elif not role and _is_output(matrix, seen):
            role = "w_o"
        elif role and role not in _SPLIT:
            role = f"w_{role}"
        if role and (len(matrix.shape) == 2 or matrix.experts or _is_per_head(matrix, seen)):
            by_role.setdefault(role, []).append(matrix)
    return {role: _best_named(role, group) for role, group in by_role.items()}


def _with_output_factors(
    by_role: dict[str, list[Matrix]],
    matrices: Sequence[Matrix],
    parts: tuple[str, ...],
    seen: Seen,
) -> dict[str, list[Matrix]]:
    """Return the roles, with ``w_o`` as ``w_o_a`` and ``w_o_b`` where it has two factors: another
    matrix of the same module multiplied what the first made, and nothing else."""
    outputs = by_role.get("w_o", [])
    if len(outputs) != 1:
        return by_role
    first = outputs[0]
    for matrix in matrices:
        if matrix is first or not f"{matrix.path}.".startswith(parts):
            continue
        if seen.reads(matrix) == seen.names(first):
            del by_role["w_o"]
            return by_role | {"w_o_a": [first], "w_o_b": [matrix]}
    return by_role


def _in_order(letters: Iterable[str]) -> str:
    return "".join(letter for letter in "qkv" if letter in set(letters))


def _is_output(matrix: Matrix, seen: Seen) -> bool:
    """Return whether the matrix was the first to multiply what the attention made; a gate of the
    block's own may have come between, the residual stream may not."""
    reads, marks = seen.reads(matrix), {each.mark for each in seen.attentions}
    others = {name for name in reads if not is_attention_mark(name)}
    return bool(reads & marks) and others <= seen.own


def _is_per_head(matrix: Matrix, seen: Seen) -> bool:
    """Return whether a stack [head, ...] was multiplied with at once; of stacked experts only the
    chosen ones are."""
    return len(matrix.shape) == 3 and bool(seen.names(matrix) & seen.origins.whole)


def _best_named(role: str, group: list[Matrix]) -> list[Matrix]:
    """Return the one of several that has the role's usual name, where only one has: a gate may
    multiply the queries as well."""
    usual = [matrix for matrix in group if ATTENTION_ROLE.get(matrix.leaf) == role]
    return usual if len(usual) == 1 else group


def _named_roles(matrices: Sequence[Matrix], parts: tuple[str, ...]) -> dict[str, list[Matrix]]:
    """Return the matrices by role, as they are called; those that attended come first, and where no
    name is known, two or four are taken in the order of definition."""
    by_role: dict[str, list[Matrix]] = {}
    for matrix in matrices:
        if not is_called_attention(matrix, parts):
            continue
        if len(matrix.shape) == 2 or matrix.experts:
            by_role.setdefault(ATTENTION_ROLE.get(matrix.leaf, "unknown"), []).append(matrix)
    unknown = by_role.pop("unknown", [])
    if not by_role and len(unknown) in (2, 4):
        roles = ["w_q", "w_k", "w_v", "w_o"]
        if len(unknown) == 2:
            roles = ["qkv", "w_o"]
        by_role = {role: [matrix] for role, matrix in zip(roles, unknown, strict=True)}
    for role, group in by_role.items():
        # An attention that took no part, such as one to an encoder, is left out.
        by_role[role] = [matrix for matrix in group if f"{matrix.path}.".startswith(parts)] or group
    return by_role


def _of_heads(matrix: Matrix, index: int, name: str, d_model: int) -> Projection:
    """Return one matrix as it is, and a stack [head, ...] with its heads side by side: along what
    comes out, or, of the output projection, along what goes in."""
    projection = whole(matrix, index, name)
    if len(matrix.shape) == 2 or matrix.experts:
        return projection
    n_heads, rows, columns = matrix.shape
    stored_rows, stored_columns = (columns, rows) if matrix.transposed else (rows, columns)
    if name.endswith("w_o"):
        transposed = stored_columns == d_model
        width = stored_rows if transposed else stored_columns
        shape = (d_model, n_heads * width)
        return replace(projection, shape=shape, transposed=transposed, heads_along="in")
    transposed = stored_rows == d_model
    width = stored_columns if transposed else stored_rows
    shape = (n_heads * width, d_model)
    return replace(projection, shape=shape, transposed=transposed, heads_along="out")


def _split_values(
    matrix: Matrix,
    role: str,
    index: int,
    where: str,
    query_width: int,
    value_rows: np.ndarray | None,
    key_per_value: float,
) -> Iterable[Projection]:
    """Split rows of a fused query, key and value. ``value_rows`` tells the order; without them it
    is taken to be q, k, v, each whole.

    The rows fall into equal groups (one; or one per key/value head, as in GPT-NeoX and Falcon; or
    one per device, as in CodeGen). Queries come first in every group known, and are as wide as is
    left by values and keys, which are ``key_per_value`` times as wide.
    """
    if value_rows is None:
        width, rest = divmod(matrix.out - query_width, 2)
        if rest or width <= 0:
            yield whole(matrix, index, f"{where}.w_{role}")
            return
        value_rows = np.arange(matrix.out - width, matrix.out)
        key_per_value = 1.0
    values = runs(value_rows)
    n_groups, (value_start, value_end) = len(values), values[0]
    group = matrix.out // n_groups  # rows
    expected = [
        (first + value_start, first + value_end) for first in range(0, n_groups * group, group)
    ]
    if n_groups * group != matrix.out or list(values) != expected:
        yield whole(matrix, index, f"{where}.w_{role}")
        return
    width = value_end - value_start
    key_width = round(width * key_per_value)
    # Keys come just before the values where these end the group, else at its end.
    key_start = group - key_width
    if value_end == group:
        key_start = value_start - key_width
    for name, start, size in (
        ("w_q", 0, group - width - key_width),
        ("w_k", key_start, key_width),
        ("w_v", value_start, width),
    ):
        if size > 0:
            firsts = range(start, start + n_groups * group, group)
            yield replace(
                whole(matrix, index, f"{where}.{name}"),
                shape=(size * n_groups, matrix.into),
                rows=tuple((first, first + size) for first in firsts),
            )


def runs(rows: np.ndarray) -> Ranges:
    """Return ascending row numbers as half-open ranges."""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    return tuple((int(run[0]), int(run[-1]) + 1) for run in np.split(rows, breaks))
