"""Which ports of the cluster a change of a service claims and gives back. Pure.

A port that a service's spec publishes in the mode `ingress` is a key (`/ingress_ports/…`), claimed
under a compare that it is free and given back under a compare that it is still the service's own.
So no two services ever have one, whichever master they were created through; and a rollback, a
user's or the leader's, moves the claims like any other change. A port that the service leaves to
the cluster is claimed and given back by the leader.

Ports in the mode `host` have no key: many services may publish the same one, each on nodes of its
own. As in Swarm, they only exclude the same port in the mode `ingress` (swarmkit
manager/controlapi/service.go, checkPortConflicts). That none comes in the very moment at which the
same port is claimed, one mark for all of them sees to: who publishes any writes it
(`/cluster/host_ports`), who claims a port compares it.
"""

from typing import Literal

from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.errors import PortTaken
from essaim_master.state.keys import HOST_PORTS_KEY, ingress_port_key
from essaim_master.state.writes import Writes
from essaim_shared.ids import ServiceId
from essaim_shared.objects import IngressPort, Service
from essaim_shared.spec import PortConfig, ServiceSpec

Protocol = Literal["tcp", "udp", "sctp"]
PortKey = tuple[Protocol, int]
"""Protocol and number."""


def named_ports(spec: ServiceSpec, mode: str) -> dict[PortKey, PortConfig]:
    """The published ports of a mode whose numbers the spec names, in its order."""
    ports = () if spec.endpoint is None else spec.endpoint.ports
    return {
        (port.protocol, port.published_port): port
        for port in ports
        if port.published_port and (port.publish_mode or "ingress") == mode
    }


def claim_ports(
    writes: Writes, state: ClusterState, before: Service | None, after: Service | None
) -> None:
    """Add what makes of `before` (None: nothing) `after` (None: it is deleted), as far as ports
    are concerned. Raises PortTaken.

    The caller adds the compare of the service's version.
    """
    present = {} if before is None else named_ports(before.spec, "ingress")
    wanted = {} if after is None else named_ports(after.spec, "ingress")
    if after is not None:
        _check_other_modes(writes, state, before, after)
        for key in wanted:
            _claim(writes, state, key, after.id, is_new=key not in present)
    if before is not None:
        for key in present.keys() - wanted.keys():
            _give_back(writes, state, key, before.id)
        if after is None:
            _give_back_chosen(writes, state, before.id)


def _claim(
    writes: Writes, state: ClusterState, key: PortKey, service_id: ServiceId, is_new: bool
) -> None:
    """Unless it is the service's own already. What a service that is gone has left is free, and
    what the cluster chose for this one becomes its own."""
    held = state.ingress_ports.get(f"{key[0]}/{key[1]}")
    if held is not None and held.service_id != service_id:
        holder = state.services.get(held.service_id)
        if holder is not None:
            raise port_taken(key, holder, "an ingress port")
    is_own = held is not None and held.service_id == service_id and not held.is_chosen
    if is_own and not is_new:
        return
    _expect_unchanged(writes, state, key)
    if is_own:
        return  # of an earlier spec; the leader may be about to give it back
    protocol, number = key
    writes.put(IngressPort(protocol=protocol, number=number, service_id=service_id))


def _give_back(writes: Writes, state: ClusterState, key: PortKey, service_id: ServiceId) -> None:
    held = state.ingress_ports.get(f"{key[0]}/{key[1]}")
    if held is not None and held.service_id == service_id:
        _expect_unchanged(writes, state, key)
        writes.delete_ingress_port(*key)


def _give_back_chosen(writes: Writes, state: ClusterState, service_id: ServiceId) -> None:
    """With the service. What the leader chooses just now it takes back itself."""
    addresses = state.service_addresses.get(service_id)
    for port in () if addresses is None else addresses.ports:
        key = (port.protocol, port.published_port)
        held = state.ingress_ports.get(f"{key[0]}/{key[1]}")
        if held is not None and held.is_chosen:
            _give_back(writes, state, key, service_id)


def _expect_unchanged(writes: Writes, state: ClusterState, key: PortKey) -> None:
    stored = ingress_port_key(*key)
    writes.expect(stored, state.modified(stored))


def _check_other_modes(
    writes: Writes, state: ClusterState, before: Service | None, after: Service
) -> None:
    """Raises PortTaken for a port that another service has in the other mode, if this change is
    what brings them together."""
    known = None if before is None else before.spec
    ingress, host = _new(after.spec, known, "ingress"), _new(after.spec, known, "host")
    if host:
        writes.publish_on_nodes(after.id)
    if ingress:
        writes.expect(HOST_PORTS_KEY, state.modified(HOST_PORTS_KEY))
    for key in host:
        held = state.ingress_ports.get(f"{key[0]}/{key[1]}")
        holder = None if held is None else state.services.get(held.service_id)
        if holder is not None and holder.id != after.id:
            raise port_taken(key, holder, "an ingress port")
        _expect_unchanged(writes, state, key)
    if not ingress:
        return
    for service in state.services.values():
        if service.spec.endpoint is None or service.id == after.id:
            continue
        for key in named_ports(service.spec, "host"):
            if key in ingress:
                raise port_taken(key, service, "a host-published port")


def _new(spec: ServiceSpec, known: ServiceSpec | None, mode: str) -> set[PortKey]:
    present = {} if known is None else named_ports(known, mode)
    return named_ports(spec, mode).keys() - present.keys()


def port_taken(key: PortKey, holder: Service, mode: str) -> PortTaken:
    return PortTaken(
        "rpc error: code = InvalidArgument desc = "
        f"port '{key[1]}' is already in use by service '{holder.spec.name}' ({holder.id}) "
        f"as {mode}"
    )
