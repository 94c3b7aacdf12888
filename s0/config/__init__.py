"""Configuration: schemas, registry, values, seeds."""
