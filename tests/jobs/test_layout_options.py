"""Every field of every layout, given what it is not: one error, from Python and from the command
line, before any run is looked for."""

from __future__ import annotations

import json

import pytest

from tracker_viz.errors import ConfigError
from tracker_viz.rendering import Attention, LargeHead, Layout, Scores
from tracker_viz.rendering.layout import PANELS
from tracker_viz.trackers.values import checked_artifact

KINDS = {"layout": Layout, **PANELS}
PLACES = {  # of each kind: a shipped layout, and where in it an override reaches it
    "layout": ("overview", "layout"),
    "attention": ("overview", "layout.panels.0"),
    "weights": ("overview", "layout.panels.1"),
    "scores": ("overview", "layout.panels.2"),
    "head": ("head", "layout.panels.0"),
    "experts": ("experts", "layout.panels.0"),
    "circuit": ("circuit", "layout.panels.0"),
    "lens": ("lens", "layout.panels.0"),
}
WRONG_TYPES = [
    ("layout", "name", 3, "layout.name must be plain letters, digits"),
    ("layout", "panels", "foo", "panels"),
    ("layout", "panels", 3, "panels"),
    ("layout", "timeline", "maybe", "layout.timeline must be true or false; got 'maybe'"),
    (
        "layout",
        "metric",
        3,
        "layout.metric must be the name of a metric that was logged, like 'loss'; got 3",
    ),
    (
        "layout",
        "scales",
        "viridis",
        "scales is a mapping, like {attention: {cmap: viridis}}; got 'viridis'",
    ),
    (
        "layout",
        "scales",
        {"attention": "viridis"},
        "'attention' is a mapping of options, like {cmap: viridis}; got 'viridis'",
    ),
    (
        "layout",
        "scales",
        {"attention": {"cmap": 3}},
        "cmap of the color scale 'attention' is a string; got 3",
    ),
    (
        "layout",
        "scales",
        {"attention": {"minimum": "low"}},
        "minimum of the color scale 'attention' is a number; got 'low'",
    ),
    (
        "layout",
        "scales",
        {"attention": {"maximum": True}},
        "maximum of the color scale 'attention' is a number; got True",
    ),
    (
        "attention",
        "probe",
        0.5,
        "attention.probe must be a row of the probe by its label or its index from 0",
    ),
    (
        "attention",
        "show",
        3,
        "unknown attention.show '3'; known: change, step, value",
    ),
    ("attention", "zooms", "many", "a whole number of at least 1 or null; got 'many'"),
    ("attention", "zooms", True, "a whole number of at least 1 or null; got True"),
    ("attention", "weighted", "maybe", "attention.weighted must be true or false; got 'maybe'"),
    ("attention", "many_heads", 3, "unknown attention.many_heads '3'; known: mosaic, roles"),
    (
        "weights",
        "matrices",
        "foo",
        (
            "weights.matrices must be a list of names or patterns, at least one, like ['mlp.w_*']; "
            "got 'foo'"
        ),
    ),
    ("weights", "matrices", [3], "must be a list of names or patterns"),
    ("weights", "show", None, "unknown weights.show 'None'"),
    ("weights", "order", 1, "unknown weights.order '1'"),
    ("weights", "reduce", ["rms"], "unknown weights.reduce"),
    ("scores", "names", "head.sink", "scores.names must be a list of names or patterns"),
    ("scores", "names", None, "scores.names must be a list of names or patterns"),
    (
        "head",
        "block",
        "first",
        "head.block must be a whole number of at least 0 or null; got 'first'",
    ),
    (
        "head",
        "head",
        1.5,
        "head.head must be a whole number of at least 0 or null; got 1.5",
    ),
    ("head", "probe", False, "head.probe must be a row of the probe"),
    ("head", "beside", 3, "head.beside"),
    ("experts", "probe", 1.5, "experts.probe must be a row of the probe"),
    ("experts", "blocks", "all", "experts.blocks must be a whole number of at least 1 or null"),
    ("circuit", "composition", 3, "circuit.composition"),
    ("circuit", "sources", "all", "circuit.sources must be a whole number of at least 1"),
    ("lens", "tokens", "all", "lens.tokens must be a whole number of at least 1 or null"),
]
WRONG_VALUES = [
    *(
        ("layout", "name", name, "layout.name must be plain letters")
        for name in ("a/b", "..", "", ".hidden", "captures", "ends.", "naïve")
    ),
    ("layout", "panels", [], "layout.panels must be a list of at least one mapping"),
    ("layout", "timeline", 2, "layout.timeline must be true or false; got 2"),
    ("layout", "metric", "", "layout.metric must be the name of a metric"),
    (
        "layout",
        "scales",
        {"atention": {}},
        "unknown color scale 'atention'; did you mean 'attention'",
    ),
    (
        "layout",
        "scales",
        {"score": {"cmpa": "mako"}},
        "unknown option of the color scale 'score' 'cmpa'; did you mean 'cmap'",
    ),
    (
        "layout",
        "scales",
        {"score": {"cmap": "virdis"}},
        "unknown color map 'virdis'; did you mean 'viridis'",
    ),
    ("layout", "scales", {"score": {"norm": "logg"}}, "unknown norm 'logg'; did you mean 'log'"),
    (
        "layout",
        "scales",
        {"score": {"gamma": 0}},
        "gamma of the color scale 'score' is above 0; got 0",
    ),
    (
        "layout",
        "scales",
        {"score": {"minimum": 2, "maximum": 1}},
        "goes from a number to a larger one; got 2 to 1 for 'score'",
    ),
    ("attention", "probe", -1, "index from 0, or null for all; got -1"),
    (
        "attention",
        "show",
        "chnage",
        "unknown attention.show 'chnage'; did you mean 'change'",
    ),
    (
        "attention",
        "zooms",
        -1,
        "attention.zooms must be a whole number of at least 1 or null; got -1",
    ),
    ("attention", "zooms", 0, "a whole number of at least 1"),
    ("attention", "weighted", 2, "attention.weighted must be true or false; got 2"),
    ("attention", "many_heads", "role", "did you mean 'roles'"),
    ("weights", "matrices", [], "at least one"),
    ("weights", "show", "steps", "did you mean 'step'"),
    ("weights", "order", "nrom", "did you mean 'norm'"),
    ("weights", "reduce", "median", "known: mean, rms"),
    ("scores", "names", [""], "scores.names must be a list of names or patterns"),
    ("head", "block", -1, "a whole number of at least 0 or null; got -1"),
    ("head", "head", -1, "a whole number of at least 0 or null; got -1"),
    ("head", "probe", "", "must be a row of the probe by its label"),
    ("head", "beside", "rowz", "head.beside"),
    ("experts", "probe", "", "must be a row of the probe by its label"),
    ("experts", "blocks", 0, "a whole number of at least 1 or null; got 0"),
    ("circuit", "composition", "o", "known: k, q, v"),
    ("circuit", "sources", 0, "a whole number of at least 1; got 0"),
    ("lens", "tokens", 0, "a whole number of at least 1 or null; got 0"),
]


