"""Translate the errors of MLflow's client and of the artifact stores' clients into ours.

Two services can refuse: the tracking service, and the artifact store (S3, Google Cloud, Azure)
where clients reach it directly.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import filelock
import requests
import urllib3
from mlflow.exceptions import MlflowException

from tracker_viz.errors import (
    MissingDependencyError,
    RunNotFoundError,
    TrackerError,
    TrackerVizError,
    TransientTrackerError,
)
from tracker_viz.trackers.redaction import (
    without_credentials,
    without_retries,
    without_userinfo,
)

_TRANSIENT_STATUS = {408, 425, 429, 499, 500, 502, 503, 504}
_SECRETS = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
)
# What waiting does not repair
_BROKEN_DATABASE = (
    "out-of-date database schema",
    "unable to open database file",
    "readonly database",
)
_STATEMENT = re.compile(r"\s*\[SQL:.*", re.DOTALL)
_AWAY = re.compile(
    r"connect|timeout|timed ?out|unavailable|throttl|slow ?down|retries", re.IGNORECASE
)


@contextmanager
def mlflow_errors(uri: str, doing: str) -> Iterator[None]:
    """Translate errors of MLflow and its libraries: ``TransientTrackerError`` where a retry may
    work, another ``TrackerError`` where not. Passwords and tokens are removed."""
    where = without_userinfo(uri)
    try:
        yield
    except TrackerVizError:
        raise
    except MlflowException as error:
        raise _of_the_service(
            error.error_code, error.get_http_status_code(), str(error), where, doing
        ) from None
    except requests.exceptions.SSLError as error:
        raise TrackerError(_certificate_message(where, error)) from None
    except requests.exceptions.HTTPError as error:
        status = error.response.status_code if error.response is not None else 500
        raise _of_the_service("", status, str(error), where, doing) from None
    # requests leaves urllib3's errors as they are where a body is read from ``response.raw``.
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
        raise TransientTrackerError(f"cannot {doing} at {where}: {_shown(error)}") from None
    except filelock.Timeout as error:
        raise TransientTrackerError(
            f"cannot {doing} at {where}: another process has {error.lock_file} locked"
        ) from None
    except OSError as error:
        raise TransientTrackerError(
            f"cannot {doing} at {where}: {_shown(error)}; is the disk full or away?"
        ) from error


@contextmanager
def artifact_errors(root: str) -> Iterator[None]:
    """Translate errors of a store's own client, a library that may not be installed here: boto3,
    google-cloud-storage, ...

    Args:
        root: the store's address, as in ``s3://bucket/path``.
    """
    root = without_userinfo(root)
    try:
        yield
    except (TrackerVizError, OSError):
        raise
    except ImportError as error:
        raise MissingDependencyError(
            f"the artifact store {root} needs a client that is not installed ({error}); "
            "install it with: pip install boto3 (s3://), google-cloud-storage (gs://) or "
            "azure-storage-blob (wasbs://)"
        ) from None
    except Exception as error:
        if type(error).__module__ == "builtins":
            raise
        status = http_status(error)
        message = f"cannot use the artifact store {root}: {type(error).__name__}: {_shown(error)}"
        if status in {401, 403} or "redentials" in message:
            raise TrackerError(
                f"{message}. Clients of this server access the artifact store "
                "directly, so its credentials must be set here (S3: "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws; "
                "MLFLOW_S3_ENDPOINT_URL where it is not Amazon's)"
            ) from None
        if status in _TRANSIENT_STATUS:
            raise TransientTrackerError(message) from None
        raise TrackerError(message) from None


def http_status(error: BaseException) -> int:
    """Return the HTTP status that an exception or one of its causes carries. Without one: 500 if it
    speaks of a lost connection, else 400."""
    cause: BaseException | None = error
    while cause is not None:
        response = getattr(cause, "response", None)
        if isinstance(response, dict):
            return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400))
        for status in (
            getattr(response, "status_code", None),
            getattr(cause, "status_code", None),
            getattr(cause, "code", None),
        ):
            if isinstance(status, int):
                return status
        cause = cause.__cause__ or cause.__context__
    return 500 if _AWAY.search(f"{type(error).__name__} {error}") else 400


def _of_the_service(code: str, status: int, text: str, where: str, doing: str) -> TrackerError:
    text = _shown(text)
    message = f"cannot {doing} at {where}: {text}"
    if code == "RESOURCE_DOES_NOT_EXIST":
        return RunNotFoundError(message)
    if "CERTIFICATE_VERIFY_FAILED" in text or "[SSL" in text:
        return TrackerError(_certificate_message(where, text))
    if status in {401, 403}:
        fix = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        return TrackerError(
            f"{where} refused to {doing} (HTTP {status}); {fix}, for a user who may do that. It "
            f"said: {text}"
        )
    if code == "ENDPOINT_NOT_FOUND" or (status == 404 and "json" not in text.lower()):
        return TrackerError(
            f"{message}. Is this the address of an MLflow server, its --static-prefix included?"
        )
    if any(words in text for words in _BROKEN_DATABASE):
        return TrackerError(message)
    is_transient = status in _TRANSIENT_STATUS
    if not where.startswith("http"):
        is_transient = "OperationalError" in text or "locked" in text
    return TransientTrackerError(message) if is_transient else TrackerError(message)


def _shown(message: object) -> str:
    """Remove this process's secrets from a message: servers and gateways repeat what they were
    sent."""
    # A database's message repeats its whole statement, with the values in it, over many lines.
    text = _STATEMENT.sub("", str(message))
    text = without_retries(without_credentials(" ".join(text.split())))
    for secret in filter(None, map(os.environ.get, _SECRETS)):
        text = text.replace(secret, "***")
    return text


def _certificate_message(where: str, error: object) -> str:
    return (
        f"the certificate of {where} is not trusted; for a private CA set "
        "MLFLOW_TRACKING_SERVER_CERT_PATH=/path/to/ca.pem. "
        f"({_shown(error)})"
    )
