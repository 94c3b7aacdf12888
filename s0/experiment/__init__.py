"""One cell of an experiment, from config to records."""
