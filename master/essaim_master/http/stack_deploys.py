"""Carries a stack out: everything is checked before the first write, then services that are not
named any more go, networks, secrets and configs come, and services are made or changed. What is as
it should be is left alone, so deploying again goes on where a first time was broken off."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal

from essaim_master.http.api import GUARDED_ATTEMPTS_MAX, Api
from essaim_master.http.lookup import find_network
from essaim_master.http.network_commits import NetworkCommits
from essaim_master.http.scope import STACK_LABEL, SeenState
from essaim_master.http.service_commits import ServiceCommits, check_room
from essaim_master.http.service_images import ImageRequest, ServiceImages
from essaim_master.http.service_networks import NetworkLookup, check_published_ports
from essaim_master.http.service_payloads import StatePayloads
from essaim_master.http.service_requests import created_service, updated_service
from essaim_master.http.stack_payloads import (
    PayloadPlan,
    StackPayloads,
    removed,
    stack_payloads,
)
from essaim_master.http.stack_requests import (
    StackRequest,
    check_ports_free,
    naming,
    ports_on_nodes,
)
from essaim_master.http.validation.words import refusal
from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.errors import NetworkInUse, PayloadInUse
from essaim_master.state.keys import service_key
from essaim_master.state.network_choice import WantedNetwork, chosen_network
from essaim_master.state.network_uses import services_on
from essaim_master.state.port_claims import PortKey, named_ports
from essaim_master.state.writes import Writes
from essaim_shared.errors import Conflict, EssaimError, NotFound, VersionConflict
from essaim_shared.ids import ServiceId, new_id
from essaim_shared.limits import NETWORKS_MAX
from essaim_shared.objects import Network, Service
from essaim_shared.payload_objects import PAYLOAD_KINDS
from essaim_shared.spec import ServiceSpec

Action = Literal["created", "updated", "unchanged", "removed"]


@dataclass(slots=True)
class ServicePlan:
    """One service of the request, checked."""

    spec: ServiceSpec
    """With its image's digest."""
    asked: ImageRequest
    present: Service | None
    planned: Service

    @property
    def is_unchanged(self) -> bool:
        return self.present is not None and self.present.spec == self.planned.spec

    @property
    def taken(self) -> set[PortKey]:
        present = set() if self.present is None else _ports_of(self.present.spec)
        return _ports_of(self.planned.spec) - present

    @property
    def given_back(self) -> set[PortKey]:
        if self.present is None:
            return set()
        return _ports_of(self.present.spec) - _ports_of(self.planned.spec)


