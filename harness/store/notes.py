"""The full records, as git notes: JSON by commit, in a tree that stays quick with 10,000 of them.

Written with git's own two-digit fan-out, so that `git notes --ref autoresearch show COMMIT` reads
them, and one more record rewrites a small subtree instead of one flat tree of everything.
"""

import pygit2
from pygit2.enums import FileMode

from harness.store.note import Note, read_note, write_note
from harness.store.refs import NOTES


def read(git: pygit2.Repository, commit: str) -> Note:
    """The record of a commit; empty where there is none."""
    found = _blob(git, commit)
    return read_note(found.data) if found is not None else Note()


def stored_as(git: pygit2.Repository, commit: str) -> str:
    """The blob that it is: while that is the same it need not be read again. Empty where there is none."""
    found = _blob(git, commit)
    return str(found.id) if found is not None else ""


def _blob(git: pygit2.Repository, commit: str) -> pygit2.Blob | None:
    tree = _tree(git.references.get(NOTES))
    for path in (f"{commit[:2]}/{commit[2:]}", commit):  # ours, and what git itself writes first
        try:
            entry = tree[path] if tree is not None else None
        except KeyError:
            continue
        if isinstance(entry, pygit2.Blob):
            return entry
    return None


def write(git: pygit2.Repository, commit: str, note: Note | None, signature: pygit2.Signature) -> None:
    """Put a commit's record, replacing what was there; None removes it. One commit on the notes ref."""
    blob = git.create_blob(write_note(note)) if note is not None else None
    reference = git.references.get(NOTES)  # read once: the tree, the parent and what is compared below
    root = _with(git, _tree(reference), commit, blob)
    parents = [reference.target] if reference is not None else []
    made = git.create_commit(None, signature, signature, "Notes by harness\n", root.id, parents)
    if reference is None:
        git.references.create(NOTES, made)
    else:
        reference.set_target(made)  # compare-and-swap against the value read above


def _with(
    git: pygit2.Repository, root: pygit2.Tree | None, commit: str, blob: pygit2.Oid | None
) -> pygit2.Tree:
    """The tree with one note more, or one less."""
    builder = git.TreeBuilder(root) if root is not None else git.TreeBuilder()
    inner = root[commit[:2]] if root is not None and commit[:2] in root else None
    folder = git.TreeBuilder(inner) if isinstance(inner, pygit2.Tree) else git.TreeBuilder()
    if blob is not None:
        folder.insert(commit[2:], blob, FileMode.BLOB)
    elif folder.get(commit[2:]) is not None:
        folder.remove(commit[2:])
    builder.insert(commit[:2], folder.write(), FileMode.TREE)
    made = git[builder.write()]
    assert isinstance(made, pygit2.Tree)
    return made


def _tree(reference: pygit2.Reference | None) -> pygit2.Tree | None:
    try:
        return reference.peel(pygit2.Tree) if reference is not None else None
    except (pygit2.GitError, KeyError, ValueError):
        return None  # no notes of ours
