"""`harness prepare`: from a source to what runs train and score on, with progress."""

import dataclasses
import json
import sys

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from harness import config as configs
from harness.errors import DONE, FAILED, HarnessError
from harness.sandbox.text import one_line
from harness.store.opening import open_repository
from harness.tasks import registry
from harness.tasks.folder import MANIFEST

EXAMPLES = """\b
Examples:
  harness prepare                        # what the config says
  harness prepare ~/texts                # text, code, .jsonl, .csv, .parquet, .zip, ...
  harness prepare '~/notes/**/*.md'      # a pattern
  harness prepare climbmix --shards 4    # from the hub, resumable
  harness prepare hf:roneneldan/TinyStories
  harness prepare --cluster auto         # on each host, see docs/clusters.md
"""
WORDS = {"tokenizer": "learn the tokenizer"}


@click.command(epilog=EXAMPLES)
@click.argument("source", required=False)
@click.option("--shards", type=click.IntRange(min=1), help="Training shards of a sharded source.")
@click.option("--again", is_flag=True, help="Make it anew, even if it is there.")
@click.option("--cluster", metavar="ADDRESS", help="On each host of a Ray cluster: HOST:PORT, or `auto`.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest's summary as JSON.")
def prepare(source: str | None, shards: int | None, again: bool, cluster: str | None, as_json: bool) -> int:
    """Make the data that runs train and score on.

    SOURCE is what the task takes; without it, the config's. For text it is python (embedded),
    climbmix, tinystories, hf:OWNER/NAME or a path. Prepared data lies in ~/.cache/autoresearch (or
    $HARNESS_CACHE) and is shared by all repositories.
    """
    paths = open_repository().paths
    config = configs.load(paths.config)
    if cluster is not None:
        if source or shards or again:
            raise click.UsageError("--cluster prepares what the config says")
        from harness.cli.cluster import prepared

        found = prepared(paths, cluster)
        for host, said in found:
            click.echo(f"{host:<20} {said}")
        return FAILED if not all(said.startswith("data ") for _, said in found) else DONE
    data = config.data if source is None else dataclasses.replace(config.data, source=source)
    if shards is not None:
        if not isinstance(data, configs.DataConfig):
            raise HarnessError(f"--shards: the task is {config.task.name}, whose data have none")
        data = dataclasses.replace(data, shards=shards)
    wanted = dataclasses.replace(config, data=data)
    with _Bar() as bar:
        task = registry.prepare(wanted, paths.root, bar.step, again)
    made = task.data
    manifest = json.loads((made.folder / MANIFEST).read_text(encoding="utf-8"))
    if as_json:
        summary = {"data": made.id, "folder": str(made.folder), "splits": manifest["splits"]}
        summary |= {"read": manifest["read"]} if "read" in manifest else {}
        click.echo(json.dumps(summary))
    else:
        click.echo(f"{made.id}  {made.folder}")
        for line in made.about():
            click.echo(f"  {one_line(line, 2000)}")  # names of classes and files are anybody's
        for name, split in manifest["splits"].items():
            counts = (f"{count:>12,} {what.replace('_', ' ')}" for what, count in split.items())
            click.echo(f"  {name:<8}{''.join(counts)}")
    if why := registry.unused(wanted, paths.root):
        click.echo(f"WARNING: {why}", err=True)
    if why := task.data.warning():
        click.echo(f"WARNING: {why} in {paths.config}", err=True)
    if data != config.data:
        keys = [f"source = {data.source!r}"]
        keys += [f"shards = {data.shards}"] if isinstance(data, configs.DataConfig) else []
        click.echo(f"To train on it, set {' and '.join(keys)} in {paths.config}", err=True)
    return DONE


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
            said = WORDS.get(what, what)
            self._tasks[what] = self._progress.add_task(said, total=of or None)
            if not self._console.is_terminal:
                click.echo(f"{said} ...", err=True)
        self._progress.update(self._tasks[what], completed=done, total=of or None)  # type: ignore[arg-type]
