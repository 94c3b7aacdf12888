"""The experiment runner.

python run.py                                            the embedded default on CPU: train, evaluate, print the table
python run.py model=qwen35_4b task=humaneval seed=0..9   a cell of the paper
python run.py -m method.alpha=0.05,0.1,0.3 seed=0..9     a sweep
python run.py --help                                     groups and options

Exit codes: 0 done, 1 error, 2 config, 3 no verified training solution, 4 some cells failed,
5 training diverged, 130 interrupted.
"""

import sys

from s0.cli import main

if __name__ == "__main__":
    sys.exit(main())
