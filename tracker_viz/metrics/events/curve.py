"""Smooth a noisy curve over captures, and find its usual values: arithmetic of the loss."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Loss from batch to batch is noisy: a median over this many captures keeps one odd batch out.
SMOOTHED_OVER = 5


def smoothed(values: Floats) -> Floats:
    """Return the running median over ``SMOOTHED_OVER`` captures; NaN where a capture has no
    value."""
    if len(values) < SMOOTHED_OVER:
        return values
    half = SMOOTHED_OVER // 2
    padded = np.concatenate([values[:1].repeat(half), values, values[-1:].repeat(half)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, SMOOTHED_OVER)
    medians = np.full(len(values), np.nan)
    known = np.isfinite(windows).any(1)
    medians[known] = np.nanmedian(np.where(np.isfinite(windows[known]), windows[known], np.nan), 1)
    return np.where(np.isfinite(values), medians, np.nan)


def noise(values: Floats) -> float:
    """Return the standard deviation of independent noise in finite values.

    1.4826 turns the median of absolute differences into a deviation, and a difference has the noise
    of two values.
    """
    if len(values) < 2:
        return 0.0
    return float(1.4826 / np.sqrt(2) * np.median(np.abs(np.diff(values))))


def typical(values: Floats, at: int, *, backward: bool = False) -> int:
    """Return the capture at or shortly after ``at`` whose own value is the usual one around ``at``.

    A figure of the story is a value that the film's header shows at the step which is named, but
    not that of an odd batch.

    Args:
        backward: look before ``at`` instead, so that a stretch only grows.
    """
    usual = smoothed(values)[at]
    spread = noise(values[np.isfinite(values)])
    reach = np.arange(SMOOTHED_OVER // 2 + 1)
    near = at - reach if backward else at + reach
    near = near[(near >= 0) & (near < len(values))]
    off = np.abs(values[near] - usual)
    is_usual = off <= spread
    return int(near[np.argmax(is_usual)] if is_usual.any() else near[np.nanargmin(off)])
