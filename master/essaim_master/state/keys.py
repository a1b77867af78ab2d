"""The keys of the cluster's objects. One prefix for each kind, one writer for each prefix."""

from enum import Enum

from essaim_shared.ids import MemberId, NetworkId, NodeId, PayloadId, ServiceId, TaskId
from essaim_shared.payload_objects import PayloadKind
from essaim_shared.trust.roles import Role


class Kind(Enum):
    """What an object is; the value is the prefix of its key."""

    # Members are themselves only: without Enum's own hash, which is that of the name and is worked
    # out in Python, every look at the state costs half as much.
    __hash__ = object.__hash__

    SERVICE = b"/services/"
    SERVICE_NAME = b"/service_names/"
    SERVICE_REVISION = b"/service_revisions/"
    UPDATE_STATUS = b"/update_status/"
    CRON_STATUS = b"/cron_status/"
    REGISTRY_CREDENTIALS = b"/registry_credentials/"
    TASK = b"/tasks/"
    TASK_STATUS = b"/task_status/"
    NODE = b"/nodes/"
    NODE_STATUS = b"/node_status/"
    NETWORK = b"/networks/"
    NETWORK_USE = b"/network_uses/"
    GATEWAY = b"/gateways/"
    SERVICE_ADDRESSES = b"/service_addresses/"
    INGRESS_PORT = b"/ingress_ports/"
    IDENTITY = b"/identities/"
    USER = b"/users/"
    AUDIT = b"/audit/"
    SECRET = b"/secrets/"
    SECRET_NAME = b"/secret_names/"
    SECRET_DATA = b"/secret_data/"
    CONFIG = b"/configs/"
    CONFIG_NAME = b"/config_names/"
    CONFIG_DATA = b"/config_data/"
    PAYLOAD_USE = b"/payload_uses/"
    MEMBER = b"/members/"
    MEMBER_BUILD = b"/member_builds/"
    LEADER = b"/cluster/leader"
    CLUSTER = b"/cluster/info"
    TRUST_ANCHORS = b"/cluster/trust_anchors"
    JOIN_SECRETS = b"/cluster/join_secrets"
    SETTINGS = b"/cluster/settings"
    VERSION = b"/cluster/version"
    HASH_CHECK = b"/cluster/hash_check"
    NETWORK_LEDGER = b"/cluster/network_ledger"
    HOST_PORTS = b"/cluster/host_ports"


LEADER_KEY = Kind.LEADER.value
CLUSTER_KEY = Kind.CLUSTER.value
TRUST_ANCHORS_KEY = Kind.TRUST_ANCHORS.value
JOIN_SECRETS_KEY = Kind.JOIN_SECRETS.value
SETTINGS_KEY = Kind.SETTINGS.value
VERSION_KEY = Kind.VERSION.value
HASH_CHECK_KEY = Kind.HASH_CHECK.value
NETWORK_LEDGER_KEY = Kind.NETWORK_LEDGER.value
HOST_PORTS_KEY = Kind.HOST_PORTS.value
"""Holds the id of the service that was the last to publish a port of nodes; never read, only
compared (`port_claims`)."""


def service_key(service_id: ServiceId) -> bytes:
    return Kind.SERVICE.value + service_id.encode()


def service_name_key(name: str) -> bytes:
    """Holds the id of the service of that name: what makes names unique."""
    return Kind.SERVICE_NAME.value + name.encode()


def service_revision_key(service_id: ServiceId, number: int) -> bytes:
    return Kind.SERVICE_REVISION.value + f"{service_id}/{number}".encode()


def update_status_key(service_id: ServiceId) -> bytes:
    return Kind.UPDATE_STATUS.value + service_id.encode()


def cron_status_key(service_id: ServiceId) -> bytes:
    return Kind.CRON_STATUS.value + service_id.encode()


def registry_credentials_key(service_id: ServiceId) -> bytes:
    return Kind.REGISTRY_CREDENTIALS.value + service_id.encode()


def task_key(task_id: TaskId) -> bytes:
    return Kind.TASK.value + task_id.encode()


