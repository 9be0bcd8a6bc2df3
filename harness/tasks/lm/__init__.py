"""From text to token files: sources, tokenizer, packing, the prepared store."""
