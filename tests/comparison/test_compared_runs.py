"""A picture of several runs pulls no more than is allowed."""

from __future__ import annotations

import numpy as np

from tracker_viz.comparison import Alignment
from tracker_viz.pipeline.comparing.compared_runs import _affordable
from tracker_viz.pipeline.comparing.scored_runs import ScoredRun
from tracker_viz.types import CaptureRef, capture_file_name


def test_captures_of_different_sizes_stay_within_the_limit_too():
    sizes = [1] * 9 + [91]
    captures = []
    for step, nbytes in enumerate(sizes):
        captures.append(CaptureRef(step, capture_file_name(step), nbytes, "ab" * 32))
    run = ScoredRun(None, None, tuple(captures), (), {}, ())
    every = Alignment("step", np.arange(10.0), np.arange(10)[None], np.zeros((1, 10), bool))

    alignment, notes = _affordable(every, [run], 92e-9)
    assert sum(sizes[index] for index in alignment.captures[0]) <= 92
    assert alignment.points[[0, -1]].tolist() == [0, 9]
    assert "at most 9.2e-08 are pulled (max_gb)" in notes[0]
