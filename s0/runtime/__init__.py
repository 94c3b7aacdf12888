"""Process, progress, threads and environment."""
