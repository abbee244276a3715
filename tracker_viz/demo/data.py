"""Turn text and repeated random spans into batches of tokens, in a reproducible order that a
checkpoint can continue.

A token is a byte, a word where ``words`` asks for them, or ``BOS``, which begins every sequence:
heads that find nothing to attend to rest on it. The text is the standard library's own source, or
the user's files. The repeated spans, ``[BOS] r r r ...`` with a random ``r`` that was never seen
before, can only be predicted by looking back to the last time the same token occurred. They make
induction heads appear early in so small a model.
"""

from __future__ import annotations

import glob
import sysconfig
from pathlib import Path
from typing import Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from tracker_viz.demo.words import in_words, learned_words
from tracker_viz.errors import ConfigError
from tracker_viz.files import home_expanded
from tracker_viz.options import Options

BOS = 256
VOCAB_SIZE = 257

# The alphabet of the repeated spans: 64 visible bytes, first <= token < last. A larger one delays
# induction beyond the length of a demo.
SPAN_TOKENS = (63, 127)
N_SPAN_TOKENS = SPAN_TOKENS[1] - SPAN_TOKENS[0]

# Folders of the standard library that hold tests and applications.
_NOT_SOURCE = {
    "__pycache__",
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idlelib",
    "turtledemo",
    "ensurepip",
    "pydoc_data",
    "lib2to3",
}


class DataConfig(Options):
    """The group ``data``: the text, and how much of a batch is repeated spans."""

    group_name = "data"

    path: str | None = None
    """File, folder or glob of your text; null: the source of Python's standard library."""

    pattern: str = "**/*"
    """Glob of the files to read in a folder."""

    repeat_share: float = Field(0.75, ge=0, le=1)
    """Share of the sequences that are repeated random spans, [BOS] r r r ...; the rest is text."""

    min_period: int = Field(8, ge=2, le=N_SPAN_TOKENS)
    """Shortest span in tokens; the length is drawn uniformly."""

    max_period: int = Field(28, ge=2, le=N_SPAN_TOKENS)
    """Longest span in tokens; all tokens of a span are different."""

    validation_share: float = Field(0.05, gt=0, lt=1)
    """Share of the text that is held out from training, at its end."""

    words: int = Field(0, ge=0)
    """Number of tokens for words and parts of words in addition to the bytes, learned from the text
    by byte pair encoding. model.vocab_size must be at least 257 more."""

    @model_validator(mode="after")
    def _check_periods(self) -> Self:
        if self.min_period > self.max_period:
            raise ConfigError(
                f"data.min_period={self.min_period} must be at most "
                f"data.max_period={self.max_period}"
            )
        return self


