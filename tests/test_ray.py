"""A session on real Ray nodes: two of them on this machine, each with a cache of its own."""

import os
import socket
import subprocess
import sys

import pytest
from conftest import assert_mistake, harness
from sessions import all_of
from stubs import PLACES, known

pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """Addressed by what is given to commands as environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("ray")
    short = f"/tmp/ray-{os.getpid()}"  # a socket's path has an end
    env = {
        "HOME": str(folder), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "for-tests-only",
        "RAY_ADDRESS": f"127.0.0.1:{port}", "OMP_NUM_THREADS": "1",
    }  # fmt: skip

    def start(*args, **more):
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1"]
        node = subprocess.Popen(
            [*command, "--disable-usage-stats", *args], env={**os.environ, **env, **more}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert any("runtime started" in line for line in node.stdout)
        return node

    head = start(
        "--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--include-dashboard=false",
        f"--temp-dir={short}",
    )  # fmt: skip
    other = start(f"--address=127.0.0.1:{port}", HARNESS_CACHE=str(folder / "other"))
    yield env
    for node in (other, head):  # `ray stop` would end a person's own, too
        node.terminate()
        node.communicate()


def test_two_nodes_are_prepared_and_take_part_in_a_session(research, nodes):
    nodes = {name: value for name, value in nodes.items() if name != "RAY_AUTH_MODE"}  # as a person has it
    address, source = nodes["RAY_ADDRESS"], research.folder / "train.py"
    source.write_text(source.read_text() + PLACES)  # something to search
    research("commit", "-qam", "constants")
    before = harness("cluster", "status", "--address", address, cwd=research.folder, **nodes)
    assert before.returncode == 1 and "can't be used: no prepared data" in before.stdout
    made = harness("prepare", "--cluster", address, cwd=research.folder, **nodes)
    assert made.returncode == 0 and made.stdout.count("data line@") == 2, made
    status = harness("cluster", "status", "--address", address, cwd=research.folder, **nodes)
    assert status.returncode == 0 and "can't be used" not in status.stdout, status

    on_all = ("loop", "--cluster", address, "--workers", "1", "--experiments", "8", "--json")
    done = harness(*on_all, cwd=research.folder, **nodes)
    assert done.returncode == 0, done
    assert all(line.startswith("{") for line in done.stdout.splitlines()), "events, and nothing of Ray's"
    assert done.stdout.count("is used: 1 x") == 2
    ended = [each for each in all_of(research) if each.status in ("keep", "discard")]
    assert len(ended) == 8
    runs = [run for each in ended for run in known(research).runs(each.commit)]
    assert all(run.host for run in runs) and all("Hosts" in each.message.trailers for each in ended)


def test_a_cluster_that_is_not_there_or_wants_another_token_is_one_line(research, nodes):
    nowhere = harness("cluster", "status", "--address", "127.0.0.1:1", cwd=research.folder, **nodes)
    assert_mistake(nowhere, "no cluster at 127.0.0.1:1")
    wrong = {**nodes, "RAY_AUTH_TOKEN": "another"}
    refused = harness("cluster", "status", "--address", nodes["RAY_ADDRESS"], cwd=research.folder, **wrong)
    assert_mistake(refused, "no cluster at")
    off = {**nodes, "RAY_AUTH_MODE": "disabled"}
    assert_mistake(
        harness("loop", "--cluster", "auto", cwd=research.folder, **off), "RAY_AUTH_MODE is disabled"
    )


def test_nothing_of_ray_is_imported_where_no_cluster_is_named(research):
    code = "import sys; sys.argv = ['harness', 'status']; import harness.cli as c\n"
    code += "try: c.main()\nexcept SystemExit: pass\n"
    code += "import harness.cli.loop, harness.cli.prepare, harness.cli.cluster; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=research.folder, capture_output=True, text=True)
    assert done.stdout.strip().endswith("False"), done
