"""What a request to deploy a stack asks for. Pure.

A stack is what Docker's clients mean by it: objects with one label, whose names begin with the
stack's. The client writes names in full; the label is added here, so that nothing of a stack can
be without it.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec

from essaim_master.http.json_edge import field_of
from essaim_master.http.network_requests import wanted_network
from essaim_master.http.payload_requests import WantedPayload, wanted_payload
from essaim_master.http.scope import STACK_LABEL
from essaim_master.http.service_requests import service_spec_of
from essaim_master.http.validation import check_service_name
from essaim_master.http.validation.words import refusal
from essaim_master.images.answers import decode_credentials
from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.network_choice import WantedNetwork
from essaim_master.state.port_claims import PortKey, named_ports, port_taken
from essaim_shared.errors import EssaimError, InvalidRequest
from essaim_shared.ids import ServiceId
from essaim_shared.objects import Service
from essaim_shared.payload_objects import PayloadKind
from essaim_shared.spec import ServiceSpec

FIELDS = ("Networks", "Secrets", "Configs", "Services", "Prune", "RegistryAuths")


class StackRequest(msgspec.Struct, frozen=True, kw_only=True):
    networks: tuple[WantedNetwork, ...]
    services: tuple[ServiceSpec, ...]
    payloads: tuple[WantedPayload, ...] = ()
    """Secrets, then configs."""
    prune: bool = False
    """Services of the stack that the request does not name are removed."""
    auths: dict[str, bytes] = {}
    """By the services' names: what opens the registries of their images."""


def stack_request(fields: Mapping[str, Any], stack: str) -> StackRequest:
    """Raises InvalidRequest and its like; a service or network at fault is named."""
    check_service_name(stack)
    for name in fields:
        if name not in FIELDS:
            raise InvalidRequest(f'unknown field "{name}": a stack has {", ".join(FIELDS)}')
    networks, services = [], []
    for body in _objects(fields, "Networks"):
        with naming("network", body):
            wanted = wanted_network(body)
            labels = {**wanted.labels, STACK_LABEL: stack}
            networks.append(msgspec.structs.replace(wanted, labels=labels))
    payloads = [
        wanted
        for kind, field in (("secret", "Secrets"), ("config", "Configs"))
        for wanted in _payloads(fields, field, kind, stack)  # type: ignore[arg-type]
    ]
    for body in _objects(fields, "Services"):
        with naming("service", body):
            spec = service_spec_of(body)
            check_service_name(spec.name)
            labels = {**spec.labels, STACK_LABEL: stack}
            services.append(msgspec.structs.replace(spec, labels=labels))
    _check_distinct("network", (network.name for network in networks))
    _check_distinct("service", (spec.name for spec in services))
    _check_ports_among(services)
    prune = fields.get("Prune") or False
    if not isinstance(prune, bool):
        raise InvalidRequest('"Prune": it is true or false')
    return StackRequest(
        networks=tuple(networks),
        services=tuple(services),
        payloads=tuple(payloads),
        prune=prune,
        auths=_auths(fields.get("RegistryAuths") or {}),
    )


@contextmanager
def naming(what: str, body: Mapping[str, Any]) -> Iterator[None]:
    """An error from within says which of the stack's objects it is about."""
    try:
        yield
    except EssaimError as error:
        error.args = (f"{what} {field_of(body, 'Name') or '(without a name)'}: {error}",)
        raise


def _objects(fields: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    found = fields.get(name)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise InvalidRequest(f'"{name}": it is a list of objects')
    return found


def _payloads(
    fields: Mapping[str, Any], field: str, kind: PayloadKind, stack: str
) -> list[WantedPayload]:
    found = []
    for body in _objects(fields, field):
        with naming(kind, body):
            wanted = wanted_payload(body, kind)
            labels = {**wanted.labels, STACK_LABEL: stack}
            found.append(msgspec.structs.replace(wanted, labels=labels))
    _check_distinct(kind, (wanted.name for wanted in found))
    return found


def _auths(auths: Any) -> dict[str, bytes]:
    if not isinstance(auths, dict) or not all(isinstance(auth, str) for auth in auths.values()):
        raise InvalidRequest('"RegistryAuths": it is an object of X-Registry-Auth values')
    return {name: decode_credentials(auth) for name, auth in auths.items()}


def _check_distinct(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise refusal(f"{what} {name} is given twice")
        seen.add(name)


def _check_ports_among(services: Iterable[ServiceSpec]) -> None:
    """Two services of one request must not publish the same port, unless both do on nodes."""
    known: dict[PortKey, tuple[str, str]] = {}
    for service in services:
        for mode in ("ingress", "host"):
            for key in named_ports(service, mode):
                name, its_mode = known.setdefault(key, (service.name, mode))
                if name != service.name and (mode, its_mode) != ("host", "host"):
                    raise refusal(f"port '{key[1]}' is published by both {name} and {service.name}")


def ports_on_nodes(state: ClusterState) -> dict[PortKey, list[Service]]:
    """Which services publish a port in the mode `host`."""
    found: dict[PortKey, list[Service]] = {}
    for service in state.services.values():
        for key in named_ports(service.spec, "host"):
            found.setdefault(key, []).append(service)
    return found


def check_ports_free(
    state: ClusterState,
    spec: ServiceSpec,
    present: Service | None,
    leaving: Mapping[ServiceId, set[PortKey]],
    on_nodes: Mapping[PortKey, Iterable[Service]],
) -> None:
    """Raises PortTaken for a port that another service has and does not give back by the same
    request: `leaving` holds what each one does, by its id."""
    own_id = None if present is None else present.id
    ingress, host = named_ports(spec, "ingress"), named_ports(spec, "host")
    for key in (*ingress, *host):
        held = state.ingress_ports.get(f"{key[0]}/{key[1]}")
        holder = None if held is None else state.services.get(held.service_id)
        if holder is not None and holder.id != own_id and key not in leaving.get(holder.id, ()):
            raise port_taken(key, holder, "an ingress port")
    for key in ingress:
        for service in on_nodes.get(key, ()):
            if service.id != own_id and key not in leaving.get(service.id, ()):
                raise port_taken(key, service, "a host-published port")
