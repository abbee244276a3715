"""Measure where a mixture's router sends the tokens of the probe: pure functions, one a score.

In all of them ``chosen`` is int [row, token, choice], the experts that each token went to; an
expert appears once among the choices of a token. Tokens are those of all rows, hidden ones too.
Each function cites the source of its formula. Called by ``expert_scores``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]
Truths = NDArray[np.bool_]


def load(chosen: Integers, n_experts: int) -> Doubles:
    """Return how many tokens each expert got, over how many it would get if all got the same:
    [expert], 0 (dead) to ``n_experts / choices``; 1 is an even share.

    Source: DeepSeek-AI 2024 (DeepSeek-V3), section 4.5.3, relative expert load.
    """
    return _counts(chosen, n_experts) * n_experts / chosen.size


def text_share(chosen: Integers, n_experts: int, is_text: Truths) -> Doubles:
    """Return how much of what an expert gets is text: [expert], 0 (repeated random tokens alone)
    to 1 (text alone), 0.5 without a preference, however many rows of each kind there are.

    With ``s`` the share of a kind's choices that go to the expert: ``s_text / (s_text +
    s_repeated)``. NaN for experts that got no token, and without rows of both kinds.

    Source: Muennighoff et al. 2024 (OLMoE), section 5, domain specialization, which is ``s`` times
    the number of choices.

    Args:
        is_text: bool [row].
    """
    if is_text.all() or not is_text.any():
        return np.full(n_experts, np.nan)
    shares = [_counts(chosen[rows], n_experts) / chosen[rows].size for rows in (is_text, ~is_text)]
    total = shares[0] + shares[1]
    return np.divide(shares[0], total, out=np.full(n_experts, np.nan), where=total > 0)


def vocabulary(chosen: Integers, n_experts: int, ids: Integers) -> Doubles:
    """Return how surely an expert that got a token gets the other occurrences of the same token,
    too: [expert], 0..1.

    With ``N_x`` the occurrences of token x, and ``n_x`` those that went to the expert: ``sum_x n_x
    (n_x - 1) / sum_x n_x (N_x - 1)``. NaN for experts that got no token that occurs again. First
    tokens of rows are left out: nothing comes before them, so that equal ones are routed alike by
    any router.

    Source: Muennighoff et al. 2024 (OLMoE), section 5, vocabulary specialization ``n_x / N_x``;
    here an occurrence is not counted beside itself, because a probe has few of each token.

    Args:
        ids: int [row, token].
    """
    _, token = np.unique(ids[:, 1:], return_inverse=True)
    token = token.reshape(-1)
    choices = chosen[:, 1:].reshape(len(token), -1)
    n_occurrences = np.bincount(token)
    of_expert = np.zeros((len(n_occurrences), n_experts))
    np.add.at(of_expert, (token[:, None], choices), 1)
    again = (of_expert * (of_expert - 1)).sum(0)
    possible = (of_expert * (n_occurrences[:, None] - 1)).sum(0)
    return np.divide(again, possible, out=np.full(n_experts, np.nan), where=possible > 0)


def entropy(probabilities: Floats) -> float:
    """Return the mean entropy of the router's probabilities over its maximum, 0..1: 1 where all
    experts are equally probable, 0 where one has all.

    Sigmoid routers' are scaled to sum 1 first, which is what most of them do with the chosen ones.
    NaN where a token's are not finite, or all 0.

    Source: Shannon 1948.

    Args:
        probabilities: [row, token, expert].
    """
    values = probabilities.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        values /= values.sum(-1, keepdims=True)
        bits = np.where(values > 0, values * np.log(values), values)
    return float(-bits.sum(-1).mean() / np.log(values.shape[-1]))


def dead_share(chosen: Integers, n_experts: int) -> float:
    """Return the share of experts that no token of the probe went to, 0..1.

    Source: Shazeer et al. 2017, section 4, on experts that are left unused.
    """
    return float((_counts(chosen, n_experts) == 0).mean())


def imbalance(chosen: Integers, n_experts: int) -> float:
    """Return how far the most loaded expert is above an even share: 0 to ``n_experts / choices -
    1``.

    Source: Wang et al. 2024 (auxiliary-loss-free load balancing), maximal violation.
    """
    return float(load(chosen, n_experts).max() - 1.0)


def changed(first: Integers, first_before: Integers) -> float:
    """Return the share of tokens whose first expert, the one with the greatest weight, is another
    than at the capture before, 0..1.

    Source: Muennighoff et al. 2024 (OLMoE), section 5: 1 - router saturation with k = 1, against
    the capture before where theirs is against the last one.

    Args:
        first, first_before: int [row, token], see ``first_experts``.
    """
    return float((first != first_before).mean())


def first_experts(chosen: Integers, weights: Floats) -> Integers:
    """Return the expert with the greatest weight of each token: int [row, token].

    ``weights``: [row, token, choice]. Not all models sort their choices.
    """
    places = np.nan_to_num(weights, nan=-np.inf).argmax(-1)[..., None]
    return np.take_along_axis(chosen, places, -1)[..., 0]


def _counts(chosen: Integers, n_experts: int) -> Doubles:
    return np.bincount(chosen.reshape(-1), minlength=n_experts).astype(np.float64)
