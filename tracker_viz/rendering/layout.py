"""Declare layouts: the panels of a picture with their options, in Python or YAML. Pixels come later
(``planning``).

Layouts and panels check themselves when made, so that a mistake is reported before anything is
trained, pulled or drawn.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from tracker_viz.errors import ConfigError, unknown_name
from tracker_viz.files import home_expanded
from tracker_viz.options import LegalValues, Options
from tracker_viz.rendering.scales import check_scale_options
from tracker_viz.rendering.sources import Reduce, Show

SortedBy = Literal["norm", "direction", "stored"]
USUAL_METRIC = "loss"

# The names that every tracker takes for a file; trackers.base.checked_artifact holds the same, but
# rendering knows no tracker.
_NAME = re.compile(r"(?!captures$)[A-Za-z0-9_]([A-Za-z0-9_.+=, -]*[A-Za-z0-9_+=,-])?")

ProbeRow = Annotated[
    Annotated[int, Field(ge=0)] | Annotated[str, Field(min_length=1)] | None,
    LegalValues("a row of the probe by its label or its index from 0, or null for all"),
]
Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
HeadIndex = Annotated[int, Field(ge=0)] | None


class Attention(Options):
    """Attention maps of every head: one row of maps per block."""

    group_name = "attention"

    panel: Literal["attention"] = "attention"

    probe: ProbeRow = 0
    """Row of the probe whose attention is shown; null shows all rows, side by side."""

    show: Show = "value"
    """The probabilities, or their absolute change since the previous capture (step) or since the
    first (change)."""

    weighted: bool = False
    """Weight attention by how much each token writes: a_ij ||v_j W_O||, every row divided by its
    sum (Kobayashi et al. 2020). Needs captures with the signal value_weighted, and show: value."""

    zooms: Annotated[int, Field(ge=1)] | None = None
    """Number of heads shown large if a model has too many heads to show a map of each; null: as
    many as fit well."""

    many_heads: Literal["roles", "mosaic"] = "roles"
    """What to show if there are too many heads to show a map of each: one map of their roles, or a
    mosaic of all their maps."""


class Weights(Options):
    """Weight matrices: one row of maps per block, one column per matrix."""

    group_name = "weights"

    panel: Literal["weights"] = "weights"

    matrices: Annotated[
        Names, LegalValues("a list of names or patterns, at least one, like ['mlp.w_*']")
    ] = ("mlp.w_*",)
    """Matrices to show, by the part of their names after blocks.<i>.; * matches anything."""

    show: Show = "change"
    """The weights themselves (value), or their change since the first capture (change) or since the
    previous one (step)."""

    order: SortedBy = "norm"
    """Order of rows and columns, the same for the whole video: by how much they changed until the
    last capture (norm), by the direction of that change (direction), or as stored (stored)."""

    reduce: Reduce = "rms"
    """How entries that share a cell are combined: by their signed mean, or by their size (rms)."""


class Scores(Options):
    """Scores of every head, or of every weight matrix, as small maps [block, head]."""

    group_name = "scores"

    panel: Literal["scores"] = "scores"

    names: Annotated[
        Names, LegalValues("a list of names or patterns, at least one, like ['head.induction']")
    ] = ("role.held", "head.specialisation")
    """Scores to show; * matches anything. role.<role> is the score that measures a role, on the
    role's kind of probe row. role.held is the scores of three roles that heads of the run hold.
    Scores that the captures lack are left out, but at least one must be present."""


class LargeHead(Options):
    """One head as large as possible, with the probe's tokens along its sides."""

    group_name = "head"

    panel: Literal["head"] = "head"

    block: HeadIndex = None
    """Index of the head's block. null: any. Among the heads allowed, this shows the induction head
    that changed most, or without induction heads the head that changed most."""

    head: HeadIndex = None
    """Index of the head within its block; null: any."""

    probe: ProbeRow = 0
    """Row of the probe that is shown large; the other rows are shown next to it."""

    beside: Literal["rows", "weighted", "indexer"] | None = None
    """Maps next to the first: the other rows of the probe (rows), the same row with attention
    weighted by how much each token writes (weighted), or the keys that the indexer of sparse
    attention chose (indexer). null: weighted if captures hold the signal value_weighted; else
    indexer if the head's block has one that leaves keys out; else rows."""

    def shows(self, block: int, head: int) -> bool:
        return self.block in (None, block) and self.head in (None, head)


class Experts(Options):
    """Routers of a mixture of experts: for some blocks a map of every expert on every token."""

    group_name = "experts"

    panel: Literal["experts"] = "experts"

    probe: ProbeRow = None
    """Row of the probe whose tokens are shown; null shows all rows, side by side."""

    blocks: Annotated[int, Field(ge=1)] | None = None
    """Number of blocks to show, evenly spaced from the first to the last; null: as many as fit
    well."""


class Circuit(Options):
    """How heads compose: heads as nodes, block by block, with lines to the heads that they read."""

    group_name = "circuit"

    panel: Literal["circuit"] = "circuit"

    composition: Literal["q", "k", "v"] = "k"
    """The side of a head that reads earlier heads: its queries, its keys, or its values. Induction
    shows on the keys."""

    sources: Annotated[int, Field(ge=1)] = 2
    """Number of lines per head, to the earlier heads that it reads most at the end."""


class Lens(Options):
    """The logit lens: what the model would predict after every block, as words in cells."""

    group_name = "lens"

    panel: Literal["lens"] = "lens"

    tokens: Annotated[int, Field(ge=1)] | None = None
    """Number of the text's last tokens to show; null: as many as are readable."""


