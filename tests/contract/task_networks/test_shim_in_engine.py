"""Containers of a real Docker Engine, in a lab host where the overlay is at work: the shim, and
what a container sees of its network.
"""

import json
import random
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from essaim_agent import shim
from essaim_agent.docker_executor import DockerExecutor
from essaim_agent.network import NetworkPicture
from essaim_agent.overlay.task_networks import OverlayNetworks
from essaim_shared.clock import SystemClock, wait_until
from essaim_shared.container_spec import ContainerSpec, DnsConfig
from essaim_shared.ids import HOST_NETWORK_ID, NetworkId, NodeId, ServiceId, TaskId, new_id
from essaim_shared.messages import Endpoint, NodeNetwork
from essaim_shared.objects import Attachment, Task
from essaim_shared.spec import NetworkAttachment, TaskSpec
from essaim_shared.task_state import TaskState

pytestmark = pytest.mark.lab

RED = NetworkId("red")
ONE, TWO = TaskId("task-one"), TaskId("task-two")
ONE_RED, TWO_RED = "10.244.0.11", "10.244.0.12"
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 20.0


class Engine:
    """A dockerd in lab host `a`, with the shim registered in a configuration file of its own."""

    def __init__(self, lab: Any, directory: Path) -> None:
        self.lab = lab
        self.run_dir = directory / "run"
        self.data = directory / "data"
        self.state = Path("/run") / f"{lab.prefix}-engine"  # socket paths are short
        self.socket = self.state / "docker.sock"
        self.config = directory / "daemon.json"
        self.log = directory / "dockerd.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.state.mkdir()
        self.config.write_text('{"live-restore": true}')
        installed = shim.install(self.run_dir / "bin", self.run_dir)
        assert shim.register(installed, self.config)
        self.launch()

    def launch(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    "nsenter",
                    f"--net=/run/netns/{self.lab.name('a')}",
                    "dockerd",
                    f"--config-file={self.config}",
                    f"--data-root={self.data}",
                    f"--exec-root={self.state / 'exec'}",
                    f"--pidfile={self.state / 'pid'}",
                    f"--host=unix://{self.socket}",
                    f"--cgroup-parent=/{self.lab.prefix}",
                    "--userland-proxy=false",
                ],
                stdout=log,
                stderr=log,
            )

    def docker(self, *words: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["docker", f"--host=unix://{self.socket}", *words],
            input=given,
            capture_output=True,
            timeout=60,
            check=False,
        )

    def ok(self, *words: str, given: bytes = b"") -> str:
        completed = self.docker(*words, given=given)
        assert completed.returncode == 0, completed.stderr.decode()
        return completed.stdout.decode().strip()

    def is_ready(self) -> bool:
        return self.socket.exists() and self.docker("version").returncode == 0

    def create(self, name: str) -> str:
        """As the agent does it: on the host's network, by name of the runtime."""
        options = ["--network=host", "--runtime=essaim", f"--name={name}", f"--hostname={name}"]
        return self.ok("create", *options, "image", "/busybox", "sleep", "60")

    async def kill_and_launch(self) -> None:
        """The engine dies, its containerd with it, and comes back."""
        assert self.process is not None
        containerd = int((self.state / "exec/containerd/containerd.pid").read_text())
        self.process.kill()
        self.process.wait(STOP_TIMEOUT_S)
        assert await wait_until(lambda: not is_alive(containerd), SystemClock(), STOP_TIMEOUT_S)
        for file in (self.state / "pid", self.state / "exec/containerd/containerd.pid"):
            file.unlink(missing_ok=True)
        self.launch()
        assert await wait_until(self.is_ready, SystemClock(), START_TIMEOUT_S), self.log.read_text()

    def is_running(self, name: str) -> bool:
        return self.ok("inspect", "-f", "{{.State.Running}}", name) == "true"

    def addresses(self, name: str) -> str:
        return self.ok("exec", name, "/busybox", "ip", "address")

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(STOP_TIMEOUT_S)
        # A dead dockerd leaves this mounted, which would keep the whole lab host alive.
        subprocess.run(["umount", "-l", self.state / "exec/netns/default"], check=False)
        # And one that was killed leaves its data mounted on itself.
        subprocess.run(["umount", "-l", self.data], stderr=subprocess.DEVNULL, check=False)
        shutil.rmtree(self.state, ignore_errors=True)
        for controller in Path("/sys/fs/cgroup").glob(f"*/{self.lab.prefix}"):
            if not controller.is_symlink() and not controller.parent.is_symlink():
                controller.rmdir()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
async def engine(lab: Any, tmp_path: Path) -> AsyncIterator[Engine]:
    made = Engine(lab, tmp_path)
    try:
        made.start()
        assert await wait_until(made.is_ready, SystemClock(), START_TIMEOUT_S), made.log.read_text()
        busybox = shutil.which("busybox")
        assert busybox is not None
        archive = subprocess.run(
            ["tar", "-C", str(Path(busybox).parent), "-c", "busybox"],
            capture_output=True,
            check=True,
        )
        made.ok("import", "-", "image", given=archive.stdout)
        yield made
        for container in made.ok("ps", "-aq").split():
            made.ok("rm", "-f", container)
    finally:
        made.stop()


