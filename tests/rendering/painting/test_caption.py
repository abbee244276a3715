"""A caption has whole words only, whatever its room."""

from __future__ import annotations

import re

import pytest

from tracker_viz.rendering.painting.caption import fit_caption
from tracker_viz.rendering.plan import Caption
from tracker_viz.rendering.text import text_width

HEAD = ("induction · 472–508   ", True, "#fff")
SENTENCE = (
    "L1H3 and 3 more heads look back to what followed the same token before, 12 heads in the end; "
    "loss 3.2 → 1.6 over steps 460–569"
)


def fitted(room, n_lines=1):
    lines, size_px = fit_caption(HEAD, SENTENCE, False, "#fff", Caption(0, 0, 34.0, room, n_lines))
    widths = []
    for line in lines:
        texts = [text for text, _, _ in line]
        texts[-1] = texts[-1].rstrip()
        bolds = [bold for _, bold, _ in line]
        pairs = zip(texts, bolds, strict=True)
        widths.append(sum(text_width(text, size_px, bold=bold) for text, bold in pairs))
    return " ".join("".join(text for text, _, _ in line).rstrip() for line in lines), widths


@pytest.mark.parametrize("n_lines", [1, 2])
def test_a_caption_is_shortened_by_clauses_and_then_by_words_never_within_one(n_lines):
    seen = []
    for room in range(3000, 400, -130):
        text, widths = fitted(room, n_lines)
        seen.append(text)
        assert len(widths) <= n_lines
        assert max(widths) <= room
        shown = re.sub(r"\s+", " ", text).removeprefix(HEAD[0].strip()).strip()
        shown = shown.removesuffix("…").strip()
        assert SENTENCE.startswith(shown)
        assert not shown or SENTENCE[len(shown) :][:1] in {"", " ", ";", ","}, f"cut: {shown!r}"
    lengths = [len(text) for text in seen]
    assert lengths == sorted(lengths, reverse=True)
    assert any(text.endswith("same token before") for text in seen), "clauses go before words"
    assert any("…" in text for text in seen)


def test_a_second_line_has_room_for_the_whole_sentence():
    alone, _ = fitted(1300)
    both, _ = fitted(1300, n_lines=2)
    assert SENTENCE not in alone
    assert SENTENCE in re.sub(r"\s+", " ", both)


def test_nothing_to_say_has_no_lines():
    assert fit_caption(("", True, "#fff"), "", False, "#fff", Caption(0, 0, 34.0, 900))[0] == ()
