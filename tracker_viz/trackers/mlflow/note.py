"""Write the Markdown that MLflow shows on a run's overview page: the way to the film, what was
learned, and pictures.

MLflow renders links, tables and images there and strips everything that could play a video. It
folds a note to a height of five lines until somebody opens it. So the first line is the link, one
sentence for each role follows, and pictures and tables come last.
"""

from __future__ import annotations

import csv
import hashlib
import logging
import posixpath
import urllib.parse
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from tracker_viz.errors import TrackerError
from tracker_viz.files import parsed_object
from tracker_viz.metrics import role_label, shown_heads
from tracker_viz.stored import ComparedRow, EventRow, HeadRow, Stored
from tracker_viz.types import RunRef

log = logging.getLogger(__name__)

TAG = "mlflow.note.content"
# Begins the names of the tags that hold a run's alarms, each as a sentence.
ALARM_TAG = "tracker_viz.alarm."
HEAD_TABLE = "head_roles.csv"
EVENT_TABLE = "events.csv"
VERIFIED = "verify.json"
COMPARED = "compare"  # folder of what a comparison stored, and the stem of its video
COMPARED_TABLE = f"{COMPARED}/runs.csv"
COMPARED_POSTER = f"{COMPARED}/poster.png"
MAX_HEADS = 16
MAX_EVENTS = 12
MAX_RUNS = 20
MAX_COMPARED_ROLES = 3
_ONSET = "onset/"  # begins the names of that table's columns of onsets

_ANIMATIONS = (".webp", ".gif")
_VIDEOS = (".webm", ".mp4")
_PAGES = (".html",)
_FIRST_VIDEOS = (COMPARED, "overview")
_SIGNATURE = "\n<!-- tracker_viz "
# Showdown, which renders the note, draws tables without any space between their columns.
_GAP = "&emsp;"

Row = Mapping[str, str]


def is_noted(artifact: str) -> bool:
    """Return whether the note depends on a file."""
    suffix = posixpath.splitext(artifact)[1]
    at_root = "/" not in artifact and suffix in (*_ANIMATIONS, *_VIDEOS, *_PAGES)
    return at_root or artifact in (
        HEAD_TABLE,
        EVENT_TABLE,
        VERIFIED,
        COMPARED_TABLE,
        COMPARED_POSTER,
    )


def signed(markdown: str) -> str:
    """Mark a note as ours: a comment at its end, which no page shows, has its digest. One that a
    person wrote or edited has none, or another."""
    digest = hashlib.sha256(markdown.encode()).hexdigest()[:16]
    return f"{markdown}{_SIGNATURE}{digest} -->"


def is_ours(note: str) -> bool:
    return note == signed(note.rpartition(_SIGNATURE)[0])


def run_note(
    files: Collection[str],
    *,
    run_id: str,
    link: Callable[[str], str],
    head_table: str | None = None,
    event_table: str | None = None,
    verified: str | None = None,
    compared: str | None = None,
    inputs: Mapping[RunRef, str] | None = None,
    alarms: Sequence[str] = (),
) -> str:
    """Return the note of a run that has these ``files``.

    Args:
        files: run-relative paths.
        link: returns a file's address in the UI, relative to where the UI is.
        head_table, event_table, verified, compared: contents of the run's ``head_roles.csv``,
            ``events.csv``, ``verify.json`` and ``compare/runs.csv``.
        inputs: the runs whose captures all this was made from, where they are others, with their
            names.
        alarms: sentences.
    """
    runs = _rows(compared, ComparedRow)
    heads = _rows(head_table, HeadRow)
    events = _rows(event_table, EventRow)
    parts = [_links(files, link, n_compared=len(runs) or len(inputs or {}))]
    if alarms:
        parts.append("\n".join(f"* **Alarm:** {sentence}" for sentence in alarms))
    if events:
        parts.append(_events(events))
    elif head_table is not None:
        parts.append(_sentences(heads))
    if verified is not None:
        parts.append(_verdicts(verified))
    if runs:
        parts.append(_compared_table(runs))
    parts += [_image(file, run_id) for file in sorted(files) if _is_picture(file)]
    if inputs and not runs:
        parts.append(f"Made from the captures of {_run_links(inputs)}.")
    if head_table is not None:
        parts.append(_head_table(heads))
    return "\n\n".join(part for part in parts if part) + "\n"


def alarms_in(tags: Mapping[str, str]) -> list[str]:
    """Return the sentences of the alarms among a run's tags, by kind."""
    return [tags[name] for name in sorted(tags) if name.startswith(ALARM_TAG)]


# -- the first line ------------------------------------------------------------------------------


def _links(files: Iterable[str], link: Callable[[str], str], *, n_compared: int) -> str:
    at_root = sorted(file for file in files if "/" not in file)
    videos = sorted(_ending(at_root, _VIDEOS), key=_is_later)
    links: list[str] = []
    for video in videos:
        text = f"[{_stem(video)}]({link(video)})"
        if not links:
            whom = f"{n_compared} models" if n_compared > 1 else "this model"
            text = f"**[▶ Watch {whom} learn: {_stem(video)}]({link(video)})**"
        links.append(text)
    for page in _ending(at_root, _PAGES):
        links.append(f"[explore {_stem(page)}]({link(page)})")
    if HEAD_TABLE in at_root:
        links.append(f"[every head's scores]({link(HEAD_TABLE)})")
    return " · ".join(links)


def _ending(files: Iterable[str], suffixes: tuple[str, ...]) -> list[str]:
    return [file for file in files if file.endswith(suffixes)]


def _is_later(video: str) -> bool:
    return _stem(video) not in _FIRST_VIDEOS


def _stem(file: str) -> str:
    return posixpath.splitext(posixpath.basename(file))[0]


