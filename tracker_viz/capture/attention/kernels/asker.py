"""Ask the kernels that a pass calls, one by one, and remember which of them answer.

``AttentionWatch`` owns an asker and passes it the torch operators that it sees. ``interception``
passes it calls of Python functions, which torch does not see.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from tracker_viz.capture.attention.call_keeper import CallKeeper
from tracker_viz.capture.attention.kernels.asking import Answer
from tracker_viz.capture.attention.kernels.known_kernels import (
    Kernel,
    known_kernel,
    known_operator,
    supposed_operator,
)
from tracker_viz.capture.attention.kernels.questions import answered
from tracker_viz.capture.attention.probabilities import looks_back_only


class KernelAsker:
    """Asks every kernel that a pass calls for its mixing matrix, and remembers the outcome.

    Args:
        shape: of the probe, (rows, tokens a row).
        take_answer: gets each kernel that answered, its answer, and the arguments of its call.
        calls: all that mix tokens and were seen so far, by any means; gets a sentence about each
            known kernel that gave no answer.
        unanswered: kernels that gave no answer before, and are not asked again.

    Attributes:
        unanswered: (innermost module, kernel) of kernels without an answer, this pass included.
        answering: names through which Python functions were called that answered.
        is_quiet: torch functions called now are a kernel's own steps, so nobody looks at them.
        is_asking: a question is running, so that its tensors are not the model's.
        is_inside: a Python function is running that may be asked.
    """

    def __init__(
        self,
        shape: Sequence[int],
        take_answer: Callable[[Kernel, Answer, Mapping[str, Any]], None],
        calls: CallKeeper,
        unanswered: Collection[tuple[str, str]] = (),
    ) -> None:
        self.unanswered = {*unanswered}
        self.answering: set[str] = set()
        self.is_quiet, self.is_asking, self.is_inside = False, False, False
        self._n_rows, self._length = shape
        self._take_answer, self._calls = take_answer, calls

    def call_function(self, function: Any, name: str, args: Any, kwargs: Any) -> Any:
        """Call a Python function of the model's that may be a kernel, and ask it where nothing
        inside it was seen to mix tokens."""
        kernel = None if self.is_quiet else known_kernel(function, name)
        if kernel is None:
            return function(*args, **kwargs)
        n_before = self._calls.n_calls
        # Inside a recurrence that is written out, products of matrices are its own affair.
        is_recurrence = kernel.is_known and not kernel.kind.is_softmax
        with self._now(is_inside=True, is_quiet=is_recurrence):
            output = function(*args, **kwargs)
        if self._calls.n_calls == n_before:
            with self._now(is_quiet=True, is_asking=True):
                self._ask(kernel, function, args, kwargs, output)
            if self._calls.n_calls > n_before:
                self.answering.add(name)
        return output

    def ask_operator(self, operator: Any, args: Any, kwargs: Any, output: Any) -> None:
        """Ask a torch operator that was just called, if it may be a kernel. For use where torch
        functions are out of the watch's sight."""
        kernel = known_operator(operator) or self._supposed(operator, args)
        if kernel is not None:
            self._ask(kernel, operator, args, kwargs, output)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Look at nothing inside the ``with``: what runs there is a question."""
        with self._now(is_quiet=True, is_asking=True):
            yield

    def _supposed(self, operator: Any, args: Any) -> Kernel | None:
        """Return a third-party operator as a kernel, or None.

        Arguments usually come as query, key, value: the third large tensor is taken for the values.
        """
        if str(operator).startswith("aten."):
            return None
        lengths = {self._length, self._n_rows * self._length}  # rows may be packed into one
        large = []
        for position, arg in enumerate(args):
            if isinstance(arg, Tensor) and arg.ndim >= 3 and lengths & {*arg.shape}:
                large.append((position, arg.ndim))
        n_by_ndim = Counter(ndim for _, ndim in large)
        if max(n_by_ndim.values(), default=0) < 3:
            return None
        usual = max(n_by_ndim, key=lambda ndim: n_by_ndim[ndim])
        return supposed_operator(operator, [at for at, ndim in large if ndim == usual][2])

    def _ask(self, kernel: Kernel, function: Any, args: Any, kwargs: Any, output: Any) -> None:
        here = (self._calls.here(), kernel.name)
        arguments = kernel.named(args, kwargs)
        if here in self.unanswered or arguments is None:
            return
        answer = answered(kernel, function, arguments, output, (self._n_rows, self._length))
        if isinstance(answer, Answer) and not looks_back_only(answer.matrix.abs()):
            answer = "lets tokens look into the future"
        if isinstance(answer, Answer):
            self._take_answer(kernel, answer, arguments)
            return
        self.unanswered.add(here)
        if kernel.is_known:
            self._calls.rejected.append(
                f"{kernel.name}, a kernel that hides its probabilities, in {here[0]}: asked, it "
                f"{answer}; {kernel.kind.way_round}"
            )

    @contextmanager
    def _now(
        self, *, is_inside: bool = False, is_quiet: bool = False, is_asking: bool = False
    ) -> Iterator[None]:
        before = (self.is_inside, self.is_quiet, self.is_asking)
        self.is_inside |= is_inside
        self.is_quiet |= is_quiet
        self.is_asking |= is_asking
        try:
            yield
        finally:
            self.is_inside, self.is_quiet, self.is_asking = before
