"""A run's events are told in the same words wherever they are told."""

from __future__ import annotations

import csv
import json
import re

from tracker_viz.pipeline.results.delivering import put_pictures
from tracker_viz.rendering import Renderer, Series
from tracker_viz.rendering.export.explorer.page import explorer_page
from tracker_viz.trackers.local import LocalTracker
from tracker_viz.trackers.mlflow.note import run_note


def test_film_page_table_summary_and_note_tell_a_run_in_the_same_words(small_run, tmp_path):
    renderer = Renderer(Series(small_run), "overview", size="720p")
    story = renderer.plan.story
    texts = [event.text for event in story.events]
    assert len(texts) > 1

    run = LocalTracker(tmp_path).create_run(name="a run", config={})
    put_pictures([run], [], renderer, name="overview", is_whole_run=True, n_key_frames=0)
    table = (run.directory / "events.csv").read_text()
    rows = list(csv.DictReader(table.splitlines()))
    assert [row["text"] for row in rows] == texts
    assert (run.directory / "tables/events.csv").is_file()
    summary = json.loads((run.directory / "summary.json").read_text())
    assert summary["tracker_viz/story"] == story.summary != ""

    page = explorer_page(renderer, range(6)).decode()
    description = json.loads(re.search(r'class="description">(.*?)</script>', page)[1])
    assert [event["text"] for event in description["events"]] == texts
    assert description["summary"] == story.summary
    assert [event["who"] for event in description["events"]] == [e.who for e in story.events]
    flags = {label.text for label in renderer.plan.labels}
    for event in story.events:
        assert any(flag.endswith(f"{event.headline}: {event.who}") for flag in flags)

    note = run_note(["events.csv"], run_id="0", link=str, event_table=table)
    told = re.findall(r"^\*\*.*?\*\* · (.*?) *$", note, flags=re.MULTILINE)
    assert told == texts


def test_a_part_of_a_run_does_not_tell_the_runs_story(small_run, tmp_path):
    renderer = Renderer(Series(small_run[:3]), "overview", size="720p")
    run = LocalTracker(tmp_path).create_run(name="a run", config={})
    put_pictures([run], [], renderer, name="overview", is_whole_run=False, n_key_frames=0)
    assert not (run.directory / "events.csv").exists()
