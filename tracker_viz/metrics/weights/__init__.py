"""Scores of weight matrices and of the neurons between them."""
