"""Files that were damaged in ways that nobody thought of are read, or refused by our errors."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from damaged_files import KINDS, Kind, damaged
from hypothesis import given, settings
from hypothesis import strategies as st

from tracker_viz.errors import TrackerVizError
from tracker_viz.trackers.wandb.artifacts import from_text


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_whole_file_is_read(kind: Kind, tmp_path: Path):
    path = tmp_path / kind.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(kind.whole)
    if kind.name.startswith("shards"):
        with pytest.raises(TrackerVizError, match="model-1"):
            kind.read(path)  # its shards are not here
    else:
        kind.read(path)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_damaged_file_is_read_or_refused(kind: Kind):
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, kind.name)
        path.parent.mkdir(parents=True, exist_ok=True)

        @settings(max_examples=30, derandomize=True, database=None, deadline=None)
        @given(st.data())
        def read(data: st.DataObject) -> None:
            path.write_bytes(data.draw(damaged(kind)))
            said = ""
            try:
                kind.read(path)
            except TrackerVizError as error:
                said = str(error)
            assert len(said) < 2000

        read()


def test_a_size_of_thousands_of_digits_is_refused():
    with pytest.raises(TrackerVizError, match="a capture is listed as"):
        from_text(f"step-00000003.safetensors {'9' * 5000} {'ab' * 32}")
