"""Show work that goes on in one output of the running cell, which is replaced as it changes."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)


def in_notebook() -> bool:
    """Return whether this process runs the cells of a notebook: Jupyter's kernel, as VS Code and
    Colab use it, or marimo."""
    return _kernel_shell() is not None or _marimo() is not None


class CellOutput:
    """One output of the cell that runs, shown and then replaced.

    Showing never raises: the work that it shows is worth more.
    """

    def __init__(self) -> None:
        self._handle: Any = None
        self._cell: int | None = None
        self._failed = False

    def show(self, markup: str, words: str) -> None:
        """Show ``markup``, or ``words`` where there is no HTML. What this cell shows already is
        replaced; in another cell a new output begins."""
        self._guarded(self._show, markup, words)

    def replace(self, markup: str, words: str) -> None:
        """Replace what was shown last, in whatever cell it is; nothing where nothing was."""
        if self._handle is not None:
            self._guarded(self._replace, markup, words)

    def clear(self) -> None:
        """Leave an empty output, if something was shown."""
        self.replace("", "")

    def _guarded(self, put: Callable[[str, str], None], markup: str, words: str) -> None:
        if self._failed:
            return
        try:
            put(markup, words)
        except Exception:
            self._failed = True
            log.exception("progress can not be shown in this notebook; the work goes on")

    def _show(self, markup: str, words: str) -> None:
        shell = _kernel_shell()
        if shell is None:
            self._show_in_marimo(markup)
        elif self._handle is not None and self._cell == shell.execution_count:
            self._replace(markup, words)
        else:
            from IPython.display import display

            self._cell = shell.execution_count
            self._handle = display(_bundle(markup, words), raw=True, display_id=True)

    def _replace(self, markup: str, words: str) -> None:
        if _kernel_shell() is None:
            self._show_in_marimo(markup)
        else:
            self._handle.update(_bundle(markup, words), raw=True)

    def _show_in_marimo(self, markup: str) -> None:
        marimo = _marimo()
        if marimo is None:
            return
        self._handle = marimo
        marimo.output.replace(marimo.Html(markup))


def _bundle(markup: str, words: str) -> dict[str, str]:
    return {"text/html": markup, "text/plain": words}


def _kernel_shell() -> Any:
    """Return IPython's shell in a kernel; None elsewhere, as in its terminal."""
    if "IPython" not in sys.modules:
        return None
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    return shell if hasattr(shell, "kernel") else None


def _marimo() -> Any:
    """Return the module marimo in one of its notebooks; None elsewhere."""
    marimo = sys.modules.get("marimo")
    if marimo is None or not marimo.running_in_notebook():
        return None
    return marimo
