"""Make a page that plays the videos of several runs in step: one slider of training steps for all.

Plain HTML and JavaScript (``in_step.html``), nothing fetched but the videos. Each video has a
timeline of its own, because runs have different schedules, so it comes with the step of each of its
pictures.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files

from tracker_viz.rendering.theme import theme as theme_by_name

_COLORS = ("ground", "panel", "text", "dim", "faint", "accent")


@dataclass(frozen=True, slots=True)
class Player:
    """One run's video.

    Attributes:
        label: what tells the run from the others.
        source: the video's address, relative to the page's.
        steps: training step of each picture, rising.
        starts_s: when in the video each of these pictures begins.
    """

    label: str
    source: str
    steps: tuple[int, ...]
    starts_s: tuple[float, ...]


def in_step_page(
    title: str,
    videos: Mapping[str, Sequence[Player]],
    *,
    theme: str = "dark",
    findings: Sequence[str] = (),
) -> str:
    """Return the page's HTML.

    Args:
        videos: layout -> the runs' videos of it; the page opens with ``overview`` where it is among
            them, else with the first one.
        findings: sentences above the videos: what a comparison of the runs found.
    """
    colors = theme_by_name(theme)
    described = {
        "title": title,
        "findings": list(findings),
        "videos": {
            layout: [asdict(player) for player in players] for layout, players in videos.items()
        },
    }
    texts = {name.upper(): getattr(colors, name) for name in _COLORS}
    texts["TITLE"] = html.escape(title)
    # "</script>" inside the description would end it.
    texts["DESCRIPTION"] = json.dumps(described).replace("<", "\\u003c")
    template = files(__package__).joinpath("in_step.html").read_text(encoding="utf-8")
    # In one pass: a title may read "%DESCRIPTION%", and stays what it is.
    placeholder = re.compile(f"%({'|'.join(texts)})%")
    return placeholder.sub(lambda match: texts[match[1]], template)
