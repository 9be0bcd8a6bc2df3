"""Git: the only store, and the only room that imports pygit2."""
