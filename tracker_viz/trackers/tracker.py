"""The base class of adapters of a tracking service: ``Tracker``, which creates and opens runs
(``base.Run``). It says what code without an instance has to know, and what an adapter may have."""

from __future__ import annotations

import inspect
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from tracker_viz.errors import ConfigError
from tracker_viz.trackers.base import Run
from tracker_viz.trackers.values import Health, LoggerRun
from tracker_viz.types import RunRef


class Tracker(ABC):
    """One tracking service, reached with the options of its adapter: the keyword parameters of the
    class. Creating an instance touches no network.

    The class attributes describe the tracker to code that has no instance. So the module of the
    class must not import the SDK at its top; its ``__init__`` may.
    """

    scheme: ClassVar[str]
    """First word of its references, and the name of its entry point."""

    reference_pattern: ClassVar[str]
    """Regular expression for what follows ``<scheme>:`` in a reference, as a whole."""

    reference_form: ClassVar[str]
    """The same for people: ``mlflow:<run_id>``."""

    install: ClassVar[str] = ""
    """Command that installs the SDK, shown where it is missing."""

    client: ClassVar[str] = ""
    """Top-level package of the SDK, whose live run objects ``join`` takes. It is imported before an
    instance is made, so that a missing one is reported with ``install``. Empty: there is none."""

    live_run: ClassVar[str] = ""
    """Name of such an object in messages: ``a wandb.Run``."""

    report_to: ClassVar[str] = ""
    """Its name in Hugging Face's ``TrainingArguments(report_to=...)``. Empty: the Trainer does not
    know it."""

    lightning_loggers: ClassVar[tuple[str, ...]] = ()
    """Class names of the Lightning loggers that write into it."""

    has_sweeps: ClassVar[bool] = False
    """Whether a run can be the parent of others: ``create_run(parent=...)``, ``Run.children``."""

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        return tuple(inspect.signature(cls).parameters)

    @property
    def options(self) -> Mapping[str, str]:
        """Options with which another process reaches the same service; absolute paths, never a
        secret."""
        return {}

    @abstractmethod
    def create_run(
        self,
        *,
        name: str,
        config: Mapping[str, Any],
        tags: Mapping[str, str] | None = None,
        parent: RunRef | None = None,
        key: str | None = None,
    ) -> Run:
        """Create a run in the state running, or continue the one that the tracker's own environment
        names for new runs (``Run.resumed``).

        Args:
            config: may be nested; logged as the tracker's own parameters.
            parent: the sweep's run above it; only where ``has_sweeps``.
            key: 32 hexadecimal digits. If a run was created with the same key already (by a process
                that was killed before it could store the run's id), that run is returned.
        """

    def keeps_below(self, parent: RunRef, options: Mapping[str, str]) -> bool:
        """Return whether runs that this tracker creates can be children of ``parent``, which is
        reached with ``options``."""
        return parent.scheme == self.scheme

    @abstractmethod
    def open_run(self, ref: RunRef, *, ours: bool = False) -> Run:
        """Open an existing run. ``ours``: tracker_viz created it in an earlier process, so
        ``finish`` ends it.

        Raises:
            RunNotFoundError: there is none, or it was deleted.
        """

    def active_run(self) -> Run | None:
        """Return the run that the user's own code has open in this process, which is joined and
        never ended by us; or None.

        Called on the user's own thread.
        """
        return None

    def join(self, live: Any) -> Run:
        """Return the run behind an object of the tracker's own client (``wandb.Run``,
        ``mlflow.entities.Run``), joined as above.

        Raises:
            ConfigError: this is no such object.
        """
        raise ConfigError(
            f"a {self.scheme} run is named by '{self.reference_form}'; got "
            f"{type(live).__module__}.{type(live).__qualname__}"
        )

    @classmethod
    def run_of_logger(cls, logger: Any) -> LoggerRun:
        """Return the run behind a Lightning logger whose class is in ``lightning_loggers``."""
        raise NotImplementedError(
            f"{cls.__name__} has lightning_loggers, so it must define run_of_logger"
        )

    @classmethod
    def options_of_logger(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of this tracker that a Lightning logger with these constructor
        arguments writes with; None for those that it leaves open."""
        return {}

    @classmethod
    def switched_off(cls, live: Any = None) -> str | None:
        """Return the setting by which the user keeps this tracker from recording anything, such as
        ``WANDB_MODE=disabled``; or None.

        Args:
            live: an object of the tracker's own client, for which alone it may be set.
        """
        return None

    @classmethod
    def agent_settings(cls) -> Mapping[str, Any]:
        """Return the settings that the tracker's own sweep agent chose for this process; empty
        outside its sweeps."""
        return {}

    def start_live_run(self, name: str | None, config: Mapping[str, Any]) -> bool:
        """Start a run with the tracker's client, as the user's code would, if the client starts one
        by itself at the first logged value. Return whether one was started.

        For a Trainer that relies on that: its losses and our captures then share a run. The
        Trainer ends it.
        """
        return False

    @property
    def offline_because(self) -> str:
        """The setting that keeps this process from the service, such as ``WANDB_MODE=offline``;
        empty: there is none."""
        return ""

    def health(self, timeout_s: float) -> Health:
        """Check whether the service could be written to, for ``tracker-viz doctor``. Writes
        nothing.

        Args:
            timeout_s: longest wait for a server's answer.
        """
        return Health(True, "installed")


def server_health(address: str, timeout_s: float) -> Health:
    """Check that a web server answers; asking for a login is an answer, too."""
    try:
        urllib.request.urlopen(address, timeout=timeout_s).close()
    except urllib.error.HTTPError:
        pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return Health(False, f"{address} does not answer ({reason})", _NO_ANSWER)
    return Health(True, f"{address} answers")


_NO_ANSWER = (
    "check the address and the network; without it, captures wait in the spool for "
    "'tracker-viz push'"
)