def red(gateway: str) -> dict[NetworkId, NodeNetwork]:
    network = NodeNetwork(
        network_id=RED,
        name="red",
        vni=70_001,
        subnet="10.244.0.0/20",
        mtu=1350,
        gateway=gateway,
    )
    return {RED: network}


@pytest.fixture
async def path(lab: Any) -> AsyncIterator[str]:
    """Of the prepared namespace of task ONE on host a; TWO waits on b."""
    a: OverlayNetworks = lab.networks("a", SystemClock())
    b: OverlayNetworks = lab.networks("b", SystemClock())
    await a.start()
    await b.start()
    try:
        to_b = Endpoint(network_id=RED, address=TWO_RED, node_address=lab.underlay["b"])
        to_a = Endpoint(network_id=RED, address=ONE_RED, node_address=lab.underlay["a"])
        await a.want(NetworkPicture(red("10.244.0.1"), frozenset({to_b})))
        await b.want(NetworkPicture(red("10.244.0.2"), frozenset({to_a})))
        await b.attach(TWO, [Attachment(network_id=RED, address=TWO_RED)], {})
        yield await a.attach(ONE, [Attachment(network_id=RED, address=ONE_RED)], {})
    finally:
        await a.close()
        await b.close()


def test_a_container_starts_in_its_prepared_namespace_and_reaches_the_other_host(
    engine: Engine, path: str, lab: Any
) -> None:
    container = engine.create("web")
    shim.link_namespace(engine.run_dir, container, path)
    engine.ok("start", container)

    shown = engine.ok("exec", "web", "/busybox", "ip", "address")
    assert f"inet {ONE_RED}/20" in shown
    assert "under0" not in shown, "nothing of the host's network is seen"
    assert "1 packets received" in engine.ok(
        "exec", "web", "/busybox", "ping", "-c1", "-W2", TWO_RED
    )
    assert "1 packets received" in engine.ok(
        "exec", "web", "/busybox", "ping", "-c1", "-W2", lab.outside
    )
    assert engine.ok("exec", "web", "/busybox", "hostname") == "web"

    engine.ok("restart", "-t", "0", container)
    assert f"inet {ONE_RED}/20" in engine.ok("exec", "web", "/busybox", "ip", "address")


def test_a_container_without_a_prepared_namespace_is_refused_with_the_reason(
    engine: Engine,
) -> None:
    container = engine.create("stray")
    completed = engine.docker("start", container)
    assert completed.returncode != 0
    assert f"no network namespace is prepared for container {container}" in (
        completed.stderr.decode()
    )
    [state] = json.loads(engine.ok("inspect", container))
    assert state["State"]["Running"] is False


def test_the_ordinary_runtime_is_left_alone(engine: Engine) -> None:
    output = engine.ok("run", "--rm", "--network=none", "image", "/busybox", "ip", "link")
    assert "eth0" not in output


async def test_a_container_outlives_its_engine_in_its_namespace_and_comes_back_into_it(
    engine: Engine, path: str
) -> None:
    container = engine.create("web")
    shim.link_namespace(engine.run_dir, container, path)
    engine.ok("start", container)

    await engine.kill_and_launch()

    assert engine.is_running("web")
    assert f"inet {ONE_RED}/20" in engine.addresses("web")
    engine.ok("restart", "-t", "0", container)
    assert f"inet {ONE_RED}/20" in engine.addresses("web")
    engine.ok("stop", "-t", "0", container)
    engine.ok("start", container)
    assert f"inet {ONE_RED}/20" in engine.addresses("web")


def test_a_container_whose_namespace_went_away_does_not_come_back(
    engine: Engine, path: str
) -> None:
    container = engine.create("web")
    shim.link_namespace(engine.run_dir, container, path)
    engine.ok("start", container)
    shim.unlink_namespace(engine.run_dir, container)
    completed = engine.docker("restart", "-t", "0", container)
    assert "no network namespace is prepared" in completed.stderr.decode()
    assert not engine.is_running("web")


