"""What a picture shows, declared: a Layout is a few panels with their options, writable in YAML,
and knows nothing of pixels.

Each of these checks itself, whether Python or YAML makes it: what is wrong is known before anything
is trained, pulled or drawn.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from tracker_viz.errors import LayoutError, unknown_name
from tracker_viz.rendering.scales import check_scale_options
from tracker_viz.rendering.sources import Reduce, Show

SortedBy = Literal["norm", "direction", "stored"]
USUAL_METRIC = "loss"
# What trackers take as a name of files, see trackers.base.checked_artifact, which this station does
# not know.
_NAME = re.compile(r"(?!captures$)[A-Za-z0-9_]([A-Za-z0-9_.+=, -]*[A-Za-z0-9_+=,-])?")


@dataclass(frozen=True, slots=True)
class Attention:
    """Attention maps of every head: one row of maps per block.

    Attributes:
        probe: the probe row by its label or its index; None shows all of them, side by side.
        show: the probabilities, or their absolute change since the previous capture (``step``) or
            the first (``change``).
        zooms: how many heads are shown large beside the mosaic that a model with many heads
            becomes; None: as many as fit well.
    """

    probe: str | int | None = 0
    show: Show = "value"
    zooms: int | None = None

    def __post_init__(self) -> None:
        _check_probe(self)
        _check_choice(self, "show", get_args(Show))
        _check_whole(
            self, "zooms", "how many heads are shown large", least=1, null="as many as fit well"
        )


@dataclass(frozen=True, slots=True)
class Weights:
    """Weight matrices: one row of maps per block, one column per matrix.

    Attributes:
        matrices: names after ``blocks.<i>.``, as shell-style patterns.
        show: the weights themselves, or their change since the first (``change``) or the previous
            capture (``step``).
        order: how rows and columns are sorted, once for the whole video: by how much they changed
            until the last capture (``norm``), by the direction in which they did (``direction``),
            or not at all (``stored``).
        reduce: how the entries that share a cell are put together: signed ``mean``, or size
            (``rms``).
    """

    matrices: tuple[str, ...] = ("mlp.w_*",)
    show: Show = "change"
    order: SortedBy = "norm"
    reduce: Reduce = "rms"

    def __post_init__(self) -> None:
        _check_names(self, "matrices", "mlp.w_*")
        _check_choice(self, "show", get_args(Show))
        _check_choice(self, "order", get_args(SortedBy))
        _check_choice(self, "reduce", get_args(Reduce))


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of every head, or of every weight matrix, as small maps [block, head].

    Attributes:
        names: after ``scores.``, e.g. ``head.induction``; patterns are allowed; names that the
            captures lack are left out, but one at least must be there.
    """

    names: tuple[str, ...] = (
        "head.previous_token",
        "head.induction",
        "head.sink",
        "head.specialisation",
    )

    def __post_init__(self) -> None:
        _check_names(self, "names", "head.induction")


@dataclass(frozen=True, slots=True)
class Head:
    """One head as large as it goes, with the probe's tokens along its sides.

    Attributes:
        block, head: which one; None: of all that there are the induction head that changed most,
            else the head that did.
        probe: the probe row by its label or its index; the others are shown beside it.
    """

    block: int | None = None
    head: int | None = None
    probe: str | int | None = 0

    def __post_init__(self) -> None:
        _check_whole(self, "block", "a block's number", least=0, null="any")
        _check_whole(self, "head", "a head's number", least=0, null="any")
        _check_probe(self)

    def shows(self, block: int, head: int) -> bool:
        return self.block in (None, block) and self.head in (None, head)


Panel = Attention | Weights | Scores | Head
PANELS: dict[str, type[Panel]] = {
    "attention": Attention,
    "weights": Weights,
    "scores": Scores,
    "head": Head,
}


@dataclass(frozen=True, slots=True)
class Layout:
    """A picture of one capture of a run.

    Attributes:
        name: of the video in the run, too: plain letters, digits, spaces and ``_.+=,-``.
        panels: from left to right; or a Head, which has the picture to itself but for Scores.
        timeline: whether the run's timeline lies below them.
        metric: the curve on the timeline, and the second number of the header; one that the run's
            captures hold.
        scales: changes to colour scales: ``attention``, ``weights``, ``score`` -> options of
            ColorScale (cmap, norm, minimum, maximum, gamma, linear_within, title).

    Raises:
        LayoutError: one of these is of another type, or has no meaning; a panel raises it itself.
        ConfigError: an option of a colour scale has no meaning.
    """

    name: str
    panels: tuple[Panel, ...]
    timeline: bool = True
    metric: str = USUAL_METRIC
    scales: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise LayoutError(
                "a layout's name names files: plain letters, digits, spaces and _.+=,- like "
                f"'mine'; got {self.name!r}"
            )
        if (
            not _is_list(self.panels)
            or not self.panels
            or not all(isinstance(panel, Panel) for panel in self.panels)
        ):
            raise LayoutError(
                f"layout {self.name!r} needs panels: a list of Attention, Weights, Scores or Head; "
                f"got {self.panels!r}"
            )
        object.__setattr__(self, "panels", tuple(self.panels))
        heads = [panel for panel in self.panels if isinstance(panel, Head)]
        if heads and [panel for panel in self.panels if not isinstance(panel, Scores)] != heads[:1]:
            raise LayoutError(
                f"layout {self.name!r}: one Head has the picture to itself, but for Scores; got "
                f"{self.panels!r}"
            )
        if not isinstance(self.timeline, bool):
            raise LayoutError(
                f"layout {self.name!r}: timeline is true or false; got {self.timeline!r}"
            )
        if not isinstance(self.metric, str) or not self.metric:
            raise LayoutError(
                f"layout {self.name!r}: metric is the name of a metric that was logged, like "
                f"'loss'; got {self.metric!r}"
            )
        check_scale_options(self.scales)


