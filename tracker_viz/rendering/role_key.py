"""Explain a role by a small picture and a few words: the key on the title card and on the
explorer's page."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ICON_CELLS = 14  # rows and columns of a small picture
_ICON_PERIOD = 5

# What a role's map looks like, and what that means, in the words of somebody who sees it first.
ROLE_KEYS = {
    "previous_token": ("one line below the diagonal", "looks one token back"),
    "induction": ("parallel stripes", "looks at what came next last time"),
    "duplicate_token": ("stripes on the copies", "looks at the same token, earlier"),
    "current_token": ("the diagonal itself", "looks at its own token"),
    "sink": ("a left column", "rests on the first token"),
}


def role_pattern(role: str) -> NDArray[np.float16]:
    """Return the map of a head that does nothing but its role, on tokens that repeat: float16
    [query, key], 0 or 1."""
    query, key = np.indices((ICON_CELLS, ICON_CELLS))
    back = query - key
    patterns = {
        "previous_token": back == 1,
        "induction": (back > 0) & (back % _ICON_PERIOD == _ICON_PERIOD - 1),
        "duplicate_token": (back > 0) & (back % _ICON_PERIOD == 0),
        "current_token": back == 0,
        "sink": key == 0,
    }
    return patterns[role].astype(np.float16)
