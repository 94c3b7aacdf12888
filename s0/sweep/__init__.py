"""Many cells, many processes."""
