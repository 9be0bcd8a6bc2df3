"""The one module that train.py imports: `run = trial.open()`, and everything else is on `run`.

Loading it loads nothing else: the harness's own processes go through here too.
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.trial.api import Run


def open() -> "Run":  # train.py reads best as `trial.open()`
    """The run that this process is: under the harness, or by hand with `python train.py`.

    Raises:
        RuntimeError: it is neither, but a model server that imports train.py.
    """
    if "HARNESS_TRIAL" in os.environ:
        from harness.trial import api

        return api.supervised()
    if "HARNESS_MARK" in os.environ:
        raise RuntimeError(
            "train.py ran its training when it was imported for scoring: keep the guard "
            'if __name__ == "__main__"'
        )
    from harness.trial import by_hand

    return by_hand.open_run()
