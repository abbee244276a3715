"""Print the results of jobs: links to the video, captures left to upload, the next command."""

from __future__ import annotations

import sys
from collections.abc import Container, Mapping, Sequence
from typing import Any

from tracker_viz import commands, notebook
from tracker_viz.delivery import Report
from tracker_viz.pipeline import Picture, RenderResult, SweepResult
from tracker_viz.trackers import Run


def print_rendered(result: RenderResult) -> None:
    """Print the pictures of a run and the link to the first of them."""
    first, *others = result.pictures
    captures = notebook.count(result.n_captures, "capture")
    print(f"Made of {captures}: {first.path} ({_extent(first)})")
    if others:
        names = [f"{each.path.name} ({_extent(each)})" for each in others]
        print(f"Beside it: {', '.join(names)}")
    for each in result.pictures:
        if each.notice:
            print(f"{each.path.name}: {each.notice}")
    if result.missing_steps:
        print(
            "Steps that could not be downloaded (gaps in the timeline): "
            f"{', '.join(map(str, result.missing_steps))}"
        )
    for upload in first.uploads:
        print(f"Watch it in the run: {upload.url}")
        if upload.ui_command:
            print(f"  with the UI running: {upload.ui_command}")


def print_version(result: RenderResult) -> None:
    """Print one line for a version of a film that goes on."""
    first = result.pictures[0]
    place = first.uploads[0].url if first.uploads else first.path
    captures = notebook.count(result.n_captures, "capture")
    print(f"{captures} ({_extent(first)}): {place}", flush=True)


def print_rendered_sweep(result: SweepResult) -> None:
    """Print a line for each of a sweep's runs."""
    commands: set[str] = set()
    for ref, rendered in result.rendered.items():
        first = rendered.pictures[0]
        details = [_extent(first)]
        if rendered.missing_steps:
            missing = notebook.count(len(rendered.missing_steps), "capture")
            details.append(f"{missing} could not be pulled")
        details += [picture.notice for picture in rendered.pictures if picture.notice]
        print(f"{ref}: {rendered.url or first.path} ({'; '.join(details)})")
        commands |= {upload.ui_command for upload in first.uploads if upload.ui_command}
    for ref, why in result.failed.items():
        print(f"{ref} has no video: {why}")
    if result.in_step:
        print(f"The videos of its runs, in step: {result.in_step}")
    for command in sorted(commands):
        print(f"  with the UI running: {command}")


def _extent(picture: Picture) -> str:
    extent = f"{picture.path.stat().st_size / 1e6:.1f} MB"
    if picture.duration_s:
        extent += f", {picture.duration_s:.0f} s long"
    return extent


def print_delivery(report: Report | None) -> None:
    """Print the runs that got the captures, and how to send those that could not be sent; None, as
    on a process that records nothing, prints nothing."""
    if report is None:
        return
    print_destinations(report)
    if report.command:
        print(f"To upload what is left:\n  {report.command}")


def print_destinations(report: Report) -> None:
    """Print the runs that got the captures, and what could not be sent."""
    for delivery in report.deliveries:
        place = delivery.ref or delivery.name
        if delivery.refused and not delivery.left:
            print(f"{delivery.name}: {delivery.error}")
            continue
        state = "all of them"
        if not delivery.complete:
            state = "all of them, and the end of the run is still to go"
            if delivery.left:
                state = f"{delivery.left} still to go"
            if not delivery.is_error_logged:
                state += f" ({delivery.error or 'no answer in time'})"
        print(f"Captures in {place}: {delivery.sent}, {state}")
        if delivery.damaged:
            print(
                "Steps whose captures are damaged both in the run and here: "
                f"{', '.join(map(str, delivery.damaged))}"
            )
    if report.lost:
        print(
            "Steps whose captures could not be written to the disk: "
            f"{', '.join(map(str, report.lost))}"
        )


def aligned_table(rows: Sequence[Sequence[str]], *, text_columns: Container[int]) -> list[str]:
    """Return the lines of a table with a rule below its first row: text columns are aligned to the
    left, all others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
            cells.append(cell.ljust(width) if column in text_columns else cell.rjust(width))
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("─" * width for width in widths))
    return lines


def resume_command(run: Run, places: Mapping[str, Any]) -> str:
    """Return the command that continues the training of ``run``, from any directory; ``places``:
    options that it must repeat."""
    words = [commands.option(name, value) for name, value in places.items()]
    return commands.resume([sys.executable, sys.argv[0]], run.ref, run.environment, words)
