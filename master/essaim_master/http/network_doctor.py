"""`GET /essaim/network/doctor`: how every node's networks are, and what is wrong, in words.

    {"Healthy": bool,                    no error, and no difference told by a node that is heard
     "Findings": [{"Level": "error" | "warning", "Node": hostname or "", "Text"}],
     "Nodes": [{"ID", "Hostname", "Address", "State", "ReportAge", "CheckAge", "Repairs", …,
                "Probes": [{"Network", "Peer", "Latency", "MTU", "IsMTUWhole", "Age", "Misses"}]}],
     "Networks": [{"ID", "Name", "Subnet", "MTU", "AddressesUsed", "AddressesMax"}]}

Ages and latencies are seconds. The master that is asked answers with what it heard.
"""

from collections.abc import Iterator
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from essaim_master.control.network_doctor import (
    ExaminedNetwork,
    ExaminedNode,
    Finding,
    UnpublishedPort,
    diagnose,
)
from essaim_master.http.api import Api, json_response
from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.service_changes import ingress_ports
from essaim_shared.ids import NetworkId, NodeId, TaskId
from essaim_shared.messages import NetworkProbe
from essaim_shared.objects import Service
from essaim_shared.spec import PortConfig
from essaim_shared.task_state import TaskState

AGE_DIGITS, LATENCY_DIGITS = 3, 6

PUBLISHING_NS: Final = 5_000_000_000
"""So long after a change of a service nobody asks yet whether the leader has given it its ports."""

NODES_PER_TURN: Final = 64
"""So many nodes are put into words before the event loop gets a turn."""


class NetworkDoctorRoute:
    def __init__(self, api: Api) -> None:
        self._api = api

    def routes(self) -> list[Route]:
        return [Route("/essaim/network/doctor", self.doctor, methods=["GET"])]

    async def doctor(self, request: Request) -> Response:
        nodes = examined_nodes(self._api)
        networks = examined_networks(self._api.state)
        unpublished = unpublished_ports(self._api.state, self._api.clock.wall_ns())
        findings = diagnose(nodes, networks, unpublished)
        has_differences = any(
            node.is_heard and node.report is not None and node.report.differences for node in nodes
        )
        is_healthy = not has_differences and all(one.level != "error" for one in findings)
        hostnames = {node.id: node.hostname for node in nodes}
        addresses = {node.address: node.hostname for node in nodes}
        shown = []
        for number, node in enumerate(nodes, 1):
            shown.append(_node_object(node, networks, addresses))
            if number % NODES_PER_TURN == 0:
                await self._api.clock.sleep(0)
        return json_response(
            {
                "Healthy": is_healthy,
                "Findings": [_finding_object(one, hostnames) for one in findings],
                "Nodes": shown,
                "Networks": [_network_object(one) for one in networks.values()],
            }
        )


def examined_nodes(api: Api) -> list[ExaminedNode]:
    """By hostname."""
    received = {} if api.network_reports is None else api.network_reports.received()
    now_s = api.clock.monotonic_s()
    nodes = []
    for node_id, status in api.state.node_status.items():
        if node_id not in api.state.nodes:
            continue
        heard = received.get(node_id)
        nodes.append(
            ExaminedNode(
                id=node_id,
                hostname=status.description.hostname,
                address=status.description.address,
                state=status.state,
                mtu=status.description.mtu,
                report=None if heard is None else heard.report,
                report_age_s=0.0 if heard is None else now_s - heard.received_s,
                running=_running(api.state, node_id),
            )
        )
    return sorted(nodes, key=lambda node: (node.hostname, node.id))


def _running(state: ClusterState, node_id: NodeId) -> tuple[tuple[int, tuple[NetworkId, ...]], ...]:
    return tuple(
        (status.timestamp_ns, tuple(a.network_id for a in task.attachments))
        for task in state.tasks_on_node(node_id).values()
        if (status := state.task_status.get(task.id)) is not None
        and status.state is TaskState.RUNNING
        and task.desired_state is TaskState.RUNNING
    )


def examined_networks(state: ClusterState) -> dict[NetworkId, ExaminedNetwork]:
    """Those that have addresses."""
    return {
        network_id: ExaminedNetwork(network, _addresses_in_use(state, network_id))
        for network_id, network in state.networks.items()
        if network.subnet
    }


