"""Learned states as files that others load."""
