"""Reach one W&B service: address, credentials, the public API; and translate its errors into ours.

Used by the other ``wandb`` modules only.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests
import wandb
from wandb.errors import AuthenticationError, CommError, UsageError
from wandb.errors import Error as WandbError
from wandb.sdk.lib import wbauth
from wandb.sdk.lib.service.service_connection import WandbApiFailedError
from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError
from wandb.sdk.mailbox.mailbox_handle import ServerResponseError

from tracker_viz.errors import (
    ConfigError,
    RunNotFoundError,
    TrackerError,
    TrackerVizError,
    TransientTrackerError,
)
from tracker_viz.trackers.redaction import without_credentials, without_userinfo
from tracker_viz.types import RunRef

# In a RunRef: the owner of the credentials. An offline run knows no more.
DEFAULT_ENTITY = "_"
SHARED = "shared"  # the client's mode in which several processes write one run
OWN_CONFIG = "tracker_viz"  # what a run's config holds for us
RENDER = "tracker_viz/render"  # counts the media of ours in a run's history
API_TIMEOUT_S = 20

_REFUSED_STATUS = {400, 401, 402, 403, 404, 409, 410, 413, 422}
# The last two: the client's service process is gone, at the end of the program or because somebody
# killed it.
AWAY = (
    WandbApiFailedError,
    requests.RequestException,
    TimeoutError,
    ConnectionError,
    HandleAbandonedError,
    MailboxClosedError,
)
_NO_SUCH_RUN = re.compile(
    r"could not find (run|project)|run .* does not exist|project .* not found", re.IGNORECASE
)

# Messages of the client's service process when a line breaks in the middle of a run's start; the
# error has no kind of its own.
_BROKEN_LINE = re.compile(
    r"connection (reset|refused|closed)|broken pipe|unexpected EOF|i/o timeout", re.IGNORECASE
)


class WandbService:
    """One W&B server, reached with the user's own credentials. Creating an instance touches no
    network.

    Args:
        base_url: the server's address; None uses ``WANDB_BASE_URL`` or the client's configuration.
    """

    def __init__(self, base_url: str | None) -> None:
        if base_url is not None and not re.match(r"https?://[^/]+", base_url):
            raise ConfigError(
                f"base_url must look like {_default_url()!r} or 'http://wandb.mylab.org'; got "
                f"{without_userinfo(base_url)!r}"
            )
        self._asked_url = base_url.rstrip("/") if base_url else None
        self._api: wandb.Api | None = None
        self._lock = threading.Lock()

    @property
    def base_url(self) -> str:
        return (
            self._asked_url
            or os.environ.get("WANDB_BASE_URL")
            or str(wandb.setup().settings.base_url)
        )

    @property
    def app_url(self) -> str:
        """URL of the UI; for the public cloud it differs from the API's."""
        address = str(wandb.Settings(base_url=self.base_url).app_url)
        return without_userinfo(address).rstrip("/")

    @property
    def shown_url(self) -> str:
        """The address as messages name it: it may have a password in it."""
        return without_userinfo(self.base_url)

    @property
    def environment(self) -> dict[str, str]:
        """Options that another process needs to reach the same server; empty for the public cloud,
        unless this machine is set to another server."""
        unasked = WandbService(None).base_url
        if self.base_url == unasked == _default_url():
            return {}
        return {"base_url": without_userinfo(self.base_url)}

    @property
    def mode(self) -> str:
        """``online``, ``offline`` or ``disabled``, from the user's environment."""
        mode = os.environ.get("WANDB_MODE") or str(wandb.setup().settings.mode)
        return {"dryrun": "offline", "run": "online", "shared": "online"}.get(mode, mode)

    @property
    def is_shared(self) -> bool:
        """Whether the user's environment says that several processes write one run."""
        mode = os.environ.get("WANDB_MODE") or str(wandb.setup().settings.mode)
        return mode == SHARED

    def require_online(self, ref: RunRef) -> None:
        """Check that the environment lets this process write to the server.

        Raises:
            TransientTrackerError: it does not.
        """
        if self.mode != "online":
            raise TransientTrackerError(
                f"WANDB_MODE={self.mode} prevents access to {ref}; unset it where "
                "W&B can be reached, and try again"
            )

    def require_credentials(self) -> wbauth.Auth:
        """Return the user's credentials; raise where the client would ask on the terminal, which
        nobody may be watching.

        Raises:
            TrackerError: there is no key and no token for this server.
        """
        with translated(self.base_url):
            found = wbauth.authenticate_session(
                host=self.base_url, source="tracker_viz", prompt=False, update_session=False
            )
        # For a server that it has no key for, the client may name one that it uses elsewhere.
        if not found or not found.host.is_same_url(self.base_url):
            raise TrackerError(
                f"no W&B credentials for {self.shown_url}: run 'wandb login "
                f"--host={self.shown_url}', or set WANDB_API_KEY"
            )
        return found

    def api(self) -> wandb.Api:
        """Return the client's public API, created on first use."""
        with self._lock:
            if self._api is None:
                self._api = self._connected()
            return self._api

    def check(self) -> None:
        """Check that the server answers and takes the credentials.

        ``wandb.init`` would do so, too, but after a failure its service process holds the run's id
        for good.
        """
        with self._lock:
            self._api = self._connected()

    def _connected(self) -> wandb.Api:
        self.require_credentials()
        with translated(self.base_url):
            return wandb.Api(overrides={"base_url": self.base_url}, timeout=API_TIMEOUT_S)

    def fetch_run(self, ref: RunRef) -> Any:
        """Return the run as it is on the server now, a ``wandb.apis.public.Run``.

        Raises:
            RunNotFoundError: there is none.
        """
        api = self.api()
        with translated(self.base_url, ref):
            # It keeps every run that it ever read, its summary too, and writes that back.
            api.flush()
            run = api.run(self.resolved(ref).path)
        return run

    def resolved(self, ref: RunRef) -> RunRef:
        """Return ``ref`` with the account's own entity if it leaves the entity open."""
        entity, project, run_id = ref.path.split("/")
        if entity != DEFAULT_ENTITY:
            return ref
        api = self.api()
        with translated(self.base_url):
            entity = str(api.default_entity)
        return RunRef("wandb", f"{entity}/{project}/{run_id}")


