"""What a picture shows, declared: a Layout is a few panels with their options, writable in YAML, and knows nothing of pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from tracker_viz.errors import LayoutError, unknown_name
from tracker_viz.rendering.sources import Reduce, Show


@dataclass(frozen=True, slots=True)
class Attention:
    """Attention maps of every head: one row of maps per block.

    Attributes:
        probe: the probe row by its label or its index; None shows all of them, side by side.
        show: the probabilities, or their absolute change since the previous capture (``step``) or the first (``change``).
        zooms: how many heads are shown large beside the mosaic that a model with many heads becomes; None: as many as fit well.
    """

    probe: str | int | None = 0
    show: Show = "value"
    zooms: int | None = None


@dataclass(frozen=True, slots=True)
class Weights:
    """Weight matrices: one row of maps per block, one column per matrix.

    Attributes:
        matrices: names after ``blocks.<i>.``, as shell-style patterns.
        show: the weights themselves, or their change since the first (``change``) or the previous capture (``step``).
        order: how rows and columns are sorted, once for the whole video: by how much they changed until the last capture
            (``norm``), by the direction in which they did (``direction``), or not at all (``stored``).
        reduce: how the entries that share a cell are put together: signed ``mean``, or size (``rms``).
    """

    matrices: tuple[str, ...] = ("mlp.w_*",)
    show: Show = "change"
    order: Literal["norm", "direction", "stored"] = "norm"
    reduce: Reduce = "rms"


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of every head, or of every weight matrix, as small maps [block, head].

    Attributes:
        names: after ``scores.``, e.g. ``head.induction``; patterns are allowed; names that the captures lack are left out,
            but one at least must be there.
    """

    names: tuple[str, ...] = ("head.previous_token", "head.induction", "head.sink", "head.specialisation")


@dataclass(frozen=True, slots=True)
class Head:
    """One head as large as it goes, with the probe's tokens along its sides.

    Attributes:
        block, head: which one; None: of all that there are the induction head that changed most, else the head that did.
        probe: the probe row by its label or its index; the others are shown beside it.
    """

    block: int | None = None
    head: int | None = None
    probe: str | int | None = 0

    def shows(self, block: int, head: int) -> bool:
        return self.block in (None, block) and self.head in (None, head)


Panel = Attention | Weights | Scores | Head
PANELS: dict[str, type[Panel]] = {"attention": Attention, "weights": Weights, "scores": Scores, "head": Head}


@dataclass(frozen=True, slots=True)
class Layout:
    """A picture of one capture of a run.

    Attributes:
        panels: from left to right.
        timeline: whether the run's timeline lies below them.
        metric: the curve on the timeline, and the second number of the header.
        scales: changes to colour scales: ``attention``, ``weights``, ``score`` -> options of ColorScale
            (cmap, norm, minimum, maximum, gamma, linear_within, title).
    """

    name: str
    panels: tuple[Panel, ...]
    timeline: bool = True
    metric: str = "loss"
    scales: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "panels", tuple(self.panels))
        if not self.panels or not all(isinstance(panel, Panel) for panel in self.panels):
            raise LayoutError(f"layout {self.name!r} needs panels: Attention, Weights or Scores; got {self.panels!r}")


_FFN = ("mlp.w_*",)
_HEAD_SCORES = ("head.previous_token", "head.induction", "head.sink", "head.specialisation")

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("overview", (Attention(), Weights(_FFN), Scores(_HEAD_SCORES))),
        Layout("heads", (Attention(probe=None),)),
        Layout("ffn", (Weights(_FFN), Weights(_FFN, order="direction", reduce="mean"))),
        Layout("weights", (Weights(("attn.w_*", "mlp.w_*")), Scores(("weight.distance*", "weight.stable_rank", "weight.kurtosis")))),
        Layout("scores", (Scores(("head.*", "weight.*")),)),
        Layout("changes", (Attention(show="step"), Weights(_FFN, show="step"))),
        Layout("head", (Head(), Scores(_HEAD_SCORES))),
    )
}


def layout_from(
    name: str,
    panels: Sequence[Mapping[str, Any]],
    timeline: bool = True,
    metric: str = "loss",
    scales: Mapping[str, Mapping[str, Any]] | None = None,
) -> Layout:
    """A Layout from plain values, as YAML has them: each panel is a mapping whose ``panel`` says which kind it is.

    Raises:
        LayoutError: a kind of panel, or one of its options, does not exist.
    """
    made = []
    for number, options in enumerate(panels):
        if not isinstance(options, Mapping) or "panel" not in options:
            raise LayoutError(f"panel {number} of layout {name!r} is a mapping with 'panel: {' | '.join(PANELS)}'; got {options!r}")
        kind = str(options["panel"])
        if kind not in PANELS:
            raise LayoutError(f"layout {name!r}: {unknown_name('panel', kind, PANELS)}")
        known = [option.name for option in fields(PANELS[kind])]
        chosen = {option: _plain(value) for option, value in options.items() if option != "panel"}
        for option in chosen:
            if option not in known:
                raise LayoutError(f"layout {name!r}: {unknown_name(f'option of the panel {kind!r}', option, known)}")
        for option, legal in _LEGAL.items():
            if option in chosen and chosen[option] not in legal:
                raise LayoutError(f"layout {name!r}: {unknown_name(f'{option} of the panel {kind!r}', str(chosen[option]), legal)}")
        made.append(PANELS[kind](**chosen))
    return Layout(name, tuple(made), timeline, metric, _plain(scales or {}))


_LEGAL = {"show": ("value", "change", "step"), "order": ("norm", "direction", "stored"), "reduce": ("mean", "rms")}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_plain(item) for item in value)
    return value
