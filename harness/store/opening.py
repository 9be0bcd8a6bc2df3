"""A research repository found or made: what libgit2 can't open is said in one line, with what mends it."""

import subprocess
from pathlib import Path

import pygit2

from harness.errors import HarnessError
from harness.store import refs
from harness.store.repo import Repository


def open_repository(where: Path | None = None, checked: bool = True) -> Repository:
    """The repository that holds `where` (default: the current folder).

    Args:
        checked: whether `main` and the notes must be at commits, if they are anywhere.

    Raises:
        HarnessError: there is none, it has no work tree, or it is damaged.
    """
    folder = (where or Path.cwd()).absolute()
    found = next((path for path in (folder, *folder.parents) if (path / ".git").exists()), None)
    if found is None:
        raise HarnessError(f"{folder} is not in a git repository", "cd into one, or harness init DIR")
    git = _opened(found)
    if git.is_bare or git.workdir is None:
        raise HarnessError(f"{folder} is a bare repository; a work tree is needed", "git clone it")
    for name in (refs.MAIN, refs.NOTES) if checked else ():
        try:
            if (reference := git.references.get(name)) is not None:
                reference.peel(pygit2.Commit)
        except (KeyError, ValueError, pygit2.GitError):
            raise HarnessError(f"{name} is at no commit that is here", "git fsck") from None
    home = ".autoresearch/config.toml"
    if not (found / home).exists() and home in git.index and _is_left_out(git, home):
        why = "a sparse checkout leaves out .autoresearch"
        raise HarnessError(why, "git sparse-checkout add .autoresearch hooks")
    return Repository(git)


def _is_left_out(git: pygit2.Repository, path: str) -> bool:
    """Whether git was told not to check it out."""
    done = subprocess.run(["git", "ls-files", "-t", path], cwd=git.workdir, capture_output=True, check=False)
    return done.stdout.startswith(b"S")


def _opened(folder: Path) -> pygit2.Repository:
    """The repository whose `.git`, a folder or a file that names one, lies in this one.

    Raises:
        HarnessError: it isn't one, is somebody else's, or of a kind that libgit2 can't read.
    """
    try:
        git = pygit2.Repository(str(folder))
        if not git.is_bare:
            git.index.read()
        return git
    except (pygit2.GitError, KeyError, ValueError, OSError) as error:
        why = str(error).rstrip(".")
    if "owned by" in why:
        mend = f"git config --global --add safe.directory {folder}"
    elif "'link'" in why:
        mend = "git update-index --no-split-index"
    elif "'sdir'" in why:
        mend = "git sparse-checkout reapply --no-sparse-index"
    elif "refstorage" in why:
        mend = "git refs migrate --ref-format=files, with git 2.46 or newer"
    elif "sha256" in why:
        mend = "git fast-export --all | git -C NEW fast-import, NEW a plain git init"
    else:
        mend = "a plain git clone of it, or git fsck"
    raise HarnessError(f"{folder} can't be opened: {why}", mend)


def create_repository(folder: Path) -> Repository:
    """`git init -b main`, or the repository that is there.

    Raises:
        HarnessError: the folder can't be made, or would lie inside another repository.
    """
    known = next(path for path in (folder, *folder.parents) if path.exists())
    found = next((path for path in (known, *known.parents) if (path / ".git").exists()), None)
    root = found if found is not None else folder
    if root.resolve() != folder.resolve():
        raise HarnessError(f"{folder} would lie inside the repository {root}", f"cd {root} && harness init")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HarnessError(f"can't make {folder}: {error.strerror}", "another folder") from None
    if found is None:
        pygit2.init_repository(str(folder), initial_head="main")
    return open_repository(folder)
