"""Decide where everything is placed in a picture: ``make_plan`` turns a Layout and a run into a
Plan."""