def task_status_key(task_id: TaskId) -> bytes:
    return Kind.TASK_STATUS.value + task_id.encode()


def node_key(node_id: NodeId) -> bytes:
    return Kind.NODE.value + node_id.encode()


def node_status_key(node_id: NodeId) -> bytes:
    return Kind.NODE_STATUS.value + node_id.encode()


def network_key(network_id: NetworkId) -> bytes:
    return Kind.NETWORK.value + network_id.encode()


def network_use_key(network_id: NetworkId) -> bytes:
    """Holds the id of the service that was the last to name the network; never read, only
    compared (`network_uses`)."""
    return Kind.NETWORK_USE.value + network_id.encode()


def gateway_key(network_id: NetworkId, node_id: NodeId) -> bytes:
    return Kind.GATEWAY.value + f"{network_id}/{node_id}".encode()


def service_addresses_key(service_id: ServiceId) -> bytes:
    return Kind.SERVICE_ADDRESSES.value + service_id.encode()


def ingress_port_key(protocol: str, number: int) -> bytes:
    return Kind.INGRESS_PORT.value + f"{protocol}/{number}".encode()


def identity_key(role: Role, name: str) -> bytes:
    return Kind.IDENTITY.value + f"{role.value}/{name}".encode()


def user_key(name: str) -> bytes:
    return Kind.USER.value + name.encode()


def audit_key(number: str) -> bytes:
    return Kind.AUDIT.value + number.encode()


_PAYLOADS: dict[PayloadKind, tuple[Kind, Kind, Kind]] = {
    "secret": (Kind.SECRET, Kind.SECRET_NAME, Kind.SECRET_DATA),
    "config": (Kind.CONFIG, Kind.CONFIG_NAME, Kind.CONFIG_DATA),
}


def payload_key(kind: PayloadKind, payload_id: PayloadId) -> bytes:
    return _PAYLOADS[kind][0].value + payload_id.encode()


def payload_name_key(kind: PayloadKind, name: str) -> bytes:
    """Holds the id of the secret or config of that name: what makes names unique."""
    return _PAYLOADS[kind][1].value + name.encode()


def payload_data_prefix(kind: PayloadKind, payload_id: PayloadId | None = None) -> bytes:
    """Of all data, or of one secret's or config's."""
    prefix = _PAYLOADS[kind][2].value
    return prefix if payload_id is None else prefix + f"{payload_id}/".encode()


def payload_data_key(kind: PayloadKind, payload_id: PayloadId, number: int) -> bytes:
    return payload_data_prefix(kind, payload_id) + str(number).encode()


def payload_use_key(payload_id: PayloadId) -> bytes:
    """Holds the id of the service that was the last to refer to some data of the secret or
    config; never read, only compared (`payload_uses`)."""
    return Kind.PAYLOAD_USE.value + payload_id.encode()


def member_key(member_id: MemberId) -> bytes:
    return Kind.MEMBER.value + member_id.encode()


def member_build_key(member_id: MemberId) -> bytes:
    return Kind.MEMBER_BUILD.value + member_id.encode()


_WHOLE_KEYS = frozenset(kind.value for kind in Kind if not kind.value.endswith(b"/"))
_BY_FIRST_SEGMENT = {kind.value.split(b"/")[1]: kind for kind in Kind if kind.value.endswith(b"/")}


def kind_of(key: bytes) -> Kind | None:
    """The kind of object under a key; None for a key of users (`/essaim kv`), which is not ours."""
    if key in _WHOLE_KEYS:
        return Kind(key)
    segments = key.split(b"/", 2)
    if len(segments) < 3 or segments[0]:
        return None
    return _BY_FIRST_SEGMENT.get(segments[1])


def identifier_of(kind: Kind, key: bytes) -> str:
    """What follows the prefix: an id, a name, `NETWORK/NODE` of a gateway, `SERVICE/NUMBER` of a
    revision, or `ROLE/NAME` of an identity."""
    return key[len(kind.value) :].decode()
