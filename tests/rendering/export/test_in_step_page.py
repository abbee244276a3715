"""The page that plays a sweep's videos in step: its words stay text, its videos side by side."""

from __future__ import annotations

import pytest

from tracker_viz.rendering.export.in_step import Player, in_step_page


def players(n):
    return [Player(f"seed={number}", "a.webm", (0, 5), (0.0, 1.0)) for number in range(n)]


def test_a_sweeps_title_that_reads_like_a_place_of_its_page_stays_text():
    page = in_step_page("%GROUND% %DESCRIPTION% </title>", {"overview": players(1)})
    assert "<title>%GROUND% %DESCRIPTION% &lt;/title&gt;</title>" in page
    assert page.count('"starts_s"') == 1


@pytest.mark.chromium
@pytest.mark.parametrize(
    ("n_runs", "width", "height", "columns"),
    [
        (2, 715, 500, 2),  # MLflow's frame
        (2, 715, 1200, 2),
        (2, 1600, 1000, 2),
        (6, 715, 500, 2),
        (6, 1600, 1000, 3),
        (2, 390, 844, 1),
        (1, 715, 500, 1),
    ],
)
def test_two_runs_stand_beside_each_other_where_there_is_room(
    page, n_runs, width, height, columns, tmp_path
):
    path = tmp_path / "in_step.html"
    path.write_text(in_step_page("a sweep", {"overview": players(n_runs)}))
    page.set_viewport_size({"width": width, "height": height})
    page.goto(path.as_uri())
    tops = [box["y"] for box in (each.bounding_box() for each in page.locator("figure").all())]
    assert tops.count(tops[0]) == columns
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.get_by_role("slider", name="training step").get_attribute("aria-valuetext")
    page.set_viewport_size({"width": height, "height": width})  # turned, as a phone is
    page.wait_for_function("size => innerWidth === size", arg=height)
    assert page.locator("figure").first.bounding_box()["width"] >= min(230, height - 40)


@pytest.mark.chromium
def test_it_opens_with_what_the_runs_became_and_plays_in_a_loop_at_the_chosen_speed(page, tmp_path):
    path = tmp_path / "in_step.html"
    path.write_text(in_step_page("a sweep", {"overview": players(2)}))
    page.goto(path.as_uri())
    step = page.locator("#step")
    assert step.inner_text() == "step 5"
    page.get_by_role("combobox", name="speed").select_option("4")
    page.get_by_role("button", name="loop").click()
    page.locator("#heading").click()
    page.keyboard.press("Space")
    for wanted in ("step 0", "step 5", "step 0"):
        page.wait_for_function(
            "text => document.querySelector('#step').textContent === text", arg=wanted
        )
    page.keyboard.press("Space")
    assert "play" in page.locator("#play").inner_text()
