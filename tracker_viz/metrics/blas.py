"""numpy's linear algebra on the calling thread alone. Used by the Scorer, which works beside a
training.

A matrix of a few hundred rows gains nothing from BLAS's threads, and after each call those spin for
milliseconds on the cores that training needs: beside a busy training the scores of a capture took 3
to 10 times the processor time.
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
    """Inside, numpy's BLAS starts no threads. Those of torch, and every other library's, are left
    as they are."""
    with _numpys_blas().limit(limits=1):
        yield


@cache
def _numpys_blas() -> ThreadpoolController:
    """BLAS libraries that lie beside numpy, as its wheels bring them; nothing where numpy shares
    one with other packages."""
    loaded = ThreadpoolController()
    home = Path(np.__file__).resolve().parent.parent
    beside = [home / "numpy.libs", home / "numpy"]
    return loaded.select(
        filepath=[
            library.filepath
            for library in loaded.lib_controllers
            if library.user_api == "blas"
            and any(folder in Path(library.filepath).resolve().parents for folder in beside)
        ]
    )
