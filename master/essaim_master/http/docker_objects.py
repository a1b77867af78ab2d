"""Essaim's objects in the shapes of Docker's Engine API (api/types/swarm), as values to encode.

Empty fields are left out, as Go's `omitempty` does: clients look at the presence of some, and a
present but zero `UpdateStatus` changes what the docker CLI does.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from essaim_master.state.cluster import LeadershipView, Member
from essaim_master.state.manager_nodes import NodeRole, masters_beside
from essaim_shared.clock import rfc3339
from essaim_shared.ids import NetworkId, NodeId
from essaim_shared.limits import HEARTBEAT_PERIOD_S, TASK_HISTORY_PER_SLOT
from essaim_shared.objects import (
    Attachment,
    ClusterInfo,
    Network,
    NodeDescription,
    NodeObject,
    NodeStatus,
    Service,
    Task,
    TaskStatus,
)
from essaim_shared.spec import EndpointSpec, ServiceSpec, TaskSpec
from essaim_shared.task_state import TaskState

DockerObject = dict[str, Any]

NANOSECONDS_PER_SECOND = 1_000_000_000
SWARM_NAME = "default"


class ManagerStatus(msgspec.Struct, frozen=True):
    """What the API shows of the master on a node's host."""

    leads: bool
    address: str
    """`HOST:PORT` of the master's Raft listener."""
    is_reachable: bool = True
    """Judged by the node beside it, which every master knows; the leader answers for itself."""

    def docker_object(self) -> DockerObject:
        reachability = "reachable" if self.is_reachable else "unreachable"
        status: DockerObject = {"Reachability": reachability, "Addr": self.address}
        if self.leads:
            status["Leader"] = True
        return status


def service_spec_object(spec: ServiceSpec) -> DockerObject:
    """The spec with what Docker always shows, empty or not: clients index it unasked."""
    docker: DockerObject = {"Name": spec.name, "Labels": spec.labels, **msgspec.to_builtins(spec)}
    docker["TaskTemplate"] = task_spec_object(spec.task)
    return docker


def task_spec_object(spec: TaskSpec) -> DockerObject:
    docker: DockerObject = {**msgspec.to_builtins(spec), "ForceUpdate": spec.force_update}
    if spec.restart_policy is not None:
        docker["RestartPolicy"]["Condition"] = spec.restart_policy.condition
    return docker


def service_object(service: Service, version: int, spec: ServiceSpec | None = None) -> DockerObject:
    """`spec` stands in for the service's own when it is shown with defaults."""
    shown = spec or service.spec
    docker: DockerObject = {
        "ID": service.id,
        "Version": {"Index": version},
        "CreatedAt": rfc3339(service.created_ns),
        "UpdatedAt": rfc3339(service.updated_ns),
        "Spec": service_spec_object(shown),
        "Endpoint": {"Spec": shown.endpoint or EndpointSpec()},
    }
    if service.previous_spec is not None:
        docker["PreviousSpec"] = service_spec_object(service.previous_spec)
    return docker


def service_status_object(
    service: Service, tasks: Iterable[Task], statuses: Mapping[Any, TaskStatus]
) -> DockerObject:
    """`ServiceStatus` of a list with `status=true`. A task that is wanted no more does not count
    as running, though its container may take a while to stop."""
    running = sum(
        1
        for task in tasks
        if task.desired_state <= TaskState.RUNNING
        and (status := statuses.get(task.id)) is not None
        and status.state is TaskState.RUNNING
    )
    return {"RunningTasks": running, "DesiredTasks": service.spec.replicas, "CompletedTasks": 0}


def task_object(
    task: Task,
    status: TaskStatus | None,
    version: int,
    networks: Mapping[NetworkId, Network],
) -> DockerObject:
    docker: DockerObject = {
        "ID": task.id,
        "Version": {"Index": version},
        "CreatedAt": rfc3339(task.created_ns),
        "UpdatedAt": rfc3339(max(task.updated_ns, 0 if status is None else status.timestamp_ns)),
        "Labels": task.service_labels,
        "Spec": task_spec_object(task.spec),
        "ServiceID": task.service_id,
        "Slot": task.slot,
        "Status": _task_status_object(task, status),
        "DesiredState": task.desired_state.docker_name,
        "NetworksAttachments": [
            _attachment_object(attachment, networks) for attachment in task.attachments
        ],
    }
    if task.node_id is not None:
        docker["NodeID"] = task.node_id
    return docker


def _task_status_object(task: Task, status: TaskStatus | None) -> DockerObject:
    if status is None:
        # A task that was placed is given no status of its own, to save a round of Raft: it is
        # assigned since it was last written (docs/adr/0011).
        is_assigned = task.node_id is not None
        state = TaskState.ASSIGNED if is_assigned else TaskState.NEW
        return {
            "Timestamp": rfc3339(task.updated_ns if is_assigned else task.created_ns),
            "State": state.docker_name,
            "Message": "scheduler assigned task to node" if is_assigned else "created",
            "PortStatus": {},
        }
    docker: DockerObject = {
        "Timestamp": rfc3339(status.timestamp_ns),
        "State": status.state.docker_name,
        "PortStatus": {},
    }
    if status.message:
        docker["Message"] = status.message
    if status.err:
        docker["Err"] = status.err
    if status.container_id or status.pid or status.exit_code:
        docker["ContainerStatus"] = {
            "ContainerID": status.container_id,
            "PID": status.pid,
            "ExitCode": status.exit_code,
        }
    return docker


