"""Typed writes collected as values, then cut into transactions that fit the limits."""

from collections.abc import Iterable, Iterator
from typing import assert_never

import msgspec

from essaim_master.kv.commands import (
    Attribute,
    Compare,
    CompareAttribute,
    CompareRevision,
    CompareValue,
    Delete,
    Put,
    Relation,
    Transaction,
)
from essaim_master.state import keys
from essaim_shared.ids import NetworkId, NodeId, PayloadId, ServiceId, TaskId
from essaim_shared.limits import TRANSACTION_BYTES_MAX, TRANSACTION_OPERATIONS_MAX
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
    Task,
    TaskStatus,
    UpdateStatus,
)
from essaim_shared.payload_objects import (
    Config,
    ConfigData,
    Payload,
    PayloadKind,
    Secret,
    SecretData,
)
from essaim_shared.trust.roles import Role
from essaim_shared.trust_objects import (
    AuditRecord,
    JoinSecrets,
    NodeIdentity,
    TrustAnchors,
    User,
)

Addressed = (
    Service
    | ServiceRevision
    | UpdateStatus
    | CronStatus
    | RegistryCredentials
    | Task
    | NodeObject
    | Network
    | NetworkLedger
    | Gateway
    | ServiceAddresses
    | IngressPort
    | Secret
    | SecretData
    | Config
    | ConfigData
    | LeaderEpoch
    | ClusterInfo
    | ClusterSettings
    | ClusterMember
    | MemberBuild
    | ClusterVersion
    | HashCheck
    | TrustAnchors
    | JoinSecrets
    | NodeIdentity
    | User
    | AuditRecord
)
"""Objects that know their own key."""

TRANSACTION_PAYLOAD_BYTES_MAX = TRANSACTION_BYTES_MAX // 2
"""Of keys and values; leaves room for compares and framing."""

LARGE_PAYLOAD_BYTES_MAX = TRANSACTION_BYTES_MAX - 256 * 1024
"""The same, of writes with few compares: for the data of a config, which cannot be cut."""

_encoder = msgspec.msgpack.Encoder()


def key_of(stored: Addressed) -> bytes:
    match stored:
        case Service():
            return keys.service_key(stored.id)
        case ServiceRevision():
            return keys.service_revision_key(stored.service_id, stored.number)
        case UpdateStatus():
            return keys.update_status_key(stored.service_id)
        case CronStatus():
            return keys.cron_status_key(stored.service_id)
        case RegistryCredentials():
            return keys.registry_credentials_key(stored.service_id)
        case ClusterSettings():
            return keys.SETTINGS_KEY
        case Task():
            return keys.task_key(stored.id)
        case NodeObject():
            return keys.node_key(stored.id)
        case Network():
            return keys.network_key(stored.id)
        case NetworkLedger():
            return keys.NETWORK_LEDGER_KEY
        case Gateway():
            return keys.gateway_key(stored.network_id, stored.node_id)
        case ServiceAddresses():
            return keys.service_addresses_key(stored.service_id)
        case IngressPort():
            return keys.ingress_port_key(stored.protocol, stored.number)
        case Secret():
            return keys.payload_key("secret", stored.id)
        case SecretData():
            return keys.payload_data_key("secret", stored.secret_id, stored.number)
        case Config():
            return keys.payload_key("config", stored.id)
        case ConfigData():
            return keys.payload_data_key("config", stored.config_id, stored.number)
        case LeaderEpoch():
            return keys.LEADER_KEY
        case ClusterInfo():
            return keys.CLUSTER_KEY
        case ClusterMember():
            return keys.member_key(stored.id)
        case MemberBuild():
            return keys.member_build_key(stored.id)
        case ClusterVersion():
            return keys.VERSION_KEY
        case HashCheck():
            return keys.HASH_CHECK_KEY
        case TrustAnchors():
            return keys.TRUST_ANCHORS_KEY
        case JoinSecrets():
            return keys.JOIN_SECRETS_KEY
        case NodeIdentity():
            return keys.identity_key(stored.role, stored.name)
        case User():
            return keys.user_key(stored.name)
        case AuditRecord():
            return keys.audit_key(stored.number)
        case _:
            assert_never(stored)


