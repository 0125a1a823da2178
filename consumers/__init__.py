"""The processes that people run, and the event logs they read."""
