"""Keep numpy's linear algebra on the calling thread. The Scorer uses it, because it runs beside
training.

A matrix of a few hundred rows gains nothing from BLAS's threads. After each call these spin for
milliseconds on the cores that training needs: with them, scoring a capture beside a busy training
took 3 to 10 times the processor time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from threadpoolctl import ThreadpoolController


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let numpy's BLAS start no threads inside; torch and every other library keep theirs."""
    with _numpys_blas().limit(limits=1):
        yield


@cache
def _numpys_blas() -> ThreadpoolController:
    """Return the BLAS libraries that numpy's wheel ships; none where numpy shares one with other
    packages."""
    loaded = ThreadpoolController()
    home = Path(np.__file__).resolve().parent.parent
    beside = [home / "numpy.libs", home / "numpy"]
    of_numpy = []
    for library in loaded.lib_controllers:
        folders = Path(library.filepath).resolve().parents
        if library.user_api == "blas" and not set(beside).isdisjoint(folders):
            of_numpy.append(library.filepath)
    return loaded.select(filepath=of_numpy)