def layout_from(
    name: str = "",
    panels: Sequence[Mapping[str, Any]] = (),
    timeline: bool = True,
    metric: str = USUAL_METRIC,
    scales: Mapping[str, Mapping[str, Any]] | None = None,
    **misspelt: Any,
) -> Layout:
    """A Layout from plain values, as YAML has them: each panel is a mapping whose ``panel`` says
    which kind it is.

    Raises:
        LayoutError: a kind of panel, or one of its options, does not exist, or has no meaning.
        ConfigError: an option of a colour scale has no meaning.
    """
    for option in misspelt:
        raise LayoutError(
            f"layout {name!r}: "
            f"{unknown_name('option of a layout', option, [each.name for each in fields(Layout)])}"
        )
    if not _is_list(panels):
        raise LayoutError(
            f"layout {name!r}: panels is a list of mappings with 'panel: {' | '.join(PANELS)}'; "
            f"got {_plain(panels)!r}"
        )
    made = [_panel(name, number, _plain(options)) for number, options in enumerate(panels)]
    return Layout(name, tuple(made), timeline, metric, {} if scales is None else _plain(scales))


def _panel(layout: str, number: int, options: Any) -> Panel:
    if not isinstance(options, Mapping) or "panel" not in options:
        raise LayoutError(
            f"panel {number} of layout {layout!r} is a mapping with 'panel: {' | '.join(PANELS)}'; "
            f"got {options!r}"
        )
    kind = str(options["panel"])
    if kind not in PANELS:
        raise LayoutError(f"layout {layout!r}: {unknown_name('panel', kind, PANELS)}")
    known = [option.name for option in fields(PANELS[kind])]
    chosen = {str(option): value for option, value in options.items() if option != "panel"}
    for option in chosen:
        if option not in known:
            raise LayoutError(
                f"layout {layout!r}: {unknown_name(f'option of the panel {kind!r}', option, known)}"
            )
    try:
        return PANELS[kind](**chosen)
    except LayoutError as error:
        raise LayoutError(f"layout {layout!r}: panels.{number}: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return tuple(_plain(item) for item in value) if _is_list(value) else value


def _is_list(value: object) -> bool:
    """A text is a Sequence of letters, which nobody means."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _of(panel: Panel, option: str) -> str:
    return f"{option} of the panel {type(panel).__name__.lower()!r}"


def _check_choice(panel: Panel, option: str, legal: Iterable[str]) -> None:
    value = getattr(panel, option)
    if not isinstance(value, str) or value not in legal:
        raise LayoutError(unknown_name(_of(panel, option), str(value), legal))


def _check_whole(panel: Panel, option: str, what: str, *, least: int, null: str) -> None:
    value = getattr(panel, option)
    if value is not None and (
        not isinstance(value, int) or isinstance(value, bool) or value < least
    ):
        raise LayoutError(
            f"{_of(panel, option)} is {what}, a whole number from {least}, or null for {null}; got "
            f"{value!r}"
        )


def _check_probe(panel: Attention | Head) -> None:
    value = panel.probe
    if (
        isinstance(value, bool)
        or not isinstance(value, str | int | None)
        or value == ""
        or (isinstance(value, int) and value < 0)
    ):
        raise LayoutError(
            f"{_of(panel, 'probe')} is a row of the probe by its label or its index from 0, or "
            f"null for all; got {value!r}"
        )


def _check_names(panel: Weights | Scores, option: str, example: str) -> None:
    value = getattr(panel, option)
    if (
        not _is_list(value)
        or not value
        or not all(isinstance(name, str) and name for name in value)
    ):
        raise LayoutError(
            f"{_of(panel, option)} is a list of names or patterns, at least one, like "
            f"[{example!r}]; got {value!r}"
        )
    object.__setattr__(panel, option, tuple(value))


# Made here below, because they check themselves.
_FFN = ("mlp.w_*",)
_HEAD_SCORES = ("head.previous_token", "head.induction", "head.sink", "head.specialisation")

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("overview", (Attention(), Weights(_FFN), Scores(_HEAD_SCORES))),
        Layout("heads", (Attention(probe=None),)),
        Layout("ffn", (Weights(_FFN), Weights(_FFN, order="direction", reduce="mean"))),
        Layout(
            "weights",
            (
                Weights(("attn.w_*", "mlp.w_*")),
                Scores(("weight.distance*", "weight.stable_rank", "weight.kurtosis")),
            ),
        ),
        Layout("scores", (Scores(("head.*", "weight.*")),)),
        Layout("changes", (Attention(show="step"), Weights(_FFN, show="step"))),
        Layout("head", (Head(), Scores(_HEAD_SCORES))),
    )
}
