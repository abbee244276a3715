"""Typed readers: what files of a run, a spool or a sweep may hold, one class for each kind.

    class TimelineFile(Stored):
        steps: tuple[Step, ...]

    TimelineFile.read(contents, where)   # TrackerError: where: steps.0 should be less than ...

A file may come from a server, from a disk that was full, or from a newer version. So its size is
bounded before it is parsed, what it lacks or has of another type raises our error and no other, and
keys that this version does not know are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from tracker_viz.errors import TrackerError
from tracker_viz.files import MAX_JSON_BYTES, parsed_object
from tracker_viz.types import CaptureRef

Step = Annotated[int, Field(ge=0, lt=10**12)]
CaptureName = Annotated[str, Field(pattern=r"^step-\d{8,12}\.safetensors$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


OrEmpty = FiniteFloat | Annotated[str, Field(max_length=0)]


class Stored(BaseModel):
    """Base class of a kind of file.

    Attributes:
        newest: the schema that this version writes; files without a number are of the first.
    """

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True)

    newest: ClassVar[int] = 1

    schema_number: int = Field(1, alias="schema")

    @classmethod
    def of(cls, values: Any, where: object) -> Self:
        """Check what was parsed already.

        Args:
            where: what messages call the file.

        Raises:
            TrackerError: something is missing, or of another type; or a newer version wrote it.
        """
        try:
            found = cls.model_validate(values)
        except (ValidationError, RecursionError) as error:
            raise TrackerError(f"{where} cannot be read: {_explained(error)}") from error
        if found.schema_number > cls.newest:
            raise TrackerError(
                f"{where} has schema {found.schema_number}; this tracker_viz reads up to "
                f"{cls.newest}: upgrade tracker_viz to read it"
            )
        return found

    @classmethod
    def read(cls, contents: str | bytes, where: object, max_bytes: int = MAX_JSON_BYTES) -> Self:
        """Parse JSON and check it.

        Raises:
            TrackerError: as ``of``; or it is no JSON object, or has more than ``max_bytes``.
        """
        return cls.of(parsed_object(contents, where, max_bytes), where)


class RunFile(Stored):
    """``run.json`` of a local run, and of a spool."""

    config: dict[str, Any] | None = None
    tags: dict[str, Any] | None = None
    parent: str | None = None
    destinations: tuple[dict[str, Any], ...] = ()
    files: tuple[str, ...] = ()
    loop_metrics: tuple[str, ...] = ()
    at_default: tuple[str, ...] = ()


class DestinationEntry(Stored):
    """One of a spool's destinations in ``run.json``."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9_-]+$")]
    scheme: str
    options: dict[str, Any] = {}
    ref: str | None = None
    ours: bool = True
    parent: str | None = None
    key: str


class JournalLine(Stored):
    """A line of ``sent/<destination>.jsonl``."""

    class Entry(Stored):
        # Not CaptureRef itself, which has no room for a newer version's keys.
        step: Step
        file_name: CaptureName
        nbytes: int = Field(ge=0)
        sha256: Sha256

        @model_validator(mode="after")
        def _names_its_step(self) -> Self:
            CaptureRef(self.step, self.file_name, self.nbytes, self.sha256)
            return self

    captures: tuple[Entry, ...] = ()
    metrics: tuple[CaptureName, ...] = ()
    enqueued: tuple[CaptureName, ...] = ()

    @property
    def refs(self) -> list[CaptureRef]:
        return [
            CaptureRef(each.step, each.file_name, each.nbytes, each.sha256)
            for each in self.captures
        ]


class MetricsLine(Stored):
    """A line of ``metrics.jsonl``; its other keys are the metrics."""

    step: Step
    time: FiniteFloat

    @property
    def values(self) -> dict[str, float]:
        found = self.model_extra or {}
        return {name: float(value) for name, value in found.items() if _is_number(value)}


class StoredAlarm(Stored):
    """An alarm among a capture's metadata, ``model["alarms"]``."""

    kind: Annotated[str, Field(pattern=r"^[a-z_]{1,32}$")]
    step: Step
    sentence: Annotated[str, Field(max_length=2000)]


class IndexEntry(Stored):
    """``captures/index/step-....json``, of which the name says the rest."""

    time: FiniteFloat


