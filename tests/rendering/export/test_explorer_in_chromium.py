"""The explorer's page in a real Chromium: what a person sees, presses and hears of it."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tracker_viz.metrics import Ablations
from tracker_viz.rendering import Renderer, Series, write_explorer
from tracker_viz.rendering.export.explorer import page as explorer
from tracker_viz.rendering.planning.cards import score_title
from tracker_viz.rendering.role_key import ROLE_KEYS
from tracker_viz.rendering.theme import rgb

pytestmark = pytest.mark.chromium

READY = ".tracker-viz[data-ready=yes]"
SMALL = {"hidden": 24, "width": 16, "period": 5}


@pytest.fixture(scope="module")
def renderer(small_run):
    return Renderer(Series(small_run, title="a small run"), "overview", size="720p")


@pytest.fixture(scope="module")
def path(renderer, tmp_path_factory):
    return write_explorer(renderer, tmp_path_factory.mktemp("page") / "page.html")


@pytest.fixture(scope="module")
def window(chromium):
    """One window for all tests, because opening one takes longer than most of them."""
    context = chromium.new_context(viewport={"width": 1600, "height": 1000})
    context.set_default_timeout(60_000)
    page = context.new_page()
    page.failures = []
    page.on("pageerror", lambda error: page.failures.append(str(error)))
    yield page
    context.close()


@pytest.fixture
def opened(window):
    """Open pages in the window; nothing on them may fail."""

    def open_page(path, address=""):
        window.goto("about:blank")
        window.goto(path.as_uri() + address)
        window.wait_for_selector(READY)
        return window

    window.set_viewport_size({"width": 1600, "height": 1000})
    yield open_page
    assert window.failures == []


@pytest.fixture
def shown(opened, window, path, renderer):
    """The page of the small run as it begins, opened anew only where another one was."""
    start = max(renderer.plan.story.events, key=lambda event: event.strength).last_step
    if window.url.partition("#")[0] != path.as_uri():
        return opened(path)
    window.mouse.move(0, 0)
    window.evaluate(
        "hash => { document.activeElement.blur(); location.hash = hash; }", f"#step={start}"
    )
    window.wait_for_function(
        "text => document.querySelector('.now b').textContent === text"
        "  && !document.querySelector('.detail, .pin[aria-pressed=true]')",
        arg=f"step {start:,}",
    )
    return window


def step(page):
    return page.locator(".now b").inner_text()


def go_to(page, index):
    """Show the capture with this number."""
    page.locator(".timeline").focus()
    page.keyboard.press("Home")
    for _ in range(index):
        page.keyboard.press("ArrowRight")


def test_the_page_works_in_a_sandboxed_frame_and_asks_for_nothing(renderer, path, page):
    """As MLflow shows it: an origin of its own, scripts only."""
    errors, requests = [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_viewport_size({"width": 715, "height": 600})
    page.set_content(
        '<body style="margin:0"><iframe sandbox="allow-scripts" '
        'style="border:0;width:715px;height:600px"></iframe>'
    )
    page.on("request", lambda request: requests.append(request.url))
    page.evaluate(
        "(text) => { const blob = new Blob([text], {type: 'text/html'});"
        "document.querySelector('iframe').src = URL.createObjectURL(blob); }",
        path.read_text(),
    )
    frame = page.frame_locator("iframe")
    frame.locator(READY).wait_for(timeout=60_000)
    frame.locator(".tile").first.click()
    assert "L0H0" in frame.locator(".detail nav h2").inner_text()
    frame.locator(".forward").click()
    assert [url for url in requests if not url.startswith("blob:")] == []
    assert errors == []


def test_the_page_begins_before_the_captures_that_it_does_not_begin_with(
    renderer, opened, tmp_path, monkeypatch
):
    """A browser that reads a long page slowly shows the strongest event first."""
    monkeypatch.setattr(explorer, "_CHUNK_BYTES", 1)  # each capture by itself
    path = write_explorer(renderer, tmp_path / "page.html")
    before, _, after = path.read_text().partition("<script>\n(async")
    assert (before.count('class="maps"'), after.count('class="maps"')) == (1, 5)
    page = opened(path)
    steps = set()
    for index in range(len(renderer)):
        go_to(page, index)
        page.wait_for_function("document.querySelector('.tile canvas').width > 0")
        steps.add(step(page))
    assert steps == {f"step {number:,}" for number in renderer.series.steps}


def test_every_head_is_painted_in_the_frames_own_colors(renderer, shown):
    go_to(shown, 5)
    values = renderer.values(5)
    for heatmap in renderer.plan.heatmaps:
        if heatmap.head is None:
            continue
        block, head = heatmap.head
        pixels = shown.evaluate(
            "(id) => { const canvas = document.querySelector(`[data-map='${id}'] canvas`);"
            "return [canvas.width, ...canvas.getContext('2d')"
            ".getImageData(0, 0, canvas.width, canvas.height).data]; }",
            f"{block}.{head}",
        )
        side = pixels[0]
        painted = np.array(pixels[1:], np.uint8).reshape(side, side, 4)[..., :3].astype(int)
        scale = renderer.plan.scales[heatmap.scale]
        expected = scale.table()[values[heatmap.name].view(np.uint16)].astype(int)
        expected[heatmap.mask] = rgb(renderer.plan.theme.panel)
        assert np.abs(painted - expected).max() <= 6, "one of 254 levels of the scale"


def test_the_page_opens_at_the_strongest_event_and_its_buttons_lead_to_the_others(
    renderer, path, opened
):
    shown = opened(path)
    events = renderer.plan.story.events
    strongest = max(events, key=lambda event: event.strength)
    assert step(shown) == f"step {strongest.last_step:,}"
    assert strongest.caption in shown.locator(".caption").inner_text()
    buttons = shown.locator(".events button")
    assert buttons.count() == len(events)
    for number, event in enumerate(events):
        buttons.nth(number).click()
        assert step(shown) == f"step {event.last_step:,}"
        assert event.caption in shown.locator(".caption").inner_text()
        assert buttons.nth(number).get_attribute("aria-pressed") == "true"
        turning = shown.locator(".tile.turning")
        assert turning.count() == len(event.heads)


def test_any_head_opens_no_smaller_than_it_was_with_tokens_curves_and_neighbors(renderer, shown):
    for block, head in ((0, 0), (1, 2)):
        tile = shown.locator(f"[data-map='{block}.{head}']")
        small = tile.bounding_box()["width"]
        tile.click()
        assert shown.locator(".detail nav h2").inner_text().startswith(f"L{block}H{head}")
        large = shown.locator(".large canvas").bounding_box()
        assert large["width"] == pytest.approx(large["height"], abs=1)
        assert large["width"] >= small
        tokens = renderer.series.last.probe["rows"][0]["tokens"]
        named = shown.locator(".large svg text").all_text_contents()
        assert named.count(tokens[0]) >= 2, "along both sides"
        assert "copy 1" in named
        assert shown.locator(".sentence button").all_inner_texts() == tokens
        shown.keyboard.press("Escape")
        assert shown.locator(".detail").count() == 0
    shown.locator("[data-map='0.2']").click()
    shown.locator(".turn-forward").click()
    assert "L1H0" in shown.locator(".detail nav h2").inner_text()
    shown.keyboard.press("p")
    shown.keyboard.press("p")
    assert "L0H1" in shown.locator(".detail nav h2").inner_text()


def test_all_scores_of_a_head_are_drawn_and_said_those_of_roles_first(renderer, shown):
    series, head = renderer.series, (1, 0)
    go_to(shown, 4)
    shown.locator("[data-map='1.0']").click()
    said = shown.locator(".curves").first.locator("li").all_inner_texts()
    said += shown.locator(".mini figcaption").all_inner_texts()
    found = {name: float(value) for name, value in (each.split("\n") for each in said)}
    names = series.names("scores.head.*")
    assert len(found) == len(names)
    for name in names:
        values = series.read(4, [name])[name]
        assert found[score_title(name, series)] == pytest.approx(float(values[head]), abs=0.01)
    role = renderer.plan.roles.held[5][head].replace("_", " ")
    assert said[0].startswith(role), "that of its own role is the first"
    assert shown.locator(".curves li.held").first.inner_text().startswith(role)
    # A curve is pressed where it is looked at, and the playhead goes there.
    chart = shown.locator(".mini .chart").first
    playhead, pinned = chart.locator(".playhead").all()
    before = playhead.get_attribute("d")
    chart.click(position={"x": 2, "y": 10})
    assert step(shown) == "step 0"
    assert playhead.get_attribute("d") != before
    assert pinned.get_attribute("d") is None
    shown.keyboard.press("End")
    shown.locator(".pin").click()
    values = shown.locator(".mini b").all_inner_texts()
    assert all(" → " in value for value in values)


def test_a_head_that_ablation_needs_says_so(small_run, opened, tmp_path):
    series = Series(small_run)
    series.ablations = Ablations(400, {((1, 2),): 0.734, ((0, 0), (0, 1)): 0.5})
    path = write_explorer(Renderer(series, "heads", size="720p"), tmp_path / "page.html")
    page = opened(path, "#head=1.2")
    words = "without it the loss rises by 0.73 nats (ablation at step 400)"
    assert words in page.locator(".detail .meaning").inner_text()
    page.keyboard.press("n")
    assert "ablation" not in page.locator(".detail .meaning").inner_text()


def test_a_head_wears_the_color_of_its_role_at_that_step(renderer, shown):
    held = renderer.plan.roles.held[5]
    go_to(shown, 5)
    for block in range(2):
        for head in range(3):
            tile = shown.locator(f"[data-map='{block}.{head}']")
            role = held.get((block, head))
            label = f"L{block}H{head}" + (f", {role.replace('_', ' ')}" if role else "")
            assert tile.get_attribute("aria-label") == label
            border = tile.evaluate("tile => getComputedStyle(tile).boxShadow")
            color = "rgb({}, {}, {})".format(*rgb(renderer.plan.theme.roles[role])) if role else ""
            assert color in border
    assert held, "no head has a role"


def test_an_events_heads_are_marked_on_the_rows_that_it_is_about(renderer, opened, tmp_path):
    both = Renderer(renderer.series, "heads", size="720p")
    page = opened(write_explorer(both, tmp_path / "page.html"))
    (place, event) = next(
        (place, event) for place, event in enumerate(both.plan.story.events) if event.role
    )
    page.locator(".events button").nth(place).click()
    repeated, text = page.locator(".heads").all()
    assert repeated.locator(".tile.turning").count() == len(event.heads)
    assert text.locator(".tile.turning").count() == 0
    assert text.locator(".tile.elsewhere").count() > 0


def test_a_value_is_read_by_pointing_touching_and_with_the_keys(renderer, shown):
    tokens = renderer.series.last.probe["rows"][0]["tokens"]
    shown.locator("[data-map='0.1']").click()
    canvas = shown.locator(".large canvas")
    box = canvas.bounding_box()
    cell = box["width"] / 24
    canvas.hover(position={"x": 2.5 * cell, "y": 20.5 * cell})
    said = f'L0H1: "{tokens[20]}" (20) looks at "{tokens[2]}" (2): ≈ '
    assert shown.locator(".tip").inner_text().startswith(said)
    assert shown.locator(".reading").inner_text().startswith(said)
    value = shown.locator(".tip").inner_text()
    go_to(shown, 0)
    assert shown.locator(".tip").inner_text() != value, "it is the value of the step that is shown"
    canvas.focus()
    shown.keyboard.press("ArrowUp")
    assert f"({19}) looks at" in shown.locator(".reading").inner_text()
    canvas.hover(position={"x": 20.5 * cell, "y": 2.5 * cell})
    assert "cannot look ahead" in shown.locator(".tip").inner_text()
    shown.locator(".sentence button").nth(7).click()
    assert f'"{tokens[7]}" (7) looks at' in shown.locator(".reading").inner_text()


def test_two_steps_stand_side_by_side(renderer, shown):
    steps = renderer.series.steps
    go_to(shown, 4)
    shown.locator(".pin").click()
    assert shown.locator(".stage > h3").all_inner_texts() == [
        f"step {steps[0]:,} · pinned",
        f"step {steps[4]:,}",
    ]
    left, right = (shown.locator(".stage").nth(number).bounding_box() for number in (0, 1))
    assert left["y"] == right["y"]
    assert right["x"] >= left["x"] + left["width"]
    shown.locator(".stage").nth(1).locator("[data-map='1.0']").click()
    assert shown.locator(".large canvas").count() == 2
    shown.keyboard.press("Shift+ArrowRight")
    headings = shown.locator(".large h3").all_inner_texts()
    assert [heading.split(" · ")[-1] for heading in headings] == [
        f"step {steps[1]:,}",
        f"step {steps[4]:,}",
    ]
    shown.keyboard.press("c")
    assert shown.locator(".large canvas").count() == 1


def test_space_plays_at_the_chosen_speed_and_loop_begins_again(renderer, path, opened, tmp_path):
    steps = renderer.series.steps
    hasty = re.sub(r'"seconds":\[[^]]*\]', f'"seconds":{[0.4] * len(steps)}', path.read_text())
    (tmp_path / "page.html").write_text(hasty)
    shown = opened(tmp_path / "page.html")
    shown.locator(".speed").select_option("4")
    go_to(shown, 0)
    shown.locator("h1").click()
    shown.keyboard.press("Space")
    shown.wait_for_function(
        "last => document.querySelector('.now b').textContent === last", arg=f"step {steps[-1]:,}"
    )
    shown.wait_for_function("() => document.querySelector('.play').innerText.includes('play')")
    shown.locator(".loop").click()
    shown.keyboard.press("Space")  # Not the button that was clicked: it plays.
    assert shown.locator(".loop").get_attribute("aria-pressed") == "true"
    for wanted in (steps[-1], steps[0], steps[1]):
        shown.wait_for_function(
            "text => document.querySelector('.now b').textContent === text", arg=f"step {wanted:,}"
        )
    shown.keyboard.press("Space")
    at = step(shown)
    shown.wait_for_timeout(150)
    assert step(shown) == at


def test_step_head_and_compared_step_are_in_the_address(renderer, shown, path, opened):
    steps = renderer.series.steps
    go_to(shown, 3)
    shown.locator("[data-map='1.1']").click()
    shown.keyboard.press("c")
    hash_ = shown.evaluate("location.hash")
    assert hash_ == f"#step={steps[3]}&head=1.1&with={steps[0]}"
    opened(path, hash_)
    assert step(shown) == f"step {steps[3]:,}"
    assert "L1H1" in shown.locator(".detail nav h2").inner_text()
    assert shown.locator(".large canvas").count() == 2
    for odd in ("#step=nan", "#step=1e99&head=9.9&with=-4", "#head=</script>", "#"):
        opened(path, odd)


def test_the_keyboard_reaches_everything_and_each_part_says_what_it_is(renderer, shown):
    slider = shown.get_by_role("slider", name="training step")
    slider.focus()
    shown.keyboard.press("End")
    last = renderer.series.steps[-1]
    assert slider.get_attribute("aria-valuenow") == "5"
    assert slider.get_attribute("aria-valuetext").startswith(f"step {last:,}, loss ")
    shown.keyboard.press("Home")
    assert step(shown) == "step 0"
    assert shown.get_by_role("status").count() >= 1
    # One of the tiles takes Tab, arrow keys go on from there, Enter opens.
    assert shown.locator(".heads .tile[tabindex='0']").count() == 1
    shown.locator("[data-map='0.0']").focus()
    shown.keyboard.press("ArrowDown")
    shown.keyboard.press("ArrowRight")
    shown.keyboard.press("Enter")
    assert "L1H1" in shown.locator(".detail nav h2").inner_text()
    assert shown.evaluate("document.activeElement.closest('.detail') !== null")
    shown.keyboard.press("Escape")
    assert shown.evaluate("document.activeElement.dataset.map") == "1.1"
    for button in shown.get_by_role("button").all():
        assert button.get_attribute("aria-label") or button.inner_text().strip()


def test_the_players_controls_are_in_one_row_from_600_pixels_on(opened, path, tmp_path):
    page = opened(Path(shutil.copy(path, tmp_path)))
    # As wide as the words beside the buttons become.
    page.locator(".now").evaluate("""now => { now.innerHTML =
        '<b>step 100,000</b><span>loss <i>2.799</i></span><span>tokens <i>1.24 G</i></span>' }""")
    for width in (600, 699, 700, 799, 800, 919, 920, 999, 1000, 1259, 1260):
        page.set_viewport_size({"width": width, "height": 900})
        controls = page.locator(".controls > :visible").all()
        boxes = [control.bounding_box() for control in controls]
        assert max(box["y"] for box in boxes) < min(box["y"] + box["height"] for box in boxes), (
            width
        )


def test_the_focus_stays_on_the_way_to_the_next_head_and_on_a_tile_that_is_compared(shown):
    shown.locator("[data-map='0.1']").focus()
    shown.keyboard.press("c")
    assert shown.evaluate("document.activeElement.dataset.map") == "0.1"
    shown.keyboard.press("Enter")
    shown.locator(".turn-forward").focus()
    for name in ("L0H2", "L1H0"):
        shown.keyboard.press("Enter")
        assert name in shown.locator(".detail nav h2").inner_text()
        assert shown.evaluate("document.activeElement.className") == "turn-forward"


def test_the_key_says_in_pictures_and_words_what_each_role_that_is_seen_means(renderer, shown):
    behaviors = {
        role.removesuffix("_text")
        for held in renderer.plan.roles.held_on_first_row
        for role in held.values()
    }
    entries = shown.locator(".key li")
    assert entries.count() == len(behaviors) > 1
    for entry in entries.all():
        assert entry.locator("path").get_attribute("d")
        assert any(meaning in entry.inner_text() for _, meaning in ROLE_KEYS.values())


def test_numbers_in_cells_are_read_on_light_and_on_dark_ones(renderer, opened, tmp_path):
    dark = Renderer(renderer.series, "scores", size="720p", theme="dark")
    page = opened(write_explorer(dark, tmp_path / "page.html"))
    numbers = page.locator(".card .numbers text")
    shown = numbers.evaluate_all(
        "texts => texts.map(text => [text.textContent, getComputedStyle(text).fill])"
    )
    assert {ink for text, ink in shown if text in (".04", ".05")} == {"rgb(255, 255, 255)"}


def test_a_change_is_blank_where_there_is_no_capture_before(synthetic, opened, tmp_path):
    made = synthetic.captures(3, blocks=2, heads=2, length=16, period=5)
    run = [synthetic.write_capture(tmp_path, synthetic.with_updates(each)) for each in made]
    scores = Renderer(Series(run), "scores")
    page = opened(write_explorer(scores, tmp_path / "page.html"))
    canvas = page.locator(".card", has_text="update since last").locator("canvas")
    color = "canvas => [...canvas.getContext('2d').getImageData(0, 0, 1, 1).data].slice(0, 3)"
    panel = list(rgb(scores.plan.theme.panel))
    for index, is_blank in ((0, True), (1, False)):
        go_to(page, index)
        assert (canvas.evaluate(color) == panel) == is_blank
        canvas.hover()
        assert ("no capture before" in page.locator(".tip").inner_text()) == is_blank


def test_the_page_styles_nothing_around_it_and_leaves_a_notebooks_keys_alone(shown, path):
    page = shown
    selectors = page.evaluate(
        "() => [...document.styleSheets[0].cssRules].map(r => r.selectorText)"
    )
    assert selectors == [".tracker-viz"]
    inner = path.read_text().split("<body", 1)[1].split(">", 1)[1].rsplit("</body>", 1)[0]
    page.goto("about:blank")
    page.set_content(f"<h1>mine</h1><button class=tile>mine</button>{inner}")
    page.wait_for_selector(READY)
    own = page.locator("body > button")
    assert own.evaluate("each => getComputedStyle(each).position") == "static"
    assert page.evaluate("getComputedStyle(document.body).margin") == "8px"
    before = step(page)
    own.focus()
    page.keyboard.press("ArrowLeft")
    assert step(page) == before
    assert page.url == "about:blank"


def test_a_clipped_value_is_at_least_the_scales_end(small_run, opened, tmp_path):
    scales = {"weights": {"maximum": 1e-4}}
    renderer = Renderer(Series(small_run), "ffn", size="720p", scales=scales)
    page = opened(write_explorer(renderer, tmp_path / "page.html"))
    go_to(page, 5)
    page.locator(".matrices .tile").first.hover()
    assert ": at least 1e−4" in page.locator(".tip").inner_text()
    page.locator(".matrices .tile").first.click()
    assert page.locator(".large canvas").count() == 1
    assert page.locator(".detail nav h2").inner_text() == "FFN gate · block 0"


def nan_attention(capture):
    if capture.step == 0:
        return capture
    arrays = dict(capture.arrays)
    for name, array in capture.arrays.items():
        if "attn.pattern" in name or name.startswith("scores.head"):
            arrays[name] = np.full_like(array, np.nan)
    return dataclasses.replace(capture, arrays=arrays, metrics={"loss": float("nan")})


def long_names(capture):
    row = {**capture.probe["rows"][0], "tokens": ["antidisestablishmentarianism" * 3, "\n\t "] * 10}
    return dataclasses.replace(
        capture,
        probe={**capture.probe, "rows": [row]},
        model={
            **capture.model,
            "name": "an/organisation/and-a-model-with-a-name-without-an-end" * 2,
        },
    )


RUNS = {
    "one head": (3, {"blocks": 1, "heads": 1, "length": 12}, None),
    "one capture": (1, {"blocks": 2, "heads": 3, "length": 20}, None),
    "nan": (4, {"blocks": 2, "heads": 3, "length": 20}, nan_attention),
    "long names": (3, {"blocks": 2, "heads": 3, "length": 20, "probes": 1}, long_names),
    "many heads": (3, {"blocks": 20, "heads": 32, "length": 20, "probes": 1}, None),
}


@pytest.fixture(scope="module", params=RUNS)
def odd_run(request, synthetic, tmp_path_factory):
    n_captures, options, change = RUNS[request.param]
    captures = list(synthetic.captures(n_captures, **SMALL, **options))
    if change:
        captures = [change(capture) for capture in captures]
    folder = tmp_path_factory.mktemp("odd")
    paths = [synthetic.write_capture(folder, capture) for capture in captures]
    return Series(paths, title=request.param * 12)


SIZES = ((390, 844), (320, 560), (640, 900), (715, 600), (1280, 800), (1600, 1000))
# What is wider than the window, and how wide the large maps are.
ROOM = """async () => {
  for (let frame = 0; frame < 2; frame++) await new Promise(requestAnimationFrame);
  const large = [...document.querySelectorAll('.large canvas')].map((each) => each.clientWidth);
  return [document.documentElement.scrollWidth - innerWidth, large];
}"""


@pytest.mark.parametrize("layout", ["overview", "heads", "scores", "head"])
def test_every_run_is_shown_within_every_width_and_its_heads_open(
    odd_run, tmp_path, opened, layout
):
    renderer = Renderer(odd_run, layout, theme="light")
    path = write_explorer(renderer, tmp_path / "page.html")
    page = opened(path)
    for is_open in (True, False):
        if is_open and layout != "head":
            page.locator(".tile, .plot canvas").first.click(position={"x": 2, "y": 2})
            assert page.locator(".detail nav h2").inner_text().startswith("L0H0")
        elif not is_open:
            page.keyboard.press("Escape")
        for width, height in SIZES:
            page.set_viewport_size({"width": width, "height": height})
            beyond, large = page.evaluate(ROOM)
            assert beyond <= 0, f"wider than {width}"
            assert all(each >= min(180, 0.5 * width) for each in large)


SCROLLED_FOR_NOTHING = """() => {
  const found = [];
  for (const element of document.querySelectorAll('*')) {
    const { overflowX, overflowY } = getComputedStyle(element);
    const box = element.getBoundingClientRect();
    const leaves = [...element.querySelectorAll('button, canvas, text, li, .label')]
      .map((leaf) => leaf.getBoundingClientRect());
    const right = Math.max(...leaves.map((leaf) => leaf.right)) - box.left + element.scrollLeft;
    const bottom = Math.max(...leaves.map((leaf) => leaf.bottom)) - box.top + element.scrollTop;
    const sides = [
      ['x', overflowX, element.clientWidth, element.scrollWidth, right],
      ['y', overflowY, element.clientHeight, element.scrollHeight, bottom],
    ];
    for (const [side, overflow, seen, whole, end] of sides)
      if (/auto|scroll/.test(overflow) && whole > seen && end <= seen + 1)
        found.push(`${element.tagName} ${element.className}: ${side}, ${whole} in ${seen}`);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def window_with_scrollbars(chromium):
    """Where scrollbars take room, as on most desktops; headless browsers hide them."""
    browser = chromium.browser_type.launch(
        executable_path=shutil.which("chromium") or shutil.which("chromium-browser"),
        args=["--no-sandbox", "--disable-gpu"],
        ignore_default_args=["--hide-scrollbars"],
        timeout=300_000,
    )
    yield browser.new_page()
    browser.close()


@pytest.mark.parametrize("width", [1600, 1280, 1000, 695, 500, 360])
def test_nothing_scrolls_in_a_direction_in_which_nothing_is_cut(
    window_with_scrollbars, path, width
):
    page = window_with_scrollbars
    page.set_viewport_size({"width": width, "height": 900})
    page.goto("about:blank")
    page.goto(path.as_uri())
    page.wait_for_selector(READY)
    assert page.evaluate("innerWidth - document.documentElement.clientWidth") > 0
    assert page.evaluate(SCROLLED_FOR_NOTHING) == []
    key = page.locator(".key")
    assert key.evaluate("element => element.scrollWidth - element.clientWidth") == 0
