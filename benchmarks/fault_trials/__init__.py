"""The parts of ``benchmarks/faults.py``: what is tried, where it goes, and how it is counted."""