# -- what was learned ----------------------------------------------------------------------------


def _rows(table: str | None, kind: type[Stored]) -> list[Row]:
    """Return the rows of a table; none of one that somebody else put in its place, which must not
    keep a video out of the run."""
    try:
        rows: list[Row] = list(csv.DictReader((table or "").splitlines()))
        for row in rows:
            kind.of(row, "the table")
    except (TrackerError, csv.Error) as error:
        log.warning("the note has no table: %s", error)
        return []
    return rows


def _margin(row: Row) -> float:
    return float(row["margin"] or 0)


def _by_margin(heads: Iterable[Row]) -> list[Row]:
    """Return the heads that have a role, the clearest first."""
    return sorted((row for row in heads if row["role"]), key=_margin, reverse=True)


def _events(rows: Sequence[Row]) -> str:
    """Return one line for each event, in the words of the film's captions."""
    lines = [f"**{row['event']}** · {row['text']}" for row in rows[:MAX_EVENTS]]
    more = len(rows) - MAX_EVENTS
    if more > 0:
        lines.append(f"... and {more} more events.")
    return "  \n".join(lines)


def _sentences(heads: Sequence[Row]) -> str:
    """Return one line for each role that heads have, that of the clearest head first: for a run
    without a table of events."""
    by_role: dict[str, list[Row]] = {}
    for row in _by_margin(heads):
        by_role.setdefault(row["role"], []).append(row)
    if not by_role:
        return f"None of the {len(heads)} heads has taken a role."
    # Two spaces at its end make a line of its own.
    return "  \n".join(_sentence(role, rows) for role, rows in by_role.items())


def _sentence(role: str, rows: Sequence[Row]) -> str:
    name = role_label(role).capitalize()
    clearest = f"{shown_heads(rows[0]['head'])} ({_margin(rows[0]):.2f} above chance)"
    onset = _onset(rows[0])
    if len(rows) == 1:
        return f"**{name}**: {clearest} {onset}."
    return f"**{name}**: {len(rows)} heads. The strongest, {clearest}, {onset}."


def _onset(row: Row) -> str:
    step, after = row.get("onset_step"), row.get("onset_after")
    if not step:
        return "has the role at the end, without an onset that lasted"
    when = f"between steps {after} and {step}" if after else f"by step {step}"
    return f"took the role {when}"


def _verdicts(verified: str) -> str:
    """Return what became of each role when its heads were taken out, at the last step that was
    measured; empty where there are no verdicts."""
    try:
        by_step = parsed_object(verified, "verify.json")["sentences"]
        last_step = max(by_step, key=int)
        sentences = [str(sentence) for sentence in by_step[last_step]]
    except (KeyError, TypeError, ValueError, TrackerError):
        return ""
    if not sentences:
        return ""
    lines = [f"**Heads ablated** at step {last_step}:", *map(shown_heads, sentences)]
    return "  \n".join(lines)


def _head_table(heads: Sequence[Row]) -> str:
    specialized = _by_margin(heads)
    if not specialized:
        return ""
    cells = []
    for row in specialized[:MAX_HEADS]:
        role = role_label(row["role"])
        cells.append((shown_heads(row["head"]), role, row["onset_step"], f"{_margin(row):.2f}"))
    table = _table(("head", "role", "since step", "above chance"), cells)

    more = len(specialized) - MAX_HEADS
    if more > 0:
        table += f"\n\n... and {more} more of {len(heads)} heads."
    return table


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [_table_line(columns), _table_line(["---"] * len(columns))]
    for row in rows:
        lines.append(_table_line([f"{cell}{_GAP}" for cell in row]))
    return "\n".join(lines)


def _table_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


# -- comparisons ---------------------------------------------------------------------------------


def _compared_table(runs: Sequence[Row]) -> str:
    """Return a table of the runs by their labels, with the figures that a comparison is about."""
    columns = ["run", "loss", "heads with a role"]
    shown: list[str] = []
    for name in runs[0]:
        is_reached = name.startswith(_ONSET) and any(row[name] for row in runs)
        if is_reached and len(shown) < MAX_COMPARED_ROLES:
            shown.append(name)
            columns.append(f"{role_label(name.removeprefix(_ONSET))} since step")

    cells = []
    for row in runs[:MAX_RUNS]:
        label = _run_link(RunRef.from_stored(row["run"]), row["label"])
        figures = [_rounded(row.get("loss")), row["heads_specialised"]]
        onsets = [row[name] or "never" for name in shown]
        cells.append([label, *figures, *onsets])

    more = len(runs) - MAX_RUNS
    table = _table(columns, cells)
    return f"{table}\n\n... and {more} more runs." if more > 0 else table


def _rounded(number: str | None) -> str:
    return f"{float(number):.3g}" if number else ""


def _run_links(inputs: Mapping[RunRef, str]) -> str:
    named = list(inputs.items())[:MAX_RUNS]
    links = ", ".join(_run_link(ref, name) for ref, name in named)
    more = len(inputs) - MAX_RUNS
    return f"{links} and {more} more" if more > 0 else links


def _run_link(ref: RunRef, name: str) -> str:
    text = name.replace("|", "/").replace("[", "(").replace("]", ")") or str(ref)
    return f"[{text}](#/runs/{ref.path})" if ref.scheme == "mlflow" else f"`{text}`"


# -- pictures ------------------------------------------------------------------------------------


def _is_picture(file: str) -> bool:
    return file == COMPARED_POSTER or ("/" not in file and file.endswith(_ANIMATIONS))


def _image(file: str, run_id: str) -> str:
    return f"![{_stem(file)}](get-artifact?path={urllib.parse.quote(file)}&run_uuid={run_id})"
