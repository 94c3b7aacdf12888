"""Recurrent kernels of the project's own, and who uses them when."""
