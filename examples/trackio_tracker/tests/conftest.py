"""Every test session has a Trackio directory of its own: Trackio reads ``TRACKIO_DIR`` once, when
it is imported."""

from __future__ import annotations

import os
import tempfile

os.environ["TRACKIO_DIR"] = tempfile.mkdtemp(prefix="trackio-")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
