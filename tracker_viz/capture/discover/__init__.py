"""Find a model's decoder blocks, projections and size."""
