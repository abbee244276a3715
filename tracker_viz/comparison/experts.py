"""Pair the experts of two mixtures by the tokens that they get, not by their number.

The order of the experts in a block means nothing: another seed permutes it. Both routers saw the
same probe, so that an expert is the set of tokens that went to it. Experts are paired, each at most
once, so that the pairs share as many tokens as can be.

**Agreement** is the share of all choices of an expert that the pairs share: 1 for equal routers,
also where their experts are permuted. **Chance** is the same, matched again, after the tokens of
one run were shuffled: what loads alone give, when routing has nothing to do with the token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracker_viz.comparison.matching import best_pairs
from tracker_viz.errors import ConfigError

# (block, expert) of a model.
ExpertId = tuple[int, int]
Floats = NDArray[np.float32]

_MOST_SHUFFLES, _LEAST_SHUFFLES = 100, 10
# Entries of all overlaps that are matched in the shuffles of one pair of runs: some seconds.
_MOST_ENTRIES = 20_000_000


@dataclass(frozen=True, slots=True)
class RoutedRun:
    """The choices of one run's routers on the probe.

    Attributes:
        name: of the run.
        chosen: block -> int [token, choice], the experts of each token.
        n_experts: block -> number of its experts.
        n_blocks: of the model.
    """

    name: str
    chosen: Mapping[int, NDArray[np.int64]]
    n_experts: Mapping[int, int]
    n_blocks: int


@dataclass(frozen=True, slots=True)
class ExpertMatching:
    """Experts of run A paired with experts of run B.

    Attributes:
        pairs: (expert of A, expert of B, tokens that both got over tokens that either got), in the
            order of A's experts.
        agreement: share of the choices that the pairs share, 0..1.
        chance: its mean over shuffles.
        percentile: share of the shuffles with an agreement at least as large, 0..1.
        n_shuffles: how many.
    """

    pairs: tuple[tuple[ExpertId, ExpertId, float], ...]
    agreement: float
    chance: float
    percentile: float
    n_shuffles: int


def match_experts(a: RoutedRun, b: RoutedRun, *, seed: int = 0) -> ExpertMatching:
    """Pair the experts of two runs within their blocks, or, in models of different depth, within
    the blocks at the same relative depth.

    Raises:
        ConfigError: a run has no routers, or the runs routed different numbers of tokens.
    """
    n_tokens = _n_tokens(a, b)
    n_depths = min(a.n_blocks, b.n_blocks)
    groups = []
    for depth in range(n_depths):
        groups.append((_members(a, depth, n_depths), _members(b, depth, n_depths)))
    groups = [(one, other) for one, other in groups if one and other]
    n_choices = max(_n_choices(a), _n_choices(b))

    pairs: list[tuple[ExpertId, ExpertId, float]] = []
    n_shared, n_entries = 0.0, 0
    got = []
    for one, other in groups:
        got_a, got_b = _tokens_of(a, one, n_tokens), _tokens_of(b, other, n_tokens)
        got.append((got_a, got_b))
        shared = got_a @ got_b.T
        n_entries += shared.size
        either = got_a.sum(1)[:, None] + got_b.sum(1)[None] - shared
        for row, column in zip(*best_pairs(-shared), strict=True):
            n_shared += float(shared[row, column])
            alike = float(shared[row, column] / max(either[row, column], 1.0))
            pairs.append((one[row], other[column], alike))

    n_shuffles = int(np.clip(_MOST_ENTRIES // max(n_entries, 1), _LEAST_SHUFFLES, _MOST_SHUFFLES))
    agreement = n_shared / n_choices
    by_chance = _shuffled(got, n_choices, n_tokens, n_shuffles, seed)
    return ExpertMatching(
        pairs=tuple(sorted(pairs)),
        agreement=agreement,
        chance=float(by_chance.mean()),
        percentile=float(np.mean(by_chance >= agreement - 1e-9)),
        n_shuffles=n_shuffles,
    )


def experts_sentence(found: Mapping[tuple[str, str], ExpertMatching]) -> str:
    """Return what matching the experts of all pairs of runs found: ``Experts of 3 pairs of runs,
    matched by their tokens, share 61 % of the choices (55 % to 66 %; by chance 30 %).``

    Args:
        found: names of two runs -> their matching; at least one.
    """
    agreements = [matching.agreement for matching in found.values()]
    chance = np.mean([matching.chance for matching in found.values()])
    pairs = "1 pair" if len(found) == 1 else f"{len(found)} pairs"
    around = ""
    if len(found) > 1:
        around = f"{_percent(min(agreements))} to {_percent(max(agreements))}; "
    shared = _percent(float(np.mean(agreements)))
    return (
        f"Experts of {pairs} of runs, matched by their tokens, share {shared} of the choices "
        f"({around}by chance {_percent(float(chance))})."
    )


def expert_table(
    found: Mapping[tuple[str, str], ExpertMatching],
) -> list[dict[str, str | int | float]]:
    """Return one row per pair of experts.

    Columns: ``run``, ``block``, ``expert``, ``other_run``, ``other_block``, ``other_expert``,
    ``alike`` (tokens that both got over tokens that either got), and of the two runs ``agreement``
    and ``chance``.
    """
    rows: list[dict[str, str | int | float]] = []
    for (run, other_run), matching in found.items():
        for (block, expert), (other_block, other_expert), alike in matching.pairs:
            rows.append(
                {
                    "run": run,
                    "block": block,
                    "expert": expert,
                    "other_run": other_run,
                    "other_block": other_block,
                    "other_expert": other_expert,
                    "alike": round(alike, 3),
                    "agreement": round(matching.agreement, 3),
                    "chance": round(matching.chance, 3),
                }
            )
    return rows


def _n_tokens(a: RoutedRun, b: RoutedRun) -> int:
    counts = []
    for run in (a, b):
        if not run.chosen:
            raise ConfigError(f"{run.name} has no routers whose experts could be matched")
        counts.append(len(next(iter(run.chosen.values()))))
    if counts[0] != counts[1]:
        raise ConfigError(
            f"experts are matched by the tokens of one probe; {a.name} routed {counts[0]} tokens, "
            f"{b.name} {counts[1]}"
        )
    return counts[0]


def _n_choices(run: RoutedRun) -> int:
    return sum(chosen.size for chosen in run.chosen.values())


def _members(run: RoutedRun, depth: int, n_depths: int) -> list[ExpertId]:
    """Return the experts of the blocks at one of ``n_depths`` relative depths."""
    blocks = [block for block in run.chosen if block * n_depths // run.n_blocks == depth]
    experts = []
    for block in blocks:
        experts += [(block, expert) for expert in range(run.n_experts[block])]
    return experts


def _tokens_of(run: RoutedRun, members: Sequence[ExpertId], n_tokens: int) -> Floats:
    """Return which tokens each expert got: 0 or 1, [expert, token]."""
    got = np.zeros((len(members), n_tokens), np.float32)
    first_of_block: dict[int, int] = {}
    for index, (block, _) in enumerate(members):
        first_of_block.setdefault(block, index)
    for block, first in first_of_block.items():
        got[first + run.chosen[block], np.arange(n_tokens)[:, None]] = 1.0
    return got


def _shuffled(
    got: Sequence[tuple[Floats, Floats]], n_choices: int, n_tokens: int, n_shuffles: int, seed: int
) -> NDArray[np.float64]:
    """Return the agreements after the tokens of B were shuffled: float64 [shuffle]."""
    rng = np.random.default_rng(seed)
    agreements = np.zeros(n_shuffles)
    for shuffle in range(n_shuffles):
        order = rng.permutation(n_tokens)
        for got_a, got_b in got:
            shared = got_a @ got_b[:, order].T
            agreements[shuffle] += float(shared[best_pairs(-shared)].sum()) / n_choices
    return agreements


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
