"""Read the chart points and the alarms of captures from a spool.

``spool`` is the spool seen as a local run. A point also stays in its ``metrics.jsonl``, from where
it can be read after the capture was delivered and deleted.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from tracker_viz import capture_file
from tracker_viz.errors import CaptureFileError, TrackerError
from tracker_viz.files import read_json, read_lines
from tracker_viz.metrics import charted
from tracker_viz.stored import IndexEntry, MetricsLine, StoredAlarm
from tracker_viz.trackers import LocalRun, MetricPoint
from tracker_viz.types import CaptureHeader, CaptureRef

log = logging.getLogger(__name__)


def metric_point(spool: LocalRun, ref: CaptureRef, *, without: Collection[str] = ()) -> MetricPoint:
    """Return what trackers chart of a capture, with the time at which it was taken.

    Args:
        without: names to leave out.

    Raises:
        CaptureFileError: the file is not whole.
        OSError: the disk is away.
    """
    metrics = charted(_header(spool, ref).metrics)
    values = {name: value for name, value in metrics.items() if name not in without}
    entry = spool.entry_path(ref)
    taken = IndexEntry.of(read_json(entry), entry).time
    return MetricPoint(ref.step, values, taken)


def alarms_of(spool: LocalRun, ref: CaptureRef) -> list[StoredAlarm]:
    """Return the alarms that begin with a capture; none where the file is not whole.

    Raises:
        TrackerError: an alarm in it is damaged.
        OSError: the disk is away.
    """
    try:
        found = _header(spool, ref).model.get("alarms", ())
    except CaptureFileError:
        return []
    return [StoredAlarm.of(each, spool.capture_path(ref)) for each in found]


def logged_points(spool: LocalRun, *, without: Collection[str] = ()) -> dict[int, MetricPoint]:
    """Return step -> point, as ``metric_point`` returns it, also of captures that were delivered
    and deleted."""
    path = spool.directory / "metrics.jsonl"
    points = {}
    for found in read_lines(path):
        try:
            line = MetricsLine.of(found, path)
        except TrackerError:
            continue  # such as one that a full disk cut
        metrics = charted(line.values)
        values = {name: value for name, value in metrics.items() if name not in without}
        points[line.step] = MetricPoint(line.step, values, line.time)
    return points


def log_left_out(spool: LocalRun) -> None:
    """Log the points of captures that were written just before a kill."""
    logged = logged_points(spool)
    for ref in spool.list_captures():
        if ref.step in logged:
            continue
        try:
            spool.log_metrics([metric_point(spool, ref)])
        except CaptureFileError as error:
            log.warning("the metrics of step %d cannot be read: %s", ref.step, error)


def _header(spool: LocalRun, ref: CaptureRef) -> CaptureHeader:
    """Read a capture's header.

    Raises:
        CaptureFileError: the file is not whole.
        OSError: the disk is away, which a damaged file must be told from.
    """
    try:
        return capture_file.read_header(spool.capture_path(ref))
    except CaptureFileError as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from error
        raise
