"""Batches: what is in them, that they come again the same, and what is said of text that will not
do."""

from __future__ import annotations

import pytest
import torch

from tracker_viz.demo.data import (
    BOS,
    SPAN_TOKENS,
    DataConfig,
    Mixture,
    read_text,
    repeated_spans,
    second_copies,
    standard_library_files,
    token_text,
)
from tracker_viz.errors import ConfigError


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("It was a dark and stormy night. " * 200)
    return path


def mixture(book, *, seed=0, **changes):
    return Mixture(
        DataConfig(path=str(book), **changes), context_length=32, batch_size=16, seed=seed
    )


def test_targets_are_the_inputs_one_token_later(book):
    inputs, targets = mixture(book).batch()
    assert inputs.shape == targets.shape == (16, 32)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])


def test_every_sequence_begins_with_bos_and_has_no_other(book):
    inputs, targets = mixture(book).batch()
    assert (inputs[:, 0] == BOS).all()
    assert (targets != BOS).all()


@pytest.mark.parametrize(("share", "n_repeats"), [(0.75, 12), (0.0, 0), (1.0, 16)])
def test_the_share_of_repeated_sequences_is_exact(book, share, n_repeats):
    inputs, _ = mixture(book, repeat_share=share, max_period=15).batch()
    letters = inputs[:, 1:]
    from_spans = ((letters >= SPAN_TOKENS[0]) & (letters < SPAN_TOKENS[1])).all(dim=1)
    assert from_spans.sum() == n_repeats


def test_repeated_spans_repeat_distinct_letters_with_periods_of_the_whole_range():
    config = DataConfig(min_period=8, max_period=12)
    rows = repeated_spans(300, 65, config, torch.Generator().manual_seed(0))
    periods = []
    for row in rows[:, 1:]:
        period = next(p for p in range(1, 64) if torch.equal(row[p:], row[:-p]))
        assert len(set(row[:period].tolist())) == period
        periods.append(period)
    assert set(periods) == {8, 9, 10, 11, 12}
    assert {int(letter) for letter in rows[:, 1:].unique()} == set(range(*SPAN_TOKENS))


def test_second_copies_are_the_tokens_that_can_be_predicted():
    row = torch.tensor([[BOS, 70, 71, 72, 70, 71, 72, 70]])
    assert second_copies(row).tolist() == [[False, False, False, False, False, True, True, True]]


def test_the_same_seed_gives_the_same_batches_whatever_else_draws_random_numbers(book):
    first, second, other = mixture(book), mixture(book), mixture(book, seed=1)
    before = first.batch()[0]
    torch.manual_seed(123)
    torch.rand(7)
    assert torch.equal(before, second.batch()[0])
    assert not torch.equal(before, other.batch()[0])


def test_a_restored_order_goes_on_where_it_was(book):
    whole = mixture(book)
    whole.batch()
    state = whole.state()
    expected = whole.batch()[0]
    resumed = mixture(book, seed=99)
    resumed.set_state(state)
    assert torch.equal(resumed.batch()[0], expected)


def test_validation_rows_are_held_out_and_always_the_same(tmp_path):
    path = tmp_path / "two_halves.txt"
    path.write_text("a" * 1000 + "b" * 1000)
    halves = mixture(path, validation_share=0.5, repeat_share=0.0)
    assert set(halves.batch()[1].unique().tolist()) == {ord("a")}
    text, repeats = halves.validation_rows(4)
    assert set(text[:, 1:].unique().tolist()) == {ord("b")}
    assert torch.equal(repeats, mixture(path, seed=5).validation_rows(4)[1])


def test_the_probe_text_starts_with_a_whole_line_of_held_out_text(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("a" * 1000 + "cut\n    indented\n" + "b" * 983)
    text = mixture(path, validation_share=0.5).probe_text()
    assert text.tolist() == [BOS, *[ord("b")] * 31]


def test_the_probe_text_of_a_text_without_lines_is_its_beginning(tmp_path):
    path = tmp_path / "line.txt"
    path.write_text("a" * 1000 + "0123456789" * 4)
    text = mixture(path, validation_share=40 / 1040).probe_text()
    assert bytes(text[1:].tolist()) == b"0123456789012345678901234567890"


def test_every_token_has_a_visible_text():
    texts = [token_text(token) for token in range(257)]
    assert len(set(texts)) == 257
    assert not any(text.isspace() or not text.isprintable() for text in texts)
    assert [token_text(token) for token in (BOS, 32, 10, 65, 255)] == [
        "<bos>",
        "␣",
        "↵",
        "A",
        "\\xff",
    ]


def test_the_standard_library_is_found_in_a_stable_order_without_its_tests():
    files = standard_library_files()
    assert files == sorted(files)
    assert {"argparse.py", "dataclasses.py"} <= {file.name for file in files}
    assert not any({"test", "tests", "site-packages"} & set(file.parts[-3:-1]) for file in files)
    assert len(read_text(DataConfig())) > 1_000_000


def test_a_folder_is_read_in_the_order_of_its_names_without_hidden_files(tmp_path):
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / ".hidden").write_bytes(b"\xff\x00")
    (tmp_path / "picture.bin").write_bytes(b"\xff\x00")
    text = read_text(DataConfig(path=str(tmp_path), pattern="*.txt"))
    assert bytes(text.tolist()) == b"first\nsecond"
    assert torch.equal(text, read_text(DataConfig(path=f"{tmp_path}/*.txt")))


@pytest.mark.parametrize(
    ("make_path", "message"),
    [
        (
            lambda folder: folder / "nowhere.txt",
            "is neither a file nor a folder, and as a glob it matches nothing",
        ),
        (
            lambda folder: folder,
            "is a folder without a file that matches data.pattern='\\*\\*/\\*.txt'",
        ),
    ],
)
def test_a_path_without_text_is_an_error(tmp_path, make_path, message):
    with pytest.raises(ConfigError, match=message):
        read_text(DataConfig(path=str(make_path(tmp_path)), pattern="**/*.txt"))


def test_bytes_that_are_no_text_are_named(tmp_path):
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    with pytest.raises(ConfigError, match=r"picture.png is not UTF-8 text \(byte 0 is 0x89\)"):
        read_text(DataConfig(path=str(tmp_path)))


@pytest.mark.parametrize(
    ("n_bytes", "split"), [(10, "training"), (100, "validation"), (0, "training")]
)
def test_too_short_a_text_says_how_much_is_needed(tmp_path, n_bytes, split):
    path = tmp_path / "short.txt"
    path.write_text("x" * n_bytes)
    with pytest.raises(ConfigError, match=f"bytes for {split}, and one sequence takes 32"):
        mixture(path)


def test_a_text_of_exactly_one_sequence_is_enough(tmp_path):
    path = tmp_path / "exact.txt"
    path.write_text("x" * 64)
    exact = mixture(path, validation_share=0.5, repeat_share=0.0)
    assert exact.batch()[0].shape == (16, 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"repeat_share": 1.5}, "data.repeat_share must be a number from 0 to 1; got 1.5"),
        ({"validation_share": 0.0}, "data.validation_share must be a number above 0 and below 1"),
        ({"min_period": 20, "max_period": 10}, "data.min_period=20 must be at most data.max_per"),
        ({"max_period": 65}, "data.max_period must be a whole number from 2 to 64; got 65"),
    ],
)
def test_impossible_mixtures_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        DataConfig(**changes)


def test_spans_that_never_repeat_within_the_context_are_refused(book):
    with pytest.raises(ConfigError, match="context_length=32 tokens to teach anything"):
        mixture(book, min_period=32, max_period=40)
