"""Sweeps over a real Ray cluster of two nodes on this machine, one of which is killed in the middle."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.noted import Noted, check, unset
from tests.support.suite_folder import SuiteFolder, records, same_outcome

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (normbench[ray])"),
    pytest.mark.skipif(sys.platform != "linux", reason="the processes of a node are found through /proc"),
]
QUICK = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_raylet_start_wait_time_s": "120",
}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def in_session(session: int) -> dict[int, str]:
    """The command lines of the processes of a session, by id."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.getsid(int(path.name)) == session:
                found[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


class Node:
    """A node of the cluster: what `ray start` starts, in a session of its own."""

    def __init__(self, folder: SuiteFolder, store: Path, *options: str):
        command = ["ray", "start", "--block", "--num-cpus=1", "--object-store-memory=100000000"]
        command += ["--dashboard-agent-listen-port=0", "--metrics-export-port=0", "--disable-usage-stats"]
        command += ["--min-worker-port=0", "--max-worker-port=0", "--node-ip-address=127.0.0.1", *options]
        env = unset(folder.environment) | QUICK | {"NORMBENCH_STORE": str(store)}
        output = (folder.path / f"{store.name}.log").open("w")
        self.process = subprocess.Popen(
            command, cwd=folder.path, env=env, stdout=output, stderr=output, start_new_session=True
        )

    def lose_raylet(self) -> None:
        """Kills the process by which the node belongs to the cluster, as if the machine were lost."""
        (raylet,) = [pid for pid, line in in_session(self.process.pid).items() if "raylet/raylet" in line.split()[0]]
        os.kill(raylet, signal.SIGKILL)

    def end(self) -> None:
        for pid in in_session(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


class Cluster:
    """A head and nodes beside it, each with one core and a run store of its own."""

    def __init__(self, folder: SuiteFolder):
        self.folder, self.temporary = folder, tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # paths of sockets are short
        self.address = f"127.0.0.1:{free_port()}"
        self.nodes: list[Node] = []

    def add(self) -> Node:
        if self.nodes:
            options = [f"--address={self.address}"]
        else:
            options = ["--head", f"--port={self.address.partition(':')[2]}", "--include-dashboard=false"]
            options += [f"--temp-dir={self.temporary}"]
        node = Node(self.folder, self.folder.path / f"node_{len(self.nodes)}", *options)
        self.nodes.append(node)
        log = self.folder.path / f"node_{len(self.nodes) - 1}.log"
        wait_for(lambda: "Ray runtime started" in log.read_text() or node.process.poll() is not None, "no start")
        assert node.process.poll() is None, log.read_text()
        return node

    def end(self) -> None:
        for node in reversed(self.nodes):
            node.end()
        shutil.rmtree(self.temporary, ignore_errors=True)


def wait_for(done, what: str, seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> SuiteFolder:
    """Four slow runs, and in the store `local` what a local sweep makes of them."""
    folder = SuiteFolder(tmp_path_factory.mktemp("suite"))
    folder.slow(12, "[0, 1, 2, 3]")
    folder.bind()
    with folder.hurry():
        folder.run("normbench", "sweep", NORMBENCH_STORE="local")
    return folder


@pytest.fixture(scope="module")
def cluster(folder: SuiteFolder) -> Iterator[Cluster]:
    """The head alone."""
    cluster = Cluster(folder)
    try:
        cluster.add()
        yield cluster
    finally:
        cluster.end()


@pytest.mark.parametrize("shared", [True, False], ids=["shared folder", "address"])
def test_a_node_is_lost_in_the_middle(folder: SuiteFolder, cluster: Cluster, shared: bool, tmp_path: Path):
    lost, store = cluster.add(), tmp_path / "store"
    options = [] if shared else ["--store", f"file://{tmp_path}/remote"]
    process = folder.start("normbench", "sweep", "--ray", cluster.address, *options, NORMBENCH_STORE=str(store))
    place = store if shared else tmp_path / "remote"
    try:
        # Both nodes train, and have written checkpoints.
        wait_for(lambda: len(list(place.glob("*.unfinished/*.pt"))) >= 2, "no checkpoint of two runs")
        wait_for(lambda: len({p.parent for p in place.glob("*.unfinished/*.pt")}) == 2, "no checkpoint of two runs")
        lost.lose_raylet()
        # No process of the lost node goes on. Those of the other need not be slow from here on.
        wait_for(lambda: not [line for line in in_session(lost.process.pid).values() if "ray::" in line], "orphans", 30)
        with folder.hurry():
            printed, _ = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 0, printed
    assert "all 4 runs are in" in printed
    swept, local = records(store), records(folder.path / "local")
    assert set(swept) == set(local)
    for run in local:
        same_outcome(store / run, folder.path / "local" / run)
    # One run was on that node: it alone began again, and not from its start.
    resumed = [record.cost.resumed for record in swept.values() if record.cost.resumed is not None]
    assert len(resumed) == 1
    assert resumed[0]["epoch"] >= 1
    assert not list(place.glob("*.unfinished"))
    assert "0 to train" in folder.run("normbench", "sweep", "--ray", cluster.address, NORMBENCH_STORE=str(store))
    if not shared:
        archives = sorted((tmp_path / "remote").glob("*.run.tar"))
        assert len(archives) == 4
        # A driver that knows nothing of them takes them, and what is damaged there is trained again.
        printed = folder.run(
            "normbench", "sweep", "--ray", cluster.address, *options, NORMBENCH_STORE=str(tmp_path / "a")
        )
        assert "all 4 runs are in" in printed
        archives[0].write_bytes(archives[0].read_bytes()[:-10_000])
        printed = folder.run(
            "normbench", "sweep", "--ray", cluster.address, *options, NORMBENCH_STORE=str(tmp_path / "b")
        )
        assert f"{archives[0]}: " in printed
        assert "set aside there, with .damaged at its end" in printed
        for run in local:
            same_outcome(tmp_path / "b" / run, folder.path / "local" / run)
        assert len(list((tmp_path / "remote").glob("*.run.tar"))) == 4
        assert len(list((tmp_path / "remote").glob("*.damaged"))) == 1


def test_an_interrupted_sweep_goes_on(folder: SuiteFolder, cluster: Cluster, tmp_path: Path):
    store = tmp_path / "store"
    process = folder.start("normbench", "sweep", "--ray", cluster.address, NORMBENCH_STORE=str(store))
    wait_for(lambda: list(store.glob("*.unfinished/*.pt")), "no checkpoint")
    before = set(store.glob("*.unfinished/*.pt"))
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 75, printed
    assert "Traceback" not in printed
    assert records(store) == {}
    assert set(store.glob("*.unfinished/*.pt")) - before  # written because of the signal
    begun = len({path.parent for path in store.glob("*.unfinished/*.pt")})
    with folder.hurry():
        folder.run("normbench", "sweep", NORMBENCH_STORE=str(store))  # without Ray
    assert sum(record.cost.resumed is not None for record in records(store).values()) == begun
    for run in records(store):
        same_outcome(store / run, folder.path / "local" / run)


def test_a_run_that_fails_leaves_the_others_alone(cluster: Cluster, tmp_path: Path):
    """On a folder of its own, as nodes go to that of the driver."""
    folder = SuiteFolder(tmp_path / "suite")
    folder.add_broken("raise RuntimeError('on purpose')")
    folder.edit("variants: [batch_norm, group_norm]", "variants: [broken, batch_norm]")
    folder.edit("\nvariants:", "\nvariants:\n  broken: {method: broken.py:Broken}")
    folder.bind()
    printed = folder.run("normbench", "sweep", "--ray", cluster.address, code=1)
    assert "small broken seed 0: failed: RuntimeError: on purpose" in printed
    assert len(records(folder.path / "runs")) == 4


def test_the_processes_of_nodes_have_the_settings_of_the_driver(cluster: Cluster, tmp_path: Path):
    """They have them from their start, so before they import torch; Ray's own number of threads gives way."""
    folder = Noted(tmp_path / "suite")
    folder.edit("gan_tasks: [small-gan]", "gan_tasks: []")
    folder.edit("gan_variants: [noting]", "gan_variants: []")
    folder.bind()
    folder.taken()
    folder.run("normbench", "sweep", "--ray", cluster.address)
    notes = folder.taken()
    check(notes)
    trained = [note for note in notes.values() if "RAY_JOB_ID" in note["environment"]]  # not the driver's trial
    assert trained
    assert all({"OMP_NUM_THREADS=1", "OMP_WAIT_POLICY=passive"} <= set(note["began"]) for note in trained)
    assert {record.provenance.numerics.threads for record in records(folder.path / "runs").values()} == {1}


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "nonsense"])
def test_no_cluster_there(folder: SuiteFolder, address: str):
    address = address.format(port=free_port())
    printed = folder.run("normbench", "sweep", "--ray", address, code=1, NORMBENCH_STORE="none")
    assert f"--ray {address}: " in printed
    assert "Traceback" not in printed
