"""The cluster as every master sees it: typed objects with indexes, rebuilt from the map.

Whoever reads it synchronously, without awaiting in between, sees one consistent snapshot. It is
changed only from within the state machine's apply, one whole transaction at a time.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from essaim_master.kv.history import Event
from essaim_master.kv.store import KeyValueStore
from essaim_master.state import keys
from essaim_master.state.keys import Kind
from essaim_shared.ids import MemberId, NetworkId, NodeId, PayloadId, ServiceId, TaskId
from essaim_shared.objects import (
    ClusterInfo,
    ClusterMember,
    ClusterSettings,
    ClusterVersion,
    CronStatus,
    Gateway,
    HashCheck,
    IngressPort,
    LeaderEpoch,
    MemberBuild,
    Network,
    NetworkLedger,
    NodeObject,
    NodeStatus,
    RegistryCredentials,
    Service,
    ServiceAddresses,
    ServiceRevision,
    Stored,
    Task,
    TaskStatus,
    UpdateStatus,
)
from essaim_shared.payload_objects import Config, Payload, PayloadKind, Secret
from essaim_shared.task_state import TaskState
from essaim_shared.trust.roles import Role
from essaim_shared.trust_objects import (
    AuditRecord,
    JoinSecrets,
    NodeIdentity,
    TrustAnchors,
    User,
)

_DECODERS: dict[Kind, msgspec.msgpack.Decoder[Any]] = {
    Kind.SERVICE: msgspec.msgpack.Decoder(Service),
    Kind.SERVICE_REVISION: msgspec.msgpack.Decoder(ServiceRevision),
    Kind.UPDATE_STATUS: msgspec.msgpack.Decoder(UpdateStatus),
    Kind.CRON_STATUS: msgspec.msgpack.Decoder(CronStatus),
    Kind.REGISTRY_CREDENTIALS: msgspec.msgpack.Decoder(RegistryCredentials),
    Kind.TASK: msgspec.msgpack.Decoder(Task),
    Kind.TASK_STATUS: msgspec.msgpack.Decoder(TaskStatus),
    Kind.NODE: msgspec.msgpack.Decoder(NodeObject),
    Kind.NODE_STATUS: msgspec.msgpack.Decoder(NodeStatus),
    Kind.NETWORK: msgspec.msgpack.Decoder(Network),
    Kind.NETWORK_LEDGER: msgspec.msgpack.Decoder(NetworkLedger),
    Kind.GATEWAY: msgspec.msgpack.Decoder(Gateway),
    Kind.SERVICE_ADDRESSES: msgspec.msgpack.Decoder(ServiceAddresses),
    Kind.INGRESS_PORT: msgspec.msgpack.Decoder(IngressPort),
    Kind.SECRET: msgspec.msgpack.Decoder(Secret),
    Kind.CONFIG: msgspec.msgpack.Decoder(Config),
    Kind.LEADER: msgspec.msgpack.Decoder(LeaderEpoch),
    Kind.SETTINGS: msgspec.msgpack.Decoder(ClusterSettings),
    Kind.CLUSTER: msgspec.msgpack.Decoder(ClusterInfo),
    Kind.MEMBER: msgspec.msgpack.Decoder(ClusterMember),
    Kind.MEMBER_BUILD: msgspec.msgpack.Decoder(MemberBuild),
    Kind.VERSION: msgspec.msgpack.Decoder(ClusterVersion),
    Kind.HASH_CHECK: msgspec.msgpack.Decoder(HashCheck),
    Kind.TRUST_ANCHORS: msgspec.msgpack.Decoder(TrustAnchors),
    Kind.JOIN_SECRETS: msgspec.msgpack.Decoder(JoinSecrets),
    Kind.IDENTITY: msgspec.msgpack.Decoder(NodeIdentity),
    Kind.USER: msgspec.msgpack.Decoder(User),
    Kind.AUDIT: msgspec.msgpack.Decoder(AuditRecord),
}

_MARKS = frozenset(
    {
        Kind.SERVICE_NAME,
        Kind.NETWORK_USE,
        Kind.HOST_PORTS,
        Kind.SECRET_NAME,
        Kind.CONFIG_NAME,
        Kind.PAYLOAD_USE,
    }
)
"""Keys that only guard others: they hold no objects."""

_ON_DEMAND = frozenset({Kind.SECRET_DATA, Kind.CONFIG_DATA})
"""Large, and seldom asked for: decoded by `payload_data` when they are."""

_DEFAULT_SETTINGS = ClusterSettings()
_NO_NETWORKS = NetworkLedger(changes=0)


class Change(msgspec.Struct, frozen=True):
    kind: Kind
    id: str
    """The object's id; `NETWORK/NODE` of a gateway; empty for the cluster's own."""
    before: Stored | None
    after: Stored | None


class AppliedChanges(msgspec.Struct, frozen=True):
    """What one transaction changed. Never empty."""

    revision: int
    changes: tuple[Change, ...]


Subscriber = Callable[[AppliedChanges], None]


class ClusterState:
    """The read view over one key-value store."""

    def __init__(self, store: KeyValueStore) -> None:
        self._store = store
        self._objects: dict[Kind, dict[str, Any]] = {kind: {} for kind in _DECODERS}
        self._service_ids: dict[str, ServiceId] = {}
        self._revisions: dict[str, dict[int, ServiceRevision]] = {}
        self._tasks_by_service: dict[str, dict[TaskId, Task]] = {}
        self._tasks_by_node: dict[str, dict[TaskId, Task]] = {}
        self._addresses: dict[str, dict[str, str]] = {}
        self._users_of_tokens: dict[str, str] = {}
        self._subscribers: list[Subscriber] = []
        for kind in Kind:
            for found in store.range(kind.value):
                self._absorb(Event(found.key, None, found))
        store.watch(self._on_revision)

    @property
    def store(self) -> KeyValueStore:
        """The map itself, for what concerns keys and not objects."""
        return self._store

    @property
    def revision(self) -> int:
        """The global revision: of the last transaction that wrote anything."""
        return self._store.revision

    @property
    def services(self) -> Mapping[ServiceId, Service]:
        return self._objects[Kind.SERVICE]  # type: ignore[return-value]

    def revisions_of(self, service_id: ServiceId) -> Mapping[int, ServiceRevision]:
        """The kept specs of a service by their numbers, oldest first."""
        return self._revisions.get(service_id, {})

    @property
    def services_with_revisions(self) -> Iterable[ServiceId]:
        return [ServiceId(service_id) for service_id in self._revisions]

    @property
    def update_status(self) -> Mapping[ServiceId, UpdateStatus]:
        return self._objects[Kind.UPDATE_STATUS]  # type: ignore[return-value]

    @property
    def cron_status(self) -> Mapping[ServiceId, CronStatus]:
        return self._objects[Kind.CRON_STATUS]  # type: ignore[return-value]

    @property
    def registry_credentials(self) -> Mapping[ServiceId, RegistryCredentials]:
        return self._objects[Kind.REGISTRY_CREDENTIALS]  # type: ignore[return-value]

    @property
    def tasks(self) -> Mapping[TaskId, Task]:
        return self._objects[Kind.TASK]  # type: ignore[return-value]

    @property
    def task_status(self) -> Mapping[TaskId, TaskStatus]:
        return self._objects[Kind.TASK_STATUS]  # type: ignore[return-value]

    @property
    def nodes(self) -> Mapping[NodeId, NodeObject]:
        return self._objects[Kind.NODE]  # type: ignore[return-value]

    @property
    def node_status(self) -> Mapping[NodeId, NodeStatus]:
        return self._objects[Kind.NODE_STATUS]  # type: ignore[return-value]

    @property
    def networks(self) -> Mapping[NetworkId, Network]:
        return self._objects[Kind.NETWORK]  # type: ignore[return-value]

    @property
    def gateways(self) -> Mapping[str, Gateway]:
        """By `NETWORK/NODE`."""
        return self._objects[Kind.GATEWAY]

    @property
    def network_ledger(self) -> NetworkLedger:
        found: NetworkLedger = self._objects[Kind.NETWORK_LEDGER].get("", _NO_NETWORKS)
        return found

    @property
    def service_addresses(self) -> Mapping[ServiceId, ServiceAddresses]:
        return self._objects[Kind.SERVICE_ADDRESSES]  # type: ignore[return-value]

    @property
    def ingress_ports(self) -> Mapping[str, IngressPort]:
        """By `PROTOCOL/NUMBER`."""
        return self._objects[Kind.INGRESS_PORT]

    def payloads(self, kind: PayloadKind) -> Mapping[PayloadId, Payload]:
        """The secrets, or the configs. What is in them is asked of `payload_data`."""
        return self._objects[Kind.SECRET if kind == "secret" else Kind.CONFIG]  # type: ignore[return-value]

    @property
    def leader_epoch(self) -> LeaderEpoch | None:
        return self._objects[Kind.LEADER].get("")

    @property
    def cluster(self) -> ClusterInfo | None:
        return self._objects[Kind.CLUSTER].get("")

    @property
    def members(self) -> Mapping[MemberId, ClusterMember]:
        """All that ever were, the removed ones too."""
        return self._objects[Kind.MEMBER]  # type: ignore[return-value]

    @property
    def member_builds(self) -> Mapping[MemberId, MemberBuild]:
        return self._objects[Kind.MEMBER_BUILD]  # type: ignore[return-value]

    @property
    def cluster_version(self) -> int:
        """Of the commands and fields that may be written; 0 before the first leader wrote it."""
        found = self._objects[Kind.VERSION].get("")
        return 0 if found is None else found.version

    @property
    def settings(self) -> ClusterSettings:
        found: ClusterSettings = self._objects[Kind.SETTINGS].get("", _DEFAULT_SETTINGS)
        return found

    @property
    def hash_check(self) -> HashCheck | None:
        return self._objects[Kind.HASH_CHECK].get("")

    @property
    def trust_anchors(self) -> TrustAnchors | None:
        return self._objects[Kind.TRUST_ANCHORS].get("")

    @property
    def join_secrets(self) -> JoinSecrets | None:
        return self._objects[Kind.JOIN_SECRETS].get("")

    @property
    def identities(self) -> Mapping[str, NodeIdentity]:
        """By `ROLE/NAME`."""
        return self._objects[Kind.IDENTITY]

    def identity(self, role: Role, name: str) -> NodeIdentity | None:
        return self.identities.get(f"{role.value}/{name}")

    @property
    def users(self) -> Mapping[str, User]:
        return self._objects[Kind.USER]

    def user_of_token(self, token_id: str) -> User | None:
        """Whose token it would be; the token's secret is still to be compared."""
        return self.users.get(self._users_of_tokens.get(token_id, ""))

    @property
    def audit_records(self) -> Mapping[str, AuditRecord]:
        """By their numbers; in the order of time, but for what was restored from a snapshot."""
        return self._objects[Kind.AUDIT]

    def service_named(self, name: str) -> Service | None:
        service_id = self._service_ids.get(name)
        return None if service_id is None else self.services.get(service_id)

    def tasks_of_service(self, service_id: ServiceId) -> Mapping[TaskId, Task]:
        return self._tasks_by_service.get(service_id, {})

    def tasks_on_node(self, node_id: NodeId) -> Mapping[TaskId, Task]:
        return self._tasks_by_node.get(node_id, {})

    def network_named(self, name: str) -> Network | None:
        """Names of networks are unique."""
        return next((n for n in self.networks.values() if n.name == name), None)

    def gateway(self, network_id: NetworkId, node_id: NodeId) -> Gateway | None:
        return self.gateways.get(f"{network_id}/{node_id}")

    def addresses(self, network_id: NetworkId) -> Mapping[str, str]:
        """Address → who has it: the id of a task that still exists, or of a gateway's node."""
        return self._addresses.get(network_id, {})

    def observed(self, task_id: TaskId) -> TaskState:
        """The observed state of a task; NEW before anything was seen."""
        status = self.task_status.get(task_id)
        return TaskState.NEW if status is None else status.state

    def modified(self, key: bytes) -> int:
        """The revision that last wrote a key; 0 when it does not exist."""
        found = self._store.get(key)
        return 0 if found is None else found.modified

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Be told of each later transaction, from within its apply: only note it and return.
        The result ends the subscription."""
        self._subscribers.append(subscriber)
        return lambda: self._subscribers.remove(subscriber)

    def _on_revision(self, revision: int, events: tuple[Event, ...]) -> None:
        changes = tuple(change for event in events if (change := self._absorb(event)) is not None)
        if changes:
            applied = AppliedChanges(revision, changes)
            for subscriber in tuple(self._subscribers):
                subscriber(applied)

    def _absorb(self, event: Event) -> Change | None:
        kind = keys.kind_of(event.key)
        if kind is None or kind in _MARKS or kind in _ON_DEMAND:
            return None
        identifier = keys.identifier_of(kind, event.key)
        objects = self._objects[kind]
        before = objects.pop(identifier, None)
        after = None
        if event.after is not None:
            after = objects[identifier] = _DECODERS[kind].decode(event.after.value)
        self._reindex(kind, before, after)
        return Change(kind, identifier, before, after)

    def _reindex(self, kind: Kind, before: Any, after: Any) -> None:
        match kind:
            case Kind.SERVICE:
                if before is not None:
                    self._service_ids.pop(before.spec.name, None)
                if after is not None:
                    self._service_ids[after.spec.name] = after.id
            case Kind.SERVICE_REVISION:
                if before is not None:
                    self._forget_revision(before)
                if after is not None:
                    self._index_revision(after)
            case Kind.TASK:
                if before is not None:
                    self._forget_task(before)
                if after is not None:
                    self._index_task(after)
            case Kind.GATEWAY:
                if before is not None:
                    self._addresses[before.network_id].pop(before.address, None)
                if after is not None:
                    self._addresses.setdefault(after.network_id, {})[after.address] = after.node_id
            case Kind.USER:
                for token in () if before is None else before.tokens:
                    self._users_of_tokens.pop(token.id, None)
                for token in () if after is None else after.tokens:
                    self._users_of_tokens[token.id] = after.name
            case _:
                pass

    def _index_revision(self, revision: ServiceRevision) -> None:
        kept = self._revisions.setdefault(revision.service_id, {})
        kept[revision.number] = revision
        if len(kept) > 1:
            # A restored state comes in the order of the keys' bytes: 10 before 9.
            self._revisions[revision.service_id] = dict(sorted(kept.items()))

    def _forget_revision(self, revision: ServiceRevision) -> None:
        kept = self._revisions[revision.service_id]
        kept.pop(revision.number, None)
        if not kept:
            del self._revisions[revision.service_id]

    def _index_task(self, task: Task) -> None:
        self._tasks_by_service.setdefault(task.service_id, {})[task.id] = task
        if task.node_id is not None:
            self._tasks_by_node.setdefault(task.node_id, {})[task.id] = task
        for attachment in task.attachments:
            owners = self._addresses.setdefault(attachment.network_id, {})
            owners[attachment.address] = task.id

    def _forget_task(self, task: Task) -> None:
        _remove(self._tasks_by_service, task.service_id, task.id)
        if task.node_id is not None:
            _remove(self._tasks_by_node, task.node_id, task.id)
        for attachment in task.attachments:
            owners = self._addresses[attachment.network_id]
            if owners.get(attachment.address) == task.id:
                del owners[attachment.address]


def _remove(index: dict[str, dict[TaskId, Task]], key: str, task_id: TaskId) -> None:
    members = index[key]
    del members[task_id]
    if not members:
        del index[key]
