"""Cards: small maps [block, head] or [block, matrix], each with its title."""

from tracker_viz.rendering.planning.cards.card import Card, score_cards, score_title, weight_card
from tracker_viz.rendering.planning.cards.place import (
    NO_ROOM,
    beside_foot,
    place_below,
    place_beside,
    place_cards,
    place_cards_that_fit,
    place_column,
    place_score_cards,
    place_scores,
    row_height,
)
from tracker_viz.rendering.planning.cards.score_names import (
    resolve_scores,
    role_of_score,
    score_of_role,
)

__all__ = [
    "NO_ROOM",
    "Card",
    "beside_foot",
    "place_below",
    "place_beside",
    "place_cards",
    "place_cards_that_fit",
    "place_column",
    "place_score_cards",
    "place_scores",
    "resolve_scores",
    "role_of_score",
    "row_height",
    "score_cards",
    "score_of_role",
    "score_title",
    "weight_card",
]
