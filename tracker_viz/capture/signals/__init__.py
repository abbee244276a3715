"""Measure what the probe's pass shows beside attention: one module for each signal.

``probe_pass`` collects what all of them look at; ``chosen`` makes the signals of a capture.
"""
