"""`harness cluster status`: the hosts of a Ray cluster, and what each can do here."""

import hashlib
import json
import platform
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace

import click

from harness import config as configs
from harness.errors import DONE, FAILED, HarnessError
from harness.executors.cluster import ClusterPool, Engine
from harness.executors.hosts import About, Wanted, differs, other_version
from harness.paths import Paths
from harness.store.opening import open_repository
from harness.store.records import Setting
from harness.tasks.items.salt import salt
from harness.worker.device import Device
from harness.worker.run import open_setup

EXAMPLES = """\b
Examples:
  ray get-auth-token --generate                     # once; the same file on each host
  RAY_AUTH_MODE=token ray start --head              # on one host
  RAY_AUTH_MODE=token ray start --address HOST:6379 # on each other one
  harness cluster status
  harness prepare --cluster auto
  harness loop --cluster auto
"""


@click.group(epilog=EXAMPLES)
def cluster() -> None:
    """A Ray cluster: which of its hosts `harness loop --cluster` can use."""


@cluster.command(epilog=EXAMPLES)
@click.option(
    "--cluster", "--address", "address", default="auto", show_default=True, help="Its head's HOST:PORT."
)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def status(address: str, as_json: bool) -> int:
    """Ask each host what it has: versions, devices, data; and why it can't be used, if so."""
    paths = open_repository().paths
    wanted, expected = _wanted(paths, None)
    with closing(engine_at(address)) as engine:
        asked = [_asked(engine, node, wanted) for node in engine.nodes() or []]
    found = [replace(about, refused=differs(about, expected)) for about in asked]
    if as_json:
        click.echo(json.dumps({"hosts": [asdict(each) for each in found]}))
    else:
        for about in found:
            device = f"{len(about.devices)} x {about.devices[0].name}, " if about.devices else ""
            data = f"{about.setting.data}, " if about.setting else ""
            click.echo(f"{about.host:<20} {device}{data}harness {about.version}, Python {about.python}")
            if about.refused:
                click.echo(f"{'':<20} can't be used: {about.refused}")
    return FAILED if any(about.refused for about in found) or not found else DONE


def wanted_of(paths: Paths, workers: int | None) -> Wanted:
    """What a host is to be able to do for a repository, by its config as it is now."""
    config = configs.load(paths.config)
    named = hashlib.sha256(f"{platform.node()} {paths.root}".encode()).hexdigest()[:16]
    task = (paths.root / config.task.file).read_bytes() if config.task.file else b""
    return Wanted(named, configs.dump(config), task, workers)


def engine_at(address: str) -> Engine:
    """The engine of a cluster.

    Raises:
        HarnessError: ray isn't installed, or there is no cluster.
    """
    try:
        from harness.executors.ray import RayEngine
    except ImportError:
        raise HarnessError("ray is not installed", "pip install 'autoresearch-harness[cluster]'") from None
    return RayEngine(address)


def in_cluster(
    paths: Paths, address: str, workers: int | None, tell: Callable[[str, str], None]
) -> ClusterPool:
    """The workers of a cluster.

    Args:
        workers: of each host, where runs are on a processor.
        tell: hears a kind of event and a line, from any thread.
    """
    _wanted(paths, workers)  # what is wrong here is said at once
    return ClusterPool(engine_at(address), lambda: _wanted(paths, workers), paths.runs, tell)


def prepared(paths: Paths, address: str) -> list[tuple[str, str]]:
    """Data made on each host: its name, and what came of it."""
    wanted, found = wanted_of(paths, None), []
    with closing(engine_at(address)) as engine:
        for node in engine.nodes() or []:
            about = _asked(engine, node, wanted)
            if about.version != "?" and (why := other_version(about)):  # else it says so when it is called
                found.append((about.host, f"failed: {why}"))
                continue
            try:
                host = engine.host(node)
                found.append((about.host, host.call("prepare", wanted, salt())))
                host.close()
            except HarnessError as gone:
                found.append((about.host, f"failed: {gone}"))
    return found


def _asked(engine: Engine, node: str, wanted: Wanted) -> About:
    """What a host says of itself; one that can't be asked is none that can be used."""
    try:
        host = engine.host(node)
        about: About = host.call("about", wanted)
        host.close()
        return about
    except HarnessError as gone:
        return About(node, "?", "?", "", time.time(), refused=f"it can't be asked: {gone}")


def _wanted(paths: Paths, workers: int | None) -> tuple[Wanted, Callable[[Device], Setting]]:
    """What hosts are asked for, and the setting that scores on a device must have."""
    setup = open_setup(configs.load(paths.config), paths.root)
    return wanted_of(paths, workers), lambda device: replace(setup, device=device).setting
