"""The first process of a trial: says that the sandbox stands, then becomes `python train.py`."""

import os
import socket
import sys

from harness.trial import limits
from harness.trial.wire import Channel

if __name__ == "__main__":
    limits.apply()
    number = int(os.environ["HARNESS_SOCKET"])
    Channel(socket.socket(fileno=os.dup(number))).offer({"ask": "boot"})
    os.execv(sys.executable, [sys.executable, "train.py"])
