"""Essaim's objects in the shapes of Docker's Engine API (api/types/swarm), as values to encode.

Empty fields are left out, as Go's `omitempty` does: clients look at the presence of some, and a
present but zero `UpdateStatus` changes what the docker CLI does.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from essaim_master.http.network_objects import (
    DockerObject,
    attachment_object,
    endpoint_spec_object,
    port_object,
)
from essaim_master.state.cluster import LeadershipView, Member
from essaim_master.state.manager_nodes import NodeRole, masters_beside
from essaim_shared.clock import rfc3339
from essaim_shared.container_spec import ConfigReference, SecretReference
from essaim_shared.ids import NetworkId, NodeId
from essaim_shared.limits import HEARTBEAT_PERIOD_S
from essaim_shared.objects import (
    ClusterInfo,
    ClusterSettings,
    CronRun,
    CronStatus,
    Network,
    NodeDescription,
    NodeObject,
    NodeStatus,
    Service,
    Task,
    TaskStatus,
    UpdateStatus,
)
from essaim_shared.spec import ServiceSpec, TaskSpec, UpdateConfig
from essaim_shared.task_state import TaskState

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


class DataPath(msgspec.Struct, frozen=True):
    """What the swarm shows of its networks as a whole."""

    pools: tuple[str, ...] = ()
    prefix_length: int = 0
    udp_port: int = 0


class SwarmAuthority(msgspec.Struct, frozen=True):
    """What the swarm shows of who signs its certificates; of one without an authority, nothing."""

    config: DockerObject = {}
    tls: DockerObject = {}
    is_rotating: bool = False


def service_spec_object(spec: ServiceSpec) -> DockerObject:
    """The spec with what Docker always shows, empty or not: clients index it unasked."""
    docker: DockerObject = {"Name": spec.name, "Labels": spec.labels, **msgspec.to_builtins(spec)}
    docker["TaskTemplate"] = task_spec_object(spec.task)
    if spec.update_config is not None:
        docker["UpdateConfig"] = _update_config_object(spec.update_config)
    if spec.rollback_config is not None:
        docker["RollbackConfig"] = _update_config_object(spec.rollback_config)
    if spec.endpoint is not None:
        docker["EndpointSpec"] = endpoint_spec_object(spec.endpoint)
    return docker


def _update_config_object(config: UpdateConfig) -> DockerObject:
    always = {
        "Parallelism": config.parallelism,
        "MaxFailureRatio": config.max_failure_ratio,
        "Order": config.order,
    }
    return {**msgspec.to_builtins(config), **always}


def task_spec_object(spec: TaskSpec) -> DockerObject:
    docker: DockerObject = {
        **msgspec.to_builtins(spec),
        "ForceUpdate": spec.force_update,
        "Runtime": spec.runtime or "container",
    }
    if spec.restart_policy is not None:
        docker["RestartPolicy"]["Condition"] = spec.restart_policy.condition
    for shown, mount in zip(
        docker["ContainerSpec"].get("Mounts", ()), spec.container.mounts, strict=True
    ):
        shown["Type"] = mount.type
    _show_files(docker["ContainerSpec"].get("Secrets", ()), spec.container.secrets)
    _show_files(docker["ContainerSpec"].get("Configs", ()), spec.container.configs)
    return docker


def _show_files(
    shown: Iterable[DockerObject], references: Iterable[SecretReference | ConfigReference]
) -> None:
    """All of where a secret or config stands: a client that is not told of the mode writes 0."""
    for one, reference in zip(shown, references, strict=True):
        file = reference.file
        if file is not None:
            one["File"] = {"Name": file.name, "UID": file.uid, "GID": file.gid, "Mode": file.mode}


def service_object(
    service: Service,
    version: int,
    spec: ServiceSpec | None = None,
    update: UpdateStatus | None = None,
    cron: CronStatus | None = None,
    endpoint: DockerObject | None = None,
) -> DockerObject:
    """`spec` stands in for the service's own when it is shown with defaults; `endpoint` is
    `network_objects.endpoint_object` of the same spec."""
    shown = spec or service.spec
    docker: DockerObject = {
        "ID": service.id,
        "Version": {"Index": version},
        "CreatedAt": rfc3339(service.created_ns),
        "UpdatedAt": rfc3339(service.updated_ns),
        "Spec": service_spec_object(shown),
        "Endpoint": endpoint or {"Spec": {}},
        "Revision": service.revision,
    }
    if service.previous_spec is not None:
        docker["PreviousSpec"] = service_spec_object(service.previous_spec)
    if update is not None and update.generation == service.generation:
        docker["UpdateStatus"] = _update_status_object(service, update)
    if service.spec.mode.is_job:
        docker["JobStatus"] = _job_status_object(service, cron)
    if cron is not None and cron.runs:
        docker["Runs"] = [cron_run_object(run) for run in cron.runs]
    return docker


def _update_status_object(service: Service, status: UpdateStatus) -> DockerObject:
    """Docker's fields, and ours: how far a stepped update is, and how many slots failed."""
    docker: DockerObject = {
        "State": status.state,
        "StartedAt": rfc3339(status.started_ns),
        "Message": status.message,
        "TotalSlots": status.total,
        "FailedSlots": status.failed,
    }
    if status.completed_ns:
        docker["CompletedAt"] = rfc3339(status.completed_ns)
    config = service.spec.update_config
    if config is not None and config.steps and not service.is_rollback:
        docker["StepsDone"] = status.step
        waits = status.is_waiting and status.step > service.promotions
        docker["WaitsForPromotion"] = waits
        if status.is_waiting and not waits:
            # Promoted, and the updater has not said so yet: whoever waits is not to stop for it.
            docker["State"] = "updating"
    return docker


