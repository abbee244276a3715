"""Make cards, small maps [block, head] or [block, matrix]: scores, and summaries of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tracker_viz.metrics import EXPERT_PREFIX, role_label
from tracker_viz.rendering.planning.cards.score_names import role_of_score
from tracker_viz.rendering.planning.content import Matrices
from tracker_viz.rendering.planning.plan_builder import Measured, PlanBuilder
from tracker_viz.rendering.series import Series
from tracker_viz.rendering.sources import ScoreMap, Source, WeightSummary

_ROUTER_COLUMN = "router"
_TELLING = {
    "expert.load": "load · 1 is even",
    "expert.text_share": "share of text",
    "expert.vocabulary": "same token again",
    "head.distance": "distance looked back",
    "head.specialisation": "specialization",  # stored under the British spelling
    "write.copying": "copies the right token",
    "write.right_repeated": "raises the right token (repeats)",
    "write.right_text": "raises the right token (text)",
    "weight.distance": "distance from start",
    "weight.update": "update since last",
}


@dataclass(frozen=True)
class Card:
    """One small map.

    Attributes:
        blocks: numbers of the blocks in its rows.
        columns: names of its columns; empty where these are heads or experts.
        role: the role whose color stands before the title.
    """

    title: str
    source: Source
    scale: str
    blocks: Sequence[int]
    columns: tuple[str, ...] = ()
    role: str = ""
    mask: NDArray[np.bool_] | None = None

    @property
    def column_kind(self) -> str:
        """Return what runs across the map: ``head``, ``expert``, ``router`` or ``matrix``."""
        if isinstance(self.source, ScoreMap) and self.source.name.startswith(EXPERT_PREFIX):
            return "expert"
        if self.columns == (_ROUTER_COLUMN,):
            return "router"
        return "matrix" if self.columns else "head"


def score_cards(builder: PlanBuilder, names: Sequence[str]) -> list[Card]:
    """Return the cards of score arrays: heads before matrices, roles first.

    Scores within 0..1 share one color scale; each other has its own.
    """
    first, last = builder.series.read_ends(names)
    cards = []
    for name in names:
        # Where a score is NaN from first to last, there is no such head, or no such matrix.
        absent = np.isnan(first[name]) & np.isnan(last[name])
        card = _score_card(builder, name, absent)
        if np.isnan(first[name]).all() and not absent.all():
            shape = card.source.shape
            card = replace(card, source=ScoreMap(name, shape, compares="previous"))
        cards.append(card)
    cards.sort(key=lambda card: (bool(card.columns), card.scale != "score", not card.role))
    return cards


def _score_card(builder: PlanBuilder, name: str, absent: NDArray[np.bool_]) -> Card:
    n_blocks, n_columns = builder.series.require(name, builder.layout.name).shape
    score = name.removeprefix("scores.")
    columns: tuple[str, ...] = ()
    role = ""
    if score.startswith("router."):
        columns = (_ROUTER_COLUMN,)
    elif score.startswith(("head.", "write.")):
        role = role_of_score(builder.series, name)
    elif not score.startswith("expert."):
        columns = builder.series.labels("projection", n_columns)
    if role not in builder.roles.names:
        role = ""
    source, scale = ScoreMap(name, (n_blocks, n_columns)), _scale_of(builder, name)
    # Scores have a row for each block of the model, also for those that were not captured.
    return Card(
        score_title(name, builder.series), source, scale, range(n_blocks), columns, role, absent
    )


def score_title(name: str, series: Series | None = None) -> str:
    """Return what people read for a score array, with the kind of probe row that it was measured
    on, if it says one: ``previous token (repeats)``, ``previous token (text)``; of a ``series``
    that has the score on one kind too, the mean is ``previous token (all rows)``."""
    telling = _TELLING.get(name.removeprefix("scores."))
    if telling:
        return telling
    score = name.rsplit(".", 1)[-1]
    behavior, is_of_repeats, _ = score.partition("_repeated")
    if is_of_repeats:
        return f"{role_label(behavior)} (repeats)"
    if series and f"{name}_repeated" in series.arrays:
        return f"{role_label(score)} (all rows)"
    return role_label(score)


def weight_card(builder: PlanBuilder, matrices: Matrices) -> Card:
    """Return a card of how much every matrix changed, for models with too many blocks to show the
    matrices."""
    # A row for each block; None where the block has no such matrix.
    names = tuple(tuple(map(block.get, matrices.kinds)) for block in matrices.blocks)
    show = matrices.panel.show
    title = "weight size" if show == "value" else "weight change"
    since = {
        "value": "",
        "change": f" since step {builder.series.steps[0]:,}",
        "step": " since the previous capture",
    }[show]
    options = {"title": f"{title}{since} (RMS)", "cmap": builder.theme.magnitude, "minimum": 0.0}
    scale = Measured(
        "weights",
        1.0,
        lambda reach: {
            **options,
            "maximum": reach.maximum or 1.0,
            "reached": (0.0, reach.maximum),
        },
    )
    builder.add_scale("weights_summary", "weights", scale)
    absent = np.array([[name is None for name in row] for row in names])
    source = WeightSummary(names, show)
    return Card(
        title,
        source,
        "weights_summary",
        matrices.block_numbers,
        tuple(matrices.kinds),
        mask=absent,
    )


def _scale_of(builder: PlanBuilder, name: str) -> str:
    """Add the color scale of a score where it is not there yet; return its key."""
    info = builder.series.require(name, builder.layout.name)
    # Weights that stay small would be black throughout on a scale up to 1. Heads are compared
    # across scores, so these share one scale.
    is_faint = name.startswith("scores.weight.") and 1e-6 < info.maximum < 0.5
    key, title, low, high = "score", "score", 0.0, 1.0
    if info.minimum < -1e-3 or info.maximum > 1.001 or is_faint:
        key, title = name, role_label(name.rsplit(".", 1)[-1])
        low = min(0.0, info.minimum)
        high = max(info.maximum, low + 1e-6)
    options = {"title": title, "cmap": builder.theme.score, "minimum": low, "maximum": high}
    builder.add_scale(key, "score", options)
    return key