class Writes:
    """What one decision changes. A later write of a key replaces an earlier one."""

    def __init__(self) -> None:
        self._operations: dict[bytes, Put | Delete] = {}
        self._objects: dict[bytes, object] = {}
        self._compares: list[Compare] = []
        self._guards: dict[bytes, Compare] = {}

    def __len__(self) -> int:
        return len(self._operations)

    def touched(self) -> Iterator[tuple[bytes, object | None]]:
        """Each key that is written, with the object that it gets; None when it is deleted, or
        holds none."""
        for key in self._operations:
            yield key, self._objects.get(key)

    def put(self, stored: Addressed) -> None:
        self._put(key_of(stored), stored)

    def put_task_status(self, task_id: TaskId, status: TaskStatus) -> None:
        self._put(keys.task_status_key(task_id), status)

    def put_node_status(self, node_id: NodeId, status: NodeStatus) -> None:
        self._put(keys.node_status_key(node_id), status)

    def claim_name(self, service: Service) -> None:
        """Take the service's name; the transaction fails if any service has it."""
        key = keys.service_name_key(service.spec.name)
        self.expect(key, 0)
        self._operations[key] = Put(key, service.id.encode())

    def delete_service(self, service: Service, revisions: Iterable[int] = ()) -> None:
        """Delete a service with its history and free its name, unless another service has taken
        it meanwhile."""
        name_key = keys.service_name_key(service.spec.name)
        self._compares.append(CompareValue(name_key, service.id.encode()))
        self._delete(keys.service_key(service.id))
        self._delete(name_key)
        self.delete_belongings(service.id, revisions)

    def delete_service_revision(self, service_id: ServiceId, number: int) -> None:
        self._delete(keys.service_revision_key(service_id, number))

    def delete_belongings(self, service_id: ServiceId, revisions: Iterable[int]) -> None:
        """What stands beside a service; some of it may be written just after it was deleted."""
        self._delete(keys.update_status_key(service_id))
        self._delete(keys.cron_status_key(service_id))
        self._delete(keys.registry_credentials_key(service_id))
        self._delete(keys.service_addresses_key(service_id))
        for number in revisions:
            self.delete_service_revision(service_id, number)

    def delete_task(self, task_id: TaskId) -> None:
        self._delete(keys.task_key(task_id))
        self._delete(keys.task_status_key(task_id))

    def delete_node(self, node_id: NodeId) -> None:
        self._delete(keys.node_key(node_id))
        self._delete(keys.node_status_key(node_id))

    def delete_identity(self, role: Role, name: str) -> None:
        self._delete(keys.identity_key(role, name))

    def delete_user(self, name: str) -> None:
        self._delete(keys.user_key(name))

    def delete_audit_record(self, number: str) -> None:
        self._delete(keys.audit_key(number))

    def delete_gateway(self, network_id: NetworkId, node_id: NodeId) -> None:
        self._delete(keys.gateway_key(network_id, node_id))

    def use_network(self, network_id: NetworkId, service_id: ServiceId) -> None:
        """Note that a service names the network, which must exist (`network_uses`)."""
        self.expect_existing(keys.network_key(network_id))
        key = keys.network_use_key(network_id)
        self._operations[key] = Put(key, service_id.encode())

    def claim_payload_name(self, payload: Payload) -> None:
        """As `claim_name`."""
        key = keys.payload_name_key(payload.kind, payload.name)
        self.expect(key, 0)
        self._operations[key] = Put(key, payload.id.encode())

    def use_payload(
        self, kind: PayloadKind, payload_id: PayloadId, number: int, service_id: ServiceId
    ) -> None:
        """Note that a service refers to this data, which must exist (`payload_uses`)."""
        self.expect_existing(keys.payload_key(kind, payload_id))
        self.expect_existing(keys.payload_data_key(kind, payload_id, number))
        key = keys.payload_use_key(payload_id)
        self._operations[key] = Put(key, service_id.encode())

    def delete_payload(self, payload: Payload, numbers: Iterable[int]) -> None:
        """Delete a secret or config with its data, and free its name."""
        kind = payload.kind
        self._delete(keys.payload_key(kind, payload.id))
        self._delete(keys.payload_name_key(kind, payload.name))
        self._delete(keys.payload_use_key(payload.id))
        for number in numbers:
            self.delete_payload_data(kind, payload.id, number)

    def delete_payload_data(self, kind: PayloadKind, payload_id: PayloadId, number: int) -> None:
        self._delete(keys.payload_data_key(kind, payload_id, number))

    def publish_on_nodes(self, service_id: ServiceId) -> None:
        """Note that a service publishes ports of nodes that it did not before (`port_claims`)."""
        self._operations[keys.HOST_PORTS_KEY] = Put(keys.HOST_PORTS_KEY, service_id.encode())

    def delete_network(self, network_id: NetworkId) -> None:
        self._delete(keys.network_key(network_id))
        self._delete(keys.network_use_key(network_id))

    def delete_service_addresses(self, service_id: ServiceId) -> None:
        self._delete(keys.service_addresses_key(service_id))

    def delete_ingress_port(self, protocol: str, number: int) -> None:
        self._delete(keys.ingress_port_key(protocol, number))

    def expect(self, key: bytes, modified: int) -> None:
        """Every transaction of these writes holds only if the key's revision is this one.

        Expect a key that these writes themselves change only when they fit one transaction.
        """
        self._compares.append(CompareRevision(key, modified))

    def guard(self, key: bytes, modified: int) -> None:
        """The one transaction that changes the key holds only if its revision is this one.

        For a key that others write too, among many that only these writes change: the parts
        without it do not depend on it.
        """
        self._guards[key] = CompareRevision(key, modified)

    def expect_existing(self, key: bytes) -> None:
        """As `expect`, whatever revision the key has."""
        self._compares.append(CompareAttribute(key, Attribute.VERSION, Relation.GREATER, 0))

    def transactions(
        self, payload_bytes_max: int = TRANSACTION_PAYLOAD_BYTES_MAX
    ) -> list[Transaction]:
        """The writes in order, cut at the limits; each part carries all compares, and the guards
        of its own keys."""
        parts: list[Transaction] = []
        part: list[Put | Delete] = []
        part_bytes = 0
        for operation in self._operations.values():
            size = len(operation.key) + (len(operation.value) if isinstance(operation, Put) else 0)
            full = len(part) == TRANSACTION_OPERATIONS_MAX
            if part and (full or part_bytes + size > payload_bytes_max):
                parts.append(self._transaction(part))
                part, part_bytes = [], 0
            part.append(operation)
            part_bytes += size
        if part:
            parts.append(self._transaction(part))
        return parts

    def _transaction(self, part: list[Put | Delete]) -> Transaction:
        compares = list(self._compares)
        if self._guards:
            compares.extend(self._guards[each.key] for each in part if each.key in self._guards)
        return Transaction(tuple(compares), tuple(part))

    def _put(self, key: bytes, value: object) -> None:
        self._operations[key] = Put(key, _encoder.encode(value))
        self._objects[key] = value

    def _delete(self, key: bytes) -> None:
        self._objects.pop(key, None)
        self._operations[key] = Delete(key)
