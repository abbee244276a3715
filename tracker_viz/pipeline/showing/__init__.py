"""Show results, and a training that goes on, in notebooks: markup of ``notebook`` around files that
are here."""

from tracker_viz.pipeline.showing.pictures import picture_markup
from tracker_viz.pipeline.showing.training import Place, TrainingView

__all__ = ["Place", "TrainingView", "picture_markup"]