class TableFile(Stored):
    """``.tables/<name>.json`` of a spool."""

    rows: tuple[dict[str, str | float | int | None], ...]


class SummaryFile(Stored):
    """``summary.json``: all of its keys are values of the run."""

    __pydantic_extra__: dict[str, float | int | str] = Field(init=False)


class TimelineFile(Stored):
    """``videos/<layout>/timeline.json``."""

    video: str
    steps: tuple[Step, ...]
    starts_s: tuple[FiniteFloat, ...]


class FollowFile(Stored):
    """``following.json`` beside a film that grows: what ``follow`` continues from.

    Attributes:
        made_by: what the frames depend on beside the captures: another value, another film.
        body: name of the file with the encoded frames; None before the first.
        drawn: the captures of these frames, in their order.
        kept: those whose files are here: of the plan.
        stride: one of so many captures is drawn.
        n_seen, seen_step: how many captures were drawn or passed over, and the last of them.
        ranges: key of a color scale -> its range.
        widened_step: the first step that is drawn with these ranges.
        damaged: captured steps that cannot be read.
        put_at: seconds since 1970 at which the last version was put into the run.
        put_step: the last step of that version.
    """

    class Range(Stored):
        minimum: FiniteFloat
        maximum: FiniteFloat
        linear_within: FiniteFloat = 0.0

    made_by: str
    body: Annotated[str, Field(pattern=r"^body-\d{1,9}\.(webm|mp4)$")] | None = None
    drawn: tuple[CaptureRef, ...] = ()
    kept: tuple[CaptureRef, ...] = ()
    stride: int = Field(1, ge=1)
    n_seen: int = Field(0, ge=0)
    seen_step: Step | None = None
    ranges: dict[str, Range] = {}
    widened_step: Step | None = None
    damaged: tuple[Step, ...] = ()
    put_at: FiniteFloat = 0.0
    put_step: Step | None = None


class HeadRow(Stored):
    """A row of ``head_roles.csv``, as far as notes read it."""

    head: str
    role: str
    margin: OrEmpty
    onset_step: str
    onset_after: str = ""


class EventRow(Stored):
    """A row of ``events.csv``, as far as notes read it."""

    event: str
    text: str


class ComparedRow(Stored):
    """A row of ``compare/runs.csv``, as far as notes read it."""

    run: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*:.")]
    label: str
    heads_specialised: str
    loss: OrEmpty = ""


class ParentsFile(Stored):
    """``parents.json`` of a sweep's directory."""

    class Entry(Stored):
        ref: str
        options: dict[str, Any]
        online: bool = True

    parents: tuple[Entry, ...]


class ShardIndex(Stored):
    """``model.safetensors.index.json`` and the like of a checkpoint in several files."""

    weight_map: dict[str, str]


class LatestCheckpoint(Stored):
    """``checkpoints/latest.json`` of a run of ``train.py``."""

    file: Annotated[str, Field(pattern=r"^step-\d{8,12}\.safetensors$")]
    sha256: Sha256


class CheckpointDescription(Stored):
    """The JSON in a checkpoint of ``train.py``."""

    step: Step
    config: dict[str, Any]


class ModelDescription(Stored):
    """``model`` of a capture, as far as others read it."""

    name: str | None = None
    n_blocks: int | None = Field(None, ge=0, lt=10**6)
    n_heads: int | tuple[int, ...] | None = None
    n_kv_heads: int | tuple[int, ...] | None = None
    d_model: int | None = None
    n_parameters: int | None = None
    cut: dict[str, Any] | None = None
    pooling: dict[str, Any] = {}
    uniform_scores: dict[str, float] = {}
    score_definitions: int = 1


class ProbeDescription(Stored):
    """``probe`` of a capture, as far as others read it."""

    class Row(Stored):
        kind: str | None = None
        tokens: tuple[str, ...] = ()
        ids: tuple[int, ...] = ()
        period: int | None = None
        start: int | None = None

    length: int | None = None
    rows: tuple[Row, ...] = ()
    scored: tuple[Row, ...] = ()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _explained(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return "it is nested too deeply"
    first: Mapping[str, Any] = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"])) or "it"
    return f"{place}: {first['msg']}"
