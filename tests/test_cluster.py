"""Workers on many hosts: which are used, what comes of one that goes, and where a run's checkpoint is.

Hosts are in this process here, and their workers real processes. Real Ray nodes: tests/test_ray.py.
"""

import contextlib
import dataclasses
import os
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import HONEST, ROOT, assert_mistake, harness
from sessions import Script, all_of
from stubs import known
from test_worker import slower

import harness.cli.cluster as commands
import harness.executors.cluster as cluster
from harness import __version__
from harness import config as configs
from harness.errors import HarnessError
from harness.executors import mirror
from harness.executors.cluster import ClusterPool, Gone
from harness.executors.hosts import About, Host, Wanted
from harness.paths import Paths
from harness.session.events import Watcher
from harness.session.limits import Limits
from harness.session.loop import Loop
from harness.store.opening import open_repository
from harness.worker.orders import Hears
from harness.worker.worker import RunHandle


class Line:
    """To a host in this process; `cut` is a cable that is pulled out."""

    def __init__(self, name):
        self.host, self.cut, self.refuses, self.name = Host(), threading.Event(), "", name

    def call(self, method, *args):
        if self.cut.is_set():
            raise Gone("no answer")
        found = getattr(self.host, method)(*args)
        if method == "about":
            found = dataclasses.replace(found, host=self.name, refused=self.refuses or found.refused)
        if self.cut.is_set():
            raise Gone("no answer")
        return found

    def cast(self, method, *args):
        if not self.cut.is_set():
            getattr(self.host, method)(*args)

    def close(self):
        self.host.close()


class Hosts:
    """An engine: nodes by name, and what each refuses to say."""

    def __init__(self, *names, **refuse):
        self.names, self.lines, self.refuse = list(names), {}, refuse

    def nodes(self):
        return list(self.names)

    def host(self, node):
        self.lines[node] = line = Line(node)
        line.refuses = self.refuse.get(node, "")
        return line

    def cut(self, node):
        self.names.remove(node)
        self.lines[node].cut.set()
        self.lines[node].host.close()  # what ran there ends with its host

    def close(self):
        pass


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(cluster, "WATCH_SECONDS", 0.1)


@pytest.fixture
def pool_of(research, setup):
    """`pool_of(engine)` -> the pool, and what it says."""
    with contextlib.ExitStack() as stack:

        def make(engine, change=lambda config: config):
            def wanted():
                config = change(configs.load(research.folder / ".autoresearch" / "config.toml"))
                of = dataclasses.replace(setup, config=config)
                expected = lambda device: dataclasses.replace(of, device=device).setting  # noqa: E731
                return Wanted("a-test", configs.dump(config), b"", 1), expected

            said = []
            runs = research.folder / ".autoresearch" / "runs"
            pool = ClusterPool(engine, wanted, runs, lambda kind, text: said.append(text))
            stack.callback(pool.close)
            return pool, said

        yield make


def until(happened, seconds=20):
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def loop_on(research, pool, *answers, said=None, show=lambda *_: None):
    tell = (lambda event: said.append(event.text)) if said is not None else lambda _: None
    agent = Script(*answers)
    found = open_repository(research.folder)
    return Loop(found, agent, Limits(experiments=len(answers)), 0, Watcher(tell, show), pool)


ANSWERS = ("Sleep more", slower()), ("Say more", HONEST.replace('"a line"', '"two lines"'))


def test_a_session_on_two_hosts_decides_each_experiment_once_and_its_views_find_the_runs(research, pool_of):
    pool, said = pool_of(Hosts("one", "two"))
    until(lambda: len(pool.workers()) == 2)
    assert loop_on(research, pool, *ANSWERS).run().measured == 2
    assert [len(known(research).runs(each.commit)) for each in all_of(research)] == [1, 1]
    runs = research.folder / ".autoresearch" / "runs"
    mirrored = [path.parent for path in runs.glob("*/trial.json") if (path.parent / "train.py").exists()]
    assert len(mirrored) >= 2 and len([line for line in said if "is used" in line]) == 2


