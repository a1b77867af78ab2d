"""A cluster on the bench: the real state and the real decisions, agents that obey at once."""

import random
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Literal, TypeVar

import msgspec
import pytest
from msgspec import UNSET, UnsetType

from essaim_master.control.allocator import Cursors
from essaim_master.control.conditions import NodeCondition, condition_of
from essaim_master.control.planner import plan_slice
from essaim_master.control.worklist import Worklist
from essaim_master.state.cluster import LocalCluster, Member
from essaim_master.state.service_changes import changed_service
from essaim_master.state.writes import Writes
from essaim_shared.clock import ManualClock
from essaim_shared.container_spec import ContainerSpec
from essaim_shared.ids import MemberId, NetworkId, NodeId, ServiceId, TaskId
from essaim_shared.objects import (
    ClusterMember,
    Network,
    NodeDescription,
    NodeObject,
    NodeStatus,
    Service,
    Task,
    TaskStatus,
)
from essaim_shared.spec import (
    EndpointSpec,
    NetworkAttachment,
    NodeSpec,
    Placement,
    PortConfig,
    ReplicatedMode,
    Reservations,
    Resources,
    RestartPolicy,
    Schedule,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
)
from essaim_shared.task_state import TaskState

T = TypeVar("T")

SLICES_MAX = 1000
GIB = 1024**3


