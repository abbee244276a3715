"""Lets the tests here share the models they try (``hf_decoders``, ``plain_decoders``): importlib
mode adds no path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