def _attachment_object(
    attachment: Attachment, networks: Mapping[NetworkId, Network]
) -> DockerObject:
    network = networks.get(attachment.network_id)
    if network is None:
        return {"Network": {"ID": attachment.network_id}, "Addresses": [attachment.address]}
    prefix_length = network.subnet.rpartition("/")[2]
    return {
        "Network": {
            "ID": network.id,
            "Version": {},
            "CreatedAt": rfc3339(network.created_ns),
            "UpdatedAt": rfc3339(network.created_ns),
            "Spec": {"Name": network.name, "Labels": {}, "Scope": "swarm"},
            "DriverState": {"Name": "overlay"},
        },
        "Addresses": [f"{attachment.address}/{prefix_length}"],
    }


def node_role(manager: ManagerStatus | None) -> NodeRole:
    """Docker calls a node a manager when a master runs on its host."""
    return "worker" if manager is None else "manager"


def node_object(
    node: NodeObject, status: NodeStatus | None, version: int, manager: ManagerStatus | None
) -> DockerObject:
    docker: DockerObject = {
        "ID": node.id,
        "Version": {"Index": version},
        "CreatedAt": rfc3339(node.created_ns),
        "UpdatedAt": rfc3339(max(node.updated_ns, 0 if status is None else status.changed_ns)),
        "Spec": {
            "Labels": node.spec.labels,
            "Role": node_role(manager),
            "Availability": node.spec.availability,
        },
        "Description": {} if status is None else _description_object(status.description),
        "Status": {"State": "unknown"} if status is None else _node_status_object(status),
    }
    if node.spec.name:
        docker["Spec"]["Name"] = node.spec.name
    if manager is not None:
        docker["ManagerStatus"] = manager.docker_object()
    return docker


def _node_status_object(status: NodeStatus) -> DockerObject:
    docker: DockerObject = {"State": status.state, "Addr": status.description.address}
    if status.message:
        docker["Message"] = status.message
    return docker


def _description_object(description: NodeDescription) -> DockerObject:
    engine: DockerObject = {"EngineVersion": description.engine_version, "Plugins": []}
    if description.engine_labels:
        engine["Labels"] = description.engine_labels
    return {
        "Hostname": description.hostname,
        "Platform": {"Architecture": description.architecture, "OS": description.os},
        "Resources": {
            "NanoCPUs": description.nano_cpus,
            "MemoryBytes": description.memory_bytes,
        },
        "Engine": engine,
        "TLSInfo": {},
    }


def manager_statuses(
    members: Iterable[Member], leadership: LeadershipView, nodes: Mapping[NodeId, NodeStatus]
) -> dict[NodeId, ManagerStatus]:
    """What the API shows of the masters, by the nodes on whose hosts they run."""
    found: dict[NodeId, ManagerStatus] = {}
    for node_id, master in masters_beside(members, nodes).items():
        leads = master.id == leadership.leader
        is_reachable = leads or nodes[node_id].state != "down"
        found[node_id] = ManagerStatus(leads, master.raft, is_reachable)
    return found


def network_object(network: Network) -> DockerObject:
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": rfc3339(network.created_ns),
        "Scope": "swarm",
        "Driver": "overlay",
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": None, "Config": [{"Subnet": network.subnet}]},
        "Internal": False,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": None,
        "Options": {
            "com.docker.network.driver.overlay.vxlanid_list": str(network.vni),
            "com.docker.network.driver.mtu": str(network.mtu),
        },
        "Labels": {},
    }


def cluster_object(cluster: ClusterInfo, version: int, networks: Iterable[Network]) -> DockerObject:
    """The swarm, without its join tokens: nodes are admitted by the bus, not by a token."""
    subnets = [network.subnet for network in networks]
    return {
        "ID": cluster.id,
        "Version": {"Index": version},
        "CreatedAt": rfc3339(cluster.created_ns),
        "UpdatedAt": rfc3339(cluster.created_ns),
        "Spec": {
            "Name": SWARM_NAME,
            "Labels": {},
            "Orchestration": {"TaskHistoryRetentionLimit": TASK_HISTORY_PER_SLOT},
            "Raft": {},
            "Dispatcher": {"HeartbeatPeriod": int(HEARTBEAT_PERIOD_S * NANOSECONDS_PER_SECOND)},
            "CAConfig": {},
            "TaskDefaults": {},
            "EncryptionConfig": {"AutoLockManagers": False},
        },
        "TLSInfo": {},
        "RootRotationInProgress": False,
        "DefaultAddrPool": subnets,
        "SubnetSize": int(subnets[0].rpartition("/")[2]) if subnets else 0,
        "DataPathPort": 0,
    }
