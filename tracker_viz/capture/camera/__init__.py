"""Take captures of one model on one probe."""

from tracker_viz.capture.camera.camera import MAX_SCORED_ENTRIES, Camera

__all__ = ["MAX_SCORED_ENTRIES", "Camera"]
