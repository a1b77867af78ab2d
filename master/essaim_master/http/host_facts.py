"""What a master knows of the machine it runs on, read once at its start."""

import os

import msgspec

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}
"""Linux' names → Go's, which Docker's API uses."""


class HostFacts(msgspec.Struct, frozen=True):
    hostname: str
    architecture: str
    """As Go names it: `amd64`."""
    machine: str
    """As the kernel names it: `x86_64`."""
    kernel_version: str
    cpu_count: int
    memory_bytes: int


def read_host_facts() -> HostFacts:
    system = os.uname()
    return HostFacts(
        hostname=system.nodename,
        architecture=_ARCHITECTURES.get(system.machine, system.machine),
        machine=system.machine,
        kernel_version=system.release,
        cpu_count=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    )