def _job_status_object(service: Service, cron: CronStatus | None) -> DockerObject:
    """Of a job with a schedule its newest run."""
    iteration, executed_ns = service.job_iteration, service.executed_ns
    if cron is not None and cron.runs:
        iteration, executed_ns = cron.runs[-1].number, cron.runs[-1].scheduled_ns
    docker: DockerObject = {"JobIteration": {"Index": iteration}}
    if executed_ns:
        docker["LastExecution"] = rfc3339(executed_ns)
    return docker


def cron_run_object(run: CronRun) -> DockerObject:
    docker: DockerObject = {
        "JobIteration": {"Index": run.number},
        "ScheduledAt": rfc3339(run.scheduled_ns),
        "Outcome": run.outcome,
    }
    if run.started_ns:
        docker["StartedAt"] = rfc3339(run.started_ns)
    if run.finished_ns:
        docker["FinishedAt"] = rfc3339(run.finished_ns)
    if run.reason:
        docker["Reason"] = run.reason
    return docker


def service_status_object(
    service: Service,
    tasks: Iterable[Task],
    statuses: Mapping[Any, TaskStatus],
    cron: CronStatus | None = None,
) -> DockerObject:
    """`ServiceStatus` of a list with `status=true` (swarmkit manager/controlapi/service.go,
    ListServiceStatuses). A task that is wanted no more does not count as running, though its
    container may take a while to stop."""
    mode = service.spec.mode
    iterations = _iterations_shown(service, cron)
    running = completed = 0
    nodes = set()
    for task in tasks:
        if mode.is_job and task.iteration not in iterations:
            continue
        status = statuses.get(task.id)
        state = TaskState.NEW if status is None else status.state
        is_wanted = task.desired_state < TaskState.SHUTDOWN
        completed += mode.is_job and state is TaskState.COMPLETE
        running += is_wanted and state is TaskState.RUNNING
        if is_wanted and state is not TaskState.COMPLETE:
            nodes.add(task.slot_key)
    if mode.is_global:
        desired = len(nodes)
    elif mode.replicated_job is not None:
        desired = mode.replicated_job.max_concurrent or 0
    else:
        desired = service.spec.replicas
    return {"RunningTasks": running, "DesiredTasks": desired, "CompletedTasks": completed}


