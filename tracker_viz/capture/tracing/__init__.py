"""Trace through a watched pass which parameters made a tensor, and what each of them did."""
