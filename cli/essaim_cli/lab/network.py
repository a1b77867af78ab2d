"""The cables of a lab: namespaces, a bridge, one veth pair per host. All through iproute2.

machine ── eslab… ─┐
h1 ─ eth0 ── h1 ───┤ br0     (namespace essaim-NAME-switch)
h2 ─ eth0 ── h2 ───┘
"""

import asyncio
import ipaddress
import json
from pathlib import Path

from essaim_cli.lab.errors import EngineImpossible, LabError
from essaim_cli.lab.external import run_command
from essaim_cli.lab.topology import SUBNETS_MAX, Host, Topology

NAMESPACES = Path("/run/netns")

_HOST_SYSCTLS = (
    # A namespace inherits the machine's ip_forward; real hosts start with 0, and engines then
    # set the FORWARD policy to DROP. A lab that hides this hides the commonest fault.
    ("net/ipv4/ip_forward", "0"),
    ("net/ipv6/conf/all/forwarding", "0"),
    # Full sets of permanent neighbours are larger than the default table.
    ("net/ipv4/neigh/default/gc_thresh3", "16384"),
)
_SWITCH_SYSCTLS = (("net/bridge/bridge-nf-call-iptables", "0"),)


async def check_namespaces_work() -> None:
    """Raise EngineImpossible when this machine does not let us make network namespaces."""
    try:
        await run_command(["unshare", "--net", "--mount", "true"])
    except LabError as refusal:
        raise EngineImpossible(f"no namespaces here: {refusal}") from refusal


async def free_subnet_number(taken: frozenset[int]) -> int:
    """The first K whose 10.98.K.0/24 neither the machine's routes nor other labs use."""
    routes = json.loads(await run_command(["ip", "-json", "-4", "route", "show"]) or "[]")
    used = [
        ipaddress.IPv4Network(route["dst"], strict=False)
        for route in routes
        if route["dst"] != "default"
    ]
    for number in range(SUBNETS_MAX):
        subnet = ipaddress.IPv4Network(f"10.98.{number}.0/24")
        if number not in taken and not any(subnet.overlaps(network) for network in used):
            return number
    raise LabError(f"all {SUBNETS_MAX} subnets from 10.98.0.0/24 on are in use: end another lab")


async def lay_cables(topology: Topology) -> None:
    """Make every namespace, the bridge and the veth pairs. Nothing of them may exist yet."""
    await run_command(
        ["ip", "-batch", "-"],
        input_text="".join(f"netns add {name}\n" for name in topology.namespaces),
    )
    switch = topology.switch_namespace
    machine = topology.machine_link
    lines = ["link add br0 type bridge", "link set br0 up"]
    for host in topology.hosts:
        lines += [
            f"link add {host.switch_port} type veth peer name eth0 netns {host.namespace}",
            f"link set {host.switch_port} master br0 up",
        ]
    await run_command(["ip", "-n", switch, "-batch", "-"], input_text="\n".join(lines) + "\n")
    await asyncio.gather(
        _connect_machine(switch, machine, topology.machine_address),
        _set_sysctls(switch, _SWITCH_SYSCTLS),
        *(_configure_host(host) for host in topology.hosts),
    )


async def set_cable(topology: Topology, host: Host, *, connected: bool) -> None:
    """Plug a host's cable in, or pull it. The host itself sees its carrier go."""
    await run_command(
        ["ip", "-n", topology.switch_namespace, "link", "set", host.switch_port]
        + (["up"] if connected else ["down"])
    )


async def cut_hosts(topology: Topology) -> frozenset[str]:
    """Names of the hosts whose cable is pulled."""
    text = await run_command(["ip", "-n", topology.switch_namespace, "-json", "link", "show"])
    ports = {host.switch_port for host in topology.hosts}
    return frozenset(
        link["ifname"]
        for link in json.loads(text)
        if link["ifname"] in ports and "UP" not in link["flags"]
    )


async def _connect_machine(switch: str, link: str, address: str) -> None:
    await run_command(
        ["ip", "-batch", "-"],
        input_text=(
            f"link add {link} type veth peer name machine netns {switch}\n"
            f"address add {address}/24 dev {link}\n"
            f"link set {link} up\n"
        ),
    )
    await run_command(
        ["ip", "-n", switch, "-batch", "-"], input_text="link set machine master br0 up\n"
    )


async def _configure_host(host: Host) -> None:
    """Address, loopback and kernel settings; no default route: a lab reaches nothing outside."""
    await run_command(
        ["ip", "-n", host.namespace, "-batch", "-"],
        input_text=(f"link set lo up\naddress add {host.address}/24 dev eth0\nlink set eth0 up\n"),
    )
    await _set_sysctls(host.namespace, _HOST_SYSCTLS)


async def _set_sysctls(namespace: str, settings: tuple[tuple[str, str], ...]) -> None:
    """Write settings that exist; a kernel without bridge filtering lacks some, rightly."""
    script = "; ".join(
        f"[ ! -e /proc/sys/{key} ] || echo {value} > /proc/sys/{key}" for key, value in settings
    )
    await run_command(["nsenter", f"--net={NAMESPACES / namespace}", "sh", "-c", script])
