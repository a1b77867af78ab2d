"""From a task's limits to the body of `POST /containers/{id}/update`. Pure.

To the engine a zero in an update means "as it is", so the end of a limit has to be said in other
ways: -1 where it is understood, all processors of the node for the CPU.
"""

from typing import Any, Final

from essaim_agent.docker_resources import SWAP_UNLIMITED
from essaim_agent.executor import AdjustableLimits

UNLIMITED: Final = -1
ENGINE_SWAP_FACTOR: Final = 2
"""Memory and swap together, of a container whose creation says nothing of swap, in multiples of
its memory limit (moby, daemon/daemon_unix.go, adaptContainerSettings)."""


def update_body(limits: AdjustableLimits, node_nano_cpus: int) -> dict[str, Any]:
    """Memory and swap go together: the engine refuses a memory limit above the sum it has."""
    wanted, swap_bytes = limits
    memory = wanted.memory_bytes
    if not memory or swap_bytes == SWAP_UNLIMITED:
        memory_and_swap = UNLIMITED
    elif swap_bytes is None:
        memory_and_swap = ENGINE_SWAP_FACTOR * memory
    else:
        memory_and_swap = memory + swap_bytes
    return {
        "NanoCpus": wanted.nano_cpus or node_nano_cpus,
        "Memory": memory or UNLIMITED,
        "MemorySwap": memory_and_swap,
        "PidsLimit": wanted.pids or UNLIMITED,
    }
