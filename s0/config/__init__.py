"""Configuration: schemas, registry, values, seeds."""

from typing import Any

from s0.paths import refuse_published

# here as well as in s0/__init__.py, which the published package overwrites when it is installed second: its own
# `from s0.config import S0Config` then comes here
refuse_published()


def __getattr__(name: str) -> Any:
    if name == "S0Config":  # where the published library keeps it
        import s0  # start-up: torch

        return s0.S0Config
    raise AttributeError(f"module 's0.config' has no attribute {name!r}")