class Mixture:
    """Draw endless batches of text and repeated spans, in an order that only ``seed`` decides.

    A resumed run continues the order with ``state`` and ``set_state``.
    """

    def __init__(self, config: DataConfig, context_length: int, *, batch_size: int, seed: int):
        if config.min_period >= context_length:
            raise ConfigError(
                f"a span must occur twice within model.context_length={context_length} tokens to "
                f"teach anything; data.min_period={config.min_period} is too long"
            )
        self.config = config
        self.context_length = context_length
        self.n_repeats = round(batch_size * config.repeat_share)
        self.n_texts = batch_size - self.n_repeats

        text, self.words = read_tokens(config)
        cut = len(text) - int(len(text) * config.validation_share)
        self.training_text = _long_enough(text[:cut], "training", config, context_length)
        self.validation_text = _long_enough(text[cut:], "validation", config, context_length)

        self._generator = torch.Generator().manual_seed(seed)

    @property
    def vocab_size(self) -> int:
        """Number of different tokens."""
        return VOCAB_SIZE + len(self.words)

    def token_text(self, token: int) -> str:
        """Return the text that pictures show for a token."""
        if token < VOCAB_SIZE:
            return token_text(token)
        return self.words[token - VOCAB_SIZE].decode("ascii").replace(" ", "␣")

    def batch(self) -> tuple[Tensor, Tensor]:
        """Return the next inputs and targets, both int64 [batch, context_length]; ``targets`` is
        ``inputs`` one token later."""
        n_tokens = self.context_length + 1
        repeats = repeated_spans(self.n_repeats, n_tokens, self.config, self._generator)
        texts = text_windows(self.training_text, self.n_texts, n_tokens, self._generator)
        rows = torch.cat([repeats, texts])
        return rows[:, :-1], rows[:, 1:]

    def validation_rows(self, n_rows: int) -> tuple[Tensor, Tensor]:
        """Return held-out text and unseen spans, two int64 [row, context_length + 1], the same at
        every call and for every seed."""
        generator = torch.Generator().manual_seed(2**31 - 1)
        n_tokens = self.context_length + 1
        return (
            text_windows(self.validation_text, n_rows, n_tokens, generator),
            repeated_spans(n_rows, n_tokens, self.config, generator),
        )

    def probe_text(self, n_rows: int = 1) -> Tensor:
        """Return ``BOS`` and the first lines of the held-out text, starting at a line that is not
        indented, and for each further row of a probe another passage of it: int64
        [context_length + (n_rows - 1) * (context_length - 1)]."""
        n_tokens = self.context_length - 1
        passages = [self._passage(0, n_tokens)]
        for row in range(1, n_rows):
            passages.append(self._passage(row * len(self.validation_text) // n_rows, n_tokens))
        return torch.cat([torch.tensor([BOS]), *passages])

    def _passage(self, begin: int, n_tokens: int) -> Tensor:
        """Return ``n_tokens`` of the held-out text, int64, from the first line after ``begin`` that
        is not indented; the last ones where the text ends too soon."""
        text = self.validation_text[begin : begin + (1 << 16)].long()
        last_start = len(text) - n_tokens
        if last_start < 0:
            return self.validation_text[-n_tokens:].long()
        blank = {*b" \t\n\r\f\v"}
        blank |= {VOCAB_SIZE + at for at, word in enumerate(self.words) if word[:1] == b" "}
        is_blank = torch.isin(text, torch.tensor(sorted(blank)))
        begins_line = text[:-1] == ord("\n")
        starts = (begins_line & ~is_blank[1:])[: max(last_start - 1, 0)].nonzero()
        start = int(starts[0]) + 1 if len(starts) else 0
        return text[start : start + n_tokens]

    def state(self) -> Tensor:
        """Return the position in the order, uint8 [n]."""
        return self._generator.get_state()

    def set_state(self, state: Tensor) -> None:
        self._generator.set_state(state)


def token_text(token: int) -> str:
    """Return the text that pictures show for a token: one visible character, ``<bos>``, or a byte's
    number."""
    named = {BOS: "<bos>", ord(" "): "␣", ord("\n"): "↵", ord("\t"): "⇥"}
    if token in named:
        return named[token]
    return chr(token) if 33 <= token < 127 else f"\\x{token:02x}"


def repeated_spans(
    n_rows: int, n_tokens: int, config: DataConfig, generator: torch.Generator
) -> Tensor:
    """Return rows ``[BOS] r r r ...``, cut off at ``n_tokens``: int64 [n_rows, n_tokens].

    Each row has its own period and its own ``r``, drawn from ``SPAN_TOKENS`` without replacement:
    if a token occurred twice within ``r``, its last occurrence would not say what follows.
    """
    letters = torch.rand(n_rows, N_SPAN_TOKENS, generator=generator).argsort(dim=1) + SPAN_TOKENS[0]
    period = torch.randint(
        config.min_period, config.max_period + 1, (n_rows, 1), generator=generator
    )
    spans = letters.gather(1, torch.arange(n_tokens - 1) % period)
    return torch.cat([torch.full((n_rows, 1), BOS), spans], dim=1)


def second_copies(rows: Tensor) -> Tensor:
    """Return which tokens of repeated rows occurred earlier in their row, and so can be predicted:
    bool [row, token].

    The first token of the second copy is not counted: nothing shows where the first copy ends.
    """
    seen_before = (rows[:, :, None] == rows[:, None, :]).tril(-1).any(dim=2)
    seen_before[:, 1:] &= seen_before[:, :-1].clone()
    return seen_before


def text_windows(text: Tensor, n_rows: int, n_tokens: int, generator: torch.Generator) -> Tensor:
    """Return rows ``[BOS] t t t ...`` from random positions in ``text`` [token]: int64 [n_rows,
    n_tokens]."""
    start = torch.randint(0, len(text) - n_tokens + 2, (n_rows, 1), generator=generator)
    windows = text[start + torch.arange(n_tokens - 1)].long()
    return torch.cat([torch.full((n_rows, 1), BOS), windows], dim=1)


def read_tokens(config: DataConfig) -> tuple[Tensor, tuple[bytes, ...]]:
    """Return the text that ``config`` names as tokens [token], and the words that are tokens from
    ``VOCAB_SIZE`` on."""
    text = read_text(config)
    if not config.words:
        return text, ()
    whole = text.numpy().tobytes()
    words = learned_words(whole, config.words)
    return in_words(whole, words, first_id=VOCAB_SIZE), words


def read_text(config: DataConfig) -> Tensor:
    """Return the contents of all files that ``config`` names, ordered by name, as uint8 [byte]."""
    if config.path is None:
        files = standard_library_files()
    else:
        files = user_files(config.path, config.pattern)
    contents = [_read(file) for file in files]
    # numpy's copy is writable; torch warns about bytes, which are not.
    return torch.from_numpy(np.frombuffer(b"\n".join(contents), dtype=np.uint8).copy())


def standard_library_files() -> list[Path]:
    """Return the source files of the running Python's standard library, without its tests and
    bundled applications."""
    root = Path(sysconfig.get_path("stdlib"))
    files = []
    for path in sorted(root.rglob("*.py")):
        if _NOT_SOURCE.isdisjoint(path.relative_to(root).parts):
            files.append(path)
    if not files:
        raise ConfigError(
            f"this Python has no standard library source under {root}; train on your own text: "
            "data=text data.path=<file or folder>"
        )
    return files


def user_files(path: str, pattern: str) -> list[Path]:
    """Return the files that ``path`` names: a file, the files of a folder that match ``pattern``
    (without hidden ones), or those of a glob."""
    place = home_expanded(path)
    if place.is_file():
        return [place]
    if place.is_dir():
        files = [file for file in sorted(place.glob(pattern)) if _is_visible_file(file, place)]
        if not files:
            raise ConfigError(
                f"data.path={path} is a folder without a file that matches data.pattern={pattern!r}"
            )
        return files

    matches = map(Path, sorted(glob.glob(str(place), recursive=True)))
    files = [match for match in matches if match.is_file()]
    if not files:
        raise ConfigError(
            f"data.path={path} (from {Path.cwd()}) is neither a file nor a folder, and as a glob "
            "it matches nothing"
        )
    return files


def _is_visible_file(file: Path, root: Path) -> bool:
    return file.is_file() and not any(part.startswith(".") for part in file.relative_to(root).parts)


def _read(file: Path) -> bytes:
    try:
        contents = file.read_bytes()
        contents.decode("utf-8")
    except OSError as error:
        raise ConfigError(
            f"data.path names {file}, which cannot be read: {error.strerror}"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{file} is not UTF-8 text (byte {error.start:,} is {contents[error.start]:#04x}); "
            "choose text files with data.path='<folder>/**/*.txt' or data.pattern='**/*.txt'"
        ) from error
    return contents


def _long_enough(text: Tensor, split: str, config: DataConfig, context_length: int) -> Tensor:
    if len(text) < context_length:
        unit = "tokens" if config.words else "bytes"
        raise ConfigError(
            f"{config.path or 'the standard library'} leaves {len(text)} {unit} for {split}, and "
            f"one sequence takes {context_length} (model.context_length): give more text, a "
            "shorter context, or another data.validation_share"
        )
    return text
