"""Find what happened in a run: roles taken, the loss falling or jumping, collapse, NaN, and what a
mixture's experts do.

One list of typed events, in the order of their steps, is the story of a run. The film's caption,
the flags on its timeline, a run's note, the explorer's buttons and a comparison all say it in the
same words. Every word and figure is taken from measured values.

Each module is about one kind of event: a class with its words, and the function that finds it.
``find.FINDERS`` lists them all.
"""

from tracker_viz.metrics.events.event import Event, Tone
from tracker_viz.metrics.events.experts import DeadExperts
from tracker_viz.metrics.events.find import event_table, find_events, strongest_event
from tracker_viz.metrics.events.loss import LossFall
from tracker_viz.metrics.events.role import RoleEvent
from tracker_viz.metrics.events.sentence import run_sentence

__all__ = [
    "DeadExperts",
    "Event",
    "LossFall",
    "RoleEvent",
    "Tone",
    "event_table",
    "find_events",
    "run_sentence",
    "strongest_event",
]
