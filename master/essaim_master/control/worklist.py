"""What the control loops have to look at, collected from the state's changes. Pure.

A change that cannot lead to a decision puts nothing on the list: most reports of ten thousand
starting tasks must cost nothing here.
"""

import heapq
from collections.abc import Iterator

from essaim_master.control.address_upkeep import AddressUpkeep
from essaim_master.control.conditions import LOST, condition_of
from essaim_master.control.followers import Followers
from essaim_master.control.index import ControlIndex, GatewayKey, GroupKey, SlotKey
from essaim_master.control.node_upkeep import NodeUpkeep
from essaim_master.control.slots import Progress
from essaim_master.state.cluster_state import AppliedChanges, Change, ClusterState
from essaim_master.state.keys import Kind
from essaim_master.state.writes import Writes
from essaim_shared.ids import NodeId, PayloadId, ServiceId, TaskId
from essaim_shared.objects import (
    IngressPort,
    NodeObject,
    NodeStatus,
    Service,
    Task,
    TaskStatus,
)
from essaim_shared.task_state import TaskState

CLOCK_SLEW_NS_MAX = 1_000_000_000
"""A wall clock that is further back than this from one look to the next was set back."""

OUTDATED_TIMERS_MAX = 64
"""Over as many as there are services with a timer, twice: then they are cleared away."""


