"""The networks and ports of a service against what the cluster has: names become ids, and ports
that others listen on are refused.

Pure. What a spec alone can tell is checked in `validation`.
"""

from collections.abc import Callable

import msgspec

from essaim_master.http.errors import NotPermitted
from essaim_master.http.lookup import find_network
from essaim_master.http.network_settings import NetworkSettings
from essaim_master.http.scope import SeenState
from essaim_master.http.validation.words import refusal
from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.network_uses import HOST_NETWORK
from essaim_master.state.port_claims import PortKey, named_ports
from essaim_shared.errors import AmbiguousName, InvalidRequest, NotFound
from essaim_shared.objects import Network
from essaim_shared.spec import ServiceSpec

NetworkLookup = Callable[[str], Network]
"""What a user typed → the network. Raises NotFound, AmbiguousName."""

FORCE_HINT = "publish another port, or force it (EndpointSpec.ForcePorts, --publish-force)"


def lookup_in(state: SeenState) -> NetworkLookup:
    return lambda reference: find_network(state, reference)


def with_network_ids(spec: ServiceSpec, find: NetworkLookup) -> ServiceSpec:
    """The spec with the id of each network that it names, in its order.

    Raises NotFound, AmbiguousName, InvalidRequest, NotPermitted.
    """
    attachments = spec.task.networks
    if not attachments:
        return spec
    networks = [_found(attachment.target, find) for attachment in attachments]
    _check_each_once(networks)
    if any(network.driver == HOST_NETWORK for network in networks):
        _check_host_alone(spec, networks)
    named = tuple(
        msgspec.structs.replace(attachment, target=network.id)
        for attachment, network in zip(attachments, networks, strict=True)
    )
    task = msgspec.structs.replace(spec.task, networks=named)
    return msgspec.structs.replace(spec, task=task)


def _found(reference: str, find: NetworkLookup) -> Network:
    try:
        return find(reference)
    except (NotFound, AmbiguousName):
        if reference in ("bridge", "none"):
            raise NotPermitted(
                f"The network {reference} cannot be used with services. Only networks scoped to "
                "the swarm can be used, such as those created with the overlay driver."
            ) from None
        raise


def _check_each_once(networks: list[Network]) -> None:
    seen: set[str] = set()
    for network in networks:
        if network.id in seen:
            raise refusal(f"Networks: network {network.name} is given twice")
        seen.add(network.id)


def _check_host_alone(spec: ServiceSpec, networks: list[Network]) -> None:
    """A task on its node's own network has no other, and all its ports are the node's."""
    if len(networks) > 1:
        raise refusal("Networks: host-mode networking can't be used with any other type of network")
    if spec.task.networks[0].aliases:
        raise refusal("Networks: there are no names on the host network, so no aliases either")
    if spec.endpoint is not None and spec.endpoint.ports:
        raise refusal(
            "EndpointSpec: on the host network no ports are published: what the container "
            "listens on is open on its node"
        )


def check_published_ports(
    state: ClusterState, settings: NetworkSettings, before: ServiceSpec | None, spec: ServiceSpec
) -> None:
    """Raises InvalidRequest for a port that is published from now on and that Essaim itself, or
    in the mode `ingress` any node, listens on: publishing would take it from whoever has it."""
    endpoint = spec.endpoint
    if endpoint is None or not endpoint.ports or endpoint.force_ports is True:
        return
    for mode in ("ingress", "host"):
        known = {} if before is None else named_ports(before, mode)
        for key in named_ports(spec, mode):
            if key in known:
                continue
            _check_not_essaims(state, settings, key)
            if mode == "ingress":
                _check_not_listened_on(state, key)


def _check_not_essaims(state: ClusterState, settings: NetworkSettings, key: PortKey) -> None:
    use = settings.own_ports.get(f"{key[0]}/{key[1]}")
    if use is not None:
        raise _occupied(key, f"is Essaim's own, for {use}")
    if key[0] != "tcp":
        return
    for member in state.members.values():
        if member.removed_ns:
            continue
        for what, address in (("the API", member.http), ("the masters", member.raft)):
            if address.rpartition(":")[2] == str(key[1]):
                raise _occupied(key, f"is Essaim's own, for {what}")


def _check_not_listened_on(state: ClusterState, key: PortKey) -> None:
    text = f"{key[0]}/{key[1]}"
    for status in state.node_status.values():
        if status.state == "ready" and text in status.description.listening:
            raise _occupied(key, f"is listened on by node {status.description.hostname}")


def _occupied(key: PortKey, why: str) -> InvalidRequest:
    return refusal(f"EndpointSpec: port {key[1]}/{key[0]} {why}: {FORCE_HINT}")
