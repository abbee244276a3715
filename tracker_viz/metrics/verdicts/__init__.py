"""Decide which of the roles' labels hold, from the losses of a model without these heads.

``pipeline.verify`` measures; here are the random sets that a role is compared with (``plans``), the
rule (``table``), and the words (``sentences``). The rule: heads are taken out, the loss that their
role should serve rises, and this rise, less two standard errors, exceeds .01 nats and the largest
rise that as many other heads caused.

* All heads of a role are compared with random sets of as many other heads. These carry no role on
  the same kind of row where there are enough of them, and lie in the same blocks or near them: a
  head of an early block matters more, whatever it does.
* A single head is compared, by the role that the table of heads shows, with every head that
  carries none on the same kind of row. One that shows nothing alone may be replaced by others of
  its role. So it is left in as the only one of them: if the loss falls by as much as above, its
  label holds with its set.
* The loss is that of the tokens that can be copied; for a role on text that of text.
"""

from tracker_viz.metrics.verdicts.ablated import AblatedSet
from tracker_viz.metrics.verdicts.plans import RolePlan, judged_by, labels_at, role_plans
from tracker_viz.metrics.verdicts.sentences import sentences
from tracker_viz.metrics.verdicts.table import (
    VERDICT_COLUMNS,
    Ablations,
    ablations,
    marked_rows,
    verdict_rows,
)

__all__ = [
    "VERDICT_COLUMNS",
    "AblatedSet",
    "Ablations",
    "RolePlan",
    "ablations",
    "judged_by",
    "labels_at",
    "marked_rows",
    "role_plans",
    "sentences",
    "verdict_rows",
]
