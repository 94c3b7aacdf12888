"""`s0 sweep`: a sweep over the devices of this machine."""

from __future__ import annotations

import os

from s0.cli.arguments import Parser
from s0.cli.commands.run import main as run
from s0.errors import ConfigError
from s0.sweep.workers import devices

DESCRIPTION = """
A sweep over all GPUs of this machine, one process per GPU (on a CPU: several
processes, threads divided).

  s0 sweep method.alpha=0.03,0.07,0.15 seed=0..9
  s0 sweep --workers 4 --devices 0,1,2,3 experiment=table1_main
  s0 sweep --workers 2 --gpus-per-worker 4 model=qwen35_9b \\
           model.device_map=auto

Everything after the options goes to s0 run -m.
"""


def main(argv: list[str], program: str = "s0 run") -> int:
    parser = Parser("sweep", DESCRIPTION)
    parser.add_argument("--workers", type=int, help="processes (default: one per GPU, else one)")
    parser.add_argument("--devices", help="CUDA devices to use, such as 0,1,2,3 (default: all visible ones)")
    parser.add_argument("--gpus-per-worker", type=int, default=1, help="devices each process sees (default 1)")
    options, rest = parser.parse_known_args(argv)
    if options.gpus_per_worker < 1 or (options.workers is not None and options.workers < 1):
        raise ConfigError("--workers, --gpus-per-worker: must be 1 or more")
    if options.devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = options.devices
    os.environ["S0_GPUS_PER_WORKER"] = str(options.gpus_per_worker)
    workers = options.workers or max(1, len(devices()) // options.gpus_per_worker)
    return run(["-m", f"workers={workers}", *(a for a in rest if a not in ("-m", "--multirun", "--"))], program)
