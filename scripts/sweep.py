"""A sweep over all GPUs of this machine, one process per GPU (on a CPU: several processes, threads divided).

python scripts/sweep.py method.alpha=0.03,0.07,0.15 seed=0..9
python scripts/sweep.py --workers 4 --devices 0,1,2,3 +experiment=table1_main
python scripts/sweep.py --workers 2 --gpus-per-worker 4 model=qwen35_9b model.device_map=auto

Everything after the options goes to run.py -m. Without --workers: as many as there are GPUs, else one.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from s0.cli.main import main as run
from s0.sweep.workers import devices


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, help="number of processes")
    parser.add_argument("--devices", help="CUDA devices to use, such as 0,1,2,3 (default: all visible ones)")
    parser.add_argument("--gpus-per-worker", type=int, default=1, help="devices each process sees (default 1)")
    options, rest = parser.parse_known_args(argv)
    if options.devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = options.devices
    os.environ["S0_GPUS_PER_WORKER"] = str(options.gpus_per_worker)
    workers = options.workers or max(1, len(devices()) // options.gpus_per_worker)
    return run(["-m", f"workers={workers}", *(a for a in rest if a not in ("-m", "--multirun", "--"))])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
