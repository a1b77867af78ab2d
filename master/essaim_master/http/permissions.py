"""Which objects a user may write: checked on every transaction of the API, whichever way it came
about. Pure.

The table of routes (`authorization`) has let the request in by then. A deployer writes services,
networks, secrets and configs, and what stands beside them, nothing else; with a scope only those of
his stack, before the change and after it. What reaches into the nodes is an admin's (`privileged`).
"""

from collections.abc import Mapping
from typing import Any, Final

from essaim_master.http.caller import Caller
from essaim_master.http.errors import NotAllowed
from essaim_master.http.privileged import privileged_options
from essaim_master.http.scope import is_of, is_own_volume, may_join
from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.keys import Kind, identifier_of, kind_of
from essaim_master.state.network_uses import HOST_NETWORK, networks_of
from essaim_master.state.payload_references import uses_of
from essaim_master.state.writes import Writes
from essaim_shared.ids import NetworkId, PayloadId, ServiceId
from essaim_shared.objects import Network, Service
from essaim_shared.payload_objects import Config, PayloadKind, Secret
from essaim_shared.spec import ServiceSpec

BESIDE_KINDS: Final = frozenset(
    {
        Kind.SERVICE_NAME,
        Kind.SERVICE_REVISION,
        Kind.UPDATE_STATUS,
        Kind.CRON_STATUS,
        Kind.REGISTRY_CREDENTIALS,
        Kind.SERVICE_ADDRESSES,
        Kind.INGRESS_PORT,
        Kind.HOST_PORTS,
        Kind.NETWORK_USE,
        Kind.NETWORK_LEDGER,
        Kind.SECRET_NAME,
        Kind.SECRET_DATA,
        Kind.CONFIG_NAME,
        Kind.CONFIG_DATA,
        Kind.PAYLOAD_USE,
    }
)
"""What is written together with a deployer's objects, and says nothing by itself."""


def check_writes(caller: Caller, writes: Writes, state: ClusterState) -> None:
    """Raises NotAllowed. Whoever is no user was judged by his route."""
    if caller.kind != "user" or caller.role == "admin":
        return
    if caller.role != "deployer":
        raise NotAllowed(f"{caller.who} may change nothing: it takes the role deployer")
    for key, after in writes.touched():
        kind = kind_of(key)
        if kind is Kind.SERVICE:
            _check_service(caller, state, key, after)
        elif kind is Kind.NETWORK:
            _check_network(caller, state, key, after)
        elif kind is Kind.SECRET or kind is Kind.CONFIG:
            _check_payload(caller, state, kind, key, after)
        elif kind not in BESIDE_KINDS:
            raise NotAllowed(f"{caller.who} may not change this: it takes the role admin")


def check_stack(caller: Caller, stack: str) -> None:
    """Raises NotAllowed for a stack that is not the user's."""
    if caller.stack and caller.stack != stack:
        raise NotAllowed(f"{caller.who} may change the stack {caller.stack} only, not {stack}")


def check_spec(caller: Caller, spec: ServiceSpec, state: ClusterState) -> None:
    """Raises NotAllowed for a service that a user may not ask for as it is, whatever there is."""
    if caller.kind != "user" or caller.role == "admin":
        return
    host = [one.id for one in state.networks.values() if one.driver == HOST_NETWORK]
    options = privileged_options(spec, host)
    if options:
        raise NotAllowed(
            f"service {spec.name}: {', '.join(options)} needs the admin role: {caller.who} has the "
            f"role {caller.role}"
        )
    if not caller.stack:
        return
    check_labels(caller, f"service {spec.name}", spec.labels)
    for network_id in networks_of(spec):
        network = state.networks.get(network_id)
        if network is not None and not may_join(caller.stack, network):
            raise NotAllowed(
                f"service {spec.name}: the network {network.name} is not of the stack "
                f"{caller.stack}, and not shared"
            )
    for mount in spec.task.container.mounts:
        if mount.type == "volume" and not is_own_volume(caller.stack, mount.source):
            raise NotAllowed(
                f"service {spec.name}: the volume {mount.source} is not of the stack "
                f"{caller.stack}, whose volumes begin with {caller.stack}_"
            )
    for kind, payload_id, _ in uses_of(spec.task):
        payload = state.payloads(kind).get(payload_id)
        if payload is not None:
            check_labels(caller, f"{kind} {payload.name}", payload.labels)


def _check_service(caller: Caller, state: ClusterState, key: bytes, after: Any) -> None:
    before = state.services.get(ServiceId(identifier_of(Kind.SERVICE, key)))
    if before is not None:
        check_labels(caller, f"service {before.spec.name}", before.spec.labels)
    if isinstance(after, Service):
        check_spec(caller, after.spec, state)


def _check_network(caller: Caller, state: ClusterState, key: bytes, after: Any) -> None:
    before = state.networks.get(NetworkId(identifier_of(Kind.NETWORK, key)))
    for network in (before, after):
        if isinstance(network, Network):
            check_labels(caller, f"network {network.name}", network.labels)


def _check_payload(caller: Caller, state: ClusterState, kind: Kind, key: bytes, after: Any) -> None:
    what: PayloadKind = "secret" if kind is Kind.SECRET else "config"
    before = state.payloads(what).get(PayloadId(identifier_of(kind, key)))
    for payload in (before, after):
        if isinstance(payload, Secret | Config):
            check_labels(caller, f"{what} {payload.name}", payload.labels)


def check_labels(caller: Caller, what: str, labels: Mapping[str, str]) -> None:
    """Raises NotAllowed for an object that is not of the user's stack."""
    if caller.stack and not is_of(caller.stack, labels):
        raise NotAllowed(
            f"{caller.who} may change the stack {caller.stack} only, and {what} is not of it"
        )
