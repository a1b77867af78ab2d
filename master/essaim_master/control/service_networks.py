"""The networks that the tasks of a spec are on. Pure."""

from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.network_uses import DEFAULT_NETWORK
from essaim_shared.ids import NetworkId
from essaim_shared.objects import Network
from essaim_shared.spec import TaskSpec


class ServiceNetworks:
    """As one slice of work finds them."""

    def __init__(self, state: ClusterState) -> None:
        self._networks = state.networks
        default = state.network_named(DEFAULT_NETWORK)
        self._default = () if default is None else (default,)

    def of(self, spec: TaskSpec) -> tuple[tuple[Network, ...], str]:
        """The overlay networks in the order in which the spec names them, the default one where
        it names none; and why one of them cannot be had, in words, or nothing. A task on the
        nodes' own network has no place on any."""
        if not spec.networks:
            return self._default, ""
        found: dict[NetworkId, Network] = {}
        for attachment in spec.networks:
            network = self._networks.get(NetworkId(attachment.target))
            if network is None:
                return tuple(found.values()), f"network {attachment.target} does not exist"
            if network.driver == "overlay":
                found[network.id] = network
        return tuple(found.values()), ""
