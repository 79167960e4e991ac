"""Measurements with printed ratios; nothing here is a timed test."""