@dataclass(slots=True)
class StackPlan:
    networks: dict[str, Network] = field(default_factory=dict)
    """By name: those that are there, and those to come, with the id that they will have."""
    missing: list[WantedNetwork] = field(default_factory=list)
    payloads: list[PayloadPlan] = field(default_factory=list)
    services: list[ServicePlan] = field(default_factory=list)
    removed: list[Service] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class StackDeploys:
    def __init__(self, api: Api) -> None:
        self._api = api
        self._services = ServiceCommits(api)
        self._networks = NetworkCommits(api)
        self._images = ServiceImages(api)
        self._payloads = StackPayloads(api)

    async def deploy(
        self, stack: str, request: StackRequest, asked: ImageRequest
    ) -> dict[str, Any]:
        """Raises what is wrong with the first object that cannot be, before anything is written;
        afterwards only what others did meanwhile."""
        plan = await self._plan(stack, request, asked)
        services = []
        for service in plan.removed:
            await self._remove_service(service)
        for wanted in plan.missing:
            reserved = named_subnets(plan.missing, wanted)
            await self._networks.create(wanted, plan.networks[wanted.name].id, reserved)
        payloads = [(one, await self._payloads.carry_out(one)) for one in plan.payloads]
        for one in in_order_of_ports(plan.services):
            services.append(await self._carry_out(one, plan))
        order = {one.spec.name: number for number, one in enumerate(plan.services)}
        services.sort(key=lambda shown: order[shown["Name"]])
        services += [_service_action(service, "removed") for service in plan.removed]
        created = {wanted.name for wanted in plan.missing}
        return {
            "Networks": [
                {"Name": name, "Id": network.id, "Created": name in created}
                for name, network in plan.networks.items()
            ],
            "Secrets": [shown for one, shown in payloads if one.wanted.kind == "secret"],
            "Configs": [shown for one, shown in payloads if one.wanted.kind == "config"],
            "Services": services,
            "Warnings": plan.warnings or None,
        }

    async def remove(self, stack: str) -> dict[str, Any]:
        """Remove the services, then secrets and configs, then the networks, once their tasks have
        left them. Raises NotFound, Conflict when tasks still hold on to a network after a while
        (asking again goes on), and NetworkInUse or PayloadInUse when a service outside of the
        stack uses something of it (asking again is vain).
        """
        await self._api.catch_up()
        state = self._api.state
        services, networks = services_of(state, stack), networks_of(state, stack)
        secrets, configs = (stack_payloads(state, kind, stack) for kind in PAYLOAD_KINDS)
        if not (services or networks or secrets or configs):
            raise NotFound(f"nothing found in stack: {stack}")
        for service in services:
            await self._remove_service(service)
        kept = await self._payloads.remove((*secrets, *configs))
        outcomes = await asyncio.gather(
            *(self._networks.remove(network) for network in networks), return_exceptions=True
        )
        for network, outcome in zip(networks, outcomes, strict=True):
            if isinstance(outcome, NetworkInUse):
                raise _kept(self._api.state, stack, network, outcome)
            if isinstance(outcome, BaseException) and not isinstance(outcome, NotFound):
                raise outcome
        if kept is not None:
            raise PayloadInUse(_told(stack, kept, "remove that service, then the stack again"))
        return {
            "Networks": [{"Name": network.name, "Id": network.id} for network in networks],
            "Secrets": removed(secrets),
            "Configs": removed(configs),
            "Services": [_service_action(service, "removed") for service in services],
        }

    # The plan.

    async def _plan(self, stack: str, request: StackRequest, asked: ImageRequest) -> StackPlan:
        await self._api.catch_up()
        plan = StackPlan()
        await self._plan_networks(plan, stack, request.networks)
        present = {service.spec.name: service for service in services_of(self._api.state, stack)}
        pinned = await asyncio.gather(
            *(
                self._pinned(spec, present.get(spec.name), request, asked)
                for spec in request.services
            )
        )
        # The registries took their time.
        await self._api.catch_up()
        plan.payloads = self._payloads.plan(stack, request.payloads)
        for spec, image, warnings in pinned:
            with naming("service", {"Name": spec.name}):
                plan.services.append(self._plan_service(plan, stack, spec, image))
            plan.warnings += warnings
            await self._api.clock.sleep(0)
        if request.prune:
            named = {spec.name for spec in request.services}
            plan.removed = [
                service
                for service in services_of(self._api.state, stack)
                if service.spec.name not in named
            ]
        missing = sum(one.present is None for one in plan.services)
        check_room(self._api.state, missing - len(plan.removed))
        self._check_ports(plan)
        return plan

    async def _plan_networks(
        self, plan: StackPlan, stack: str, networks: Iterable[WantedNetwork]
    ) -> None:
        state = self._api.state
        for wanted in networks:
            present = state.network_named(wanted.name)
            if present is None:
                plan.missing.append(wanted)
            elif present.labels.get(STACK_LABEL) != stack:
                raise Conflict(
                    f"network with name {wanted.name} already exists, and is not of this stack"
                )
            else:
                plan.networks[wanted.name] = present
        if len(state.networks) + len(plan.missing) > NETWORKS_MAX:
            raise Conflict(f"with these there are more than {NETWORKS_MAX} networks")
        chosen: list[tuple[str, str]] = []
        for wanted in plan.missing:
            with naming("network", {"Name": wanted.name}):
                network, _ = chosen_network(
                    state,
                    self._api.networks.pools,
                    wanted,
                    self._networks.new_id(),
                    self._api.clock.wall_ns(),
                    [*named_subnets(plan.missing, wanted), *chosen],
                )
            plan.networks[wanted.name] = network
            chosen += [(text, f"network {wanted.name}") for text in _ranges_of(network)]
            await self._api.clock.sleep(0)  # each costs a look at all networks and nodes

    async def _pinned(
        self,
        spec: ServiceSpec,
        present: Service | None,
        request: StackRequest,
        asked: ImageRequest,
    ) -> tuple[ServiceSpec, ImageRequest, list[str]]:
        image = ImageRequest(
            auth=request.auths.get(spec.name, b""),
            auth_from_previous=False,
            resolve=asked.resolve,
        )
        if present is None:
            pinned, warnings = await self._images.pinned(image, spec)
        else:
            image = image.of_change(present.spec, spec)
            pinned, warnings = await self._images.pinned(image, spec, present.spec, present.id)
        return pinned, image, warnings

    def _plan_service(
        self, plan: StackPlan, stack: str, spec: ServiceSpec, image: ImageRequest
    ) -> ServicePlan:
        api = self._api
        present = api.state.service_named(spec.name)
        if present is not None and present.spec.labels.get(STACK_LABEL) != stack:
            raise Conflict(f"service {spec.name} already exists, and is not of this stack")
        planned = self._made(plan, spec, present)
        api.check_spec(planned.spec)
        before = None if present is None else present.spec
        check_published_ports(api.state, api.networks, before, planned.spec)
        # Whether credentials can be sealed at all is known before anything is written.
        self._images.write_credentials(image, Writes(), planned.id)
        return ServicePlan(spec, image, present, planned)

    def _made(self, plan: StackPlan, spec: ServiceSpec, present: Service | None) -> Service:
        state, seen = self._api.state, self._api.seen
        now_ns, find = self._api.clock.wall_ns(), _lookup(plan.networks, seen)
        payloads = StatePayloads(state, (one.planned for one in plan.payloads), seen=seen)
        if present is None:
            service_id = ServiceId(new_id(self._api.rng))
            return created_service(spec, service_id, now_ns, find, payloads)
        return updated_service(present, spec, now_ns, find, payloads)

    def _check_ports(self, plan: StackPlan) -> None:
        """And that they can pass from one to the other, service by service."""
        leaving = {service.id: _ports_of(service.spec) for service in plan.removed}
        for one in plan.services:
            if one.present is not None:
                leaving[one.present.id] = one.given_back
        on_nodes = ports_on_nodes(self._api.state)
        for one in plan.services:
            with naming("service", {"Name": one.spec.name}):
                check_ports_free(self._api.state, one.planned.spec, one.present, leaving, on_nodes)
        in_order_of_ports(plan.services)

    # The writes.

    async def _carry_out(self, one: ServicePlan, plan: StackPlan) -> dict[str, Any]:
        if one.is_unchanged:
            return _service_action(one.planned, "unchanged")
        with naming("service", {"Name": one.spec.name}):
            if one.present is None:
                made = await self._services.create(
                    lambda attempt: self._made(plan, one.spec, None),
                    True,
                    lambda writes, service: self._images.write_credentials(
                        one.asked, writes, service.id
                    ),
                )
                return _service_action(made, "created")
            await self._update(one, one.present.id, plan)
            return _service_action(one.planned, "updated")

    async def _update(self, one: ServicePlan, service_id: ServiceId, plan: StackPlan) -> None:
        """Whatever version the service has by now: the stack says how it is to be."""
        state = self._api.state
        for _ in range(GUARDED_ATTEMPTS_MAX):
            present = state.services.get(service_id)
            if present is None:
                raise NotFound(f"service {one.spec.name} was removed meanwhile: deploy again")
            if self._made(plan, one.spec, present).spec == present.spec:
                return  # the leader has brought it the new data of a secret already
            version = state.modified(service_key(service_id))
            try:
                await self._services.commit(
                    present,
                    version,
                    lambda present=present: self._made(plan, one.spec, present),  # type: ignore[misc]
                    lambda writes: self._images.write_credentials(one.asked, writes, service_id),
                    is_checked=True,
                )
                return
            except VersionConflict:
                continue
        raise Conflict(f"service {one.spec.name} is being changed by others: try again")

    async def _remove_service(self, service: Service) -> None:
        try:
            await self._services.remove(service)
        except NotFound:
            return