def _default_url() -> str:
    """Return the public cloud's address, which changes between releases of the client."""
    return str(wandb.Settings.model_fields["base_url"].default)


@contextmanager
def their_login_kept() -> Iterator[None]:
    """Keep the user's log-in around an ``init``, which moves the whole process to the server that
    it is given: the user's own next run would go there, too."""
    settings = wandb.setup().settings
    theirs = {
        name: getattr(settings, name) for name in ("base_url", "api_key", "identity_token_file")
    }
    try:
        yield
    finally:
        if settings.base_url != theirs["base_url"]:
            wbauth.unauthenticate_session(update_settings=False)
            for name, value in theirs.items():
                setattr(settings, name, value)


@contextmanager
def translated(base_url: str, ref: RunRef | None = None) -> Iterator[None]:
    """Translate the client's errors into ours. If the server did not answer, or failed itself, the
    same call may work later."""
    try:
        yield
    except TrackerVizError:
        raise
    except (WandbError, *AWAY, ServerResponseError, ValueError) as error:
        raise _as_ours(error, base_url, ref) from error


def _as_ours(error: Exception, base_url: str, ref: RunRef | None) -> TrackerError:
    base_url = without_userinfo(base_url)
    what = f"W&B at {base_url}"
    status = _status(error)
    if ref is not None and (
        _NO_SUCH_RUN.search(str(error)) or (isinstance(error, ValueError) and status == 404)
    ):
        return RunNotFoundError(
            f"{ref} is not at {base_url} ({_brief(error)}). A run that was trained offline gets "
            "there by 'wandb sync <its directory>' first"
        )
    if isinstance(error, AuthenticationError):
        # The client says the same of a server that is away and of a key that it refuses; only an
        # answer tells them apart.
        if status in {401, 403} or "invalid credentials" in str(error):
            return TrackerError(
                f"{what} refused the credentials ({_brief(error)}); log in again: 'wandb login "
                f"--relogin --host={base_url}'"
            )
        return TransientTrackerError(f"{what} is away ({_brief(error)})")
    if isinstance(error, ServerResponseError):
        # The server went away between its answer to ``check`` and the run's start.
        return TransientTrackerError(
            f"{what}: {_brief(error)}, in a start that failed; a new process can go on "
            "('tracker-viz push')"
        )
    if isinstance(error, UsageError):
        return TrackerError(f"{what}: {_brief(error)}")
    if status in _REFUSED_STATUS:
        return TrackerError(f"{what} refused ({_brief(error)})")
    if isinstance(error, (CommError, *AWAY)) or status or _BROKEN_LINE.search(str(error)):
        return TransientTrackerError(f"{what} is away ({_brief(error)})")
    return TrackerError(f"{what}: {_brief(error)}")


def _status(error: BaseException | None) -> int | None:
    """Return the HTTP status of the server's answer, if it answered: the client keeps it on one of
    the chained errors."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        response = getattr(error, "response", None)
        status = getattr(response, "http_status", None) or getattr(response, "status_code", None)
        if status:
            return int(status)
        chain.append(error)
        error = error.__cause__ or getattr(error, "exc", None)
    return None


def _brief(error: BaseException) -> str:
    return without_credentials(" ".join(str(error).split()))[:300] or type(error).__name__
