"""What a master's configuration says of networks and ports, as the API needs it. Pure."""

import msgspec

from essaim_master.config import MasterConfig, split_address
from essaim_master.state.network_choice import NetworkPools

PORTS_OF_URLS = {"nats": 4222, "tls": 4222, "ws": 80, "wss": 443}


class NetworkSettings(msgspec.Struct, frozen=True, kw_only=True):
    pools: NetworkPools = NetworkPools()
    udp_port: int = 0
    """To which nodes send VXLAN packets; 0: not known."""
    own_ports: dict[str, str] = {}
    """`tcp/7400` → what of Essaim listens there, on this host or others. Those of the masters
    stand in the state."""


def network_settings(config: MasterConfig) -> NetworkSettings:
    own = {f"udp/{config.overlay.udp_port}": "packets between the nodes"}
    listens = {"the API": config.http_listen, "the masters": config.raft_listen}
    if config.kv_listen is not None:
        listens["the key-value protocol"] = config.kv_listen
    for use, address in listens.items():
        own[f"tcp/{split_address(address)[1]}"] = use
    for server in config.bus_servers:
        own[f"tcp/{_port_of_url(server)}"] = "the bus"
    return NetworkSettings(
        pools=config.overlay.network_pools, udp_port=config.overlay.udp_port, own_ports=own
    )


def _port_of_url(url: str) -> int:
    """Of a bus server, `nats://HOST:PORT`."""
    scheme, _, rest = url.rpartition("://")
    host = rest.partition("/")[0].rpartition("@")[2]
    port = host.rpartition(":")[2]
    return int(port) if port.isdigit() else PORTS_OF_URLS.get(scheme, PORTS_OF_URLS["nats"])
