"""Measurements against peers and full failure tests: scripts enter, JSON with date and machine leaves."""
