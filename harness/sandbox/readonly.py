"""A descriptor that can't be turned into a writable one.

A process that runs under our own user id could reopen `/proc/self/fd/N` for writing, or chmod the
file, and so alter the training data of every later run. The kernel refuses both on a read-only
mount, so a helper opens the file on one, inside a sandbox, and passes the descriptor out.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from harness.sandbox.isolation import Isolation
from harness.sandbox.wire import pair

HELPER = (
    "import array, os, socket, sys; "
    "ours = socket.socket(fileno=int(sys.argv[1])); "
    "file = os.open(sys.argv[2], os.O_RDONLY); "
    "rights = array.array('i', [file]); "
    "ours.sendmsg([b'{}'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])"
)


def open_file(path: Path, isolation: Isolation) -> int:
    """Open `path` for reading; through a read-only mount where bubblewrap works.

    Raises:
        OSError: it can't be opened.
    """
    program = shutil.which("bwrap")
    if isolation.kind != "bwrap" or program is None:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    ours, theirs = pair()
    try:
        python = [str(Path(sys.executable).resolve()), "-I", "-S", "-c", HELPER, str(theirs.fileno())]
        view = [program, "--ro-bind", "/", "/", "--", *python, str(path)]
        subprocess.run(view, pass_fds=[theirs.fileno()], check=True, capture_output=True, timeout=30, env={})
        packet = ours.receive(timeout_seconds=1)
    except subprocess.SubprocessError as error:
        raise OSError(f"could not open {path} on a read-only mount: {error}") from None
    finally:
        ours.close()
        theirs.close()
    if packet is None or len(packet[1]) != 1:
        raise OSError(f"could not open {path} on a read-only mount")
    return packet[1][0]
