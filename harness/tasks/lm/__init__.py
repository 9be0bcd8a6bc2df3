"""From text to token files: sources, tokenizer, packing, the prepared store."""

from harness.store.aliases import VAL_BPB as METRIC

__all__ = ["METRIC"]
