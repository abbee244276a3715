"""The explorer's page: what it holds is what the frames show, and no word can break out of it."""

from __future__ import annotations

import base64
import copy
import dataclasses
import json
import re
import zlib

import numpy as np
import pytest

from tracker_viz.errors import RenderError
from tracker_viz.metrics import ROLES
from tracker_viz.rendering import Layout, Renderer, Series, Weights, write_explorer
from tracker_viz.rendering.export.explorer import curves
from tracker_viz.rendering.export.explorer.cells import BLANK, encode
from tracker_viz.rendering.export.explorer.curves import page_curves
from tracker_viz.rendering.export.explorer.page import explorer_page
from tracker_viz.rendering.export.explorer.parts import page_parts
from tracker_viz.rendering.plan import Box, Heatmap
from tracker_viz.rendering.role_key import ROLE_KEYS, role_pattern
from tracker_viz.rendering.scales import ColorScale
from tracker_viz.rendering.series import si_number
from tracker_viz.rendering.sources import HeadMap, Moment
from tracker_viz.rendering.story import NO_STORY


@pytest.fixture(scope="module")
def renderer(small_run):
    return Renderer(Series(small_run, title="<a> & 100% small run"), "overview", size="720p")


class Page:
    """The contents of a page's file."""

    def __init__(self, page: bytes) -> None:
        self.text = page.decode()
        found = re.search(r'class="description">(.*?)</script>', self.text)
        self.description = json.loads(found[1])
        self.maps = self._cells("maps")
        self.scores = self._cells("scores")

    def _cells(self, kind):
        """uint8 [capture, cell]"""
        element = rf'<script type="text/plain" class="{kind}" data-number="(\d+)">(.*?)</script>'
        elements = re.findall(element, self.text)
        found = [packed for _, packed in sorted(elements, key=lambda each: int(each[0]))]
        per_chunk = self.description["perChunk"] if kind == "maps" else 1 << 30
        captures = []
        left = len(self.description["steps"])
        for packed in found:
            n = min(left, per_chunk)
            differences = np.frombuffer(zlib.decompress(base64.b64decode(packed)), np.uint8)
            captures.append(np.cumsum(differences.reshape(n, -1), axis=0, dtype=np.uint8))
            left -= n
        return np.concatenate(captures)

    def head(self, block, head, row=0, *, finest=True):
        """(cells [capture, cell] of one head, the part that it belongs to)"""
        offset, found = 0, []
        for part in self.description["maps"]:
            if part["kind"] != "heads":
                offset += part["rows"] * part["columns"]
                continue
            side = part["side"]
            size = side * (side + 1) // 2 if part["causal"] else side * side
            for number, heads in part["heads"]:
                for each in heads:
                    if (part["row"], number, each) == (row, block, head):
                        found.append((self.maps[:, offset : offset + size], part))
                    offset += size
        return min(found, key=lambda each: each[1]["pool"]) if finest else found[0]


def test_every_head_of_the_page_is_what_the_captures_hold(renderer, small_run):
    page = Page(explorer_page(renderer, range(6)))
    assert page.description["steps"] == list(renderer.series.steps)
    lower = np.tril(np.ones((24, 24), bool))
    for index in (0, 5):
        for block in range(2):
            array = f"blocks.{block}.attn.pattern"
            attention = renderer.series.read(index, [array])[array][0]
            for head in range(3):
                cells, part = page.head(block, head)
                assert part["pool"] == 1
                shown = encode(attention[head], renderer.plan.scales["attention"])[lower]
                assert np.array_equal(cells[index], shown)


def test_the_page_shows_with_every_head_which_keys_its_indexer_chose(synthetic, tmp_path):
    made = synthetic.captures(2, blocks=2, heads=2, length=16, period=5, width=8, hidden=8)
    run = [synthetic.write_capture(tmp_path, synthetic.with_indexer(each)) for each in made]
    renderer = Renderer(Series(run), "head", size="720p")
    page = Page(explorer_page(renderer, range(2)))
    assert [row["title"] for row in page.description["rows"]] == [
        "Attention · repeated tokens",
        "Keys the indexer chose · repeated tokens",
    ]
    name = "blocks.1.attn.indexer"
    chosen = renderer.series.read(1, [name])[name][0][np.tril(np.ones((16, 16), bool))]
    for head in range(2):
        cells, part = page.head(1, head, row=1)
        assert part["heads"] == [[1, [0, 1]]], "block 0 has no indexer"
        assert np.array_equal(cells[1], 253 * chosen)


