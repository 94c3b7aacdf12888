"""Fused training of many states."""
