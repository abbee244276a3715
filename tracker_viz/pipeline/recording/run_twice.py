"""Notice a watch cell that is run twice on one model: in a notebook the earlier recording is
closed.

A script may watch one model twice on purpose. In a notebook the name ``recorder`` stands for the
new one from then on, and nobody would close the first: its run would stay open.
"""

from __future__ import annotations

import logging
import weakref
from typing import TYPE_CHECKING

from tracker_viz.notebook import in_notebook
from tracker_viz.pipeline.recording.watcher import Watcher

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)

# Neither keeps the other alive, nor itself.
_latest: weakref.WeakKeyDictionary[nn.Module, weakref.ref[Watcher]] = weakref.WeakKeyDictionary()


def remember(watcher: Watcher, model: nn.Module) -> None:
    _latest[model] = weakref.ref(watcher)


def close_earlier(model: nn.Module) -> None:
    """Close the recording of this model that is still open in a notebook, and say so."""
    if not in_notebook() or model not in _latest:
        return
    earlier = _latest[model]()
    if earlier is None or not earlier.is_open:
        return
    log.warning(
        "this model is watched already, by an earlier run of this cell: %r. That "
        "recording is closed, and a new one starts. To continue the same run, "
        "pass run=%r. To log to several runs, pass a list: run=[..., ...]",
        earlier,
        str(earlier.ref),
    )
    earlier.close()
