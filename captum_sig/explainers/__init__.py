"""Strings in, results out: one class for each task."""