def test_weights_and_scores_of_the_page_are_those_of_the_frames(renderer):
    page = Page(explorer_page(renderer, range(6)))
    plan = renderer.plan
    for index in (0, 5):
        values = renderer.values(index)

        def coded(heatmaps, values=values):
            return [encode(values[each.name], plan.scales[each.scale]).ravel() for each in heatmaps]

        weights = [each for each in plan.heatmaps if each.name.startswith("Weight")]
        expected = np.concatenate(coded(weights))
        assert np.array_equal(page.maps[index][-len(expected) :], expected)
        scores = [each for each in plan.heatmaps if each.name.startswith("score")]
        expected = np.concatenate(coded(scores))
        assert np.array_equal(page.scores[index][: len(expected)], expected)


def test_the_page_says_on_each_row_who_has_which_role_and_who_has_it_elsewhere(renderer):
    renderer = Renderer(renderer.series, "heads", size="720p")
    page = Page(explorer_page(renderer, range(6)))
    parts = [part for part in page.description["scores"] if part["kind"] == "roles"]
    assert [part["row"] for part in parts] == [0, 1]
    n_cells = parts[0]["rows"] * parts[0]["columns"]
    heads = [heatmap for heatmap in renderer.plan.heatmaps if heatmap.head]
    elsewhere = 0
    for index in range(6):
        for row, codes in enumerate(page.scores[index][-2 * n_cells :].reshape(2, 2, 3)):
            for heatmap in heads:
                if heatmap.source.probe != row:
                    continue
                code, border = codes[heatmap.head], renderer.plan.roles.border(heatmap, index)
                shown = (parts[row]["names"][code % 128 - 1], code < 128) if code else None
                assert shown == border
                elsewhere += code > 128
    assert elsewhere, "no head has its role on the other row only"


def test_every_role_has_a_small_picture_and_words_of_its_own():
    assert {role.name.removesuffix("_text") for role in ROLES} == ROLE_KEYS.keys()
    assert len({role_pattern(role).tobytes() for role in ROLE_KEYS}) == len(ROLE_KEYS)


def test_a_map_of_a_kind_that_the_page_does_not_know_is_on_it_all_the_same(renderer):
    @dataclasses.dataclass(frozen=True)
    class Loads:
        """The load of four experts, as a layout to come may draw it."""

        needs: tuple = ()
        compares = None
        blends = False
        shape = (1, 4)

        def values(self, moment):
            return np.array([[0.0, 0.25, 0.5, 1.0]], np.float32)

    panel = Heatmap("expert load · block 0", Loads(), Box(0, 0, 8, 2), "score")
    changed = copy.copy(renderer)
    changed.plan = dataclasses.replace(
        renderer.plan, heatmaps=(*renderer.plan.heatmaps[:1], panel), story=NO_STORY
    )
    page = Page(explorer_page(changed, range(2)))
    (part,) = (each for each in page.description["scores"] if each["kind"] == "panel")
    assert (part["title"], part["rows"], part["columns"]) == ("expert load · block 0", 1, 4)
    assert page.scores[0][:4].tolist() == [0, 63, 126, 253]


def test_the_page_says_the_steps_numbers_and_tokens_of_the_run(renderer):
    indices = [1, 5]
    page = Page(explorer_page(renderer, indices))
    shown, series = page.description, renderer.series
    assert (shown["title"], shown["subtitle"]) == (series.title, series.subtitle)
    assert (shown["steps"], shown["leftOut"]) == ([series.steps[1], series.steps[5]], 4)
    assert len(page.maps) == len(page.scores) == 2
    assert [readout["texts"] for readout in shown["readouts"]] == [
        [f"{series.metrics[index]['loss']:.3f}" for index in indices],
        [si_number(series.tokens_seen[index]) for index in indices],
    ]
    assert shown["rows"][0]["tokens"] == series.last.probe["rows"][0]["tokens"]
    assert (shown["rows"][0]["period"], shown["rows"][0]["start"]) == (7, 1)
    assert "<title>&lt;a&gt; &amp; 100% small run</title>" in page.text


