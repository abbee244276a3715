"""The parts of the trials in which a run is followed while processes are killed."""