def _iterations_shown(service: Service, cron: CronStatus | None) -> frozenset[int]:
    """Of a job: the run under way, or the last. A schedule may have several under way."""
    if not service.spec.schedule:
        return frozenset({service.job_iteration})
    runs = () if cron is None else cron.runs
    under_way = frozenset(run.number for run in runs if run.outcome == "running")
    return under_way or frozenset(run.number for run in runs[-1:])


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
        "Name": task.name,
        "Labels": task.service_labels,
        "Spec": task_spec_object(task.spec),
        "ServiceID": task.service_id,
        "Status": _task_status_object(task, status),
        "DesiredState": task.desired_state.docker_name,
        "NetworksAttachments": [
            attachment_object(attachment, networks) for attachment in task.attachments
        ],
    }
    if task.target_node is None:
        docker["Slot"] = task.slot
    if task.node_id is not None:
        docker["NodeID"] = task.node_id
    if task.iteration is not None:
        docker["JobIteration"] = {"Index": task.iteration}
    if task.generic_resources:
        docker["GenericResources"] = msgspec.to_builtins(task.generic_resources)
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
        "PortStatus": _port_status_object(task, status),
    }
    if status.state is TaskState.RUNNING:
        docker["Ready"] = status.is_ready
    if status.message:
        docker["Message"] = status.message
    if status.err or task.stop_reason:
        docker["Err"] = status.err or task.stop_reason
    if status.container_id or status.pid or status.exit_code:
        docker["ContainerStatus"] = {
            "ContainerID": status.container_id,
            "PID": status.pid,
            "ExitCode": status.exit_code,
        }
    return docker


def _port_status_object(task: Task, status: TaskStatus) -> DockerObject:
    """The node's ports that lead to the task now."""
    if status.state is not TaskState.RUNNING or not task.ports:
        return {}
    return {"Ports": [port_object(port) for port in task.ports]}


def node_role(manager: ManagerStatus | None) -> NodeRole:
    """Docker calls a node a manager when a master runs on its host."""
    return "worker" if manager is None else "manager"


def node_object(
    node: NodeObject,
    status: NodeStatus | None,
    version: int,
    manager: ManagerStatus | None,
    tls: DockerObject | None = None,
    suspended: str = "",
) -> DockerObject:
    """`suspended`: why the node is not let onto the bus (`NodeIdentity`)."""
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
        "Description": {} if status is None else _description_object(status.description, tls or {}),
        "Status": {"State": "unknown"} if status is None else _node_status_object(status),
    }
    if suspended:
        docker["Status"]["Message"] = (
            f"suspended: {suspended}; when it is mended: essaim node readmit {node.id}"
        )
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


def _description_object(description: NodeDescription, tls: DockerObject) -> DockerObject:
    engine: DockerObject = {
        "EngineVersion": description.engine_version,
        "Plugins": [{"Type": plugin.type, "Name": plugin.name} for plugin in description.plugins],
    }
    resources: DockerObject = {
        "NanoCPUs": description.nano_cpus,
        "MemoryBytes": description.memory_bytes,
    }
    if description.generic_resources:
        resources["GenericResources"] = msgspec.to_builtins(description.generic_resources)
    if description.engine_labels:
        engine["Labels"] = description.engine_labels
    return {
        "Hostname": description.hostname,
        "Platform": {"Architecture": description.architecture, "OS": description.os},
        "Resources": resources,
        "Engine": engine,
        "TLSInfo": tls,
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


def cluster_object(
    cluster: ClusterInfo,
    settings: ClusterSettings,
    version: int,
    data_path: DataPath,
    authority: SwarmAuthority,
) -> DockerObject:
    """The swarm, without its join tokens."""
    return {
        "ID": cluster.id,
        "Version": {"Index": version},
        "CreatedAt": rfc3339(cluster.created_ns),
        "UpdatedAt": rfc3339(cluster.created_ns),
        "Spec": {
            "Name": SWARM_NAME,
            "Labels": {},
            "Orchestration": {"TaskHistoryRetentionLimit": settings.task_history_limit},
            "Raft": {},
            "Dispatcher": {"HeartbeatPeriod": int(HEARTBEAT_PERIOD_S * NANOSECONDS_PER_SECOND)},
            "CAConfig": authority.config,
            "TaskDefaults": {},
            "EncryptionConfig": {"AutoLockManagers": False},
        },
        "TLSInfo": authority.tls,
        "RootRotationInProgress": authority.is_rotating,
        "DefaultAddrPool": data_path.pools,
        "SubnetSize": data_path.prefix_length,
        "DataPathPort": data_path.udp_port,
    }
