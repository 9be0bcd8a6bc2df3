"""What a running loop says of itself, for `harness status`: a file that is of no use afterwards."""

import json
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.paths import write_atomically
from harness.session.limits import Limits


class State:
    """Of one session, from now on."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self._path, self._limits, self._began = path, limits, time.time()
        self._titles: dict[str, str] = {}  # of what runs, by `Event.of`

    def write(self, text: str, of: str, is_over: bool, measured: int, spent_usd: float) -> None:
        """`text`: a line about a run that begins, or is over; `of`: which, see `Event`."""
        self._titles.pop(of, None)
        if not is_over:
            self._titles[of] = text
        state = {
            "running": ", ".join(self._titles.values()), "since": time.time(), "began": self._began,
            "limits": asdict(self._limits), "measured": measured, "spent": spent_usd,
        }  # fmt: skip
        with suppress(OSError):  # nothing depends on it
            write_atomically(self._path, json.dumps(state).encode())


def read(path: Path) -> dict[str, Any]:
    """What was written last; empty if that can't be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
