"""The process that outlives a killed test run just long enough to end its bed: `undertaker.py FOLDER`, stdin a pipe."""

import sys
from pathlib import Path

from tests.testbed.sweep import sweep

if __name__ == "__main__":
    sys.stdin.read()  # returns when the bed, the only one who holds the other end, is gone
    sweep(Path(sys.argv[1]))
