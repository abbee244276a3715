"""Find the score arrays that a layout's panels mean in this run."""

from __future__ import annotations

from fnmatch import fnmatchcase

from tracker_viz.errors import LayoutError
from tracker_viz.metrics import HEAD_PREFIX, ROLES, Role
from tracker_viz.rendering.layout import Scores
from tracker_viz.rendering.planning.plan_builder import PlanBuilder
from tracker_viz.rendering.series import Series

HELD = "held"  # role.held: the roles that heads of this run hold
MOST_HELD = 3
USUAL_ROLES = ("previous_token", "induction", "sink")


def resolve_scores(builder: PlanBuilder, panel: Scores) -> list[str]:
    """Return the names of the score arrays that match, in the panel's order."""
    names: dict[str, None] = {}  # each once, in order
    for pattern in panel.names:
        kind, _, of_role = pattern.partition(".")
        if kind == "role":
            found = _scores_of_roles(builder.series, of_role)
            if of_role == HELD:
                found = _scores_of_held_roles(builder)
            names |= dict.fromkeys(found)
            continue
        for name in builder.series.names(f"scores.{pattern}"):
            if len(builder.series.arrays[name].shape) != 2:
                continue  # composition is of pairs of heads: the layout circuit draws it
            # A pattern leaves out the scores that not every capture has.
            if name == f"scores.{pattern}" or _is_in_all_captures(builder.series, name):
                names[name] = None
    if not names and not builder.series.names("scores.head.*"):
        # A model that attends nowhere, as Mamba, has scores of its mixing maps.
        names = dict.fromkeys(builder.series.names("scores.mixing.*"))
    if names:
        return list(names)
    found = builder.series.names("scores.*")[:12]
    have = ", ".join(name.removeprefix("scores.") for name in found)
    have = have or "no scores at all, which the layouts heads, ffn and changes do without"
    raise LayoutError(
        f"layout {builder.layout.name!r} draws the scores {', '.join(panel.names)}, and the "
        f"captures hold none of them; they hold: {have}"
    )


def _is_in_all_captures(series: Series, name: str) -> bool:
    array = series.arrays[name]
    return array.missing_at is None and array.reshaped_at is None


def _scores_of_roles(series: Series, pattern: str) -> list[str]:
    """Return the array that measures each role whose name matches, as ``role_of_score`` says."""
    found = []
    for role in ROLES:
        name = score_of_role(series, role)
        if name and fnmatchcase(role.name, pattern):
            found.append(name)
    return found


def _scores_of_held_roles(builder: PlanBuilder) -> list[str]:
    """Return the arrays of up to ``MOST_HELD`` roles on the first row of the probe: those that
    heads hold in the end, then those that heads ever held, then the usual ones."""
    roles = builder.roles
    held_ever, held_in_the_end = set[str](), set[str]()
    if len(roles.held):
        held_in_the_end = set(roles.held_on_first_row[-1].values())
    for at_capture in roles.held_on_first_row:
        held_ever.update(at_capture.values())

    def rank(role: Role) -> tuple[bool, bool, bool]:
        return (
            role.name not in held_in_the_end,
            role.name not in held_ever,
            role.name not in USUAL_ROLES,
        )

    kind = roles.row_kinds[0] if roles.row_kinds else "repeated"
    measured = []
    for role in ROLES:
        if role.rows == kind and score_of_role(builder.series, role):
            measured.append(role)
    chosen = sorted(measured, key=rank)[:MOST_HELD]
    # In the order of all roles, so that runs with the same ones look alike.
    return [str(score_of_role(builder.series, role)) for role in measured if role in chosen]


def role_of_score(series: Series, name: str) -> str:
    """Return the role that an array of scores measures in a run, empty if none.

    Where a role speaks about one kind of probe row, that is the score on these rows. The mean over
    all rows measures it only in captures that hold nothing else.
    """
    for role in ROLES:
        if score_of_role(series, role) == name:
            return role.name
    return ""


def score_of_role(series: Series, role: Role) -> str | None:
    """Return the name of the array that measures a role in a run; None where it has none."""
    names = [HEAD_PREFIX + score for score in role.scores or (role.name,)]
    return next((name for name in names if name in series.arrays), None)
