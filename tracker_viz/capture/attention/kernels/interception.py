"""See a model's calls of plain Python functions during one pass: kernels without a torch operator
(fla, Triton), and the loops that stand in for them.

The names by which the model's modules reach such a function, in their files, in namespaces those
import and on themselves, are bound to a dispatcher while the pass runs and put back afterwards,
whatever happens. Only the thread that runs the pass is dispatched: any other one that calls a
function meanwhile gets the function.
"""

from __future__ import annotations

import functools
import sys
import threading
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from tracker_viz.capture.attention.kernels.known_kernels import known_kernel

# (function, name it was called by, args, kwargs) -> what the call returns
Take = Callable[[Callable[..., Any], str, tuple[Any, ...], dict[str, Any]], Any]

# Files of these hold no kernels of a model, or are seen as torch functions.
_NOT_SEARCHED = ("torch", "numpy", "builtins", "typing", "math", "tracker_viz")


@dataclass(frozen=True, slots=True)
class Binding:
    """A name that leads to a function: an attribute of a module's file, of a namespace, of a class
    or of an ``nn.Module``."""

    owner: Any
    name: str

    @property
    def function(self) -> Any:
        return vars(self.owner).get(self.name)

    def bind(self, function: Any) -> None:
        """Bind the name to another function."""
        # nn.Module has a __setattr__ of its own, and a class no writable __dict__.
        if isinstance(self.owner, type):
            setattr(self.owner, self.name, function)
        else:
            vars(self.owner)[self.name] = function


@dataclass(slots=True)
class _Bound:
    original: Any
    dispatcher: Any
    n_users: int = 1


_lock = threading.Lock()
# Shared by all threads: two passes may intercept the same name at the same time.
_bound: dict[tuple[int, str], _Bound] = {}
_of_thread = threading.local()


def find_bindings(model: nn.Module) -> list[Binding]:
    """Return the names through which the model's own code may call a function that mixes values:
    in the files of its modules, in those of the functions that they call from there, and one step
    further in namespaces."""
    found: list[Binding] = []
    files: dict[str, None] = {}
    classes: set[type] = set()
    for module in model.modules():
        found += _kernels_in(module)
        for value in vars(module).values():
            if isinstance(value, types.FunctionType):
                files[value.__module__] = None
        classes.update(type(module).__mro__)
    for cls in classes:
        if not _is_not_searched(cls.__module__):
            found += _kernels_in(cls)
            files[cls.__module__] = None
    for name in [*files]:
        files.update(dict.fromkeys(_called_from(name)))
    for name in files:
        file = sys.modules.get(name)
        if file is not None and not _is_not_searched(name):
            found += _kernels_in(file)
            found += _kernels_in_namespaces(file)
    return list({(id(each.owner), each.name): each for each in found}.values())


@contextmanager
def intercepted(bindings: Iterable[Binding], take: Take) -> Iterator[None]:
    """Send calls that this thread makes through ``bindings`` to ``take``, inside the ``with``."""
    held = []
    before = getattr(_of_thread, "take", None)
    try:
        for binding in bindings:
            if binding.function is not None:
                _hold(binding)
                held.append(binding)
        _of_thread.take = take
        yield
    finally:
        _of_thread.take = before
        for binding in held:
            _release(binding)


def _hold(binding: Binding) -> None:
    with _lock:
        key = (id(binding.owner), binding.name)
        if key in _bound:
            _bound[key].n_users += 1
            return
        original = binding.function
        dispatcher = _dispatcher(original, binding.name)
        _bound[key] = _Bound(original, dispatcher)
        binding.bind(dispatcher)


def _release(binding: Binding) -> None:
    with _lock:
        key = (id(binding.owner), binding.name)
        bound = _bound[key]
        bound.n_users -= 1
        if bound.n_users:
            return
        del _bound[key]
        # Somebody else may have bound the name to something of theirs in the meantime.
        if binding.function is bound.dispatcher:
            binding.bind(bound.original)


def _dispatcher(original: Any, name: str) -> Any:
    is_static = isinstance(original, staticmethod)
    function = original.__func__ if is_static else original

    @functools.wraps(function)
    def dispatch(*args: Any, **kwargs: Any) -> Any:
        take = getattr(_of_thread, "take", None)
        if take is None:
            return function(*args, **kwargs)
        return take(function, name, args, kwargs)

    return staticmethod(dispatch) if is_static else dispatch


def _kernels_in(owner: Any, *, known_only: bool = False) -> list[Binding]:
    found = []
    for name, value in list(vars(owner).items()):
        function = value.__func__ if isinstance(value, staticmethod) else value
        if not _may_be_kernel(function):
            continue
        kernel = known_kernel(function, name)
        if kernel is not None and (kernel.is_known or not known_only):
            found.append(Binding(owner, name))
    return found


def _called_from(file: str) -> list[str]:
    """Return the files of the same package that a file takes functions from."""
    package = file.partition(".")[0]
    loaded = sys.modules.get(file)
    names: list[str] = []
    if loaded is None:
        return names
    for value in list(vars(loaded).values()):
        if isinstance(value, types.FunctionType):
            other = value.__module__ or ""
            if other != file and other.partition(".")[0] == package:
                names.append(other)
    return names


def _kernels_in_namespaces(file: types.ModuleType) -> list[Binding]:
    """Look one step further: ``flash_attn.flash_attn_func`` in a file that imports
    ``flash_attn``."""
    found = []
    for value in list(vars(file).values()):
        is_file = isinstance(value, types.ModuleType) and not _is_not_searched(value.__name__)
        if is_file or isinstance(value, types.SimpleNamespace):
            found += _kernels_in(value, known_only=True)
    return found


def _may_be_kernel(value: Any) -> bool:
    if isinstance(value, type | nn.Module | types.ModuleType) or not callable(value):
        return False
    if not isinstance(value, types.FunctionType | types.BuiltinFunctionType | functools.partial):
        # A custom operator, or an object around a function.
        return hasattr(value, "__wrapped__")
    return not _is_not_searched(getattr(value, "__module__", None) or "")


def _is_not_searched(module: str) -> bool:
    return module.partition(".")[0] in _NOT_SEARCHED
