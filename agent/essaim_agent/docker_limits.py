"""From a task's limits to the body of `POST /containers/{id}/update`. Pure.

To the engine a zero in an update means "as it is", and -1 reaches the kernel for processes only
(20.10: it is refused for memory and kept back for swap). So the end of a limit has to be said in
other ways: a number of bytes that no machine has, all processors of the node.
"""

from typing import Any, Final

from essaim_agent.docker_resources import SWAP_UNLIMITED
from essaim_agent.executor import AdjustableLimits

PIDS_UNLIMITED: Final = -1
MEMORY_UNLIMITED: Final = 1 << 61
MEMORY_AND_SWAP_UNLIMITED: Final = 1 << 62
"""Above memory alone: a kernel with cgroup v2 is given the difference as the limit of swap."""
ENGINE_SWAP_FACTOR: Final = 2
"""Memory and swap together, of a container whose creation says nothing of swap, in multiples of
its memory limit (moby, daemon/daemon_unix.go, adaptContainerSettings)."""


def update_body(limits: AdjustableLimits, node_nano_cpus: int) -> dict[str, Any]:
    """Memory and swap go together: the engine refuses a memory limit above the sum it has."""
    wanted, swap_bytes = limits
    memory = wanted.memory_bytes
    if not memory or swap_bytes == SWAP_UNLIMITED:
        memory_and_swap = MEMORY_AND_SWAP_UNLIMITED
    elif swap_bytes is None:
        memory_and_swap = ENGINE_SWAP_FACTOR * memory
    else:
        memory_and_swap = memory + swap_bytes
    return {
        "NanoCpus": wanted.nano_cpus or node_nano_cpus,
        "Memory": memory or MEMORY_UNLIMITED,
        "MemorySwap": memory_and_swap,
        "PidsLimit": wanted.pids or PIDS_UNLIMITED,
    }