def test_every_field_is_tried_with_a_wrong_type_and_a_wrong_value():
    every = {(kind, name) for kind, made in KINDS.items() for name in made.model_fields}
    every -= {(kind, "panel") for kind in PANELS}
    assert {(kind, option) for kind, option, *_ in WRONG_TYPES} == every
    assert {(kind, option) for kind, option, *_ in WRONG_VALUES} == every


@pytest.mark.parametrize(("kind", "option", "value", "says"), [*WRONG_TYPES, *WRONG_VALUES])
def test_what_has_no_meaning_is_told_in_python_and_on_the_command_line(
    tracker_viz, kind, option, value, says
):
    right = {"name": "mine", "panels": [Attention()]} if kind == "layout" else {}
    with pytest.raises(ConfigError) as raised:
        KINDS[kind](**{**right, option: value})
    assert says in str(raised.value)
    layout, place = PLACES[kind]
    added = (
        "+" if isinstance(value, dict) else ""
    )  # Hydra lets keys that are new come in with a + only
    result = tracker_viz(
        "render", "run=local:nowhere", f"layout={layout}", f"{added}{place}.{option}={typed(value)}"
    )
    assert (result.code, says in result.err, result.err.count("\n")) == (2, True, 1), result.err
    if kind != "layout":
        assert result.err.startswith(f"{place}: "), "which of its panels it is"


