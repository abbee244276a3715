"""The parts of ``follow`` and ``live``: captures as they come, color scales that may grow, the
film, and the page with its server."""
