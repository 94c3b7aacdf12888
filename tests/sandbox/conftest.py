"""Real sandboxes for the tests: one worker each, so that the check after an attack runs on the attacked worker."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from s0.errors import SandboxError
from s0.sandbox import Sandbox


def _make(tier: str) -> Iterator[Sandbox]:
    with Sandbox(workers=1, tier=tier, allow_unisolated=tier == "reduced", memory_mb=512) as made:  # type: ignore[arg-type]
        try:
            name = made.tier
        except SandboxError as exc:
            if tier == "bwrap" or sys.platform != "linux":
                pytest.skip(str(exc))
            raise
        assert name.startswith("reduced" if tier == "reduced" else "isolated")
        yield made


@pytest.fixture(scope="session", params=["landlock", "bwrap"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """Each way of isolating by itself: what must hold, must hold without the other's help."""
    yield from _make(request.param)


@pytest.fixture(scope="session")
def auto() -> Iterator[Sandbox]:
    yield from _make("auto")


@pytest.fixture(scope="session")
def reduced() -> Iterator[Sandbox]:
    yield from _make("reduced")
