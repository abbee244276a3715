"""Say in one line where captures and pictures are, at the end of a script's recording or rendering.
Commands print more than that themselves, and notebooks display the results."""

from __future__ import annotations

from collections.abc import Sequence

from tracker_viz import commands, notebook
from tracker_viz.delivery import Outbox, Report
from tracker_viz.notice import is_result_printed, say
from tracker_viz.pipeline.results.delivering import Picture
from tracker_viz.types import RunRef


def say_where_captures_are(outbox: Outbox, report: Report) -> None:
    """Name each run that has all captures, and the command that makes its video. What is left to
    upload was said by ``Outbox.close``."""
    n_captures = {each.ref: each.sent for each in report.deliveries if each.complete}
    if not report.deliveries:
        n_captures[outbox.run.ref] = len(outbox.run.list_captures())
    for run in outbox.runs:
        n = n_captures.get(run.ref, 0)
        if not n or is_result_printed() or notebook.in_notebook():
            continue
        verb = "is" if n == 1 else "are"
        command = commands.render(run.ref, run.environment)
        say(f"{notebook.count(n, 'capture')} {verb} in {run.ref}; make the video with: {command}")


def say_where_pictures_are(ref: RunRef, pictures: Sequence[Picture], n_captures: int) -> None:
    """Say where the first picture can be watched."""
    if is_result_printed() or notebook.in_notebook():
        return
    first = pictures[0]
    words = f"{first.path.name}, made of {notebook.count(n_captures, 'capture')} of {ref}"
    if not first.uploads:
        say(f"{words}: {first.path}")
        return
    upload = first.uploads[0]
    running = f" (with the UI running: {upload.ui_command})" if upload.ui_command else ""
    say(f"{words}: watch it at {upload.url}{running}")