def test_what_ran_on_a_host_that_went_is_run_again_elsewhere_and_counts_once(research, pool_of):
    hosts, said, cut = Hosts("one", "two"), [], []
    pool, _ = pool_of(hosts)
    until(lambda: len(pool.workers()) == 2)

    def show(progress, run):
        if progress.phase == "training" and run.name.isdecimal() and not cut:
            cut.append(next(node for node, link in pool._links.items() if link.workers[0].place == run.place))
            threading.Thread(target=hosts.cut, args=(cut[0],)).start()

    assert loop_on(research, pool, ANSWERS[0], said=said, show=show).run().measured == 1
    (done,) = all_of(research)
    assert cut and done.status in ("keep", "discard") and len(known(research).runs(done.commit)) == 1
    assert [line for line in said if "is run again: its worker is gone" in line]


def test_a_host_that_joins_later_is_used_and_one_that_went_may_come_back(research, pool_of):
    hosts = Hosts("one")
    pool, said = pool_of(hosts)
    hosts.names.append("two")
    until(lambda: len(pool.workers()) == 2)
    hosts.cut("two")
    until(lambda: len(pool.workers()) == 1)
    hosts.names.append("two")
    until(lambda: len(pool.workers()) == 2)
    assert [line for line in said if "is gone, with 1 workers" in line]


def test_a_worker_that_died_alone_is_started_again_on_its_host(research, pool_of):
    hosts = Hosts("one")
    pool, said = pool_of(hosts)
    until(lambda: pool.workers() and pool.workers()[0].hello)
    (first,) = pool.workers()
    for pipe in hosts.lines["one"].host._pipes.values():
        pipe._process.kill()
    until(lambda: pool.workers() and pool.workers()[0] is not first)
    assert not first.is_alive and "     1 workers of one died, and are started again" in said
    assert loop_on(research, pool, ANSWERS[0]).run().measured == 1


def test_a_host_that_is_not_as_it_should_be_is_named_in_one_line_and_the_others_go_on(research, pool_of):
    hosts = Hosts("one", "two", two="no sandbox there: bubblewrap is not installed")
    pool, said = pool_of(hosts)
    until(lambda: any("is not used" in line for line in said))
    assert len(pool.workers()) == 1
    (line,) = (line for line in said if "is not used" in line)
    assert "bubblewrap is not installed" in line and "\n" not in line


def test_a_host_whose_scores_would_not_compare_is_not_used(research, pool_of, monkeypatch):
    real = Host.about

    def about(self, wanted):
        said = real(self, wanted)
        if any(line.host is self for node, line in hosts.lines.items() if node == "two"):
            until(lambda: pool_made, 5)
            return dataclasses.replace(said, setting=dataclasses.replace(said.setting, runtime="3 torch 1.0"))
        return said

    monkeypatch.setattr(Host, "about", about)
    hosts, pool_made = Hosts("one"), []
    pool, said = pool_of(hosts)
    pool_made.append(pool)
    hosts.names.append("two")
    until(lambda: any("is not used" in line for line in said))
    (line,) = (line for line in said if "is not used" in line)
    assert "runtime 3 torch 1.0, not" in line and "(the same torch there)" in line


def test_where_no_host_can_be_used_the_reason_is_the_error(pool_of):
    with pytest.raises(HarnessError, match="only 3 MB are free"):
        pool_of(Hosts("one", one="only 3 MB are free"))


def test_the_holdout_is_scored_where_the_checkpoint_is(research, pool_of):
    pool, _ = pool_of(Hosts("one", "two"))
    until(lambda: len(pool.workers()) == 2)
    loop = loop_on(research, pool, ANSWERS[0])
    one, two = sorted(pool.workers(), key=lambda worker: worker.host)
    runs = research.folder / ".autoresearch" / "runs"
    setup = loop._executor.setup(loop._runner.setup(), two)
    order = loop._runner.order(known(research).main, "baseline")
    run, folder = two.start(order, setup, RunHandle.alone(), Hears()).result(60)
    assert folder.parent == runs and mirror.where(folder)[0] == "two"
    assert not one.has(folder) and loop._executor.with_folder(folder, one) is two
    held = two.score_holdout(folder, run.value, setup, RunHandle(), Hears()).result(60)
    assert held.value == run.value
    assert list(mirror.of(runs, "two")) == [mirror.where(folder)[1]] and list(mirror.of(runs, "one")) == []


