"""Layouts as YAML: the shipped files say what the code says, and a user's own are checked by
name."""

from __future__ import annotations

from pathlib import Path

import pytest

import tracker_viz
from tracker_viz.errors import LayoutError
from tracker_viz.rendering import LAYOUTS, Attention, Layout, Renderer, Series, layout_from

CONF = Path(tracker_viz.__file__).parent / "conf" / "layout"


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_shipped_yaml_is_the_layout_of_that_name(name):
    hydra = pytest.importorskip("hydra.utils")
    from omegaconf import OmegaConf

    assert hydra.instantiate(OmegaConf.load(CONF / f"{name}.yaml")) == LAYOUTS[name]


def test_the_examples_layout_is_drawn_as_it_says(small_run):
    hydra = pytest.importorskip("hydra.utils")
    from omegaconf import OmegaConf

    layout = hydra.instantiate(
        OmegaConf.load(Path(__file__).parents[2] / "examples" / "layout" / "mine.yaml")
    )
    plan = Renderer(Series(small_run), layout, size="720p").plan
    assert (plan.layout, plan.scales["attention"].cmap, plan.scales["attention"].norm) == (
        "mine",
        "viridis",
        "log",
    )
    assert {label.text for label in plan.labels} >= {
        "Attention · text tokens",
        "attention q",
        "previous token",
        "distance from init",
    }


def test_every_shipped_layout_has_its_yaml():
    assert {path.stem for path in CONF.glob("*.yaml")} == set(LAYOUTS)


def test_a_layout_of_ones_own_is_drawn(small_run):
    mine = layout_from(
        "mine",
        [
            {"panel": "attention", "probe": "text"},
            {"panel": "weights", "matrices": ["attn.w_q"], "show": "value", "reduce": "mean"},
        ],
    )
    renderer = Renderer(Series(small_run), mine, size="720p")
    assert {heatmap.name for heatmap in renderer.plan.heatmaps} >= {
        "Attention · text tokens · block 0 head 0",
        "Weights · blocks.1.attn.w_q",
    }
    assert renderer.frame(0).pixels.any()


@pytest.mark.parametrize(
    ("panels", "says"),
    [
        ([{"panel": "atention"}], "did you mean 'attention'"),
        ([{"panel": "attention", "prob": 1}], "did you mean 'probe'"),
        ([{"probe": 1}], "panel: attention"),
        ([], "needs panels"),
        ([{"panel": "weights", "show": "chnage"}], "did you mean 'change'"),
        ([{"panel": "weights", "order": "nrom"}], "did you mean 'norm'"),
        ([{"panel": "weights", "reduce": "median"}], "mean"),
        ([{"panel": "attention", "show": "steps"}], "did you mean 'step'"),
    ],
)
def test_a_misspelt_layout_is_an_error_that_helps(panels, says):
    with pytest.raises(LayoutError, match=says):
        layout_from("mine", panels)


def test_panels_are_panels():
    with pytest.raises(LayoutError, match="needs panels"):
        Layout("mine", ("attention",))
    assert Layout("mine", [Attention()]).panels == (Attention(),)
