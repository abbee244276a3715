"""A PostgreSQL server of a test's own."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from own_port import own_port

PASSWORD = "long-Enough-s3cret"


def as_postgres():
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            return {
                "user": pwd.getpwnam(name).pw_uid,
                "group": pwd.getpwnam(name).pw_gid,
                "extra_groups": [],
            }
        except KeyError:
            continue
    pytest.skip("PostgreSQL does not run as root, and there is no user 'postgres' or 'nobody'")


class Postgres:
    """A database server of its own, as a user who may run one; ``stop`` is as a crash would be."""

    def __init__(self, binaries):
        self._binaries = binaries
        self._as_user = as_postgres()
        # Not under pytest's own directory: its user must be able to get there, and a socket's path
        # has to be short.
        self._directory = tempfile.mkdtemp(prefix="pg-")
        if self._as_user:
            os.chown(self._directory, self._as_user["user"], self._as_user["group"])
        self._held = own_port()
        self._port = self._held.getsockname()[1]
        self.uri = f"postgresql+psycopg2://mlflow:{PASSWORD}@127.0.0.1:{self._port}/postgres"
        self._call("initdb", "-U", "mlflow", "-A", "trust", "-E", "UTF8", "--no-sync")

    @classmethod
    def found(cls):
        """Return a server that is not started yet, where PostgreSQL is installed."""
        on_path = [Path(found).resolve().parent for found in [shutil.which("initdb")] if found]
        installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
        binaries = next(iter([*on_path, *installed]), None)
        if binaries is None:
            pytest.skip("needs PostgreSQL's initdb and pg_ctl (Debian: apt-get install postgresql)")
        pytest.importorskip("psycopg2", reason="needs psycopg2-binary")
        return cls(binaries)

    def start(self):
        # Commits must be in the log when they return, or a crash loses what was confirmed; that it
        # is on the disk is too slow here.
        quick = "-c fsync=off -c full_page_writes=off"
        options = f"{quick} -p {self._port} -h 127.0.0.1 -k {self._directory}"
        self._call("pg_ctl", "-w", "-l", f"{self._directory}/log", "-o", options, "start")

    def stop(self):
        self._call("pg_ctl", "-m", "immediate", "stop")

    def remove(self):
        self.stop()
        self._held.close()
        shutil.rmtree(self._directory)

    def _call(self, program, *arguments):
        command = [f"{self._binaries}/{program}", "-D", f"{self._directory}/data", *arguments]
        subprocess.run(
            command, check=True, cwd=self._directory, stdout=subprocess.DEVNULL, **self._as_user
        )
