"""Label heads: scores over a run in, the role of every head at every capture out.

A role is about one kind of probe row, and is measured on it: repeats of random tokens, or text. A
head takes a role on evidence gathered over captures, not at the first one above the line;
``onsets`` says when.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from tracker_viz.errors import ConfigError
from tracker_viz.metrics.probe_rows import RowKind
from tracker_viz.metrics.series import ScoreSeries

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
NO_ROLE = -1
# A one-sided CUSUM (Page 1954): each capture adds how many standard deviations it lies beyond the
# line, the sum never falls below 0, and at ``EVIDENCE`` it decides. A score that truly lies one
# standard deviation short of the line reaches it in 1 % of runs of 300 captures and in 2 % of 1,000
# (simulated); one that lies two beyond needs three captures.
EVIDENCE = 4.5
# No capture adds more than half of that: one odd capture decides nothing, two clear ones do.
MOST_PER_CAPTURE = EVIDENCE / 2
# A trained head's scores vary by about this much, even where the few differences between captures
# happen to be smaller.
LEAST_NOISE = 0.01
# Assumed noise of another draw of the probe, for captures that do not store it: the spread between
# single rows of the demo's probe.
UNKNOWN_ROW_NOISE = 0.03
NEAR_LINE = 2.0  # standard deviations
_FEW_CAPTURES = 12


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


@dataclass(frozen=True, slots=True)
class RoleEvidence:
    """The evidence of one run for one role.

    Attributes:
        scores: float32 [capture, block, head]: of several scores that a role needs the lowest.
        noise: float32, of the same shape: the standard deviation of ``scores``.
        noise_of_draw: float32 [block, head]: the same at the last capture, for another draw of the
            probe; assumed where the captures do not hold it.
        states: bool, of the same shape: whether the head has the role.
        uniform: the score of uniform attention.
    """

    scores: Floats
    noise: Floats
    noise_of_draw: Floats
    states: NDArray[np.bool_]
    uniform: float

    def with_line(self, role: Role) -> RoleEvidence:
        """Return the same with the states that the lines of ``role`` give."""
        return replace(self, states=role_states(self.scores, role, self.noise))


Evidence = Mapping[str, RoleEvidence]


def gather_evidence(series: ScoreSeries, roles: tuple[Role, ...] = ROLES) -> Evidence:
    """Return role -> a run's evidence for it, for the roles that its captures measure."""
    found: dict[str, RoleEvidence] = {}
    if not series.n_captures:
        return found
    kept = _kept_of(series).evidence
    for role in roles:
        if role not in kept:
            kept[role] = role_evidence(series, role)
        evidence = kept[role]
        if evidence is not None:
            found[role.name] = evidence
    return found


@dataclass(frozen=True, slots=True)
class _Kept:
    """Hold what was found of one run: its evidence for each role, and the labels of its heads by
    roles and kind of row."""

    evidence: dict[Role, RoleEvidence | None] = field(default_factory=dict)
    labels: dict[tuple[tuple[Role, ...], RowKind | None], tuple[NDArray[np.int8], Floats]] = field(
        default_factory=dict
    )


# Of the latest run only: of many runs it would take as much memory as their scores.
_latest: WeakKeyDictionary[ScoreSeries, _Kept] = WeakKeyDictionary()


def _kept_of(series: ScoreSeries) -> _Kept:
    kept = _latest.get(series)
    if kept is None:
        kept = _Kept()
        _latest.clear()
        _latest[series] = kept
    return kept


def role_evidence(series: ScoreSeries, role: Role) -> RoleEvidence | None:
    """Return what a run knows about a role; None where its captures do not measure it."""
    score = role.score_of(series)
    if score is None:
        return None
    scores = series.heads[score]
    if role.also in series.heads:
        # A NaN of one says nothing against the other.
        scores = np.fmin(scores, series.heads[role.also])
    over_time, over_rows = noise_over_time(scores), _noise_over_rows(series, score)
    noise = np.broadcast_to(over_time, scores.shape)
    noise_of_draw = np.hypot(over_time, np.float32(UNKNOWN_ROW_NOISE))
    if over_rows is not None:
        noise = np.hypot(over_time, np.nan_to_num(over_rows))
        noise_of_draw = np.where(np.isfinite(over_rows[-1]), noise[-1], noise_of_draw)
    states = role_states(scores, role, noise)
    return RoleEvidence(scores, noise, noise_of_draw, states, series.uniform.get(score, 0.0))


def margin(score: Floats, uniform: float) -> Floats:
    """Return how far a score is above that of uniform attention, as a share of the way to 1: 0 for
    uniform, 1 for a perfect head."""
    return (score - np.float32(uniform)) / np.float32(1 - uniform)


