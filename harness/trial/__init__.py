"""The one module that train.py imports: `run = trial.open()`, and everything else is on `run`.

Loading it loads nothing else: the harness's own processes go through here too.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.trial.api import Run


def open() -> "Run":  # train.py reads best as `trial.open()`
    """The run that this process is: under the harness, or by hand with `python train.py`."""
    from harness.trial import api

    return api.open_run()
