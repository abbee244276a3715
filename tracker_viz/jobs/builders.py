"""Build what a command line names by its dotted path: a model, or held-out rows."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracker_viz.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from torch import nn


def build_model(name: str) -> nn.Module:
    """Return the model that ``name`` stands for.

    It is a function or class ``package.module.name`` that is called without arguments, or a
    directory with the ``config.json`` of a Hugging Face model, whose weights stay random until a
    checkpoint is loaded.

    Raises:
        ConfigError: there is no such function, or it returns no model.
    """
    from torch import nn

    import tracker_viz.capture  # noqa: F401  names the install line where torch is missing

    if (Path(name) / "config.json").is_file():
        try:
            from transformers import AutoConfig, AutoModelForCausalLM
        except ImportError as error:
            raise MissingDependencyError(
                f"{name} is a Hugging Face model; install its library with: pip install "
                "transformers"
            ) from error
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(name))
    else:
        model = call(
            name,
            "model must be a function that needs no arguments, like my_package.build_model, "
            "or a directory with a config.json",
        )
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"model={name} must return a torch.nn.Module; it returned a {type(model).__name__}"
        )
    return model


def call(name: str, expected: str) -> Any:
    """Return the result of the function ``package.module.name``, called without arguments. Modules
    in the working directory are found.

    Args:
        expected: beginning of the message if that fails.

    Raises:
        ConfigError: there is no such function, or it needs arguments.
    """
    module_name, _, function = name.rpartition(".")
    sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module_name), function)()
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ConfigError(f"{expected}; got {name!r} ({type(error).__name__}: {error})") from error
    finally:
        sys.path.pop(0)
