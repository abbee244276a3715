"""Make scores and alarms of what ``capture.signals`` measured."""
