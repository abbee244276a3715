"""The roles that heads take, and the lines that their scores cross.

A role is about one kind of probe row, and is measured on it: repeats of random tokens, or text.
"""

from __future__ import annotations

from dataclasses import dataclass

from tracker_viz.errors import ConfigError
from tracker_viz.metrics.probe_rows import RowKind
from tracker_viz.metrics.series import ScoreSeries


@dataclass(frozen=True, slots=True)
class Role:
    """A role, and the scores at which a head takes it and loses it.

    Attributes:
        name: of the role; also of its score, where ``scores`` is empty.
        rows: the kind of probe row that it is about.
        scores: names of the score that measures it; the first one that the captures have counts,
            because older captures lack some.
        also: a score that must pass as well, where the captures have it.
        enter, leave: a head takes the role above the one and loses it below the other.
    """

    name: str
    rows: RowKind = "repeated"
    scores: tuple[str, ...] = ()
    also: str = ""
    enter: float = 0.3
    leave: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.leave <= self.enter <= 1:
            raise ConfigError(
                f"role {self.name!r} needs 0 < leave <= enter <= 1; got leave {self.leave}, enter "
                f"{self.enter}"
            )

    def score_of(self, series: ScoreSeries) -> str | None:
        """Return the name of the score that measures this role in a run, or None."""
        names = self.scores or (self.name,)
        return next((name for name in names if name in series.heads), None)


# One line for all: 30 % of a head's attention, which is what Gu et al. 2024 ask of a sink, and six
# times what uniform attention spends on one key at 64 positions. The oldest captures have only the
# mean over all rows, so that it is named after each score that is measured on one kind of row.
ROLES: tuple[Role, ...] = (
    Role("previous_token", scores=("previous_token_repeated", "previous_token")),
    Role("induction", also="induction_min"),
    Role("duplicate_token", also="duplicate_token_min"),
    Role("current_token", scores=("current_token_repeated", "current_token")),
    Role("sink", scores=("sink_repeated", "sink")),
    Role("previous_token_text", "text"),
    Role("current_token_text", "text"),
    Role("sink_text", "text"),
)


def role_label(name: str) -> str:
    """Return a role's name as people read it: ``previous token``, ``previous token (text)``."""
    behavior, is_of_text, _ = name.partition("_text")
    words = behavior.replace("_", " ")
    return f"{words} (text)" if is_of_text else words


def role_score_names(roles: tuple[Role, ...] = ROLES) -> tuple[str, ...]:
    """Return the names of all scores that these roles may be read from."""
    names: dict[str, None] = {}
    for role in roles:
        names |= dict.fromkeys(role.scores or (role.name,))
        if role.also:
            names[role.also] = None
    return tuple(names)
