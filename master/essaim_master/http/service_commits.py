"""How a handler finds the service that it changes, and writes it: under the client's version, with
the marks of its networks and the claims of its ports."""

from collections.abc import Callable
from typing import TypeVar

from essaim_master.http.api import GUARDED_ATTEMPTS_MAX, Api
from essaim_master.http.lookup import find_service
from essaim_master.http.service_networks import check_published_ports
from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.errors import PortTaken, SubnetTaken, UnknownPayload
from essaim_master.state.keys import service_key
from essaim_master.state.network_uses import mark_networks
from essaim_master.state.payload_uses import mark_payloads
from essaim_master.state.port_claims import claim_ports
from essaim_master.state.service_changes import service_writes
from essaim_master.state.writes import Writes
from essaim_shared.errors import AmbiguousName, Conflict, NotFound, VersionConflict
from essaim_shared.limits import SERVICES_MAX
from essaim_shared.objects import Service

NAME_ATTEMPTS_MAX = 10
"""Draws of a random name until one is free."""

T = TypeVar("T")


def _nothing_more(writes: Writes) -> None:
    pass


async def settled(api: Api, plan: Callable[[], T]) -> T:
    """What is planned from the state. This master may lag behind the one that the client spoke to
    before, so it catches up before it says that something is missing or taken."""
    try:
        return plan()
    except (NotFound, AmbiguousName, PortTaken, SubnetTaken, UnknownPayload):
        await api.catch_up()
        return plan()


class ServiceCommits:
    def __init__(self, api: Api) -> None:
        self._api = api

    async def find(self, reference: str) -> Service:
        """What this master finds, after it caught up if that is nothing; for changes, whose
        write guards itself. Raises NotFound, AmbiguousName."""
        return await settled(self._api, lambda: find_service(self._api.seen, reference))

    async def at_version(self, reference: str, version: int) -> Service:
        """The service if its version is the one the client saw. Raises VersionConflict.

        This master may lag behind the one that the client read from, so it catches up before it
        refuses; if it is already there, the write's own compare is guard enough.
        """
        state = self._api.state
        service = await self.find(reference)
        if state.modified(service_key(service.id)) != version:
            await self._api.catch_up()
            service = find_service(self._api.seen, reference)
            if state.modified(service_key(service.id)) != version:
                raise VersionConflict
        return service

    async def create(
        self,
        make: Callable[[int], Service],
        has_name: bool,
        add: Callable[[Writes, Service], None],
    ) -> Service:
        """Write a new service. `make` is given the number of the attempt, for a random name.

        Raises Conflict when the name is taken or there are too many, PortTaken, NotFound, and what
        `make` raises.
        """
        api = self._api

        def planned(attempt: int) -> tuple[Service, Writes]:
            check_room(api.state, 1)
            service = make(attempt)
            check_published_ports(api.state, api.networks, None, service.spec)
            writes = self._writes(None, service)
            writes.claim_name(service)
            add(writes, service)
            return service, writes

        for attempt in range(NAME_ATTEMPTS_MAX):
            service, writes = await settled(api, lambda number=attempt: planned(number))  # type: ignore[misc]
            if await api.commit(writes):
                return service
            await api.catch_up()
            if has_name and api.state.service_named(service.spec.name) is not None:
                break
        if api.state.service_named(service.spec.name) is None:
            raise _busy(service)  # it was a port or a network each time
        raise Conflict(
            "rpc error: code = AlreadyExists desc = name conflicts with an existing object: "
            f"service {service.spec.name} already exists"
        )

    async def commit(
        self,
        before: Service,
        version: int,
        change: Callable[[], Service],
        add: Callable[[Writes], None] = _nothing_more,
        is_checked: bool = False,
    ) -> None:
        """Write a change of a service with its history, and what `add` puts beside it.

        `is_checked`: ports that are published from now on are refused where somebody listens on
        them; a rollback takes back what it had. Raises VersionConflict, PortTaken, NotFound, and
        what `change` raises.
        """
        api = self._api

        def planned() -> Writes:
            after = change()
            if is_checked:
                check_published_ports(api.state, api.networks, before.spec, after.spec)
            writes = self._writes(before, after)
            add(writes)
            writes.expect(service_key(before.id), version)
            return writes

        for _ in range(GUARDED_ATTEMPTS_MAX):
            if await api.commit(await settled(api, planned)):
                return
            await api.catch_up()
            if api.state.modified(service_key(before.id)) != version:
                raise VersionConflict
        raise _busy(before)

    async def remove(self, service: Service) -> None:
        """Delete a service with what stands beside it. Raises NotFound when it is gone."""
        api = self._api
        for _ in range(GUARDED_ATTEMPTS_MAX):
            writes = Writes()
            writes.delete_service(service, api.state.revisions_of(service.id))
            claim_ports(writes, api.state, service, None)
            if await api.commit(writes):
                return
            await api.catch_up()
            # By its id now: a successor of the same name is another service.
            service = find_service(api.state, service.id)
        raise _busy(service)

    def _writes(self, before: Service | None, after: Service) -> Writes:
        state = self._api.state
        revisions = {} if before is None else state.revisions_of(before.id)
        writes = service_writes(revisions, before, after)
        mark_networks(writes, state, before, after)
        mark_payloads(writes, state, before, after)
        claim_ports(writes, state, before, after)
        return writes


def check_room(state: ClusterState, more: int) -> None:
    """Raises Conflict. Those who come at the same moment may pass the limit by their number."""
    if len(state.services) + more > SERVICES_MAX:
        raise Conflict(
            f"the cluster keeps at most {SERVICES_MAX} services, and has {len(state.services)}: "
            "remove some"
        )


def _busy(service: Service) -> Conflict:
    return Conflict(
        f"service {service.spec.name}, or a port, network, secret or config that it needs, is "
        "being changed by others: try again"
    )
