"""Fixtures for delivery: short retries, and a destination that needs no service."""

from __future__ import annotations

import pytest

from tracker_viz.delivery import Destination, uploader


@pytest.fixture(autouse=True)
def short_retries(monkeypatch):
    monkeypatch.setattr(uploader, "FIRST_RETRY_S", 0.02)


@pytest.fixture
def there(tmp_path):
    """A destination on another 'disk'."""
    return Destination("local", {"directory": str(tmp_path / "there")})
