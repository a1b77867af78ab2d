"""Percentages from two samples, and which of a host's interfaces count as its own. Pure."""

from collections.abc import Mapping, Sequence
from typing import Final

_BUSY_MODES: Final = ("user", "nice", "system", "irq", "softirq", "steal")
_IDLE_MODES: Final = ("idle", "iowait")
"""The fields of /proc/stat's cpu lines, proc(5); `guest` is contained in `user`."""

_DOCKER_SYSTEM_MODES: Final = ("user", "nice", "system", "idle", "iowait", "irq", "softirq")

_FOREIGN_INTERFACES: Final = (
    "lo",
    "veth",
    "docker",
    "br-",
    "es-",  # our overlay's bridges, VXLAN devices and container ports
    "vxlan",
    "virbr",
    "cni",
    "flannel",
    "cali",
    "tunl",
    "sit",
    "ip6tnl",
    "gre",
    "erspan",
)


def is_host_interface(name: str) -> bool:
    """Whether traffic of this interface is the host's own.

    Bridges, tunnels and the host's ends of containers carry traffic that passes a physical
    interface too, and would be counted twice. Names decide, for /sys/class/net shows the
    interfaces of the namespace that mounted it, which need not be the agent's.
    """
    return not name.startswith(_FOREIGN_INTERFACES)


def total_of(cpus: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Seconds by mode over all CPUs."""
    total: dict[str, float] = {}
    for cpu in cpus:
        for mode, seconds in cpu.items():
            total[mode] = total.get(mode, 0.0) + seconds
    return total


def busy_s(total: Mapping[str, float]) -> float:
    return sum(total.get(mode, 0.0) for mode in _BUSY_MODES)


def docker_system_s(total: Mapping[str, float]) -> float:
    """Docker's `system_cpu_usage`: the first seven fields of /proc/stat's first line."""
    return sum(total.get(mode, 0.0) for mode in _DOCKER_SYSTEM_MODES)


def host_cpu_percent(before: Mapping[str, float], now: Mapping[str, float]) -> float:
    """Of all CPUs together, 0 to 100; 0 when no time has passed."""
    busy = busy_s(now) - busy_s(before)
    idle = sum(now.get(mode, 0.0) - before.get(mode, 0.0) for mode in _IDLE_MODES)
    elapsed = busy + idle
    # The kernel's iowait may go back a little (proc(5)), so both ends are held.
    return min(100.0, max(0.0, 100.0 * busy / elapsed)) if elapsed > 0 else 0.0


def container_cpu_percent(
    used_before_s: float,
    used_now_s: float,
    system_before_s: float,
    system_now_s: float,
    cpu_count: int,
) -> float:
    """As `docker stats`: 100 is one core. 0 for a counter that went back (another container)."""
    used_s = used_now_s - used_before_s
    system_s = system_now_s - system_before_s
    if used_s <= 0 or system_s <= 0:
        return 0.0
    return used_s / system_s * cpu_count * 100.0
