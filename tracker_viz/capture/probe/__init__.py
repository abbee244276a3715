"""Make the probe batch: the fixed tokens whose attention is captured, so that frames are comparable
over steps and runs.

Two kinds of rows, because they show different things: *repeated* random tokens, where only a head
that looks back for what followed last time can do better than chance (induction; Olsson et al.
2022), and *text*. Behind the rows that are drawn come *hidden* ones of both kinds. Heads are scored
on them, too, so that a score is no accident of one draw, and no fixed distance passes for
induction: they repeat with other periods. Made once, before training, by ``make_probe`` or out of
the user's own token ids by ``probe_from_ids``. No global random state is touched.
"""

from tracker_viz.capture.probe.checks import check_probe
from tracker_viz.capture.probe.given import as_probe, find_repetition, probe_from_ids
from tracker_viz.capture.probe.made import DEFAULT_SCORE_ROWS, make_probe
from tracker_viz.capture.probe.rows import Probe

__all__ = [
    "DEFAULT_SCORE_ROWS",
    "Probe",
    "as_probe",
    "check_probe",
    "find_repetition",
    "make_probe",
    "probe_from_ids",
]
