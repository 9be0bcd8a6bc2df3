"""Tasks of items: each has an input, a target, and a reply of a fixed shape. See `task` here."""
