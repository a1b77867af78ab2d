"""The registry credentials that go along with a node's tasks, sealed to that node.

Only tasks that may still have to pull bring them: a task that is to stop, or has ended, does not.
"""

import logging
from collections.abc import Iterable
from typing import Final

from essaim_master.state.cluster_state import ClusterState
from essaim_master.vault import Vault
from essaim_shared.ids import NodeId, ServiceId
from essaim_shared.log import fields
from essaim_shared.messages import SealedCredentials
from essaim_shared.objects import Task
from essaim_shared.sealing import SealError
from essaim_shared.task_state import TaskState

COMPLAINTS_MAX: Final = 100
"""Services of one term whose credentials are told in the log as not to be opened."""

_log = logging.getLogger(__name__)


class NodeLogins:
    """Of one term of office."""

    def __init__(self, state: ClusterState, vault: Vault) -> None:
        self._state = state
        self._vault = vault
        self._complaints: set[tuple[NodeId, ServiceId]] = set()

    def for_tasks(self, node_id: NodeId, tasks: Iterable[Task]) -> list[SealedCredentials]:
        stored = self._state.registry_credentials
        if not stored:
            return []
        wanted = {
            task.service_id
            for task in tasks
            if (found := stored.get(task.service_id)) is not None
            and found.sealed
            and task.desired_state < TaskState.SHUTDOWN
        }
        status = self._state.node_status.get(node_id)
        if not wanted or status is None:
            return []
        sealed = []
        for service_id in sorted(wanted):
            try:
                sealed.append(
                    self._vault.credentials_for_node(
                        stored[service_id], node_id, status.description.seal_key
                    )
                )
            except SealError as error:
                self._complain(node_id, service_id, error)
        return sealed

    def _complain(self, node_id: NodeId, service_id: ServiceId, error: SealError) -> None:
        """The task is sent without: its image may be there, or need no credentials."""
        complaint = (node_id, service_id)
        if complaint not in self._complaints and len(self._complaints) < COMPLAINTS_MAX:
            self._complaints.add(complaint)
            _log.error(
                "registry credentials not sent %s",
                fields(service=service_id, node=node_id, reason=error),
            )