def test_several_containers_share_a_namespace(engine: Engine, path: str) -> None:
    for name in ("web", "helper"):
        container = engine.create(name)
        shim.link_namespace(engine.run_dir, container, path)
        engine.ok("start", container)
        assert f"inet {ONE_RED}/20" in engine.addresses(name)
    engine.ok("exec", "-d", "web", "/busybox", "nc", "-l", "-p", "80", "-e", "/busybox", "hostname")
    said = ""
    for _ in range(50):  # nobody says when nc listens
        answer = engine.docker("exec", "helper", "/busybox", "nc", "-w1", "127.0.0.1", "80")
        said = answer.stdout.decode()
        if said:
            break
    assert said.strip() == "web", "they meet on the loopback of their namespace"
    engine.ok("rm", "-f", "helper")
    assert f"inet {ONE_RED}/20" in engine.addresses("web"), "it goes with the last of them"


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("host", "is the network of the host itself"),
        ("/nowhere", "no network namespace is prepared"),
        ("/etc/hostname", "is no network namespace"),
        ("empty", "runc create failed"),  # these two it refuses itself
        ("/proc/self/ns/uts", "runc create failed"),
    ],
)
def test_no_mistake_leads_to_the_host_s_network(
    engine: Engine, lab: Any, tmp_path: Path, target: str, reason: str
) -> None:
    (tmp_path / "empty").touch()
    host = f"/run/netns/{lab.name('a')}"
    path = {"host": host, "empty": str(tmp_path / "empty")}.get(target, target)
    container = engine.create("web")
    shim.link_namespace(engine.run_dir, container, path)
    completed = engine.docker("start", container)
    assert completed.returncode != 0
    assert reason in completed.stderr.decode()
    assert not engine.is_running("web")


def test_a_policy_that_starts_it_again_is_refused_in_the_same_words(engine: Engine) -> None:
    """The engine itself starts containers again; none of ours has such a policy, and none must
    land on the host by it."""
    options = ["--network=host", "--runtime=essaim", "--name=web", "--restart=always"]
    container = engine.ok("create", *options, "image", "/busybox", "sleep", "60")
    completed = engine.docker("start", container)
    assert "no network namespace is prepared" in completed.stderr.decode()
    assert not engine.is_running("web")


# As the agent does it.


@pytest.fixture
async def executor(engine: Engine) -> AsyncIterator[DockerExecutor]:
    made = DockerExecutor(
        engine.socket, "lab", engine.run_dir, SystemClock(), uses_namespaces=True, node_name="host7"
    )
    await made.open()
    try:
        yield made
    finally:
        await made.close()


def task_of(container: ContainerSpec, **more: Any) -> Task:
    return Task(
        id=TaskId(new_id(random.SystemRandom())),
        service_id=ServiceId("service"),
        service_name="web",
        slot=1,
        spec=TaskSpec(container=container, **more),
        spec_version=1,
        node_id=NodeId("node"),
        desired_state=TaskState.RUNNING,
        attachments=() if more else (Attachment(network_id=RED, address=ONE_RED),),
        created_ns=1,
        updated_ns=1,
    )


def sleeper(**container: Any) -> ContainerSpec:
    return ContainerSpec(image="image", command=("/busybox", "sleep", "600"), **container)


async def seen_inside(
    executor: DockerExecutor, engine: Engine, task: Task, path: str | None
) -> Callable[..., str]:
    """What commands print in the task's container."""
    await executor.prepare(task)
    container = await executor.start(task, path, "10.244.0.1" if path else "")

    def ask(*words: str) -> str:
        return engine.ok("exec", container.container_id, "/busybox", *words)

    return ask


@pytest.mark.parametrize("hostname", ["", "db"])
async def test_a_container_knows_its_own_name_and_asks_its_node_for_all_others(
    executor: DockerExecutor, engine: Engine, path: str, hostname: str
) -> None:
    dns = DnsConfig(nameservers=("192.0.2.53",), search=("lan",), options=("timeout:1",))
    task = task_of(sleeper(hostname=hostname, hosts=("192.0.2.7 seven",), dns_config=dns))
    ask = await seen_inside(executor, engine, task, path)
    name = ask("hostname")
    assert name == (hostname or task.id[:12])
    hosts = [line.split() for line in ask("cat", "/etc/hosts").splitlines()]
    assert [address for address, *names in hosts if name in names] == [ONE_RED]
    assert ["127.0.0.1", "localhost"] in hosts
    assert ["192.0.2.7", "seven"] in hosts
    assert ONE_RED in ask("ping", "-c1", name)
    resolver = {line for line in ask("cat", "/etc/resolv.conf").splitlines() if line[:1] != "#"}
    assert resolver == {"nameserver 10.244.0.1", "search lan", "options timeout:1 ndots:0"}


async def test_a_container_on_the_host_s_network_sees_all_that_the_host_sees(
    executor: DockerExecutor, engine: Engine, path: str, lab: Any
) -> None:
    task = task_of(sleeper(), networks=(NetworkAttachment(target=HOST_NETWORK_ID),))
    ask = await seen_inside(executor, engine, task, None)
    assert lab.underlay["a"] in ask("ip", "address")
    assert ask("hostname") == socket.gethostname()


async def test_a_task_that_asked_for_no_network_and_has_none_prepared_sees_none(
    executor: DockerExecutor, engine: Engine
) -> None:
    ask = await seen_inside(executor, engine, task_of(sleeper()), None)
    assert "eth0" not in ask("ip", "address")
    assert "under0" not in ask("ip", "address")
