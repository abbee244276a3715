"""The MLflow adapter: ``tracker.py`` is its entry point."""
