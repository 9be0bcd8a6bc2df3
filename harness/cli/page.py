"""`ui` and `report`: the page, live or as a file."""

import contextlib
import secrets
import socket
import tempfile
import threading
import time
import webbrowser
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.errors import DONE, HarnessError
from harness.paths import write_atomically
from harness.report import document, values
from harness.report.details import experiment as details_of
from harness.report.details import side
from harness.report.snapshot import Snapshot, snapshot
from harness.store.experiment import Experiment
from harness.store.opening import open_repository

if TYPE_CHECKING:
    from harness.report.server import Reader

PORT, TRIES = 8765, 20  # the first port that is free, of so many
DETAILS = 300

UI_EXAMPLES = """\b
Examples:
  harness ui                   # prints an address; Ctrl-C ends it
  harness ui --open            # in the browser
  ssh -L 8765:127.0.0.1:8765 HOST    # from another machine: then the same address there
"""


@click.command(epilog=UI_EXAMPLES)
@click.option("--port", type=click.IntRange(1, 65535), help=f"Default: the first free one from {PORT}.")
@click.option("--open", "opens", is_flag=True, help="Open it in the browser.")
def ui(port: int | None, opens: bool) -> int:
    """A live page of this repository, for this machine alone; it changes nothing.

    The address has a token; who has it can read everything, the holdout too.
    """
    import uvicorn

    from harness.report.server import Reader, app

    reader = Reader(Path.cwd())
    listening = _listen(port)
    number, token = listening.getsockname()[1], secrets.token_urlsafe(18)
    address = f"http://127.0.0.1:{number}/{token}/"
    click.echo(address)
    click.echo("harness ui: Ctrl-C ends it", err=True)
    threading.Thread(target=_warm, args=(reader,), daemon=True).start()  # while the browser comes
    config = uvicorn.Config(
        app(reader, token, number), log_level="critical", access_log=False, lifespan="off",
        server_header=False, ws="none", timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = uvicorn.Server(config)
    reader.is_over = lambda: server.should_exit
    with tempfile.TemporaryDirectory(prefix="harness-ui-") as folder:
        if opens:  # some browsers return only when they are closed
            threading.Thread(target=_open, args=(address, Path(folder)), daemon=True).start()
        with contextlib.suppress(KeyboardInterrupt):  # as it is meant to end
            server.run(sockets=[listening])
    return DONE


def _warm(reader: "Reader") -> None:
    with contextlib.suppress(Exception):  # the first request says it
        reader.overview()


def _listen(port: int | None) -> socket.socket:
    """On the port that is asked for, else on the first one that is free."""
    for number in [port] if port else range(PORT, PORT + TRIES):
        found = socket.socket()
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind(("127.0.0.1", number))
            found.listen(64)
            return found
        except OSError as error:
            found.close()
            if port:
                raise HarnessError(f"port {port}: {error.strerror}", "harness ui") from None
    raise HarnessError(f"the ports from {PORT} to {PORT + TRIES - 1} are taken", "harness ui --port 9000")


def _open(address: str, folder: Path) -> None:
    """By a file that only its owner can read: other processes see what a browser is started with."""
    file = folder / "open.html"
    file.touch(0o600)
    file.write_text(f'<meta http-equiv="refresh" content="0; url={address}">')
    webbrowser.open(file.as_uri())


REPORT_EXAMPLES = """\b
Examples:
  harness report                          # report.html
  harness report -o night.html --since 12h
  harness report --top 50 --holdout
"""


@click.command(epilog=REPORT_EXAMPLES)
@click.option("-o", "--output", default="report.html", show_default=True, type=click.Path(path_type=Path))
@click.option("--top", default=DETAILS, show_default=True, type=click.IntRange(min=0),
              help="Take the details of so many along: kept ones, the best, the last.")  # fmt: skip
@click.option("--since", help="Only experiments since then: 12h, 3d, or a date like 2026-11-30.")
@click.option("--holdout", is_flag=True, help="With the scores on the holdout.")
def report(output: Path, top: int, since: str | None, holdout: bool) -> int:
    """The same page as one file to send: it opens from disk and asks nobody for anything."""
    if output.is_dir() or not output.name:
        raise HarnessError(f"{output} is a folder", "-o report.html")
    now = snapshot(open_repository())
    if since is not None:
        now = replace(now, since=_since(since))
    told = values.overview(now, holdout)
    chosen = _chosen(now, top)
    details = {}
    for place, each in enumerate(chosen):
        details[each.name.number] = details_of(now, each)
        if place % 50 == 49:
            click.echo(f"{place + 1} of {len(chosen)} experiments", err=True)
    try:
        write_atomically(output, document.document(told, details, side(now, "main")).encode())
    except OSError as error:
        raise HarnessError(f"can't write {output}: {error.strerror}", "-o another file") from None
    size = output.stat().st_size / 1e6
    click.echo(
        f"wrote {output}: {len(now.experiments)} experiments, {len(details)} with details, {size:.1f} MB",
        err=True,
    )
    return DONE


def _chosen(now: Snapshot, top: int) -> list[Experiment]:
    """Whose details are worth their bytes: kept ones, then the best and the last in turns."""
    states, sign = now.states(now.experiments), now.metric.sign
    kept = [each for each in reversed(now.experiments) if states[each.commit] in values.KEPT]
    found = (each for each in now.comparable if each.value is not None)
    scored = sorted(found, key=lambda each: sign * (each.value or 0.0))
    last = list(reversed(now.experiments))
    turns = [each for pair in zip(scored, last, strict=False) for each in pair] + last
    return list({each.commit: each for each in [*kept, *turns]}.values())[:top]


def _since(text: str) -> float:
    units = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
    try:
        if text[-1:] in units:
            ago = float(text[:-1]) * units[text[-1]]
            if not 0 <= ago < time.time():
                raise ValueError
            return time.time() - ago
        from datetime import datetime

        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise HarnessError(f"{text!r} is no time", "--since 12h, or --since 2026-11-30") from None
