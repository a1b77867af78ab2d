"""JSON of objects, kept until they change: docker's progress display reads whole lists every
200 ms from each waiting client, and encoding is most of the cost of an answer."""

from typing import TypeVar

import msgspec

from essaim_master.http.docker_objects import (
    ManagerStatus,
    node_object,
    service_object,
    service_status_object,
    task_object,
)
from essaim_master.http.network_objects import DockerObject, endpoint_object
from essaim_master.http.swarm_trust import node_tls
from essaim_master.state.cluster_state import AppliedChanges, ClusterState
from essaim_master.state.keys import Kind, node_key, service_key, task_key, task_status_key
from essaim_shared.objects import NodeObject, Service, Task
from essaim_shared.spec import ServiceSpec
from essaim_shared.trust.roles import Role

T = TypeVar("T")

ENTRIES_MAX = 20_000
"""Of each kind. All are dropped when there are more: lists of that size are rare."""

encode_json = msgspec.json.Encoder().encode


class EncodedObjects:
    """Valid at any moment: entries are dropped from within the apply that changes their object."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._services: dict[str, bytes] = {}
        self._tasks: dict[str, bytes] = {}
        self._nodes: dict[str, tuple[ManagerStatus | None, bytes]] = {}
        self._unsubscribe = state.subscribe(self._on_changes)

    def close(self) -> None:
        self._unsubscribe()

    def service(self, service: Service) -> bytes:
        encoded = self._services.get(service.id)
        if encoded is None:
            version = self._state.modified(service_key(service.id))
            update = self._state.update_status.get(service.id)
            cron = self._state.cron_status.get(service.id)
            endpoint = endpoint_of(self._state, service)
            encoded = encode_json(
                service_object(service, version, update=update, cron=cron, endpoint=endpoint)
            )
            _remember(self._services, service.id, encoded)
        return encoded

    def service_with_status(self, service: Service) -> bytes:
        """`ServiceStatus` stands only in lists that ask for it, so it is added at the end."""
        tasks = self._state.tasks_of_service(service.id).values()
        cron = self._state.cron_status.get(service.id)
        status = encode_json(service_status_object(service, tasks, self._state.task_status, cron))
        return b'%b,"ServiceStatus":%b}' % (self.service(service)[:-1], status)

    def task(self, task: Task) -> bytes:
        encoded = self._tasks.get(task.id)
        if encoded is None:
            state = self._state
            version = max(
                state.modified(task_key(task.id)), state.modified(task_status_key(task.id))
            )
            status = state.task_status.get(task.id)
            encoded = encode_json(task_object(task, status, version, state.networks))
            _remember(self._tasks, task.id, encoded)
        return encoded

    def node(self, node: NodeObject, manager: ManagerStatus | None) -> bytes:
        known = self._nodes.get(node.id)
        if known is not None and known[0] == manager:
            return known[1]
        version = self._state.modified(node_key(node.id))
        status = self._state.node_status.get(node.id)
        identity = self._state.identity(Role.AGENT, node.id)
        tls = node_tls(self._state.trust_anchors, identity)
        suspended = "" if identity is None else identity.suspended
        encoded = encode_json(node_object(node, status, version, manager, tls, suspended))
        _remember(self._nodes, node.id, (manager, encoded))
        return encoded

    def _on_changes(self, applied: AppliedChanges) -> None:
        for change in applied.changes:
            match change.kind:
                case Kind.TASK | Kind.TASK_STATUS:
                    self._tasks.pop(change.id, None)
                case Kind.SERVICE | Kind.UPDATE_STATUS | Kind.CRON_STATUS | Kind.SERVICE_ADDRESSES:
                    self._services.pop(change.id, None)
                case Kind.NODE | Kind.NODE_STATUS:
                    self._nodes.pop(change.id, None)
                case Kind.IDENTITY:
                    self._nodes.pop(change.id.rpartition("/")[2], None)
                case Kind.TRUST_ANCHORS:
                    self._nodes.clear()
                case Kind.NETWORK:
                    self._tasks.clear()
                    self._services.clear()
                case _:
                    pass


def endpoint_of(
    state: ClusterState, service: Service, spec: ServiceSpec | None = None
) -> DockerObject:
    """`spec` stands in for the service's own, as in `service_object`."""
    addresses = state.service_addresses.get(service.id)
    return endpoint_object(spec or service.spec, addresses, state.networks)


def encode_list(encoded: list[bytes]) -> bytes:
    return b"[%b]" % b",".join(encoded)


def _remember(entries: dict[str, T], identifier: str, entry: T) -> None:
    if len(entries) >= ENTRIES_MAX:
        entries.clear()
    entries[identifier] = entry
