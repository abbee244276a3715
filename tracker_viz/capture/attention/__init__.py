"""Read attention probabilities out of whatever attention a model uses."""