def _addresses_in_use(state: ClusterState, network_id: NetworkId) -> int:
    """A gateway's owner is a node, of which no task's status says that it has ended."""
    owners = state.addresses(network_id).values()
    return sum(not state.observed(TaskId(owner)).is_terminal for owner in owners)


def unpublished_ports(state: ClusterState, now_ns: int) -> list[UnpublishedPort]:
    return [
        UnpublishedPort(service.spec.name, port, _holder(state, port))
        for service in state.services.values()
        if service.updated_ns + PUBLISHING_NS <= now_ns
        for port in _missing_ports(state, service)
    ]


def _missing_ports(state: ClusterState, service: Service) -> Iterator[PortConfig]:
    """The leader lists those that the service has in the order in which it asks for them."""
    addresses = state.service_addresses.get(service.id)
    given = list(reversed(() if addresses is None else addresses.ports))
    for port in ingress_ports(service.spec):
        has = given[-1] if given else None
        if (
            has is not None
            and (port.protocol, port.target_port) == (has.protocol, has.target_port)
            and port.published_port in (0, has.published_port)
        ):
            given.pop()
        else:
            yield port


def _holder(state: ClusterState, port: PortConfig) -> str:
    claim = state.ingress_ports.get(f"{port.protocol}/{port.published_port}")
    service = None if claim is None else state.services.get(claim.service_id)
    return "" if service is None else service.spec.name


def _finding_object(finding: Finding, hostnames: dict[NodeId, str]) -> dict[str, Any]:
    hostname = hostnames.get(finding.node_id, "") if finding.node_id else ""
    return {"Level": finding.level, "Node": hostname, "Text": finding.text}


def _node_object(
    node: ExaminedNode, networks: dict[NetworkId, ExaminedNetwork], hostnames: dict[str, str]
) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "ID": node.id,
        "Hostname": node.hostname,
        "Address": node.address,
        "State": node.state,
        "UnderlayMTU": node.mtu,
        "ReportAge": None,
    }
    report = node.report
    if report is None:
        return shown
    is_mended = bool(report.repaired_ns)
    return {
        **shown,
        "ReportAge": round(node.report_age_s, AGE_DIGITS),
        "CheckAge": round(node.age_s(report.checked_ns), AGE_DIGITS) if report.checked_ns else None,
        "Networks": report.networks,
        "Endpoints": report.endpoints,
        "Services": report.services,
        "Connections": report.connections,
        "DNSAnswers": report.dns_answers,
        "Repairs": report.repairs,
        "LastRepair": report.last_repair,
        "LastRepairAge": round(node.age_s(report.repaired_ns), AGE_DIGITS) if is_mended else None,
        "Differences": report.differences,
        "Problems": report.problems,
        "Probes": [_probe_object(probe, node, networks, hostnames) for probe in report.probes],
    }


def _probe_object(
    probe: NetworkProbe,
    node: ExaminedNode,
    networks: dict[NetworkId, ExaminedNetwork],
    hostnames: dict[str, str],
) -> dict[str, Any]:
    examined = networks.get(probe.network_id)
    return {
        "NetworkID": probe.network_id,
        "Network": probe.network_id if examined is None else examined.network.name,
        "Peer": hostnames.get(probe.node_address, probe.node_address),
        "PeerAddress": probe.node_address,
        "Latency": round(probe.latency_us / 1e6, LATENCY_DIGITS) if probe.latency_us else None,
        "MTU": 0 if examined is None else examined.network.mtu,
        "IsMTUWhole": probe.is_mtu_whole,
        "Age": round(node.age_s(probe.asked_ns), AGE_DIGITS),
        "Misses": probe.misses,
        "MTUMisses": probe.mtu_misses,
    }


def _network_object(examined: ExaminedNetwork) -> dict[str, Any]:
    network = examined.network
    return {
        "ID": network.id,
        "Name": network.name,
        "Subnet": network.subnet,
        "MTU": network.mtu,
        "AddressesUsed": examined.addresses_used,
        "AddressesMax": examined.addresses_max,
    }
