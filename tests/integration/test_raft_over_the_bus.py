"""Masters whose links go over the bus, as at a site where only its port is open."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.master_processes import MasterProcesses, free_ports


class BusServer:
    def __init__(self) -> None:
        (self.port,) = free_ports(1)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            ["nats-server", "--addr", "127.0.0.1", "--port", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def bus() -> Iterator[BusServer]:
    server = BusServer()
    server.start()
    yield server
    server.kill()


@pytest.fixture
def masters(tmp_path: Path, bus: BusServer) -> Iterator[MasterProcesses]:
    made = MasterProcesses(
        tmp_path,
        ("m1", "m2", "m3"),
        raft_transport="nats",
        bus_servers=[f"nats://127.0.0.1:{bus.port}"],
    )
    yield made
    made.close()


async def test_a_cluster_over_the_bus_survives_its_server(
    masters: MasterProcesses, bus: BusServer
) -> None:
    await masters.start()
    for name in ("m1", "m2", "m3"):
        await masters.ok("kv", "put", f"from/{name}", name, at=name)
    assert (await masters.ok("kv", "get", "from/m1", at="m3")).strip() == "m1"

    # Without the bus there is no quorum; with it again, there is one, and nothing is lost.
    bus.kill()
    code, _, _ = await masters.run("kv", "put", "lost", "?", at="m1")
    assert code == 1
    bus.start()

    async def is_written() -> bool:
        return (await masters.run("kv", "put", "again", "yes", at="m2"))[0] == 0

    await masters.eventually(is_written, "writes are taken again")
    for name in ("m1", "m2", "m3"):
        assert (await masters.ok("kv", "get", "again", at=name)).strip() == "yes"
        assert (await masters.ok("kv", "get", "from/m2", at=name)).strip() == "m2"


async def test_another_master_leads_when_the_leader_is_killed(masters: MasterProcesses) -> None:
    await masters.start()
    await masters.ok("kv", "put", "color", "blue")
    leader = await masters.until_led()
    masters.masters[leader].stop(signal.SIGKILL)
    survivor = next(name for name, one in masters.masters.items() if one.process)

    async def is_written() -> bool:
        return (await masters.run("kv", "put", "color", "green", at=survivor))[0] == 0

    await masters.eventually(is_written, "another one leads")
    masters.masters[leader].start()

    async def has_caught_up() -> bool:
        code, out, _ = await masters.run("kv", "get", "color", at=leader)
        return code == 0 and out.strip() == "green"

    await masters.eventually(has_caught_up, "the killed one follows")
