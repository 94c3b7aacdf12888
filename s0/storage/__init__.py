"""Files, the content-addressed store, records and results."""
