"""Declare the options of capturing, each once: ``watch`` and ``train.py`` take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, field_validator

from tracker_viz.capture import checks
from tracker_viz.capture.budget import DEFAULT_MAX_MB
from tracker_viz.capture.governor import DEFAULT_FREE_S, DEFAULT_MAX_OVERHEAD, CostLimit
from tracker_viz.capture.probe import DEFAULT_SCORE_ROWS
from tracker_viz.options import LegalValues, Options, seconds_of


class CaptureOptions(Options):
    """The group ``capture``: the contents of captures, their steps, and the limit on their cost."""

    group_name = "capture"

    captures: int = Field(default=100, ge=2)
    """Approximate number of captures over the whole run, if its length is known; dense at the
    start, where the model changes fastest."""

    every: int | None = Field(default=None, ge=1)
    """Capture every this many steps instead. These steps are always captured, unless max_overhead
    is also set."""

    max_overhead: float | None = Field(default=None, gt=0, allow_inf_nan=True)
    """Share of the wall time that captures may take; due steps are skipped rather than exceed it.
    1: no limit. null: 0.02, or no limit if every is set."""

    free_s: float = Field(default=DEFAULT_FREE_S, ge=0)
    """Total seconds that captures may take even if that is more than max_overhead. This gives short
    runs a film, too."""

    max_mb: float = Field(default=DEFAULT_MAX_MB, gt=0)
    """Largest size of one capture, in megabytes."""

    blocks: str | Sequence[str] | None = None
    """Module names of the decoder blocks, or a pattern like model.layers.*; null finds them."""

    only_blocks: Annotated[Any, LegalValues("a list of numbers or null")] = None
    """Keep only these blocks, numbered from 0; null: all."""

    only_heads: Annotated[
        Any, LegalValues("a list of numbers, block -> list of numbers, or null")
    ] = None
    """Keep only the attention of these heads: [0, 1] in every block, or {3: [0, 7]} in some; null:
    all."""

    projections: Annotated[
        Any, LegalValues("a list of names, name -> parameter within a block, or null")
    ] = None
    """Keep only these weights, [attn.w_o, "mlp.*"], or map names to parameters, {attn.w_q:
    mixer.query}; null: all that are found."""

    pooling: Annotated[Any, LegalValues("sample | mean | rms, or name -> one of these")] = "sample"
    """How weights are reduced: sample keeps evenly spaced rows and columns, mean and rms pool (rms
    drops the signs); or by name, {"mlp.*": rms}."""

    max_experts: int = Field(default=4, ge=0)
    """Number of experts of a mixture that are captured individually, in addition to their mean."""

    score_rows: int = Field(default=DEFAULT_SCORE_ROWS, ge=0)
    """Hidden rows of each kind (repeated random tokens, and text) that heads are scored on in
    addition to the drawn rows. More rows make scores and onsets more stable, and captures more
    expensive. Your own token ids only get repeated rows; text rows come from the text passed to
    tv.make_probe. 0: score only the drawn rows."""

    alarms: bool = True
    """Check every capture for signs of failing training (attention logits, entropy, dead neurons
    and experts, NaN, the loss), report them in the run, and capture densely for a while."""

    signals: Annotated[Any, LegalValues("a list of names, or null")] = None
    """What to measure besides attention and weights: max_logit (the largest attention logit of
    every head), probe_loss (loss of every token; computes the logits of a few rows, which adds up
    to a fifth to the forward pass), residual (size of the residual stream after every block, and
    the share of its largest channels). null: these three, which cost little. More expensive, with
    what they add to a capture of GPT-2 on a CPU: lens (the word that the model would predict after
    every block, for 24 tokens of text; a sixth), head_writes (how much every head raises the
    correct next token, whether it copies, and which words it raises most; a half), value_weighted
    (how much every head writes of each token that it attends to; a twelfth) and composition (how
    much heads read of earlier heads, also if captures hold only parts of the matrices; a third,
    for half of its blocks)."""

    preview: Annotated[str | None, LegalValues("a time such as 30s, 15min or 2h, or null")] = None
    """Upload a film of the captures so far, at most once in this time. A process with the lowest
    priority draws it. null: no film before the end."""

    @field_validator("preview", mode="before")
    @classmethod
    def _check_preview(cls, value: Any) -> str | None:
        if value is None:
            return None
        seconds_of(str(value))
        return str(value)

    @field_validator("signals")
    @classmethod
    def _check_signals(cls, value: Any) -> Any:
        checks.signals(value)
        return value

    @field_validator("only_blocks")
    @classmethod
    def _check_blocks(cls, value: Any) -> Any:
        checks.numbers("only_blocks", value)
        return value

    @field_validator("only_heads")
    @classmethod
    def _check_heads(cls, value: Any) -> Any:
        checks.heads(value)
        return value

    @field_validator("projections")
    @classmethod
    def _check_projections(cls, value: Any) -> Any:
        checks.projection_names(value)
        return value

    @field_validator("pooling")
    @classmethod
    def _check_pooling(cls, value: Any) -> Any:
        checks.pooling_by_name(value)
        return value

    def limit(self, *, steps_are_chosen: bool) -> CostLimit | None:
        """Return the limit on the cost of captures; None: no limit."""
        if self.max_overhead is None and steps_are_chosen:
            return None
        share = DEFAULT_MAX_OVERHEAD if self.max_overhead is None else self.max_overhead
        return CostLimit(share, self.free_s)

    def for_camera(self) -> dict[str, Any]:
        """Return the options that ``Camera`` takes."""
        names = (
            "max_mb",
            "blocks",
            "only_blocks",
            "only_heads",
            "projections",
            "pooling",
            "max_experts",
            "signals",
        )
        return {name: getattr(self, name) for name in names}