def noise_over_time(scores: Floats) -> Floats:
    """Return how much each head's score varies: float32 [block, head], at least ``LEAST_NOISE``.

    Taken from the sizes of the differences between captures, so that a rise is not counted as
    noise: from the first differences, which a sudden rise hardly meets, or the second ones, which a
    steady rise leaves small, whichever are smaller.
    """
    estimates = []
    # A rise may take half of a few captures: there the lower quartile of the differences counts.
    is_short = len(scores) < _FEW_CAPTURES
    quantile = 0.25 if is_short else 0.5
    of_normal = 0.3186 if is_short else 0.6745  # the same quantile of |x|, x standard normal
    for order, growth in ((1, np.sqrt(2)), (2, np.sqrt(6))):
        if len(scores) <= order:
            continue
        sizes = np.abs(np.diff(scores.astype(np.float64), order, axis=0))
        estimates.append(_nan_quantile(sizes, quantile) / of_normal / growth)
    least = np.full(scores.shape[1:], LEAST_NOISE)
    if not estimates:
        return least.astype(np.float32)
    return np.fmax(np.fmin.reduce(estimates), least).astype(np.float32)


def role_states(scores: Floats, role: Role, noise: Floats | None = None) -> NDArray[np.bool_]:
    """Return where each head has ``role``: bool, of the shape of ``scores`` [capture, ...].

    A head has the role from the capture on at which it rose above ``role.enter``, once that and the
    following captures have gathered ``EVIDENCE``; it loses it in the same way below ``role.leave``.

    A NaN changes nothing while a score comes after it: the head keeps its state. Where none comes
    any more the head has no role: its training has died.

    Args:
        noise: standard deviation of ``scores``; None: estimated from how they vary over time.
    """
    if noise is None:
        noise = noise_over_time(scores)
    above, below = _beyond_lines(scores, role, noise)
    is_measured = np.isfinite(scores)
    heads = scores.shape[1:]
    has_role = np.zeros(heads, bool)
    evidence = np.zeros(heads)  # for a change: for taking the role, or for losing it
    began = np.zeros(heads, np.int64)  # the capture with the first of this evidence
    changes_at = np.zeros(scores.shape, bool)
    for index in range(len(scores)):
        began = np.where((evidence == 0) & is_measured[index], index, began)
        added = np.where(has_role, below[index], above[index])
        evidence = np.maximum(evidence + np.minimum(added, MOST_PER_CAPTURE), 0)
        changes = evidence >= EVIDENCE
        for head in map(tuple, np.argwhere(changes)):
            changes_at[(began[head], *head)] ^= True
        has_role = has_role ^ changes
        evidence = np.where(changes, 0, evidence)

    states = np.logical_xor.accumulate(changes_at)
    is_measured_again = np.logical_or.accumulate(is_measured[::-1])[::-1]
    return states & is_measured_again


def _beyond_lines(scores: Floats, role: Role, noise: Floats) -> tuple[Doubles, Doubles]:
    """Return how far scores lie above ``role.enter``, and below ``role.leave``, in standard
    deviations: both of the shape of ``scores``; 0 for NaN."""
    deviations = np.broadcast_to(noise, scores.shape).astype(np.float64)
    with np.errstate(invalid="ignore"):
        above = np.nan_to_num((scores - role.enter) / deviations)
        below = np.nan_to_num((role.leave - scores) / deviations)
    return above, below


def head_roles(
    series: ScoreSeries,
    roles: tuple[Role, ...] = ROLES,
    *,
    rows: RowKind | None = None,
) -> tuple[NDArray[np.int8], Floats]:
    """Return the role of every head at every capture: (index into ``roles`` or ``NO_ROLE``,
    margin), both [capture, block, head].

    Of several roles at once the one with the greatest margin counts; a head keeps the one that it
    had as long as noise explains by how much another is ahead. Without a role the margin is that of
    the nearest one.

    Args:
        rows: the kind of probe row that the roles are about; None: a role among repeats counts
            before any role on text, so that a head which does the same on both has one name.
    """
    kept = _kept_of(series).labels
    if (roles, rows) not in kept:
        kept[roles, rows] = labels, margins = _head_roles(series, roles, rows)
        labels.flags.writeable = margins.flags.writeable = False
    return kept[roles, rows]


def _head_roles(
    series: ScoreSeries, roles: tuple[Role, ...], rows: RowKind | None
) -> tuple[NDArray[np.int8], Floats]:
    known = gather_evidence(series, roles)
    shape = (series.n_captures, *series.shape)
    labels = np.full(shape, NO_ROLE, np.int8)
    margins, nearest = np.full(shape, -np.inf, np.float32), np.full(shape, np.nan, np.float32)
    kinds: tuple[RowKind, ...] = (rows,) if rows else ("repeated", "text")
    for kind in kinds:
        of_kind = [
            (index, known[role.name])
            for index, role in enumerate(roles)
            if role.rows == kind and role.name in known
        ]
        if not of_kind:
            continue
        before = np.full(series.shape, NO_ROLE, np.int8)
        for capture in range(series.n_captures):
            label, label_margin = _steady_label(of_kind, capture, before)
            is_free = labels[capture] == NO_ROLE
            labels[capture] = np.where(is_free, label, labels[capture])
            margins[capture] = np.where(is_free, label_margin, margins[capture])
            before = label
        for _, of_role in of_kind:
            nearest = np.fmax(nearest, margin(of_role.scores, of_role.uniform))
    return labels, np.where(labels == NO_ROLE, nearest, margins)


