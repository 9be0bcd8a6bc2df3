"""`harness prepare`: from a source to token files, with progress."""

import dataclasses
import json
import sys

import click
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from harness import config as configs
from harness.store.opening import open_repository
from harness.tasks.lm import prepare as corpus

EXAMPLES = """\b
Examples:
  harness prepare                        # what the config says
  harness prepare ~/texts                # .txt, .jsonl or .parquet files
  harness prepare climbmix --shards 4    # from the hub, resumable
"""
WORDS = {"download": "download", "tokenizer": "learn the tokenizer", "encode": "encode", "pack": "pack"}


@click.command(epilog=EXAMPLES)
@click.argument("source", required=False)
@click.option("--shards", type=click.IntRange(min=1), help="Training shards of a sharded source.")
@click.option("--again", is_flag=True, help="Make it anew, even if it is there.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest's summary as JSON.")
def prepare(source: str | None, shards: int | None, again: bool, as_json: bool) -> None:
    """Make the corpus that runs train and score on.

    SOURCE is python (embedded), climbmix, tinystories or a path; without it, the config's. Prepared
    data lies in ~/.cache/autoresearch (or $HARNESS_CACHE) and is shared by all repositories.
    """
    paths = open_repository().paths
    config = configs.load(paths.config)
    data = config.data
    if source is not None:
        data = dataclasses.replace(data, source=source)
    if shards is not None:
        data = dataclasses.replace(data, shards=shards)
    with _Bar() as bar:
        made = corpus.prepare(data, bar.step, again)
    manifest = json.loads((made.folder / "manifest.json").read_text())
    if as_json:
        summary = {"data": made.id, "folder": str(made.folder), "splits": manifest["splits"]}
        click.echo(json.dumps(summary))
    else:
        click.echo(f"{made.id}  vocabulary {made.vocab_size}  {made.folder}")
        for name, split in manifest["splits"].items():
            click.echo(
                f"  {name:<8} {split['documents']:>9,} documents {split['tokens'] / 1e6:9.2f} M tokens"
            )
    wanted, val = data.eval_tokens, manifest["splits"]["val"]["tokens"]
    scored = np.load(made.rows_file("val"), mmap_mode="r").shape[0] * data.seq_len
    if min(val, scored) < wanted // data.seq_len * data.seq_len:
        click.echo(
            f"WARNING: {scored:,} of {wanted:,} tokens are scored and val has {val:,}: documents come twice "
            f"and more, though no row does. More text mends it, or eval_tokens = "
            f"{min(val, scored) // data.seq_len * data.seq_len} in {paths.config}",
            err=True,
        )
    if data != config.data:
        click.echo(
            f"To train on it, set source = {data.source!r} and shards = {data.shards} in {paths.config}",
            err=True,
        )


class _Bar:
    """Progress on stderr: bars on a terminal, one line a step elsewhere."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stderr)
        self._progress = Progress(
            TextColumn("{task.description:<20}"), BarColumn(24), MofNCompleteColumn(),
            TimeElapsedColumn(), console=self._console, disable=not self._console.is_terminal,
        )  # fmt: skip
        self._tasks: dict[str, object] = {}

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def step(self, what: str, done: int, of: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(WORDS[what], total=of or None)
            if not self._console.is_terminal:
                click.echo(f"{WORDS[what]} ...", err=True)
        self._progress.update(self._tasks[what], completed=done, total=of or None)  # type: ignore[arg-type]