class Worklist:
    """Ordered sets: the first come is the first looked at, and nothing stands in line twice.

    Bounded by the number of objects in the state.
    """

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self.index = ControlIndex(state)
        self.nodes = NodeUpkeep(state)
        self.addresses = AddressUpkeep(state)
        self.followers = Followers(state)
        self.services: dict[ServiceId, None] = {}
        self.filling: dict[ServiceId, None] = {}
        """Services that were looked at and only lack further tasks."""
        self.slots: dict[SlotKey, None] = {}
        self._global: dict[ServiceId, None] = {}
        """Services with a slot for each node."""
        self.groups: dict[GroupKey, None] = {}
        """Groups with tasks that wait for a node and may now get one."""
        self.gateways: dict[GatewayKey, None] = {}
        """That may have lost their last user."""
        self.is_mtu_due = False
        """Whether the MTU of some network may have to change."""
        self.orphaned_statuses: dict[TaskId, None] = {}
        """A report that was committed just after its task was deleted."""
        self.leftovers: dict[ServiceId, None] = {}
        """Services that may be gone while something of theirs still stands."""
        self.updating: set[ServiceId] = set()
        """Services whose tasks are being replaced one after another."""
        self.rollbacks: dict[ServiceId, Writes] = {}
        """Decided in the last slices, as the changes to newer data. Whoever runs them commits each
        by itself (`take_rollbacks`) and says which failed."""
        self._timers: list[tuple[int, TaskId]] = []
        self._wakes: dict[ServiceId, int] = {}
        self._wake_timers: list[tuple[int, ServiceId]] = []
        """With entries that `_wakes` has outdated; these are passed over."""
        self._looked_ns = 0
        self.add_everything()

    def __bool__(self) -> bool:
        return bool(
            self.services
            or self.filling
            or self.slots
            or self.groups
            or self.gateways
            or self.orphaned_statuses
            or self.leftovers
            or self.nodes
            or self.addresses
            or self.followers
            or self.is_mtu_due
        )

    def add_everything(self) -> None:
        """One full pass over the state: at the start of a term, and after a failed write."""
        state = self._state
        self._global = {
            service.id: None for service in state.services.values() if service.spec.mode.is_global
        }
        self.services.update(dict.fromkeys(state.services))
        self.services.update(dict.fromkeys(self.index.slots))
        self.retry_pending()
        self.nodes.add_everything()
        self.addresses.add_everything()
        self.followers.add_everything()
        self.is_mtu_due = True
        for gateway in state.gateways.values():
            self.gateways[gateway.network_id, gateway.node_id] = None
        for task_id in state.task_status:
            if task_id not in state.tasks:
                self.orphaned_statuses[task_id] = None
        for owner in _owners(state):
            if owner not in state.services:
                self.leftovers[owner] = None
        self._timers = [
            (task.not_before_ns, task.id) for task in state.tasks.values() if _is_delayed(task)
        ]
        heapq.heapify(self._timers)

    def retry_pending(self) -> None:
        self.groups.update(dict.fromkeys(self.index.pending))
        self.addresses.note_room()

    def retry_service(self, service_id: ServiceId) -> None:
        """Look at the pending tasks of one service."""
        for key in self.index.pending:
            if key[0] == service_id:
                self.groups[key] = None

    def take_rollbacks(self) -> dict[ServiceId, Writes]:
        taken, self.rollbacks = self.rollbacks, {}
        return taken

    def rollback_failed(self, service_id: ServiceId) -> None:
        """A port or a network that it needs, or the service itself, was changed by others in the
        same moment. Of the first two the service hears nothing: it is decided anew here."""
        self.services[service_id] = None
        self.followers.note_service(service_id)

    def note(self, applied: AppliedChanges) -> None:
        """Take a transaction's changes over, from within its apply."""
        for change in applied.changes:
            match change.kind:
                case Kind.TASK:
                    self._note_task(change)
                case Kind.TASK_STATUS:
                    self._note_task_status(change)
                case Kind.SERVICE:
                    self._note_service(change)
                case Kind.NODE | Kind.NODE_STATUS:
                    self._note_node(change)
                case Kind.NETWORK:
                    self._note_network(change)
                case Kind.GATEWAY:
                    if change.after is None:
                        self.retry_pending()  # its address is free
                case Kind.SERVICE_ADDRESSES:
                    self.addresses.note_addresses(change)
                    self._note_belonging(ServiceId(change.id))
                case Kind.INGRESS_PORT:
                    self._note_claim(change)
                case Kind.MEMBER:
                    self.retry_pending()
                    self.nodes.add_everything()  # roles follow from where masters are
                    self.services.update(self._global)
                case Kind.UPDATE_STATUS | Kind.CRON_STATUS | Kind.REGISTRY_CREDENTIALS:
                    self._note_belonging(ServiceId(change.id))
                case Kind.SERVICE_REVISION:
                    self._note_belonging(ServiceId(change.id.partition("/")[0]))
                case Kind.SECRET | Kind.CONFIG:
                    self.followers.note_payload(PayloadId(change.id))
                case Kind.SETTINGS:
                    self.services.update(dict.fromkeys(self._state.services))
                case _:
                    pass

    def add_due(self, now_ns: int) -> None:
        """Put on the list what was to be looked at by now: slots whose delayed task may run, and
        services that asked for it. When the clock was set back, all of these: by it, their times
        may be years away."""
        if self._is_set_back(now_ns):
            self.services.update(dict.fromkeys(self._wakes))
            for _, task_id in self._timers:
                self._add_delayed(task_id)
        self._looked_ns = now_ns
        self.nodes.add_due(now_ns)
        while self._timers and self._timers[0][0] <= now_ns:
            _, task_id = heapq.heappop(self._timers)
            self._add_delayed(task_id)
        while self._wake_timers and self._wake_timers[0][0] <= now_ns:
            at_ns, service_id = heapq.heappop(self._wake_timers)
            if self._wakes.get(service_id) == at_ns:
                del self._wakes[service_id]
                self.services[service_id] = None

    def is_due(self, now_ns: int) -> bool:
        """Whether `add_due` has something to add."""
        due_ns = self.next_due_ns()
        return (due_ns is not None and due_ns <= now_ns) or self._is_set_back(now_ns)

    def next_due_ns(self) -> int | None:
        """Wall time of the next delayed start, or of the next look that a service asked for."""
        timers = (self._timers, self._wake_timers)
        due_ns = [timer[0][0] for timer in timers if timer]
        given_up_ns = self.nodes.next_due_ns()
        return min(due_ns if given_up_ns is None else [*due_ns, given_up_ns], default=None)

    def wake_at(self, service_id: ServiceId, at_ns: int | None) -> None:
        """When a service that was just looked at must be looked at again; None: when something
        of it changes, and not before."""
        if at_ns == self._wakes.get(service_id):
            return
        if at_ns is None:
            del self._wakes[service_id]
            return
        self._wakes[service_id] = at_ns
        heapq.heappush(self._wake_timers, (at_ns, service_id))
        if len(self._wake_timers) > 2 * len(self._wakes) + OUTDATED_TIMERS_MAX:
            self._wake_timers = [(due_ns, owner) for owner, due_ns in self._wakes.items()]
            heapq.heapify(self._wake_timers)

    def put_back(self, service_id: ServiceId, progress: Progress) -> None:
        """Note how far a look at a service came. What is not done goes to the end, behind those
        that still wait."""
        if progress is Progress.INTERRUPTED:
            self.services[service_id] = None
        elif progress is Progress.FILLING:
            self.filling[service_id] = None
        elif progress is Progress.UPDATING:
            self.updating.add(service_id)

    def _is_set_back(self, now_ns: int) -> bool:
        return now_ns < self._looked_ns - CLOCK_SLEW_NS_MAX

    def _add_delayed(self, task_id: TaskId) -> None:
        task = self._state.tasks.get(task_id)
        if task is not None and _is_delayed(task):
            self.slots[task.service_id, task.slot_key] = None

    def _note_belonging(self, service_id: ServiceId) -> None:
        if service_id not in self._state.services:
            self.leftovers[service_id] = None

    def _note_network(self, change: Change) -> None:
        self.addresses.note_network(change)
        self.retry_pending()
        self.is_mtu_due = True

    def _note_claim(self, change: Change) -> None:
        self.addresses.note_claim(change)
        if isinstance(change.after, IngressPort):
            self._note_belonging(change.after.service_id)
        else:
            self.retry_pending()  # the port is free for a task, too

    def _note_service(self, change: Change) -> None:
        service_id = ServiceId(change.id)
        self.services[service_id] = None
        self.addresses.note_service(service_id)
        self.followers.note_service(service_id)
        if isinstance(change.after, Service) and change.after.spec.mode.is_global:
            self._global[service_id] = None
        else:
            self._global.pop(service_id, None)
        if change.after is None:
            self.leftovers[service_id] = None

    def _note_task(self, change: Change) -> None:
        task_id = TaskId(change.id)
        self._refresh(task_id)
        if change.after is None and isinstance(change.before, Task):
            self.addresses.note_task(change.before.service_id)
        if isinstance(change.after, Task) and _is_delayed(change.after):
            heapq.heappush(self._timers, (change.after.not_before_ns, task_id))
        if change.after is None and task_id in self._state.task_status:
            self.orphaned_statuses[task_id] = None

    def _note_task_status(self, change: Change) -> None:
        task_id = TaskId(change.id)
        task = self._state.tasks.get(task_id)
        if task is None:
            if change.after is not None:
                self.orphaned_statuses[task_id] = None
            return
        if not isinstance(change.after, TaskStatus):
            return
        state = change.after.state
        if state.is_terminal:
            self._refresh(task_id)
            self.addresses.note_task(task.service_id)
            self.slots[task.service_id, task.slot_key] = None
        if state >= TaskState.RUNNING and task.service_id in self.updating:
            self.services[task.service_id] = None

    def _note_node(self, change: Change) -> None:
        if not _matters(change):
            return
        node_id = NodeId(change.id)
        self.nodes.note(node_id)
        self.is_mtu_due = True
        for service_id in self._global:
            self.slots[service_id, node_id] = None
        if condition_of(self._state, node_id) in LOST:
            for task in self._state.tasks_on_node(node_id).values():
                self.slots[task.service_id, task.slot_key] = None
            if node_id not in self._state.nodes:
                for gateway in self._state.gateways.values():
                    if gateway.node_id == node_id:
                        self.gateways[gateway.network_id, node_id] = None
        self.retry_pending()

    def _refresh(self, task_id: TaskId) -> None:
        held = self.index.is_holding(task_id)
        left = self.index.refresh(task_id)
        if left:
            self.gateways.update(dict.fromkeys(left))
            self.is_mtu_due = True
        if held and not self.index.is_holding(task_id):
            self.retry_pending()


def _is_delayed(task: Task) -> bool:
    return task.desired_state is TaskState.READY


def _owners(state: ClusterState) -> Iterator[ServiceId]:
    """The services to which something belongs that does not go with their tasks."""
    yield from state.update_status
    yield from state.cron_status
    yield from state.registry_credentials
    yield from state.services_with_revisions
    yield from state.service_addresses
    for claim in state.ingress_ports.values():
        yield claim.service_id


def _matters(change: Change) -> bool:
    """Whether a node's change can change a decision; descriptions are renewed often."""
    before, after = change.before, change.after
    if isinstance(before, NodeObject) and isinstance(after, NodeObject):
        return before.spec != after.spec
    if isinstance(before, NodeStatus) and isinstance(after, NodeStatus):
        return before.state != after.state or before.description != after.description
    return True
