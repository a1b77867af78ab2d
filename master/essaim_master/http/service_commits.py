"""How a handler finds the service that it changes, and writes it under the client's version."""

from collections.abc import Callable

from essaim_master.http.api import Api
from essaim_master.http.lookup import find_service
from essaim_master.state.keys import service_key
from essaim_master.state.service_changes import service_writes
from essaim_master.state.writes import Writes
from essaim_shared.errors import AmbiguousName, NotFound, VersionConflict
from essaim_shared.objects import Service


class ServiceCommits:
    def __init__(self, api: Api) -> None:
        self._api = api

    async def find(self, reference: str) -> Service:
        """What this master finds, after it caught up if that is nothing; for changes, whose
        write guards itself. Raises NotFound, AmbiguousName."""
        try:
            return find_service(self._api.state, reference)
        except (NotFound, AmbiguousName):
            await self._api.catch_up()
            return find_service(self._api.state, reference)

    async def at_version(self, reference: str, version: int) -> Service:
        """The service if its version is the one the client saw. Raises VersionConflict.

        This master may lag behind the one that the client read from, so it catches up before it
        refuses; if it is already there, the write's own compare is guard enough.
        """
        state = self._api.state
        service = await self.find(reference)
        if state.modified(service_key(service.id)) != version:
            await self._api.catch_up()
            service = find_service(state, reference)
            if state.modified(service_key(service.id)) != version:
                raise VersionConflict
        return service

    async def commit(
        self,
        before: Service,
        after: Service,
        version: int,
        add: Callable[[Writes], None] = lambda writes: None,
    ) -> None:
        """Write a change of a service with its history, and what `add` puts beside it. Raises
        VersionConflict."""
        writes = service_writes(self._api.state.revisions_of(before.id), before, after)
        add(writes)
        writes.expect(service_key(before.id), version)
        if not await self._api.commit(writes):
            raise VersionConflict
