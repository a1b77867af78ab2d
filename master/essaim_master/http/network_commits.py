"""How networks are made and removed: chosen from the state, written under the ledger's revision."""

import asyncio
from collections.abc import Iterable

from essaim_master.http.api import GUARDED_ATTEMPTS_MAX, Api
from essaim_master.http.errors import NotPermitted
from essaim_master.http.lookup import find_network
from essaim_master.http.service_commits import settled
from essaim_master.state.cluster_state import AppliedChanges
from essaim_master.state.errors import NetworkInUse
from essaim_master.state.network_choice import NetworkPools, WantedNetwork, chosen_network
from essaim_master.state.network_uses import (
    PREDEFINED_NETWORKS,
    creation_of,
    deletion_of,
    is_leaving,
    may_end_a_use,
    services_on,
    tasks_on,
)
from essaim_shared.errors import Conflict
from essaim_shared.ids import NetworkId, new_id
from essaim_shared.objects import Network

LEAVE_WAIT_S = 20.0
"""How long a removal waits for tasks that are ordered to end: `docker stack rm` removes services
and then, without a pause, their networks. The default grace period and the drain before it fit, and
no client gives up before (ours after 30 s)."""

CREATE_ATTEMPTS_MAX = 16
"""Of a network that is made while others are: each of them moves the ledger once."""


class NetworkCommits:
    def __init__(self, api: Api) -> None:
        self._api = api

    async def find(self, reference: str) -> Network:
        """For changes, as `ServiceCommits.find`."""
        return await settled(self._api, lambda: find_network(self._api.seen, reference))

    def new_id(self) -> NetworkId:
        return NetworkId(new_id(self._api.rng))

    async def create(
        self,
        wanted: WantedNetwork,
        network_id: NetworkId,
        reserved: Iterable[tuple[str, str]] = (),
    ) -> Network:
        """`reserved` as for `chosen_network`. Raises Conflict when the name is taken, SubnetTaken,
        PoolExhausted."""
        api = self._api
        pools: NetworkPools = api.networks.pools
        await api.catch_up()
        for _ in range(CREATE_ATTEMPTS_MAX):
            network, ledger = chosen_network(
                api.state, pools, wanted, network_id, api.clock.wall_ns(), reserved
            )
            if await api.commit(creation_of(api.state, network, ledger)):
                return network
            await api.catch_up()
        raise Conflict("other networks are being made and removed all the time: try again")

    async def remove(self, network: Network, wait_s: float = LEAVE_WAIT_S) -> None:
        """Delete a network that nothing uses, once tasks that are leaving it have ended.

        Raises NetworkInUse, NotFound when it is gone, NotPermitted for a predefined one.
        """
        api = self._api
        if network.name in PREDEFINED_NETWORKS:
            raise NotPermitted(f"{network.name} is a pre-defined network and cannot be removed")
        await api.catch_up()
        await self._wait_until_left(network, wait_s)
        for _ in range(GUARDED_ATTEMPTS_MAX):
            network = find_network(api.state, network.id)
            check_unused(api, network)
            if await api.commit(deletion_of(api.state, network)):
                return
            await api.catch_up()
        raise Conflict(f"network {network.name} is being changed by others: try again")

    async def _wait_until_left(self, network: Network, wait_s: float) -> None:
        """Return when no task that is leaving holds an address any more, one that stays does, or
        the time is up."""
        state, changed = self._api.state, asyncio.Event()

        def is_being_left() -> bool:
            if network.id not in state.networks or any(services_on(state, network)):
                return False
            tasks = list(tasks_on(state, network.id))
            return bool(tasks) and all(is_leaving(state, task) for task in tasks)

        def note(applied: AppliedChanges) -> None:
            if any(may_end_a_use(state, change, network.id) for change in applied.changes):
                changed.set()

        unsubscribe = state.subscribe(note)
        timeout = asyncio.ensure_future(self._api.clock.sleep(wait_s))
        try:
            while is_being_left() and not timeout.done():
                changed.clear()
                waiting = asyncio.ensure_future(changed.wait())
                await asyncio.wait({waiting, timeout}, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
        finally:
            timeout.cancel()
            unsubscribe()


def check_unused(api: Api, network: Network) -> None:
    """Raises NetworkInUse, in swarmkit's words (manager/controlapi/network.go, RemoveNetwork)."""
    state = api.state
    for service in services_on(state, network):
        raise _in_use(network, f"service {service.spec.name} ({service.id})")
    for task in tasks_on(state, network.id):
        raise _in_use(network, f"task {task.name}.{task.id}")


def _in_use(network: Network, user: str) -> NetworkInUse:
    return NetworkInUse(
        f"rpc error: code = FailedPrecondition desc = network {network.name} is in use by {user}"
    )
