"""Configuration: schemas, registry, values, seeds."""

from s0.paths import refuse_published

# here as well as in s0/__init__.py, which the published package overwrites when it is installed second: its own
# `from s0.config import S0Config` then comes here
refuse_published()
