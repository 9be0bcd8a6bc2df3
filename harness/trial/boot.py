"""The first process of a trial: takes on its limits, then becomes `python train.py`."""

import os
import sys

from harness.trial import limits

if __name__ == "__main__":
    limits.apply()
    os.execv(sys.executable, [sys.executable, "train.py"])
