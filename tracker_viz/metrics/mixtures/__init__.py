"""Scores of a mixture of experts: of every expert, and of every router."""
