"""What a change of the overlay's tables costs one node: forwarding, names apart, and the proxy.

    .venv/bin/python bench/network_tables.py [--services 1000] [--endpoints 10] [--remote 500]

In a network namespace of its own, which ends with it. Figures are CPU of this thread, the kernel's
work included, and time; of each the median over the rounds, the least and the most.
"""

import argparse
import ctypes
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from essaim_agent.network import NetworkPicture
from essaim_agent.overlay.node import OverlayNode
from essaim_shared.ids import NetworkId, ServiceId, TaskId
from essaim_shared.messages import Endpoint, NodeNetwork, ServiceEntry
from essaim_shared.spec import PortConfig

CLONE_NEWNET, CLONE_NEWNS = 0x40000000, 0x00020000
LOCAL = "10.97.0.1"
NODES = 20
RED = NetworkId("red")
NETWORK = NodeNetwork(
    network_id=RED,
    name="red",
    vni=70_001,
    subnet="10.128.0.0/10",
    vip_subnet="10.64.0.0/10",
    mtu=1450,
    gateway="10.128.0.1",
)


@dataclasses.dataclass
class Cost:
    cpu_ms: list[float] = dataclasses.field(default_factory=list)
    time_ms: list[float] = dataclasses.field(default_factory=list)

    def measure(self, work: Callable[[], object]) -> None:
        cpu, began = time.thread_time(), time.perf_counter()
        work()
        self.cpu_ms.append((time.thread_time() - cpu) * 1000)
        self.time_ms.append((time.perf_counter() - began) * 1000)

    def __str__(self) -> str:
        return ", ".join(
            f"{name} {statistics.median(row):7.2f} ms ({min(row):.2f} to {max(row):.2f})"
            for name, row in (("CPU", self.cpu_ms), ("time", self.time_ms))
        )


def enter_namespace() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise SystemExit("a network namespace cannot be made: run it as root")


def endpoint(service: int, task: int, state: str = "serving") -> Endpoint:
    number = 256 + service * 64 + task
    return Endpoint(
        network_id=RED,
        address=f"10.{128 + (number >> 16)}.{number >> 8 & 255}.{number & 255}",
        node_address=f"10.97.0.{2 + task % NODES}",
        task_id=TaskId(f"task-{service}-{task}"),
        service_id=ServiceId(f"service-{service}"),
        state=state,  # type: ignore[arg-type]
    )


def picture(services: int, endpoints: int) -> NetworkPicture:
    return NetworkPicture(
        networks={RED: NETWORK},
        endpoints=frozenset(endpoint(s, t) for s in range(services) for t in range(endpoints)),
        services=frozenset(
            ServiceEntry(
                service_id=ServiceId(f"service-{s}"),
                network_id=RED,
                name=f"service-{s}",
                vip=f"10.64.{s >> 8}.{s & 255}",
                ports=(PortConfig(target_port=80, published_port=10_000 + s),),
            )
            for s in range(services)
        ),
        nodes=frozenset(f"10.97.0.{1 + n}" for n in range(NODES)),
    )


def node() -> OverlayNode:
    made = OverlayNode(LOCAL, namespace_directory=Path(tempfile.mkdtemp()))
    made.start()
    return made


def from_nothing(title: str, wanted: NetworkPicture, rounds: int) -> None:
    cost = Cost()
    for _ in range(rounds):
        overlay = node()
        cost.measure(lambda overlay=overlay: overlay.want(wanted))
        overlay.want(NetworkPicture())
        overlay.close()
    print(f"{title:58} {cost}")


def changes(wanted: NetworkPicture, rounds: int) -> None:
    overlay = node()
    overlay.want(wanted)
    more = endpoint(7, 63, "starting")
    costs = {name: Cost() for name in ("comes", "serves", "drains", "goes")}
    check = Cost()
    for _ in range(rounds):
        before = wanted.endpoints
        for name, after in (
            ("comes", before | {more}),
            ("serves", before | {replace(more, state="serving")}),
            ("drains", before | {replace(more, state="draining")}),
            ("goes", before),
        ):
            changed = replace(wanted, endpoints=after)
            costs[name].measure(lambda changed=changed: overlay.want(changed))
        check.measure(overlay.check)
    for name, cost in costs.items():
        print(f"{f'one endpoint {name}':58} {cost}")
    print(f"{'a comparison of everything, nothing to mend':58} {check}")
    overlay.want(NetworkPicture())
    overlay.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--services", type=int, default=1_000)
    parser.add_argument("--endpoints", type=int, default=10)
    parser.add_argument("--remote", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    enter_namespace()
    services, endpoints = arguments.services, arguments.endpoints
    few = max(1, arguments.remote // endpoints)
    print(f"{services} services of {endpoints} endpoints, each with an address and a port:")
    from_nothing(
        f"{few * endpoints} remote endpoints of {few} services from nothing",
        picture(few, endpoints),
        arguments.rounds,
    )
    whole = picture(services, endpoints)
    from_nothing("all from nothing", whole, 3)
    changes(whole, arguments.rounds)


if __name__ == "__main__":
    main()
