"""A prestarted process: a sandboxed Python that waits to be told which train.py to run.

On a GPU the next one is made while a run trains: its libraries are in memory and the compile cache
is in place when its time comes. Nothing untrusted is in it before `go`, and till then it leaves the
GPU alone.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from harness.config import RunConfig
from harness.sandbox.isolation import Isolation, Process
from harness.sandbox.wire import close_all, pair
from harness.worker.device import Device

BOOT = "harness.worker.boot"
COMPILED = "compiled"  # the cache, read-only, beside train.py


class Prestarted:
    """`channel` and `reading` are its messages and its output; `process` is what to kill.

    Raises:
        OSError: no process could be started.
    """

    def __init__(
        self, config: RunConfig, isolation: Isolation, device: Device, compiled: Path | None = None
    ) -> None:
        """`compiled`: what earlier runs compiled, if that is kept."""
        self.device, self.isolation, self.compiled = device, isolation, compiled
        self.channel, theirs = pair()
        self.reading, writing = os.pipe()
        os.set_blocking(self.reading, False)  # it can be read from inside too: emptied before we get to it
        try:
            self.process = Process(
                isolation,
                BOOT,
                files={COMPILED: compiled} if compiled else {},
                descriptors={"HARNESS_SOCKET": theirs.fileno()},
                limits=device.limits(config.memory_gb, training=True),
                variables={**device.variables, **({"HARNESS_PRELOAD": "1"} if device.kind == "cuda" else {})},
                disk_mb=config.disk_mb,
                output=writing,
                gpu=device.node,
            )
        finally:
            theirs.close()
            os.close(writing)

    def go(self, source: Path, spec: dict[str, Any]) -> None:
        """Have it run a train.py. What it gets is a copy that nobody else will read."""
        with tempfile.TemporaryFile() as copy:
            copy.write(source.read_bytes())
            copy.flush()
            self.channel.offer({"run": json.dumps(spec)}, [copy.fileno()])

    @property
    def is_free(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        """Kill what runs in it; a second call does nothing."""
        self.process.kill()
        self.channel.close()
        if self.reading >= 0:
            close_all([self.reading])
            self.reading = -1