Panel = Attention | Weights | Scores | LargeHead | Experts | Circuit | Lens
PANELS: dict[str, type[Panel]] = {
    "attention": Attention,
    "weights": Weights,
    "scores": Scores,
    "head": LargeHead,
    "experts": Experts,
    "circuit": Circuit,
    "lens": Lens,
}
_PANEL_FORM = f"a list of at least one mapping with 'panel: {' | '.join(PANELS)}'"


class Layout(Options):
    """A picture of one capture of a run."""

    group_name = "layout"
    name: Annotated[
        str, LegalValues("plain letters, digits, spaces and _.+=,- like 'mine', for it names files")
    ]
    """Name of the video in the run."""

    panels: Annotated[tuple[Panel, ...], Field(min_length=1), LegalValues(_PANEL_FORM)]
    """Panels of the picture, from left to right. Panels head, experts, circuit and lens can only be
    combined with scores."""

    timeline: bool = True
    """Draw the run's timeline below the panels."""

    metric: Annotated[
        str,
        Field(min_length=1),
        LegalValues("the name of a metric that was logged, like 'loss'"),
    ] = USUAL_METRIC
    """Metric of the curve on the timeline and of the second number in the header."""

    scales: Annotated[
        dict[str, dict[str, Any]],
        LegalValues("a mapping, like {attention: {cmap: viridis, norm: log, minimum: 1e-3}}"),
    ] = Field(default_factory=dict)
    """Changes to the color scales attention, weights and score: cmap, norm (linear, log, symlog,
    power, centred), minimum, maximum, gamma, linear_within, title."""

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError("the name of no file")
        return name

    @field_validator("panels", mode="before")
    @classmethod
    def _make_panels(cls, panels: Any) -> Any:
        if not isinstance(panels, Sequence) or isinstance(panels, str):
            return panels
        return tuple(_panel(number, each) for number, each in enumerate(panels))

    @field_validator("scales", mode="before")
    @classmethod
    def _check_scales(cls, scales: Any) -> Any:
        check_scale_options(scales)
        return scales

    @model_validator(mode="before")
    @classmethod
    def _drop_target(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Drop Hydra's ``_target_``: older YAML files have it, from when ``instantiate`` made
        layouts."""
        if values.get("_target_") == "tracker_viz.rendering.layout_from":
            return {name: value for name, value in values.items() if name != "_target_"}
        return values

    @model_validator(mode="after")
    def _check_panels(self) -> Layout:
        others = [panel for panel in self.panels if not isinstance(panel, Scores)]
        alone = (
            (LargeHead, "head"),
            (Experts, "experts"),
            (Circuit, "circuit"),
            (Lens, "lens"),
        )
        for kind, what in alone:
            large = [panel for panel in self.panels if isinstance(panel, kind)]
            if large and others != large[:1]:
                kinds = ", ".join(panel.panel for panel in self.panels)
                raise ConfigError(
                    f"layout {self.name!r}: a panel {what!r} can only be combined with scores; "
                    f"got the panels {kinds}"
                )
        return self


def _panel(number: int, panel: Any) -> Panel:
    if isinstance(panel, Panel):
        return panel
    if not isinstance(panel, Mapping) or "panel" not in panel:
        raise ConfigError(f"layout.panels must be {_PANEL_FORM}; panel {number} is {panel!r}")
    kind = str(panel["panel"])
    if kind not in PANELS:
        raise ConfigError(f"layout.panels.{number}: {unknown_name('panel', kind, PANELS)}")
    try:
        return PANELS[kind].of(panel)
    except ConfigError as error:
        raise ConfigError(f"layout.panels.{number}: {error}") from error


class _ShippedLayouts(Mapping[str, Layout]):
    """The layouts of ``conf/layout/``, read when they are asked for."""

    def __getitem__(self, name: str) -> Layout:
        if name not in self._files():
            raise KeyError(name)
        return _shipped(name)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._files()))

    def __len__(self) -> int:
        return len(self._files())

    def _files(self) -> set[str]:
        paths = resources.files("tracker_viz.conf").joinpath("layout").iterdir()
        return {path.name.removesuffix(".yaml") for path in paths if path.name.endswith(".yaml")}


LAYOUTS: Mapping[str, Layout] = _ShippedLayouts()


def resolve_layout(layout: str | Path | Mapping[str, Any] | Layout) -> Layout:
    """Return a layout from the name of a shipped one, the path of a YAML file, or a mapping as YAML
    has it.

    Raises:
        ConfigError: there is no such layout or file, or its content is no layout.
    """
    if isinstance(layout, Layout | Mapping):
        return Layout.of(layout)
    if str(layout).endswith((".yaml", ".yml")):
        return read_layout(home_expanded(layout))
    if layout not in LAYOUTS:
        hint = "; or give the path of a YAML file"
        raise ConfigError(unknown_name("layout", str(layout), LAYOUTS) + hint)
    return LAYOUTS[str(layout)]


def read_layout(path: Path) -> Layout:
    """Return the layout in a YAML file, named like the file unless it says otherwise.

    Raises:
        ConfigError: the file cannot be read, or what it says is no layout.
    """
    from omegaconf import OmegaConf
    from yaml import YAMLError

    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except OSError as error:
        raise ConfigError(f"layout {path} cannot be read: {error.strerror}") from error
    except YAMLError as error:
        raise ConfigError(f"layout {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"layout {path} must be a mapping with panels; got {content!r}")
    return Layout.of({"name": path.stem} | {str(key): value for key, value in content.items()})


@cache
def _shipped(name: str) -> Layout:
    with resources.as_file(resources.files("tracker_viz.conf") / "layout" / f"{name}.yaml") as file:
        return read_layout(file)
