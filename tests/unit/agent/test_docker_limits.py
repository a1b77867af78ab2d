"""Limits of a running container as the engine takes them."""

import pytest

from essaim_agent.docker_limits import (
    MEMORY_AND_SWAP_UNLIMITED,
    MEMORY_UNLIMITED,
    PIDS_UNLIMITED,
    update_body,
)
from essaim_shared.spec import Limits

NODE_NANO_CPUS = 4 * 10**9
MIB = 1 << 20


@pytest.mark.parametrize(
    ("memory", "swap", "in_the_body"),
    [
        (64 * MIB, None, (64 * MIB, 128 * MIB)),  # as the engine does at a creation
        (64 * MIB, 0, (64 * MIB, 64 * MIB)),
        (64 * MIB, 16 * MIB, (64 * MIB, 80 * MIB)),
        (64 * MIB, -1, (64 * MIB, MEMORY_AND_SWAP_UNLIMITED)),
        (0, None, (MEMORY_UNLIMITED, MEMORY_AND_SWAP_UNLIMITED)),
        (0, 16 * MIB, (MEMORY_UNLIMITED, MEMORY_AND_SWAP_UNLIMITED)),  # swap beside no limit
    ],
)
def test_memory_and_swap_are_one_number_and_the_sum(
    memory: int, swap: int | None, in_the_body: tuple[int, int]
) -> None:
    body = update_body((Limits(memory_bytes=memory), swap), NODE_NANO_CPUS)
    assert (body["Memory"], body["MemorySwap"]) == in_the_body
    assert body["MemorySwap"] >= body["Memory"]


def test_no_value_is_zero_which_would_leave_the_old_limit() -> None:
    assert 0 not in update_body((Limits(), None), NODE_NANO_CPUS).values()


def test_processors_and_processes() -> None:
    limited = update_body((Limits(nano_cpus=5, pids=7), None), NODE_NANO_CPUS)
    assert (limited["NanoCpus"], limited["PidsLimit"]) == (5, 7)
    free = update_body((Limits(), None), NODE_NANO_CPUS)
    assert (free["NanoCpus"], free["PidsLimit"]) == (NODE_NANO_CPUS, PIDS_UNLIMITED)