def test_the_curve_breaks_where_the_loss_is_not_finite(synthetic, tmp_path):
    captures = list(
        synthetic.captures(4, blocks=1, heads=2, length=12, width=12, hidden=16, period=4)
    )
    losses = [3.0, float("nan"), float("inf"), 1.0]
    paths = [
        synthetic.write_capture(tmp_path, dataclasses.replace(capture, metrics={"loss": loss}))
        for capture, loss in zip(captures, losses, strict=True)
    ]
    page = Page(explorer_page(Renderer(Series(paths), "heads", size="720p"), range(4)))
    assert page.description["curve"]["values"] == [3.0, None, None, 1.0]
    assert page.description["readouts"][0]["texts"] == [
        "3.000",
        "–",
        "∞",
        "1.000",
    ]


def test_events_lead_to_captures_of_the_page_also_where_some_are_left_out(renderer):
    for indices in (list(range(6)), [0, 2, 5], [0, 5]):
        page = Page(explorer_page(renderer, indices))
        steps = page.description["steps"]
        events = page.description["events"]
        assert [event["text"] for event in events] == [
            event.text for event in renderer.plan.story.events
        ]
        assert events, "the run has none to lead to"
        for event in events:
            assert steps[event["first"]] <= event["firstStep"]
            assert steps[event["last"]] >= event["lastStep"]
        assert len(page.description["seconds"]) == len(steps)
    strongest = max(renderer.plan.story.events, key=lambda event: event.strength)
    start = page.description["start"]
    assert page.description["events"][start]["text"] == strongest.text


def test_heads_are_at_least_as_fine_as_in_the_picture_and_finer_where_events_are(
    synthetic, tmp_path
):
    captures = synthetic.write_run(
        tmp_path, 8, blocks=20, heads=20, length=64, width=16, hidden=24, period=9, probes=1
    )
    renderer = Renderer(Series(captures), "overview")
    drawn = {}
    for heatmap in renderer.plan.heatmaps:
        if isinstance(heatmap.source, HeadMap):
            drawn[heatmap.head] = heatmap.source.pool
    # As if the run had a hundred times as many captures: there is no room for all heads in full.
    parts = page_parts(renderer, 800)
    every, telling = parts.maps[0], parts.maps[1]
    assert every.n_heads == 400
    assert every.first.pool > telling.first.pool
    assert 0 < telling.n_heads < 400
    chosen = {(block.block, head) for block in telling.blocks for head in block.heads}
    strongest = max(renderer.plan.story.events, key=lambda event: event.strength)
    assert strongest.heads[0] in chosen
    # What the page holds of a pooled head are the largest probabilities of each of its cells.
    name = every.blocks[3].name
    moment = Moment(renderer.series.read(7, every.needs), {}, {})
    cells = every.cells(7, moment).reshape(400, -1)[3 * 20 + 5]
    attention = renderer.series.read(7, [name])[name][0, 5]
    pool, side = every.first.pool, every.first.shape[0]
    assert cells[0] == encode(attention[:pool, :pool].max()[None], every.scale)[0]
    assert len(cells) == side * (side + 1) // 2


def test_what_a_head_is_pooled_by_is_told(renderer):
    part = Page(explorer_page(renderer, [0])).description["maps"][0]
    assert (part["pool"], part["side"], part["causal"]) == (1, 24, True)


def test_every_level_of_a_scale_is_the_scales_value_and_color(renderer):
    described = Page(explorer_page(renderer, [0])).description["scales"]
    assert described.keys() == renderer.plan.scales.keys()
    for key, scale in renderer.plan.scales.items():
        shown = described[key]
        colors = np.frombuffer(base64.b64decode(shown["colors"]), np.uint8).reshape(-1, 3)
        assert (shown["title"], len(shown["values"]), len(colors)) == (scale.label, 254, 254)
        assert shown["clipped"] == list(scale.clipped)
        values = np.array([float(text.replace("−", "-")) for text in shown["values"]])
        assert scale.positions(values) == pytest.approx(np.arange(254) / 253, abs=0.02), (
            "to the three digits that are shown"
        )
        drawn = scale.table()[scale.drawn(values).view(np.uint16)]
        assert np.abs(drawn.astype(int) - colors).max() <= 16, key


