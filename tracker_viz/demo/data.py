"""Text and repeated random spans -> batches of tokens, in a reproducible order that a checkpoint
can continue.

A token is a byte, or ``BOS``, with which every sequence begins: heads that find nothing to attend
to rest on it. Real text comes from the standard library's own source, or from the user's files. The
repeated spans, ``[BOS] r r r ...`` with ``r`` random and never seen before, can only be predicted
by looking back for the last time the same token came: they are what makes induction heads appear
early in so small a model.
"""

from __future__ import annotations

import glob
import re
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tracker_viz.errors import ConfigError

BOS = 256
VOCAB_SIZE = 257

# Letters of the repeated spans: 64 visible bytes, first <= token < last. A larger alphabet delays
# induction beyond a demo's length.
SPAN_TOKENS = (63, 127)
N_SPAN_TOKENS = SPAN_TOKENS[1] - SPAN_TOKENS[0]

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


@dataclass(frozen=True)
class DataConfig:
    """What the batches are made of.

    Attributes:
        path: file, folder or glob of the user's text; None: the standard library's source.
        pattern: which files of a folder are read.
        repeat_share: share of the sequences that are repeated random spans, 0..1; the rest is text.
        min_period, max_period: length of a span in tokens, drawn uniformly.
        validation_share: share of the text, at its end, that is never trained on.
    """

    path: str | None = None
    pattern: str = "**/*"
    repeat_share: float = 0.75
    min_period: int = 8
    max_period: int = 28
    validation_share: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.repeat_share <= 1:
            raise ConfigError(
                f"data.repeat_share is a share of the sequences, 0..1; got {self.repeat_share}"
            )
        if not 0 < self.validation_share < 1:
            raise ConfigError(
                "data.validation_share is a share of the text, above 0 and below 1; got "
                f"{self.validation_share}"
            )
        if not 2 <= self.min_period <= self.max_period <= N_SPAN_TOKENS:
            raise ConfigError(
                "data.min_period and data.max_period need 2 <= min_period <= max_period <= "
                f"{N_SPAN_TOKENS} "
                f"(the tokens of a span are all different); got {self.min_period} and "
                f"{self.max_period}"
            )


class Mixture:
    """Endless batches of text and repeated spans. Its order depends on ``seed`` and on nothing else
    in the process.

    ``state`` / ``set_state`` carry it over into a resumed run.
    """

    def __init__(self, config: DataConfig, context_length: int, *, batch_size: int, seed: int):
        if config.min_period >= context_length:
            raise ConfigError(
                f"a span must come twice within model.context_length={context_length} tokens to "
                "teach anything; "
                f"data.min_period={config.min_period} is too long"
            )
        self.config = config
        self.context_length = context_length
        self.n_repeats = round(batch_size * config.repeat_share)
        self.n_texts = batch_size - self.n_repeats
        text = read_text(config)
        cut = len(text) - int(len(text) * config.validation_share)
        self.training_text = _long_enough(text[:cut], "training", config, context_length)
        self.validation_text = _long_enough(text[cut:], "validation", config, context_length)
        self._generator = torch.Generator().manual_seed(seed)

    def batch(self) -> tuple[Tensor, Tensor]:
        """The next inputs and targets, both int64 [batch, context_length]; ``targets`` is
        ``inputs`` one token later."""
        rows = torch.cat(
            [
                repeated_spans(
                    self.n_repeats, self.context_length + 1, self.config, self._generator
                ),
                text_windows(
                    self.training_text, self.n_texts, self.context_length + 1, self._generator
                ),
            ]
        )
        return rows[:, :-1], rows[:, 1:]

    def validation_rows(self, n_rows: int) -> tuple[Tensor, Tensor]:
        """Held-out text and unseen spans, the same ones at every call and for every seed: two int64
        [row, context_length + 1]."""
        generator = torch.Generator().manual_seed(2**31 - 1)
        n_tokens = self.context_length + 1
        return (
            text_windows(self.validation_text, n_rows, n_tokens, generator),
            repeated_spans(n_rows, n_tokens, self.config, generator),
        )

    def probe_text(self) -> Tensor:
        """``BOS`` and the first lines of the held-out text, from one that is not indented: int64
        [context_length]."""
        text = bytes(self.validation_text[: 1 << 16].tolist())
        last_start = len(text) - self.context_length + 1
        start = re.compile(rb"^(?=\S)", re.MULTILINE).search(text, 1, last_start)
        return torch.tensor([BOS, *text[start.start() if start else 0 :]][: self.context_length])

    def state(self) -> Tensor:
        """Where the order stands: uint8 [n]."""
        return self._generator.get_state()

    def set_state(self, state: Tensor) -> None:
        self._generator.set_state(state)


