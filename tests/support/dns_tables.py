"""Networks as the agent knows them, made of few words, for tests of the name server."""

from msgspec.structs import replace

from essaim_agent.dns.picture import changes
from essaim_agent.dns.table import Table
from essaim_agent.network import NetworkPicture
from essaim_shared.ids import NetworkId, ServiceId, TaskId
from essaim_shared.messages import Endpoint, NodeNetwork, ServiceEntry
from essaim_shared.objects import Attachment

FRONT, BACK, AWAY = NetworkId("net-front"), NetworkId("net-back"), NetworkId("net-away")
"""Two networks of this node, and one that it is not on."""
SUBNETS = {FRONT: "10.1.0.0/24", BACK: "10.2.0.0/24", AWAY: "10.3.0.0/24"}
VIP_SUBNETS = {FRONT: "10.201.0.0/24", BACK: "10.202.0.0/24", AWAY: "10.203.0.0/24"}
NAMES = {FRONT: "front", BACK: "Back", AWAY: "away"}


def network(network_id: NetworkId) -> NodeNetwork:
    subnet = SUBNETS[network_id]
    return NodeNetwork(
        network_id=network_id,
        name=NAMES[network_id],
        vni=int(subnet.split(".")[1]),
        subnet=subnet,
        mtu=1450,
        gateway=subnet.replace("0/24", "1"),
        vip_subnet=VIP_SUBNETS[network_id],
    )


def task_id_of(name: str) -> TaskId:
    """As long as real ones are."""
    return TaskId(name.replace(".", "").ljust(25, "0")[:25])


def endpoint(
    name: str,
    address: str,
    network_id: NetworkId = FRONT,
    state: str = "serving",
    hostname: str = "",
    task_id: TaskId | None = None,
) -> Endpoint:
    """Of the task `SERVICE.SLOT`."""
    service, _, slot = name.partition(".")
    return Endpoint(
        network_id=network_id,
        address=address,
        node_address="192.0.2.1",
        task_id=task_id or task_id_of(name),
        service_id=ServiceId(f"id-{service}"),
        slot=slot,
        hostname=hostname,
        state=state,
    )


def service(
    name: str,
    vip: str = "",
    network_id: NetworkId = FRONT,
    aliases: tuple[str, ...] = (),
    stack: str = "",
) -> ServiceEntry:
    return ServiceEntry(
        service_id=ServiceId(f"id-{name}"),
        network_id=network_id,
        name=name,
        stack=stack,
        aliases=aliases,
        vip=vip,
    )


def task(*places: tuple[NetworkId, str]) -> tuple[Attachment, ...]:
    return tuple(Attachment(network_id=n, address=address) for n, address in places)


def picture(
    *items: Endpoint | ServiceEntry,
    networks: tuple[NetworkId, ...] = (FRONT, BACK),
    tasks: dict[str, tuple[Attachment, ...]] | None = None,
    internal: tuple[NetworkId, ...] = (),
) -> NetworkPicture:
    return NetworkPicture(
        networks={n: replace(network(n), is_internal=n in internal) for n in networks},
        endpoints=frozenset(item for item in items if isinstance(item, Endpoint)),
        services=frozenset(item for item in items if isinstance(item, ServiceEntry)),
        tasks={TaskId(name): places for name, places in (tasks or {}).items()},
    )


def table_of(wanted: NetworkPicture) -> Table:
    table = Table()
    for change in changes(NetworkPicture(), wanted):
        table.apply(change)
    return table
