"""Say what to install where torch is missing, before anything of this package is imported."""

from __future__ import annotations

from tracker_viz.errors import MissingDependencyError

try:
    import torch  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise MissingDependencyError(
        "capturing a model needs torch, which is not installed (rendering and "
        "comparing do not need it). Install it with: pip install "
        "'tracker-viz[torch]'"
    ) from error
