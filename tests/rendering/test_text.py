"""Letters that DejaVu lacks are drawn with what else is installed; where nothing has them one line
says so; all others stay as they are."""

from __future__ import annotations

import hashlib
import logging
import warnings

import numpy as np
import pytest
from matplotlib.font_manager import findfont, get_font

from tracker_viz.rendering import Renderer, Series, Shot, text, theme
from tracker_viz.rendering.text import text_coverage, text_width

IN_NO_FONT = "\U0010fffd\U0010fffe"
SHIPPED = "STIXGeneral"  # comes with matplotlib and has letters that DejaVu lacks
NEVER_BOLD = "STIXSizeFiveSym"  # comes with it, too


@pytest.fixture
def other_families(monkeypatch, tmp_path_factory):
    """Look for these families in place of those with the world's scripts; with nothing kept."""

    def look_for(*families):
        monkeypatch.setattr(theme, "_OTHER_SCRIPTS", families)
        monkeypatch.setenv("TRACKER_VIZ_CACHE", str(tmp_path_factory.mktemp("cache")))
        for cached in (
            theme.font_families,
            theme._said_once,
            theme.letters_without_glyph,
            text.known_texts,
            text_width,
            text.glyph,
            text.opaque_glyph,
        ):
            cached.cache_clear()

    yield look_for
    monkeypatch.undo()
    look_for(*theme._OTHER_SCRIPTS)
    monkeypatch.undo()


@pytest.fixture(autouse=True)
def no_warning(caplog):
    """matplotlib warns of letters by Python's warnings, and of families and weights by its log."""
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING, "matplotlib"):
        warnings.simplefilter("error")
        yield
    assert [
        record for record in caplog.get_records("call") if record.name.startswith("matplotlib")
    ] == []


def letter_that_only_stix_has():
    dejavu, stix = (get_font(findfont(family)) for family in ("DejaVu Sans", SHIPPED))
    return chr(min(set(stix.get_charmap()) - set(dejavu.get_charmap())))


def drawn(small_run, title):
    renderer = Renderer(Series(small_run, title=title), "overview", size="720p")
    frames = renderer.film([Shot(1, 0.0, 1.0, "title"), Shot(1, 0.0, 1.0)])
    return hashlib.sha256(
        b"".join(frames(index).pixels.tobytes() for index in range(2))
    ).hexdigest()


def test_what_dejavu_can_write_looks_the_same_whatever_is_installed(small_run, other_families):
    title = "größe · модель α → β ∑ مرحبا 😀"
    other_families()
    alone = drawn(small_run, title)
    other_families("No Such Family", SHIPPED, NEVER_BOLD)
    assert theme.font_families() == ["DejaVu Sans", SHIPPED, NEVER_BOLD]
    assert drawn(small_run, title) == alone


def test_what_dejavu_lacks_is_written_in_a_family_that_has_it(other_families, caplog):
    letter = letter_that_only_stix_has()
    other_families()
    box, _ = text_coverage(letter, 30, bold=True)
    other_families("No Such Family", SHIPPED)
    written, _ = text_coverage(letter, 30, bold=True)
    assert not np.array_equal(written[:, :5], box[:, :5])
    assert len(caplog.records) == 1, "of the box, and nothing of what has a glyph"


def test_one_line_says_what_to_install_where_nothing_has_the_letters_and_a_box_is_seen(
    small_run, other_families, caplog
):
    other_families()
    drawn(small_run, f"run {IN_NO_FONT} one")
    drawn(small_run, f"run {IN_NO_FONT[0]} two")
    (said,) = caplog.records
    assert said.getMessage().startswith(
        f"no installed font has {IN_NO_FONT}, so they appear as boxes. "
    )
    assert text_coverage(IN_NO_FONT, 30)[0].max() > 0.5


def test_a_chinese_name_is_written_where_the_machine_can(small_run, other_families, caplog):
    other_families(*theme._OTHER_SCRIPTS)
    fonts = [get_font(findfont(family)) for family in theme.font_families()]
    if not any(font.get_char_index(ord("学")) for font in fonts):
        pytest.skip("no font with Chinese letters that matplotlib knows of is installed here")
    drawn(small_run, "学习")
    assert caplog.records == []
