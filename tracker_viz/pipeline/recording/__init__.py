"""From a model to an open run: what ``watch`` and ``backfill`` are made of."""
