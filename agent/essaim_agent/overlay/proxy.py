"""The table `essaim-proxy`: service addresses and published ports, from their leads. Pure.

A new connection costs one lookup, then one rule of the service's own chain, however many services
there are. The kernel remembers the choice for the connection's later packets.

Some connections must come back through this node and so get its address:

* those that are sent on to another node, which are marked (`SENT_ON_MARK`);
* a task's own to itself, for whom its own address would be the caller's;
* from 127.0.0.1, which means somebody else in the task's namespace.

For the last kind the kernel must route packets of 127.0.0.0/8 to other devices (`route_localnet`);
the guard drops whatever comes in from outside with such an address (CVE-2020-8558).
"""

from collections.abc import Iterable, Mapping

from essaim_agent.overlay.balance import Lead
from essaim_agent.overlay.host_ports import PortKey
from essaim_agent.overlay.nft_table import Chain, Set, Table
from essaim_agent.overlay.tables import BRIDGE_PREFIX

TABLE = "essaim-proxy"

SENT_ON_MARK = 0x1000_0000
"""The bit of a connection's mark that says: sent on to another node by us. Calico, Cilium, Docker
and Kubernetes mark packets, or connections with lower bits."""

GUARD_PRIORITY = -300
"""`raw`: before connections are tracked and addresses translated back."""
DESTINATION_PRIORITY = -101
"""Behind ports in mode `host` (`host_ports`), before Docker's and others' rules at `dstnat`."""
REFUSAL_PRIORITY = 0
SOURCE_PRIORITY = 97
"""Before all other source translation of ours."""

AFFINITY_SEED = 0x65737361
"""The same on all nodes, so that they lead a client the same way."""

_MARK = f"{SENT_ON_MARK:#010x}"
_LOOPBACK = "127.0.0.0/8"


def lead_rule(lead: Lead, protocol: str = "") -> str:
    """Of the service's chain. The shares must not be empty."""
    places = [address for address, share in lead.shares for _ in range(share)]
    if len(places) == 1:
        [place] = places
    else:
        by = f"jhash ip saddr mod {len(places)} seed {AFFINITY_SEED:#x}"
        if not lead.has_affinity:
            by = f"numgen random mod {len(places)}"
        place = f"{by} map {{ {', '.join(f'{i} : {p}' for i, p in enumerate(places))} }}"
    if lead.is_sent_on:
        return f"ct mark set ct mark or {_MARK} dnat to {place}"
    if lead.target_port:
        return f"meta l4proto {protocol} dnat to {place}:{lead.target_port}"
    return f"dnat to {place}"


class ProxyTable:
    """Makes the table from leads; the text of a lead that stays is not made again."""

    def __init__(self) -> None:
        self._vips: dict[str, tuple[Lead, Chain]] = {}
        self._ports: dict[PortKey, tuple[Lead, Chain]] = {}

    def table(
        self,
        vips: Mapping[str, Lead],
        ports: Mapping[PortKey, Lead],
        vip_subnets: Mapping[str, str],
        local_addresses: Iterable[str],
        taken: frozenset[PortKey] = frozenset(),
        has_connections: bool = False,
    ) -> Table:
        """`vip_subnets` by bridge; `local_addresses` of tasks on this node; `taken` ports are
        left to the processes that have them. With `has_connections` the chains stand also for
        ports that nobody serves: the kernel translates what is under way only as long as it has
        some chain for that (nf_nat_core.c, nf_nat_unregister_fn)."""
        self._vips = {
            vip: _known(self._vips.get(vip), lead, "") for vip, lead in vips.items() if lead.shares
        }
        self._ports = {
            key: _known(self._ports.get(key), lead, key[0])
            for key, lead in ports.items()
            if lead.shares and key not in taken
        }
        if not (self._vips or self._ports or has_connections or any(vip_subnets.values())):
            return Table(TABLE)
        chains = {f"vip-{vip}": chain for vip, (_, chain) in self._vips.items()}
        chains |= {
            f"port-{protocol}-{number}": chain
            for (protocol, number), (_, chain) in self._ports.items()
        }
        sets = {
            "vips": Set(
                "iifname . ip daddr : verdict",
                {
                    f'"{lead.bridge}" . {vip}': f"goto vip-{vip}"
                    for vip, (lead, _) in self._vips.items()
                },
            ),
            "ports": Set(
                "meta l4proto . th dport : verdict",
                {f"{p} . {n}": f"goto port-{p}-{n}" for p, n in self._ports},
            ),
            "selves": Set(
                "ip saddr . ip daddr",
                {f"{address} . {address}": "" for address in sorted(set(local_addresses))},
            ),
        }
        return Table(TABLE, {**chains, **_base(vip_subnets, bool(self._ports))}, sets)

    @property
    def captured(self) -> list[PortKey]:
        """Ports that lead somewhere, by the last table."""
        return list(self._ports)


def _known(held: tuple[Lead, Chain] | None, lead: Lead, protocol: str) -> tuple[Lead, Chain]:
    if held is not None and (held[0] is lead or held[0] == lead):
        return held
    return lead, Chain((lead_rule(lead, protocol),))


def _base(vip_subnets: Mapping[str, str], has_ports: bool) -> dict[str, Chain]:
    to_ports = "fib daddr type local meta l4proto . th dport vmap @ports"
    to_tasks = f'oifname "{BRIDGE_PREFIX}*" ct status dnat'
    refused = sorted(set(vip_subnets.values()) - {""})
    # The chain of the guard is always there: a new hook would make the whole table anew.
    return {
        "guard": Chain(
            (
                f'iifname != "lo" ip saddr {_LOOPBACK} drop',
                f'iifname != "lo" ip daddr {_LOOPBACK} drop',
            )
            if has_ports
            else (),
            f"filter hook prerouting priority {GUARD_PRIORITY}",
        ),
        "prerouting": Chain(
            ("iifname . ip daddr vmap @vips", to_ports),
            f"nat hook prerouting priority {DESTINATION_PRIORITY}",
        ),
        "output": Chain((to_ports,), f"nat hook output priority {DESTINATION_PRIORITY}"),
        "unserved": Chain(
            # What still goes to a service address was not led anywhere: say so at once. What came
            # in by a bridge came from a task, and service addresses of any network are no place
            # out in the world.
            (
                f'iifname != "{BRIDGE_PREFIX}*" accept',
                *(f"ip daddr {subnet} reject" for subnet in refused),
            ),
            f"filter hook prerouting priority {REFUSAL_PRIORITY}",
        ),
        "postrouting": Chain(
            (
                f"ct mark and {_MARK} == {_MARK} masquerade",
                f"{to_tasks} ip saddr {_LOOPBACK} masquerade",
                f"{to_tasks} ip saddr . ip daddr @selves masquerade",
            ),
            f"nat hook postrouting priority {SOURCE_PRIORITY}",
        ),
    }