def typed(value):
    """A value as Hydra reads it."""
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}: {typed(item)}' for key, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{','.join(map(typed, value))}]"
    return f"'{value}'" if isinstance(value, str) else json.dumps(value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "name: mine\npannels: [{panel: attention}]",
            "unknown option of layout 'pannels'; did you mean 'panels'",
        ),
        (
            "name: mine\npanels: [{panel: attention}]\ntime_line: true",
            "unknown option of layout 'time_line'; did you mean 'timeline'",
        ),
        (
            "nmae: mine\npanels: [{panel: attention}]",
            "unknown option of layout 'nmae'; did you mean 'name'",
        ),
        (
            "panels: [{panel: attention}]",
            "layout.name has no value yet; give it one: layout.name=...",
        ),
        ("name: mine", "layout.panels has no value yet"),
        (
            "name: mine\npanels: {panel: attention}",
            "layout.panels must be a list of at least one mapping with 'panel: attention | weights",
        ),
        (
            "name: mine\npanels: [{panel: attention, 3: 4}]",
            "unknown option of attention '3'; known: many_heads, panel, probe",
        ),
        (
            "name: mine\npanels: [{panel: head}, {panel: attention}]",
            "layout 'mine': a panel 'head' can only be combined with scores",
        ),
    ],
)
def test_a_layout_of_ones_own_that_is_misspelled_is_told_in_one_line(
    tracker_viz, tmp_path, text, says
):
    mine = tmp_path / "conf" / "layout" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text(f"{text}\n")
    result = tracker_viz(
        "render", "--config-dir", str(tmp_path / "conf"), "run=local:nowhere", "layout=mine"
    )
    assert (result.code, says in result.err, result.err.count("\n")) == (2, True, 1), result.err


def test_a_metric_that_no_capture_holds_is_told_before_anything_is_drawn(tracker_viz, run):
    result = tracker_viz(
        "render",
        f"run={run.ref}",
        "layout.metric=los",
        "upload=false",
        "format=poster",
        "output=x.png",
    )
    assert (result.code, result.err.splitlines()[-1]) == (
        1,
        "layout 'overview' shows the metric 'los', which no capture holds: unknown metric "
        "'los'; did you mean 'loss'? known: "
        "attn/induction_max, loss",
    )


@pytest.mark.parametrize("name", ["mine", "my heads, v2", "a+b=c", "2024-05", "x.y_z", "Captures"])
def test_a_layouts_name_is_one_that_every_tracker_takes(name):
    assert checked_artifact(Layout(name=name, panels=(Attention(),)).name) == name


def test_one_head_has_the_picture_to_itself_but_for_scores():
    assert len(Layout(name="mine", panels=(Scores(), LargeHead(), Scores())).panels) == 3
    for others in ((Attention(),), (LargeHead(block=1),)):
        with pytest.raises(ConfigError, match="a panel 'head' can only be combined with scores"):
            Layout(name="mine", panels=(LargeHead(), *others))


def test_lists_of_names_may_be_lists_or_tuples():
    given = {"name": "mine", "panels": [{"panel": "weights", "matrices": ["attn.w_q"]}]}
    assert (
        Layout(**given).panels[0]
        == PANELS["weights"](matrices=["attn.w_q"])
        == PANELS["weights"](matrices=("attn.w_q",))
    )
