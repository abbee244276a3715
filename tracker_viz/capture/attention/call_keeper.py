"""Hand on the maps that a watch finds, each as an ``AttentionCall`` with its place in the model; or
say why one is left out. ``AttentionWatch`` and ``KernelAsker`` share a ``CallKeeper``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from tracker_viz.capture.attention.calls import AttentionCall, Kind, ModuleStack


class CallKeeper:
    """Makes calls out of maps.

    Args:
        stack: the modules that are running.
        shape: of the probe, (rows, tokens a row).
        keep: takes each call.

    Attributes:
        rejected: a sentence for the user about each map that is left out.
        n_calls: calls that were handed on so far.
        latest: the modules of the latest attention.
    """

    def __init__(
        self,
        stack: ModuleStack,
        shape: Sequence[int],
        keep: Callable[[AttentionCall], None],
    ) -> None:
        self.rejected: list[str] = []
        self.n_calls = 0
        self.latest: tuple[str, ...] | None = None
        self._stack, self._keep = stack, keep
        self._n_rows = shape[0]
        self._ordinals: dict[tuple[str, ...], int] = {}
        # A call whose output may be scaled by a sink's share, and that output.
        self._pending: tuple[AttentionCall, Tensor] | None = None

    def begin_rows(self, n_rows: int) -> None:
        """Expect so many rows from here on: the model is given the probe in parts."""
        self.keep_pending()
        self._n_rows = n_rows
        self._ordinals.clear()
        self._stack.entries.clear()

    def hand_over(
        self,
        source: str,
        pattern: Tensor,
        n_kv_heads: int | None = None,
        error: float | None = None,
        *,
        kind: Kind = "attention",
        channels: tuple[int, ...] = (),
        max_logit: Tensor | None = None,
        pending: Tensor | None = None,
    ) -> None:
        """Hand on one map: [..., query, key], its leading axes rows of the probe and heads.

        Args:
            source, n_kv_heads, error, kind, channels, max_logit: as in ``AttentionCall``.
            pending: what the kernel returned, where the model may still take a sink's share off it
                (see ``scale_pending``).
        """
        self.keep_pending()
        n_leading = pattern.shape[0] if pattern.ndim > 2 else 1
        if n_leading % self._n_rows:
            # Its heads would be taken for rows.
            what = f"{source} over another batch than the probe's {self._n_rows} rows,"
            self.reject(what, tuple(pattern.shape))
            return
        self.n_calls += 1
        modules = tuple(self._stack.names)
        ordinal = self._ordinals.get(modules, 0)
        self._ordinals[modules] = ordinal + 1
        if kind == "attention":
            self.latest = modules
        entries = tuple(self._stack.entries[name] for name in modules)
        # [probe * head, a, b] or [probe, (group, member), a, b] -> [probe, head, a, b]
        heads = pattern.detach().reshape(self._n_rows, -1, *pattern.shape[-2:])
        if max_logit is not None:
            max_logit = max_logit.reshape(self._n_rows, -1)
        call = AttentionCall(
            modules, entries, ordinal, source, heads, n_kv_heads, error, kind, channels, max_logit
        )
        if pending is None:
            self._keep(call)
        else:
            self._pending = (call, pending)

    def scale_pending(self, left: Any, right: Any) -> None:
        """Take the share of an attention sink off the rows of the latest call, if this product
        scales its output row by row."""
        if self._pending is None:
            return
        call, mixed = self._pending
        scaled, factor = (right, left) if _is_row_factor(left) else (left, right)
        if not isinstance(scaled, Tensor) or not _is_row_factor(factor):
            return
        if scaled.untyped_storage().data_ptr() != mixed.untyped_storage().data_ptr():
            return
        if scaled.stride() != mixed.stride():
            factor = factor.transpose(1, 2)
        shares = factor.detach().float().expand(*call.pattern.shape[:-1], 1)
        if bool(((shares < 0) | (shares > 1 + 1e-6)).any()):
            return
        self._pending = (replace(call, pattern=call.pattern * shares), mixed)
        self.keep_pending()

    def keep_pending(self) -> None:
        """Hand on the latest call, if it waits for a sink."""
        if self._pending is not None:
            call, _ = self._pending
            self._pending = None
            self._keep(call)

    def reject(self, what: str, shape: tuple[int, ...]) -> None:
        """Leave out a map of this shape, and say so."""
        self.rejected.append(f"{what} of shape {'x'.join(map(str, shape))} in {self.here()}")

    def here(self) -> str:
        """Return the name of the innermost module that is running."""
        return self._stack.names[-1] if self._stack.names else "the model itself"


def _is_row_factor(factor: Any) -> bool:
    return isinstance(factor, Tensor) and factor.ndim == 4 and factor.shape[-1] == 1
