"""The contract that every tracker's adapter keeps, as tests to subclass. Shipped, so that a third
party's adapter can be held to it; needs pytest.

    class TestMyTracker(TrackerContract):
        @pytest.fixture
        def tracker(self, tmp_path):
            return MyTracker(...)

        @pytest.fixture
        def reader(self, tracker):           # the same service, as another machine would reach it
            return MyTracker(...)

        # what the service itself has, seen past the adapter
        def stored_metrics(self, ref): ...
        def truncate(self, ref, capture): ...
        def missing_ref(self): ...

The other ``stored_...`` methods need overriding only where the adapter overrides the default of
``Run``, which stores a file.
"""

from tracker_viz.trackers.testing.capture_tests import CaptureTests
from tracker_viz.trackers.testing.result_tests import ResultTests
from tracker_viz.trackers.testing.run_tests import RunTests
from tracker_viz.trackers.testing.sample_captures import make_capture, write_captures
from tracker_viz.trackers.testing.table_tests import TableTests

__all__ = ["TrackerContract", "make_capture", "write_captures"]


class TrackerContract(RunTests, CaptureTests, ResultTests, TableTests):
    """The whole contract; see ``Supplied`` for what a subclass supplies."""
