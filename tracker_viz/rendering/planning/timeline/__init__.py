"""The timeline: curves, flags of events, lanes of several runs, the time axis."""

from tracker_viz.rendering.planning.timeline.axis import edge_aligned
from tracker_viz.rendering.planning.timeline.curves import curve_range
from tracker_viz.rendering.planning.timeline.flags import event_color
from tracker_viz.rendering.planning.timeline.lanes import has_run_lanes, lane_roles, lanes_px
from tracker_viz.rendering.planning.timeline.place import timeline

__all__ = [
    "curve_range",
    "edge_aligned",
    "event_color",
    "has_run_lanes",
    "lane_roles",
    "lanes_px",
    "timeline",
]