def run_now(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits, as those of LocalCluster."""
    try:
        coroutine.send(None)
    except StopIteration as finished:
        return finished.value  # type: ignore[no-any-return]
    raise AssertionError("the coroutine waits for something")


class World:
    def __init__(
        self,
        seed: int = 1,
        subnet: str = "10.1.0.0/24",
        limit: int = 250,
        has_default: bool = True,
    ) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.limit = limit
        self.now_ns = 1_700_000_000_000_000_000
        self.cluster = LocalCluster(ManualClock(), Member(MemberId("m1"), "", ""))
        self.state = self.cluster.state
        self.worklist = Worklist(self.state)
        self.cursors = Cursors()
        self.writes_count = 0
        self.state.subscribe(lambda applied: self.worklist.note(applied))
        self.network_id = NetworkId("net")
        if has_default:
            self.put(
                Network(
                    id=self.network_id, name="default", vni=7, subnet=subnet, mtu=1450, created_ns=1
                )
            )

    # The state.

    def add_network(self, name: str, subnet: str, **facts: Any) -> NetworkId:
        network_id = NetworkId(name)
        facts = {"vni": 100 + len(self.state.networks), "mtu": 1450, "created_ns": 1, **facts}
        self.put(Network(id=network_id, name=name, subnet=subnet, **facts))
        return network_id

    def change_network(self, name: str, **changes: Any) -> None:
        network = self.state.network_named(name)
        assert network is not None
        self.put(msgspec.structs.replace(network, **changes))

    def remove_network(self, name: str) -> None:
        network = self.state.network_named(name)
        assert network is not None
        writes = Writes()
        writes.delete_network(network.id)
        self.commit(writes)

    def commit(self, writes: Writes) -> None:
        for transaction in writes.transactions():
            assert run_now(self.cluster.commit(transaction, 1.0)).succeeded

    def try_commit(self, writes: Writes) -> bool:
        """Apply what holds; False when a compare of some transaction failed."""
        results = [run_now(self.cluster.commit(part, 1.0)) for part in writes.transactions()]
        return all(result.succeeded for result in results)

    def put(self, stored: Any) -> None:
        writes = Writes()
        writes.put(stored)
        self.commit(writes)

    def elect(self) -> None:
        """A new leader: everything in memory is built anew from the state."""
        self.worklist = Worklist(self.state)
        self.cursors = Cursors()

    def advance(self, seconds: float) -> None:
        self.now_ns += int(seconds * 1e9)

    # Nodes.

    def add_node(
        self,
        name: str,
        labels: dict[str, str] | None = None,
        cpus: int = 4,
        memory: int = 8 * GIB,
        **description: Any,
    ) -> NodeId:
        node_id = NodeId(name)
        spec = NodeSpec(name=name, labels=labels or {})
        writes = Writes()
        writes.put(NodeObject(id=node_id, spec=spec, created_ns=1, updated_ns=1))
        fields = {
            "hostname": name,
            "address": f"192.168.0.{len(self.state.nodes) + 1}",
            "architecture": "x86_64",
            "nano_cpus": cpus * 10**9,
            "memory_bytes": memory,
            "engine_version": "20.10",
            **description,
        }
        status = NodeStatus(state="ready", description=NodeDescription(**fields), changed_ns=1)
        writes.put_node_status(node_id, status)
        self.commit(writes)
        return node_id

    def set_node(self, name: str, **changes: Any) -> None:
        """Change a node's spec: availability, labels, the role that a client wrote."""
        node = self.state.nodes[NodeId(name)]
        spec = msgspec.structs.replace(node.spec, **changes)
        self.put(msgspec.structs.replace(node, spec=spec))

    def add_master(self, name: str, host: str, removed_ns: int = 0) -> None:
        """A master on a host; it is a member unless it was removed."""
        self.put(
            ClusterMember(
                id=MemberId(name),
                raft=f"{host}:7401",
                http=f"{host}:7400",
                added_ns=1,
                removed_ns=removed_ns,
            )
        )

    def set_node_state(self, name: str, state: str) -> None:
        node_id = NodeId(name)
        writes = Writes()
        status = self.state.node_status[node_id]
        changed = msgspec.structs.replace(status, state=state, changed_ns=self.now_ns)
        writes.put_node_status(node_id, changed)
        self.commit(writes)

    def describe_node(self, name: str, description: NodeDescription) -> None:
        """The node registers again and says something else of itself."""
        node_id = NodeId(name)
        status = self.state.node_status[node_id]
        writes = Writes()
        writes.put_node_status(node_id, msgspec.structs.replace(status, description=description))
        self.commit(writes)

    def remove_node(self, name: str) -> None:
        writes = Writes()
        writes.delete_node(NodeId(name))
        self.commit(writes)

    # Services.

    def create(
        self,
        name: str = "web",
        replicas: int = 1,
        constraints: tuple[str, ...] = (),
        max_replicas: int = 0,
        cpus: float = 0,
        memory: int = 0,
        restart: RestartPolicy | None = None,
        mode: ServiceMode | None = None,
        schedule: Schedule | UnsetType = UNSET,
        networks: tuple[str, ...] = (),
        ports: tuple[PortConfig, ...] = (),
        endpoint_mode: Literal["", "vip", "dnsrr"] = "",
    ) -> ServiceId:
        service_id = ServiceId(f"service-{name}")
        reservations = Reservations(nano_cpus=int(cpus * 1e9), memory_bytes=memory)
        spec = ServiceSpec(
            name=name,
            task=TaskSpec(
                container=ContainerSpec(image="img:1"),
                restart_policy=restart,
                resources=Resources(reservations=reservations) if cpus or memory else None,
                placement=Placement(constraints=constraints, max_replicas=max_replicas),
                networks=tuple(NetworkAttachment(target=each) for each in networks),
            ),
            mode=mode or ServiceMode(replicated=ReplicatedMode(replicas=replicas)),
            schedule=schedule,
            endpoint=EndpointSpec(mode=endpoint_mode, ports=ports)
            if ports or endpoint_mode
            else None,
        )
        self.put(Service(id=service_id, spec=spec, created_ns=self.now_ns, updated_ns=self.now_ns))
        return service_id

    def scale(self, service_id: ServiceId, replicas: int) -> None:
        service = self.state.services[service_id]
        mode = ServiceMode(replicated=ReplicatedMode(replicas=replicas))
        self.change(service_id, msgspec.structs.replace(service.spec, mode=mode))

    def update(self, service_id: ServiceId, **task: Any) -> None:
        """Change the task template."""
        service = self.state.services[service_id]
        template = msgspec.structs.replace(service.spec.task, **task)
        template = msgspec.structs.replace(template, force_update=template.force_update + 1)
        self.change(service_id, msgspec.structs.replace(service.spec, task=template))

    def publish(self, service_id: ServiceId, *ports: PortConfig, mode: str = "") -> None:
        """Change the published ports, all of them, and the mode of the endpoint."""
        service = self.state.services[service_id]
        endpoint = EndpointSpec(mode=mode, ports=ports)  # type: ignore[arg-type]
        self.change(service_id, msgspec.structs.replace(service.spec, endpoint=endpoint))

    def connect(self, service_id: ServiceId, *networks: str) -> None:
        """Change the networks of the template, all of them."""
        attachments = tuple(NetworkAttachment(target=each) for each in networks)
        self.update(service_id, networks=attachments)

    def change(self, service_id: ServiceId, spec: ServiceSpec) -> None:
        """Give the service another spec, as the API does."""
        self.put(changed_service(self.state.services[service_id], spec, self.now_ns))

    def remove(self, service_id: ServiceId) -> None:
        writes = Writes()
        writes.delete_service(self.state.services[service_id])
        writes._compares.clear()  # the bench claims no names
        self.commit(writes)

    # The leader.

    def plan(self) -> Writes:
        """One slice of work, decided and not yet applied."""
        return plan_slice(
            self.state, self.worklist, self.cursors, self.rng, self.now_ns, self.limit
        )

    def slice(self) -> int:
        """One slice of work, applied; how many keys it wrote."""
        writes = self.plan()
        self.commit(writes)
        for rollback in self.worklist.take_rollbacks().values():
            self.commit(rollback)
        self.writes_count += len(writes)
        return len(writes)

    def settle(self) -> int:
        """Slices until nothing is left to do; how many keys they wrote."""
        written = 0
        for _ in range(SLICES_MAX):
            written += self.slice()
            if not self.worklist:
                return written
        raise AssertionError(f"no end after {SLICES_MAX} slices")

    def full_pass(self) -> int:
        self.worklist.add_everything()
        return self.settle()

    # The agents.

    def report(
        self,
        task_id: TaskId,
        state: TaskState,
        ran_s: float = 0,
        err: str = "",
        container_id: str = "",
    ) -> None:
        known = self.state.task_status.get(task_id)
        started_ns = 0 if known is None else known.started_ns
        if state is TaskState.RUNNING:
            started_ns = self.now_ns
        elif ran_s:
            started_ns = self.now_ns - int(ran_s * 1e9)
        writes = Writes()
        status = TaskStatus(
            state=state,
            timestamp_ns=self.now_ns,
            started_ns=started_ns,
            err=err,
            container_id=container_id,
        )
        writes.put_task_status(task_id, status)
        self.commit(writes)

    def agents_obey(self) -> int:
        """Every task on a node that is not down gets to where the masters want it."""
        reports = 0
        for task in list(self.state.tasks.values()):
            node = self.state.node_status.get(task.node_id) if task.node_id else None
            observed = self.state.observed(task.id)
            if node is None or node.state == "down" or observed.is_terminal:
                continue
            wanted = (
                task.desired_state
                if task.desired_state <= TaskState.RUNNING
                else TaskState.RUNNING
                if task.is_wanted
                else TaskState.SHUTDOWN
            )
            if wanted > observed:
                self.report(task.id, wanted)
                reports += 1
        return reports

    def converge(self) -> None:
        """Leader and agents in turns until nobody has anything to do; delays pass at once."""
        for _ in range(SLICES_MAX):
            self.settle()
            due_ns = self.worklist.next_due_ns()
            if self.agents_obey():
                continue
            if due_ns is None or not self.has_delayed():
                return
            self.now_ns = max(self.now_ns, due_ns)
        raise AssertionError("no convergence")

    def has_delayed(self) -> bool:
        """Whether a task waits for its time, but for those of nodes that are down: what was there
        is given up after a day, in which a cron job runs too often to be waited for."""
        return any(
            task.desired_state is TaskState.READY
            for task in self.state.tasks.values()
            if condition_of(self.state, task.node_id) is not NodeCondition.DOWN
        )

    # What is asked afterwards.

    def tasks(self, service_id: ServiceId, *states: TaskState) -> list[Task]:
        """Tasks of a service, by slot and age; only those observed in `states`, if given."""
        found = [
            task
            for task in self.state.tasks_of_service(service_id).values()
            if not states or self.state.observed(task.id) in states
        ]
        return sorted(found, key=lambda task: (str(task.target_node), task.slot, task.created_ns))

    def wanted(self, service_id: ServiceId) -> list[Task]:
        return [t for t in self.tasks(service_id) if t.is_wanted]

    def running(self, service_id: ServiceId) -> list[Task]:
        found = self.tasks(service_id, TaskState.RUNNING)
        return [task for task in found if task.is_wanted]

    def spread(self, service_id: ServiceId) -> dict[str, int]:
        """How many wanted tasks are on each node."""
        return dict(Counter(str(task.node_id) for task in self.wanted(service_id)))

    def virtual(self, service_id: ServiceId) -> dict[str, str]:
        """A service's own addresses, by network."""
        found = self.state.service_addresses.get(service_id)
        virtual = () if found is None else found.virtual_addresses
        return {each.network_id: each.address for each in virtual}

    def published(self, service_id: ServiceId) -> list[str]:
        """A service's ports of the cluster, as `30000/tcp`."""
        found = self.state.service_addresses.get(service_id)
        ports = () if found is None else found.ports
        return [f"{port.published_port}/{port.protocol}" for port in ports]

    def reason(self, task: Task) -> str:
        status = self.state.task_status.get(task.id)
        return "" if status is None else status.err


@pytest.fixture
def make_world() -> Callable[..., World]:
    """Makes a World; `seed`, `subnet` and `limit` may be given, or that nothing is there yet."""
    return World


@pytest.fixture
def world() -> World:
    """Three nodes n1, n2, n3 and the default network."""
    world = World()
    for name in ("n1", "n2", "n3"):
        world.add_node(name)
    return world
