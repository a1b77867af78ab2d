"""Who uses a network, and how a service that comes to name one is kept apart from its deletion.

Pure. Two changes must not both succeed: a service names a network, and the network is deleted.

* The service's transaction compares that the network exists, and writes the network's mark
  (`/network_uses/ID`), whatever it holds: services that name one network never hinder each other.
* The deletion is decided on a state without users, and compares the revision that the mark had in
  that state. A service that came to name the network meanwhile has changed it.

Whichever is applied first makes the other fail, which then looks again. A service that keeps a
network through a change needs no mark: it is seen by its spec.
"""

from collections.abc import Iterator

import msgspec

from essaim_master.state.cluster_state import Change, ClusterState
from essaim_master.state.keys import NETWORK_LEDGER_KEY, network_key, network_use_key
from essaim_master.state.writes import Writes
from essaim_shared.errors import NotFound
from essaim_shared.ids import NetworkId, TaskId
from essaim_shared.objects import (
    Network,
    NetworkLedger,
    NodeStatus,
    Service,
    Task,
    TaskStatus,
)
from essaim_shared.spec import ServiceSpec
from essaim_shared.task_state import TaskState

DEFAULT_NETWORK = "default"
HOST_NETWORK = "host"
PREDEFINED_NETWORKS = frozenset({DEFAULT_NETWORK, HOST_NETWORK})
"""By their names; the leader makes them, and nobody removes them."""


def networks_of(spec: ServiceSpec) -> tuple[NetworkId, ...]:
    """The networks that a stored spec names; none stands for the default one."""
    return tuple(NetworkId(attachment.target) for attachment in spec.task.networks)


def mark_networks(
    writes: Writes, state: ClusterState, before: Service | None, after: Service
) -> None:
    """Of a change of a service: guard the networks that it names from now on. Raises NotFound for
    one that is gone."""
    known = () if before is None else networks_of(before.spec)
    for network_id in networks_of(after.spec):
        if network_id not in known:
            if network_id not in state.networks:
                raise NotFound(f"network {network_id} not found")
            writes.use_network(network_id, after.id)


def services_on(state: ClusterState, network: Network) -> Iterator[Service]:
    """The services whose tasks are to be on the network."""
    is_default = network.name == DEFAULT_NETWORK
    for service in state.services.values():
        named = networks_of(service.spec)
        if network.id in named or (is_default and not named):
            yield service


def tasks_on(state: ClusterState, network_id: NetworkId) -> Iterator[Task]:
    """The tasks that have not ended and hold an address of the network. Those of nodes that are
    down do not count: nobody can wait for them, and what they have of the network goes when their
    node is back and learns that it is gone."""
    for owner in state.addresses(network_id).values():
        task = state.tasks.get(TaskId(owner))
        if task is None or state.observed(task.id).is_terminal:
            continue
        status = None if task.node_id is None else state.node_status.get(task.node_id)
        if status is None or status.state != "down":
            yield task


def used_networks(state: ClusterState) -> set[NetworkId]:
    """All networks that some service or task uses, in one pass: asked one by one, a thousand
    networks of a thousand services would take a second."""
    default = state.network_named(DEFAULT_NETWORK)
    unnamed = () if default is None else (default.id,)
    used: set[NetworkId] = set()
    for service in state.services.values():
        used.update(networks_of(service.spec) or unnamed)
    for network_id in state.networks:
        if network_id not in used and any(True for _ in tasks_on(state, network_id)):
            used.add(network_id)
    return used


def may_end_a_use(state: ClusterState, change: Change, network_id: NetworkId) -> bool:
    """Whether a change can be one of those that a network's deletion waits for, or one that makes
    the wait pointless."""
    match change.after or change.before:
        case Task() as task:
            return _is_attached(task, network_id)
        case TaskStatus() as status:
            owner = state.tasks.get(TaskId(change.id))
            return status.state.is_terminal and _is_attached(owner, network_id)
        case Service() as service:
            return network_id in networks_of(service.spec)
        case Network() as network:
            return network.id == network_id
        case NodeStatus():
            return True
        case _:
            return False


def _is_attached(task: Task | None, network_id: NetworkId) -> bool:
    return task is not None and any(at.network_id == network_id for at in task.attachments)


def is_leaving(state: ClusterState, task: Task) -> bool:
    """Whether the task is ordered to end, so that waiting for it makes sense."""
    return task.desired_state > TaskState.COMPLETE or task.service_id not in state.services


def deletion_of(state: ClusterState, network: Network) -> Writes:
    """The writes that delete a network without users, if it still has none then."""
    ledger = state.network_ledger
    writes = Writes()
    for key in (network_key(network.id), network_use_key(network.id), NETWORK_LEDGER_KEY):
        writes.expect(key, state.modified(key))
    writes.put(msgspec.structs.replace(ledger, changes=ledger.changes + 1))
    writes.delete_network(network.id)
    return writes


def creation_of(state: ClusterState, network: Network, ledger: NetworkLedger) -> Writes:
    """The writes that make a network that was chosen from this state, if it is still the one."""
    writes = Writes()
    writes.expect(NETWORK_LEDGER_KEY, state.modified(NETWORK_LEDGER_KEY))
    writes.put(ledger)
    writes.put(network)
    return writes
