"""The parts of the trials in which a run is followed while processes are killed."""

from measuring import add_tests_to_path

add_tests_to_path("trackers")  # for the servers, which fault_trials imports as well