def test_values_come_back_from_their_bytes_within_half_a_level():
    scale = ColorScale("x", "mako", 0.0, 1.0, "power", gamma=0.5)
    values = np.array([[0.0, 0.01, 0.25, 1.0, np.nan, np.inf]], np.float16)
    assert encode(values, scale).tolist() == [[0, 25, 126, 253, 255, 255]]


def test_nothing_is_said_of_a_change_where_there_is_no_capture_before(synthetic, tmp_path):
    made = synthetic.captures(3, blocks=2, heads=2, length=16, period=5)
    run = [synthetic.write_capture(tmp_path, synthetic.with_updates(each)) for each in made]
    changes = Page(explorer_page(Renderer(Series(run), "changes"), range(3)))
    assert (changes.maps[0] == BLANK).all()
    assert not (changes.maps[1] == BLANK).any()

    scores = Page(explorer_page(Renderer(Series(run), "scores"), range(3)))
    offset, blank = 0, []
    for part in scores.description["scores"]:
        end = offset + part["rows"] * part["columns"]
        if (scores.scores[0][offset:end] == BLANK).all():
            blank.append(part["title"])
        offset = end
    assert blank == ["update since last"]


def test_the_page_names_the_matrices_of_a_summary_and_the_heads_of_a_score(renderer, synthetic):
    page = Page(explorer_page(Renderer(renderer.series, "scores", size="1080p"), [0]))
    parts = {part["title"]: part for part in page.description["scores"] if part["kind"] != "roles"}
    assert parts["induction"]["columnNames"] is None
    assert parts["distance from init"]["columnNames"][2:5] == [
        "attention v",
        "attention o",
        "FFN gate",
    ]
    assert page.description["maps"] == []


def test_the_score_that_measures_a_role_carries_its_color(synthetic, tmp_path):
    """A role among repeats is measured on these rows, where captures have that score."""
    files = []
    for capture in synthetic.captures(2, blocks=2, heads=2, length=16):
        score = "scores.head.previous_token_repeated"
        arrays = {**capture.arrays, score: capture.arrays["scores.head.previous_token"]}
        axes = {**capture.axes, score: ("block", "head")}
        more = dataclasses.replace(capture, arrays=arrays, axes=axes)
        files.append(synthetic.write_capture(tmp_path, more))
    page = Page(explorer_page(Renderer(Series(files), "overview"), [0]))
    roles = {}
    for part in page.description["scores"]:
        if part.get("role"):
            roles[part["role"]] = part["title"]
    assert roles["previous_token"] == "previous token (repeats)"
    assert roles["induction"] == "induction"


def unpacked(found, n_captures):
    """{block.head: float [score, capture]} of what the page holds of a run's curves."""
    n_curves = len(found.heads) * len(found.described)
    ranges = np.frombuffer(found.packed[: 8 * n_curves], "<f4").reshape(n_curves, 2, 1)
    changes = np.frombuffer(found.packed[8 * n_curves :], np.uint8).reshape(n_curves, n_captures)
    levels = np.cumsum(changes, axis=1, dtype=np.uint8).astype(float)
    values = ranges[:, 0] + (ranges[:, 1] - ranges[:, 0]) * levels / 253
    values[levels == 255] = np.nan
    return dict(zip(found.heads, values.reshape(len(found.heads), -1, n_captures), strict=True))


def test_the_curves_of_a_head_are_its_scores_at_every_capture(synthetic, tmp_path, monkeypatch):
    files, expected = [], []
    for capture in synthetic.captures(3, blocks=2, heads=2, length=20, width=16, hidden=24):
        logits = np.array([[1e5, 2.0], [np.nan, -40.0]], np.float32) * (1 + capture.step)
        arrays = {**capture.arrays, "scores.head.max_logit": logits}
        axes = {**capture.axes, "scores.head.max_logit": ("block", "head")}
        files.append(
            synthetic.write_capture(
                tmp_path, dataclasses.replace(capture, arrays=arrays, axes=axes)
            )
        )
        expected.append({name: arrays[name] for name in arrays if name.startswith("scores.head.")})
    series = Series(files)
    found = page_curves(series, range(3), [(1, 1)])
    assert found.heads == ["1.1", "0.0", "0.1", "1.0"], "those to look at first"
    first, *_, last = found.described
    assert (first["name"], first["role"]) == ("scores.head.max_logit", "")
    assert last["role"] == "sink"
    for head, values in unpacked(found, 3).items():
        block, number = map(int, head.split("."))
        for described, curve in zip(found.described, values, strict=True):
            wanted = [float(scores[described["name"]][block, number]) for scores in expected]
            resolution = (np.nanmax([0, *wanted]) - np.nanmin([0, *wanted])) / 253
            np.testing.assert_allclose(curve, wanted, atol=resolution)
    monkeypatch.setattr(curves, "_MOST_BYTES", 200)
    assert page_curves(series, range(3), [(1, 1)]).heads == ["1.1", "0.0"], "where room is short"


