"""What release 0.1.0 called its evaluators: a hash of settings, torch and its syntax tree as Python shows it.

What they scored compares with what is scored today: the same sum over the same rows, with losses that differ
by less than 1e-4 nats. Here are those of its two profiles, under Python 3.11 to 3.13, with each build of its
torch. Up to release 0.2.0 there was one metric, after which records named their figures.
"""

from collections.abc import Mapping
from typing import Any

from harness.store.metric import Metric

TORCH = "2.13.0"
_NAMES = """
29b0b7f 1616300 ada4a83 c67f2f2 04be39a 1cc4bcf dcdc627 e800628 5024eb8 845a23d a2cf333 b115da5
9c805f1 f80fa32 ee00efa 70cdbdd 7db2dbb 102f75b 6ea4c27 a05fe5f 9c6efd8 6e85a3e a6e45bf 2ddc69b
c1469f5 ec3dabb eaef98b 58da785 0db2ac3 324d494 57d48cd bdb42fe 510b4ab a0fae25 9096311 28735f4
"""
FINGERPRINTS = frozenset(_NAMES.split())

VAL_BPB = Metric("val_bpb", unit="bits per byte", low=0.0, high=1e4)  # above, a model has diverged
FORMER_FIGURE = r"val_bpb [^()]*"  # in a subject
_FORMER = {
    "val_bpb": "value", "holdout_bpb": "holdout_value", "difference_bpb": "difference",
    "spread_bpb": "spread",
}  # fmt: skip


def renamed(record: Any) -> Any:
    """A record as it is stored, with the names of today."""
    if not isinstance(record, Mapping):
        return record
    inner = {name: renamed(record[name]) for name in ("score", "incumbent") if name in record}
    return {_FORMER.get(name, name): value for name, value in record.items()} | inner