def _steady_label(
    of_kind: Sequence[tuple[int, RoleEvidence]], capture: int, before: NDArray[np.int8]
) -> tuple[NDArray[np.int8], Floats]:
    """Return (label, its margin) at a capture, both [block, head]: the role with the greatest
    margin, or the one before, where noise explains by how much it is behind.

    Args:
        of_kind: (label, evidence) of the roles on one kind of row; at least one.
        before: the labels at the capture before.
    """
    labels = np.array([label for label, _ in of_kind], np.int8)
    known = [evidence for _, evidence in of_kind]
    uniform = np.array([each.uniform for each in known], np.float32)[:, None, None]
    rest = np.array([1 - each.uniform for each in known], np.float32)[:, None, None]
    scores = np.stack([each.scores[capture] for each in known])  # [role, block, head]
    states = np.stack([each.states[capture] for each in known])
    noise = np.stack([each.noise[capture] for each in known])
    margins = np.where(states, np.nan_to_num((scores - uniform) / rest), -np.inf)
    slack = NEAR_LINE * noise / rest

    was = labels[:, None, None] == before
    kept = np.where(was, margins, -np.inf).max(0)
    leader = margins.argmax(0)[None]
    best = margins.max(0)
    kept_slack = np.where(was, slack, 0).max(0)
    best_slack = np.where(np.isfinite(best), np.take_along_axis(slack, leader, 0)[0], 0)
    is_kept = np.isfinite(kept) & (kept + np.hypot(best_slack, kept_slack) >= best)
    leads = np.where(np.isfinite(best), labels[leader[0]], np.int8(NO_ROLE))
    return np.where(is_kept, before, leads), np.where(is_kept, kept, best)


def near_line(evidence: RoleEvidence, role: Role) -> NDArray[np.bool_]:
    """Return which heads' labels at the last capture another draw of the probe, or a few more
    steps, could change: bool [block, head].

    That is so within two standard deviations of ``role.enter``, and between the two lines where the
    head has the role or came that near to it before.
    """
    score, slack = evidence.scores[-1], NEAR_LINE * evidence.noise_of_draw
    with np.errstate(invalid="ignore"):
        is_close = np.abs(score - role.enter) <= slack
        is_between = (score >= role.leave - slack) & (score <= role.enter)
        came_near = np.fmax.reduce(evidence.scores - role.enter) >= -slack
    return np.asarray(is_close | (is_between & (evidence.states[-1] | came_near)))


def labels_near_line(evidence: Evidence, *, rows: RowKind) -> NDArray[np.bool_] | None:
    """Return which heads' labels on a kind of row another draw of the probe could change at the
    last capture: bool [block, head]; None where no role was measured on it.

    A role near its line changes no label beside one that the head has for certain, by a greater
    margin. Where noise does not tell the margins of two certain roles apart, either may be the
    label.
    """
    of_roles: list[tuple[NDArray[np.bool_], Floats, Floats]] = []
    for role in ROLES:
        if role.rows == rows and role.name in evidence:
            known = evidence[role.name]
            is_near = near_line(known, role)
            margins = margin(known.scores[-1], known.uniform)
            held = np.where(known.states[-1] | is_near, margins, -np.inf)
            of_roles.append((is_near, held, NEAR_LINE * known.noise_of_draw))
    if not of_roles:
        return None

    near, held_margins, slacks = map(np.stack, zip(*of_roles, strict=True))  # [role, block, head]
    certain = np.where(near, -np.inf, held_margins)
    best = certain.max(0)
    could_lead = near & (held_margins > best)
    second = np.sort(certain, axis=0)[-2] if len(certain) > 1 else np.full_like(best, -np.inf)
    is_tied = np.isfinite(best) & (second >= best - slacks.max(0))
    return np.asarray(could_lead.any(0) | is_tied)


def _noise_over_rows(series: ScoreSeries, score: str) -> Floats | None:
    """Return the standard error of a score's mean over the rows: [capture, block, head]; None where
    the captures do not say."""
    n_rows = series.n_rows.get(score, 0)
    if score not in series.spread or n_rows < 2:
        return None
    return series.spread[score] / np.float32(np.sqrt(n_rows))


def _nan_quantile(values: Doubles, quantile: float) -> Doubles:
    """Return the (lower) quantile over captures of what is not NaN; NaN where nothing is.

    numpy's own goes through the heads one by one in Python.
    """
    n_known = np.isfinite(values).sum(0)
    ranked = np.sort(np.where(np.isfinite(values), values, np.inf), axis=0)  # unknown ones last
    place = np.floor(quantile * np.maximum(n_known - 1, 0)).astype(np.int64)
    found = np.take_along_axis(ranked, place[None], 0)[0]
    return np.where(n_known > 0, found, np.nan)
