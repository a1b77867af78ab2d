"""What one task, one gateway and one service say to the nodes of their networks. Pure.

A record goes to the members of its network; that of a service with published ports, and the
endpoints by which such a service's tasks are reached, to every node.

All of it follows from the state. Only what changes a record is looked at: of the reports that a
starting task makes, the one that it runs.
"""

from typing import Final, Generic, Literal, TypeVar

import msgspec

from essaim_master.control.service_networks import ServiceNetworks
from essaim_master.state.cluster_state import ClusterState
from essaim_shared.errors import TemplateError
from essaim_shared.ids import NetworkId, NodeId, ServiceId, short_id
from essaim_shared.messages import Endpoint, NodeNetwork, ServiceEntry
from essaim_shared.objects import Gateway, NodeStatus, Task, TaskStatus
from essaim_shared.task_state import TaskState
from essaim_shared.template_syntax import LEFT
from essaim_shared.templates import TemplateContext, expand

STACK_LABEL: Final = "com.docker.stack.namespace"

EndpointState = Literal["starting", "serving", "draining"]

R = TypeVar("R", Endpoint, ServiceEntry)


class Record(msgspec.Struct, Generic[R], frozen=True, gc=False):
    """What is told, and to whom."""

    value: R
    is_for_all: bool = False
    """For every node, whether it is on the network or not."""


Endpoints = tuple[Record[Endpoint], ...]


def endpoints_of(state: ClusterState, task: Task) -> Endpoints:
    """Of a task that has a node and has not ended: one for each of its networks. None while its
    node is unknown."""
    node = None if task.node_id is None else state.node_status.get(task.node_id)
    if node is None or not task.attachments:
        return ()
    status = state.task_status.get(task.id)
    addresses = state.service_addresses.get(task.service_id)
    is_published = addresses is not None and bool(addresses.ports)
    serving = serving_state(task, status, node)
    hostname = _hostname(task, node)
    return tuple(
        Record(
            Endpoint(
                network_id=attachment.network_id,
                address=attachment.address,
                node_address=node.description.address,
                task_id=task.id,
                service_id=task.service_id,
                slot=str(task.slot_key),
                hostname=hostname,
                state=serving,
            ),
            # By its first network a task is reached from outside.
            is_for_all=is_published and attachment is task.attachments[0],
        )
        for attachment in task.attachments
    )


def serving_state(task: Task, status: TaskStatus | None, node: NodeStatus) -> EndpointState:
    if status is None or status.state is not TaskState.RUNNING:
        return "starting"
    if not task.is_wanted:
        return "draining"
    return "serving" if status.is_ready and node.state != "down" else "starting"


def facets(status: object) -> tuple[object, ...]:
    """What a status contributes: two with the same facets lead to the same records."""
    if not isinstance(status, TaskStatus):
        return (False,)
    if status.state is TaskState.RUNNING:
        return (False, status.is_ready)
    return (status.state.is_terminal,)


def _hostname(task: Task, node: NodeStatus) -> str:
    """As the container has it."""
    text = task.spec.container.hostname
    if not text:
        return short_id(task.id)
    if LEFT not in text:
        return text
    context = TemplateContext(
        service_id=task.service_id,
        service_name=task.service_name,
        service_labels=task.service_labels,
        node_id=task.node_id or "",
        node_hostname=node.description.hostname,
        architecture=node.description.architecture,
        os=node.description.os,
        task_id=task.id,
        task_name=f"{task.name}.{task.id}",
        task_slot=str(task.slot_key),
    )
    try:
        return expand(text, context)
    except TemplateError:
        return ""  # the node refuses the task, for the same reason


class NodeOnNetwork(msgspec.Struct, frozen=True):
    """A gateway: what its own node is told of the network, and the others of the node."""

    node_id: NodeId
    network: NodeNetwork
    record: Record[Endpoint]


def node_on_network(state: ClusterState, gateway: Gateway | None) -> NodeOnNetwork | None:
    if gateway is None:
        return None
    network = state.networks.get(gateway.network_id)
    status = state.node_status.get(gateway.node_id)
    if network is None or status is None:
        return None
    known = NodeNetwork(
        network_id=network.id,
        name=network.name,
        vni=network.vni,
        subnet=network.subnet,
        mtu=network.mtu,
        gateway=gateway.address,
        vip_subnet=network.vip_subnet,
        is_internal=network.is_internal,
    )
    endpoint = Endpoint(
        network_id=network.id,
        address=gateway.address,
        node_address=status.description.address,
    )
    return NodeOnNetwork(gateway.node_id, known, Record(endpoint))


Entries = tuple[Record[ServiceEntry], ...]


def entries_of(state: ClusterState, service_id: ServiceId, networks: ServiceNetworks) -> Entries:
    """Of a service: one for each network of its template, and for each that it has left and still
    has an address on.

    A service that will have addresses of its own is not told before it has them: they come with
    its first tasks, and names that lead to nothing for a moment are of no use.
    """
    service = state.services.get(service_id)
    if service is None:
        return ()
    addresses = state.service_addresses.get(service_id)
    endpoint = service.spec.endpoint
    has_vips = endpoint is None or endpoint.mode != "dnsrr"
    vips: dict[NetworkId, str] = {}
    if addresses is not None:
        vips = {item.network_id: item.address for item in addresses.virtual_addresses}
    aliases = {item.target: item.aliases for item in service.spec.task.networks}
    present, _ = networks.of(service.spec.task)
    overlays = {network.id: network for network in present}
    for network_id in vips:
        if network_id in state.networks:
            overlays.setdefault(network_id, state.networks[network_id])
    records: list[Record[ServiceEntry]] = []
    for network in overlays.values():
        if addresses is None and has_vips and network.vip_subnet:
            continue
        # Tasks of an older template are still reached by the network that was its first.
        has_ports = network not in present or network is present[0]
        entry = ServiceEntry(
            service_id=service_id,
            network_id=network.id,
            name=service.spec.name,
            stack=service.spec.labels.get(STACK_LABEL, ""),
            aliases=aliases.get(network.id, ()),
            vip=vips.get(network.id, ""),
            ports=addresses.ports if addresses is not None and has_ports else (),
            has_affinity=endpoint is not None and endpoint.affinity == "client-ip",
            is_forced=endpoint is not None and endpoint.force_ports is True,
        )
        records.append(Record(entry, is_for_all=bool(entry.ports)))
    return tuple(records)