def token_text(token: int) -> str:
    """What a picture shows for a token: one visible character, ``<bos>``, or a byte's number."""
    signs = {BOS: "<bos>", ord(" "): "␣", ord("\n"): "↵", ord("\t"): "⇥"}
    return signs.get(token) or (chr(token) if 33 <= token < 127 else f"\\x{token:02x}")


def repeated_spans(
    n_rows: int, n_tokens: int, config: DataConfig, generator: torch.Generator
) -> Tensor:
    """Rows ``[BOS] r r r ...``, cut off at ``n_tokens``: int64 [n_rows, n_tokens].

    Each row has its own period, and its own ``r`` drawn from ``SPAN_TOKENS`` without putting back:
    were a token to come twice within ``r``, what follows it could not be told from the last time it
    came.
    """
    letters = torch.rand(n_rows, N_SPAN_TOKENS, generator=generator).argsort(dim=1) + SPAN_TOKENS[0]
    period = torch.randint(
        config.min_period, config.max_period + 1, (n_rows, 1), generator=generator
    )
    spans = letters.gather(1, torch.arange(n_tokens - 1) % period)
    return torch.cat([torch.full((n_rows, 1), BOS), spans], dim=1)


def second_copies(rows: Tensor) -> Tensor:
    """Which tokens of repeated rows stood in the row before, and can so be predicted: bool [row,
    token].

    The first token of the second copy is not counted: nothing tells where the first copy ends.
    """
    seen_before = (rows[:, :, None] == rows[:, None, :]).tril(-1).any(dim=2)
    seen_before[:, 1:] &= seen_before[:, :-1].clone()
    return seen_before


def text_windows(text: Tensor, n_rows: int, n_tokens: int, generator: torch.Generator) -> Tensor:
    """Rows ``[BOS] t t t ...`` from random places of ``text`` (uint8 [byte]): int64 [n_rows,
    n_tokens]."""
    start = torch.randint(0, len(text) - n_tokens + 2, (n_rows, 1), generator=generator)
    return torch.cat(
        [torch.full((n_rows, 1), BOS), text[start + torch.arange(n_tokens - 1)].long()], dim=1
    )


def read_text(config: DataConfig) -> Tensor:
    """All files that ``config`` names, in the order of their names, as one uint8 [byte]."""
    files = (
        standard_library_files() if config.path is None else user_files(config.path, config.pattern)
    )
    contents = [_read(file) for file in files]
    # numpy's copy is writable; torch warns of bytes, which are not
    return torch.from_numpy(np.frombuffer(b"\n".join(contents), dtype=np.uint8).copy())


def standard_library_files() -> list[Path]:
    """Source files of the running Python's standard library, without its tests and bundled
    applications."""
    root = Path(sysconfig.get_path("stdlib"))
    files = [
        path
        for path in sorted(root.rglob("*.py"))
        if not _NOT_SOURCE.intersection(path.relative_to(root).parts)
    ]
    if not files:
        raise ConfigError(
            f"this Python has no standard library source under {root}; train on your own: "
            "data=text data.path=<file or folder>"
        )
    return files


def user_files(path: str, pattern: str) -> list[Path]:
    """Files named by ``path``: a file, a folder (those that match ``pattern``), or a glob. Hidden
    files are left out."""
    place = Path(path).expanduser()
    if place.is_file():
        return [place]
    if place.is_dir():
        files = [file for file in sorted(place.glob(pattern)) if _is_visible_file(file, place)]
        if not files:
            raise ConfigError(
                f"data.path={path} is a folder without a file that matches data.pattern={pattern!r}"
            )
        return files
    files = [
        Path(name) for name in sorted(glob.glob(str(place), recursive=True)) if Path(name).is_file()
    ]
    if not files:
        raise ConfigError(
            f"data.path={path} (from {Path.cwd()}) is no file, no folder, and a glob that matches "
            "nothing"
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
        raise ConfigError(
            f"{config.path or 'the standard library'} leaves {len(text)} bytes for {split}, and "
            f"one sequence takes {context_length} "
            "(model.context_length): give more text, a shorter context, or another "
            "data.validation_share"
        )
    return text