def test_heads_that_share_keys_are_told(synthetic, tmp_path):
    capture = next(
        synthetic.captures(1, blocks=1, heads=4, length=12, width=12, hidden=16, period=4)
    )
    for n_shared, sharing in ((4, 1), (2, 2), (1, 4), (3, 1), ([2, 4], 1), (None, 1)):
        model = {**capture.model, "n_kv_heads": n_shared}
        path = synthetic.write_capture(tmp_path, dataclasses.replace(capture, model=model))
        page = Page(explorer_page(Renderer(Series([path]), "heads", size="720p"), [0]))
        assert page.description["sharing"] == sharing


def test_titles_and_tokens_of_any_kind_stay_text(synthetic, tmp_path):
    capture = next(
        synthetic.captures(1, blocks=1, heads=2, length=12, width=12, hidden=16, period=4)
    )
    odd = ["</script><script>alert(1)</script>", "%CELLS%", "%TITLE%", "<!--", "&lt;", '"'] * 2
    capture = dataclasses.replace(
        capture, probe={"length": 12, "rows": [{"kind": "text", "tokens": odd}] * 2}
    )
    renderer = Renderer(
        Series([synthetic.write_capture(tmp_path, capture)], title=odd[0] + "%CELLS%"),
        "heads",
        size="720p",
    )
    page = Page(explorer_page(renderer, [0]))
    assert page.description["title"] == odd[0] + "%CELLS%"
    assert page.description["rows"][0]["tokens"] == odd
    assert len(page.maps) == 1
    # The description, the scores, the maps, the curves, and the page's own.
    assert page.text.count("<script") == page.text.count("</script") == 5


def test_a_page_without_a_timeline_roles_or_tokens_is_whole(synthetic, tmp_path):
    captures = list(
        synthetic.captures(2, blocks=1, heads=2, length=12, width=12, hidden=16, period=4)
    )
    bare = [
        dataclasses.replace(capture, probe={}, metrics={}, tokens_seen=None) for capture in captures
    ]
    series = Series([synthetic.write_capture(tmp_path, capture) for capture in bare])
    renderer = Renderer(
        series, Layout(name="bare", panels=(Weights(),), timeline=False), size="720p"
    )
    page = Page(explorer_page(renderer, [0, 1]))
    assert (page.description["curve"], page.description["rows"]) == (None, [])
    assert page.description["readouts"] == []
    assert {part["kind"] for part in page.description["maps"]} == {"matrix"}


def test_seaborn_draws_nothing_for_a_page(small_run):
    renderer = Renderer(Series(small_run), "heads", size="720p")
    explorer_page(renderer, range(6))
    assert "_template" not in vars(renderer)
    renderer.frame(0)
    assert "_template" in vars(renderer)


def test_the_page_fetches_nothing(renderer):
    text = Page(explorer_page(renderer, [0])).text
    for word in ("http:", "https:", "src=", "href=", "@import", "url(", "fetch(", "localStorage"):
        assert word not in text


def test_a_page_that_would_be_too_large_leaves_captures_out_and_says_so(renderer, tmp_path):
    whole = write_explorer(renderer, tmp_path / "whole.html").stat().st_size
    path = write_explorer(renderer, tmp_path / "small.html", max_bytes=whole - 1000)
    page = Page(path.read_bytes())
    assert path.stat().st_size < whole
    assert page.description["leftOut"] == 6 - len(page.description["steps"]) > 0
    assert page.description["steps"][-1] == renderer.series.steps[-1]
    with pytest.raises(RenderError, match="two captures"):
        write_explorer(renderer, tmp_path / "none.html", max_bytes=1000)
