"""Layouts as YAML: the shipped files say what the code says, and a user's own are checked by
name."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

import tracker_viz
from tracker_viz.errors import ConfigError
from tracker_viz.rendering import LAYOUTS, Attention, Layout, Renderer, Series, resolve_layout
from tracker_viz.rendering.layout import PANELS

CONF = Path(tracker_viz.__file__).parent / "conf" / "layout"


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_shipped_layout_has_the_name_of_its_file_and_says_every_option(name):
    said = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    assert said["name"] == name
    assert said.keys() == Layout.model_fields.keys(), "Hydra lets only these be overridden"
    for panel in said["panels"]:
        assert panel.keys() == PANELS[panel["panel"]].model_fields.keys()
    assert resolve_layout(name) == Layout.of(said) == LAYOUTS[name]


def test_a_layout_is_read_from_a_file_of_ones_own(tmp_path, monkeypatch):
    mine = tmp_path / "attention only.yaml"
    mine.write_text("panels: [{panel: attention, probe: text}]")
    monkeypatch.chdir(tmp_path)
    expected = Layout(name="attention only", panels=[Attention(probe="text")])
    assert resolve_layout(mine) == resolve_layout("attention only.yaml") == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "layout mine.yaml cannot be read: No such file or directory"),
        ("panels: [{panel: attention", "layout mine.yaml is not YAML: while parsing a flow"),
        ("- panel: attention", "layout mine.yaml must be a mapping with panels; got"),
        ("panel: attention", "unknown option of layout 'panel'; did you mean 'panels'"),
    ],
)
def test_a_file_that_is_no_layout_is_reported_in_one_line(tmp_path, monkeypatch, text, says):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("mine.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        resolve_layout("mine.yaml")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_examples_layout_is_drawn_as_it_says(small_run):
    layout = resolve_layout(Path(__file__).parents[2] / "examples" / "layout" / "mine.yaml")
    plan = Renderer(Series(small_run), layout, size="720p").plan
    assert (plan.layout, plan.scales["attention"].cmap, plan.scales["attention"].norm) == (
        "mine",
        "viridis",
        "log",
    )
    assert {label.text for label in plan.labels} >= {
        "Attention · text tokens",
        "L0 q",
        "previous token",
        "distance from init",
    }


def test_a_layout_of_ones_own_is_drawn(small_run):
    mine = Layout(
        name="mine",
        panels=[
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
        ([], "a list of at least one mapping"),
        ([{"panel": "weights", "show": "chnage"}], "did you mean 'change'"),
        ([{"panel": "weights", "order": "nrom"}], "did you mean 'norm'"),
        ([{"panel": "weights", "reduce": "median"}], "mean"),
        ([{"panel": "attention", "show": "steps"}], "did you mean 'step'"),
    ],
)
def test_a_misspelled_layout_is_an_error_that_helps(panels, says):
    with pytest.raises(ConfigError, match=says):
        Layout(name="mine", panels=panels)


def test_panels_are_panels():
    with pytest.raises(ConfigError, match="panel 0 is 'attention'"):
        Layout(name="mine", panels=("attention",))
    assert Layout(name="mine", panels=[Attention()]).panels == (Attention(),)