def services_of(state: ClusterState, stack: str) -> list[Service]:
    return [one for one in state.services.values() if one.spec.labels.get(STACK_LABEL) == stack]


def networks_of(state: ClusterState, stack: str) -> list[Network]:
    return [one for one in state.networks.values() if one.labels.get(STACK_LABEL) == stack]


def in_order_of_ports(services: Sequence[ServicePlan]) -> list[ServicePlan]:
    """Whoever gives a port back comes before whoever takes it. Raises InvalidRequest where they
    exchange them: each would wait for the other."""
    by_name = {one.spec.name: one for one in services}
    givers: dict[PortKey, list[str]] = {}
    for one in services:
        for key in one.given_back:
            givers.setdefault(key, []).append(one.spec.name)
    waits_for = {
        name: [giver for key in sorted(one.taken) for giver in givers.get(key, ())]
        for name, one in by_name.items()
    }
    try:
        return [by_name[name] for name in TopologicalSorter(waits_for).static_order()]
    except CycleError as cycle:
        names = ", ".join(sorted(set(cycle.args[1])))
        raise refusal(
            f"services {names} exchange their published ports: each of them waits for another "
            "one's; deploy one of them without its ports first"
        ) from None


def named_subnets(missing: Iterable[WantedNetwork], but: WantedNetwork) -> list[tuple[str, str]]:
    """The subnets that others of the networks to come ask for, and whose they are."""
    return [
        (wanted.subnet, f"network {wanted.name}")
        for wanted in missing
        if wanted.subnet and wanted is not but
    ]


def _ranges_of(network: Network) -> tuple[str, str]:
    return network.subnet, network.vip_subnet


def _ports_of(spec: ServiceSpec) -> set[PortKey]:
    """In whatever mode."""
    return {*named_ports(spec, "ingress"), *named_ports(spec, "host")}


def _lookup(planned: Mapping[str, Network], state: SeenState) -> NetworkLookup:
    """The stack's own networks by their names, those of the cluster by whatever names them."""

    def find(reference: str) -> Network:
        return planned.get(reference) or find_network(state, reference)

    return find


def _service_action(service: Service, action: Action) -> dict[str, str]:
    return {"Name": service.spec.name, "Id": service.id, "Action": action}


def _kept(state: ClusterState, stack: str, network: Network, error: NetworkInUse) -> EssaimError:
    if any(services_on(state, network)):
        return NetworkInUse(_told(stack, error, "remove that service, then the stack again"))
    return Conflict(_told(stack, error, "remove the stack again once that has ended"))


def _told(stack: str, error: EssaimError, what_next: str) -> str:
    reason = str(error).rpartition(" desc = ")[2]
    return f"stack {stack}: its services are removed, but {reason}; {what_next}"
