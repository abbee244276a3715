"""Routers of a mixture of experts: which experts the tokens of the probe go to."""
