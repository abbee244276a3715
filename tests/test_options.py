"""A group of options says each option once: types, ranges, defaults, meanings, and the errors and
the help that come of them."""

from __future__ import annotations

import pickle
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from omegaconf import OmegaConf
from pydantic import Field, ValidationError, field_validator

from tracker_viz.errors import ConfigError
from tracker_viz.options import LegalValues, OptionHelp, Options, option_help


class FilmOptions(Options):
    group_name = "film"

    fps: int = Field(24, ge=1, le=60)
    """Pictures per
    second."""

    pace: Literal["capture", "step", "log"] = "capture"
    """What takes equally long."""

    seconds: float | None = Field(None, gt=0)
    """Length of the film."""

    workers: Annotated[int, Field(ge=1)] | None = None
    names: tuple[str, ...] = ("head.*",)
    size: Annotated[str, LegalValues("1080p | 1600x900")] = "1080p"
    ends: tuple[int, int] | None = None
    upload: bool = True
    tracker: dict[str, Any] = Field(default_factory=dict)

    @field_validator("size")
    @classmethod
    def _known_size(cls, size: str) -> str:
        if not size[0].isdigit():
            raise ConfigError(f"film.size is 1080p or like 1600x900; got {size!r}")
        return size


class Named(Options):
    name: str


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fps": 0}, "film.fps must be a whole number from 1 to 60; got 0"),
        ({"fps": 2.5}, "film.fps must be a whole number from 1 to 60; got 2.5"),
        ({"fps": True}, "film.fps must be a whole number from 1 to 60; got True"),
        ({"seconds": 0}, "film.seconds must be a number above 0 or null; got 0"),
        ({"seconds": float("nan")}, "film.seconds must be a number above 0 or null; got nan"),
        ({"seconds": float("inf")}, "film.seconds must be a number above 0 or null; got inf"),
        ({"workers": "x"}, "film.workers must be a whole number of at least 1 or null; got 'x'"),
        ({"names": "head.sink"}, "film.names must be a list, each a string; got 'head.sink'"),
        ({"names": [3]}, "film.names must be a list, each a string; got [3]"),
        ({"ends": [1]}, "film.ends must be a list, each a whole number or null; got [1]"),
        ({"ends": 5}, "film.ends must be a list, each a whole number or null; got 5"),
        ({"upload": "maybe"}, "film.upload must be true or false; got 'maybe'"),
        ({"tracker": "mlflow"}, "film.tracker must be a mapping; got 'mlflow'"),
        ({"size": "big"}, "film.size is 1080p or like 1600x900; got 'big'"),
        ({"size": 3}, "film.size must be 1080p | 1600x900; got 3"),
        (
            {"pace": "stpe"},
            "unknown film.pace 'stpe'; did you mean 'step'? known: capture, log, step",
        ),
        ({"pace": None}, "unknown film.pace 'None'; known: capture, log, step"),
        ({"fsp": 3}, "unknown option of film 'fsp'; did you mean 'fps'? known: "),
        ({"names": ["x" * 1000, 3]}, "xx ..."),
    ],
)
def test_a_wrong_option_says_in_one_line_what_was_expected_and_what_came(options, message):
    with pytest.raises(ConfigError) as caught:
        FilmOptions(**options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    with pytest.raises(ConfigError) as from_yaml:
        FilmOptions.of(OmegaConf.create(options))
    assert str(from_yaml.value) == str(caught.value)


def test_a_misspelled_name_is_reported_before_the_one_that_is_missing_for_it():
    with pytest.raises(ConfigError, match="unknown option 'nmae'; did you mean 'name'"):
        Named(nmae="mine")
    with pytest.raises(ConfigError, match=r"name has no value yet; give it one: name=\.\.\."):
        Named()


def test_numbers_and_lists_may_be_numpys_and_omegaconfs():
    options = FilmOptions(fps=np.int64(30), seconds=np.float32(2), names=OmegaConf.create(["a"]))
    assert (options.fps, options.seconds, options.names) == (30, 2.0, ("a",))
    assert FilmOptions.of({"names": ["a"], "seconds": 2, "fps": 30}) == options
    assert FilmOptions.of(options) is options
    assert FilmOptions.of(None) == FilmOptions()
    with pytest.raises(ConfigError, match="film must be a mapping of options to values; got 'big'"):
        FilmOptions.of("big")


def test_options_do_not_change_and_go_to_other_processes():
    options = FilmOptions(fps=30)
    with pytest.raises(ValidationError, match="frozen"):
        options.fps = 3
    assert pickle.loads(pickle.dumps(options)) == options


def test_the_help_of_an_option_is_its_declaration():
    described = {each.name: each for each in option_help(FilmOptions)}
    assert described["film.fps"] == OptionHelp(
        "film.fps", "24", "a whole number from 1 to 60", "Pictures per second."
    )
    assert {name: (each.default, each.legal_values) for name, each in described.items()} == {
        "film.fps": ("24", "a whole number from 1 to 60"),
        "film.pace": ("capture", "capture | step | log"),
        "film.seconds": ("null", "a number above 0 or null"),
        "film.workers": ("null", "a whole number of at least 1 or null"),
        "film.names": ("[head.*]", "a list, each a string"),
        "film.size": ("1080p", "1080p | 1600x900"),
        "film.ends": ("null", "a list, each a whole number or null"),
        "film.upload": ("true", "true or false"),
        "film.tracker": ("{}", "a mapping"),
    }
    assert option_help(Named) == [OptionHelp("name", None, "a string", "")]