def test_a_checkpoint_that_nobody_holds_on_to_is_removed_on_its_host(tmp_path, monkeypatch):
    host = Host()
    host._runs = tmp_path
    for name in ("kept", "dropped", "new"):
        (tmp_path / name / "checkpoint").mkdir(parents=True)
        (tmp_path / name / "trial.json").write_text("{}")
    old = time.time() - 1000
    for name in ("kept", "dropped"):
        os.utime(tmp_path / name / "trial.json", (old, old))
    host.hold([tmp_path / "kept"])
    assert sorted(p.parent.name for p in tmp_path.glob("*/checkpoint")) == ["kept", "new"]


def test_a_task_is_written_into_the_repositorys_place_on_a_host_and_nowhere_else(tmp_path, monkeypatch):
    config = configs.defaults("cpu", "toy")
    config = dataclasses.replace(config, task=configs.TaskConfig("own", "../../outside.py"))
    said = Host().about(Wanted("a-test", configs.dump(config), b"TASK = 1", 1))
    assert "outside of the repository" in said.refused
    assert not list(Path(tmp_path).rglob("outside.py"))


def test_a_host_that_dies_while_it_is_asked_is_one_line_and_no_bug_of_ours(research, monkeypatch):
    hosts = Hosts("one", "two")
    monkeypatch.chdir(research.folder)
    monkeypatch.setattr(commands, "engine_at", lambda address: hosts)
    real = hosts.host
    monkeypatch.setattr(hosts, "host", lambda node: dying(real(node)) if node == "two" else real(node))
    said = CliRunner().invoke(commands.cluster, ["status"], standalone_mode=False)
    assert said.exception is None, said
    assert "can't be used: it can't be asked: no answer" in said.output and said.return_value == 1
    made = commands.prepared(Paths(research.folder), "auto")
    assert [text.partition(" ")[0] for _, text in made] == ["data", "failed:"]


def dying(line):
    line.cut.set()
    return line


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": "0.1.0"}, "it has harness 0.1.0"),
        ({"devices": ()}, "no device for this config"),
        ({"setting": None}, "no device for this config"),
        ({"data": "line@0000000"}, "harness prepare --cluster"),
        ({"evaluator": "0 toy"}, "evaluator 0 toy, not"),
        ({"runtime": "3 torch 1.0"}, "the same torch there"),
        ({"budget_seconds": 7.0}, "budget_seconds 7.0, not"),
        ({"refused": "only 3 MB are free"}, "only 3 MB are free"),
    ],
)
def test_what_makes_a_host_s_scores_another_thing_is_one_line_that_says_what(setup, change, words):
    about = About("two", __version__, "3.12", "", time.time(), (setup.device,), setting=setup.setting)
    own = {name: value for name, value in change.items() if hasattr(about, name)}
    inner = {name: value for name, value in change.items() if name not in own}
    if inner:
        own["setting"] = dataclasses.replace(setup.setting, **inner)
    expected = lambda device: dataclasses.replace(setup, device=device).setting  # noqa: E731
    assert cluster.differs(about, expected) == ""
    said = cluster.differs(dataclasses.replace(about, **own), expected)
    assert words in said and "\n" not in said


def test_without_ray_a_cluster_is_one_line(research, tmp_path):
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "__init__.py").write_text("raise ImportError('no ray here')\n")
    for command in (["loop", "--cluster", "auto"], ["cluster", "status"], ["prepare", "--cluster", "auto"]):
        done = harness(*command, cwd=research.folder, PYTHONPATH=f"{tmp_path}:{ROOT}")
        assert_mistake(done, "ray is not installed", "pip install")


def test_a_head_that_is_silent_ends_the_session_in_one_line(pool_of, monkeypatch):
    hosts = Hosts("one")
    pool, _ = pool_of(hosts)
    assert pool.workers()
    monkeypatch.setattr(cluster, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(hosts, "nodes", lambda: None)
    time.sleep(1.0)
    with pytest.raises(HarnessError, match="the cluster's head has not answered for"):
        pool.workers()
