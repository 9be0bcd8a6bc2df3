"""What a model server may work beyond answering: more would be training outside of the clock.

It loads its checkpoint and answers for the first time, and on a GPU it may have to compile a little. What
that may take has a cap by the budget and by the checkpoint's size; what a batch takes more than others counts
too.
"""

from collections.abc import Sequence
from pathlib import Path

from harness.store.records import INVALID, Failure, Kind

# Seconds, a part of the budget, and for what is read. On H200 hosts loads took 1.0 to 3.9 s with the starter,
# 6.8 s where nothing was in memory yet; two servers that train there at once have half of a GPU each, and
# no compiler's cache of what they do. On a processor it is 0.5 s, and only its own work counts.
LOAD_SECONDS, LOAD_SHARE, LOAD_BYTES_PER_SECOND = {"cpu": 3.0, "mps": 3.0, "cuda": 10.0}, 0.01, 500e6
# A batch that takes more of the median one than this was not only answered. The rest could be spent on
# learning in a single one, so where time is measured well it is little.
USUAL_BATCHES = {"cpu": 1.25, "mps": 2.0, "cuda": 2.0}
# All answers of a server: of 9 s on two cores, the starter's take 4, and with pictures 2.5.
ANSWER_SECONDS, ANSWER_SHARE = 5.0, 0.2


def overtime_seconds(before: float, batches: Sequence[float], usual: float, kind: str) -> float:
    """`before` the first batch that counts, and what batches took beyond the `usual` one, that of the
    scored server's: one that answers only a few has no usual batch of its own."""
    most = USUAL_BATCHES[kind] * usual
    return before + sum(max(0.0, spent - most) for spent in batches)


def answered_in_time(seconds: float, budget_seconds: float) -> Failure | None:
    """None unless its answers took so long, all of them, that it could have gone on training in each."""
    allowed = ANSWER_SECONDS + ANSWER_SHARE * budget_seconds
    if seconds <= allowed:
        return None
    took = f"its answers took {seconds:.1f} s, {allowed:.1f} s are what they may at this budget"
    why = f"{took}: more could be training outside of the clock (less to score, or a longer budget)"
    return Failure(INVALID, why, Kind.LATE)


def in_time(seconds: float, budget_seconds: float, checkpoint: Path, kind: str) -> Failure | None:
    """None unless a server had the time to go on training. `kind` is the device's."""
    size = sum(path.stat().st_size for path in checkpoint.iterdir())
    allowed = LOAD_SECONDS[kind] + LOAD_SHARE * budget_seconds + size / LOAD_BYTES_PER_SECOND
    if seconds <= allowed:
        return None
    took = f"loading {size / 2**20:.1f} MB and first answers took {seconds:.1f} s"
    mend = "train before submit" if kind == "cpu" else "train, and compile for scoring, before submit"
    return Failure(INVALID, f"{took}, {seconds - allowed:.1f} s past its budget for that ({mend})", Kind.LATE)
