"""`harness clean`: run folders are working space; what counts is in git."""

import shutil
import time
from pathlib import Path

import click

from harness.errors import DONE, HarnessError
from harness.lock import holder
from harness.store.opening import open_repository

RUNNING_SECONDS = 24 * 3600.0
EXAMPLES = """\b
Examples:
  harness clean --dry-run
  harness clean --keep 10
  harness clean --compiled      # what was compiled, too
"""


@click.command(epilog=EXAMPLES)
@click.option("--keep", default=0, show_default=True, type=click.IntRange(min=0), help="The newest so many.")
@click.option("--compiled", is_flag=True, help="The compile cache, too: the next run compiles anew.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
def clean(keep: int, compiled: bool, dry_run: bool) -> int:
    """Remove the folders of finished runs. Branches and notes stay: they are the record.

    A few checkpoints of kept experiments stay too, until main has moved on to them or past them.
    """
    repository = open_repository()
    paths = repository.paths
    if process := holder(repository.loop_lock):
        raise HarnessError(f"a loop runs here (process {process})", "Ctrl-C there, then harness clean")
    fresh = time.time() - RUNNING_SECONDS  # without a record, one that young may be running

    def is_over(path: Path) -> bool:
        is_kept = paths.mark(path).exists()
        return not is_kept and ((path / "trial.json").exists() or path.stat().st_mtime < fresh)

    folders = sorted(path for path in paths.runs.glob("*") if path.is_dir() and path != paths.compiled)
    going = [path for path in folders[: max(0, len(folders) - keep)] if is_over(path)]
    size, cache = sum(map(paths.megabytes, going)), paths.megabytes(paths.compiled)
    if compiled and paths.compiled.exists():
        going.append(paths.compiled)
    if not dry_run:
        for path in going:
            try:
                shutil.rmtree(path)
            except OSError as error:
                raise HarnessError(f"can't remove {path}: {error.strerror}", f"rm -rf {path}") from None
    verb = "would remove" if dry_run else "removed"
    count = len(going) - (paths.compiled in going)
    left = len(folders) - count
    stay = f"; {left} stay: newest, running or with a kept checkpoint" if left else ""
    click.echo(f"{verb} {count} run folders, {size:.1f} MB, in {paths.runs}{stay}")
    if cache and compiled:
        click.echo(f"{verb} the compile cache, {cache:.1f} MB")
    elif cache:
        click.echo(f"the compile cache stays, {cache:.1f} MB (--compiled removes it)")
    return DONE
