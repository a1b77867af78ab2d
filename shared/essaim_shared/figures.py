"""What agents measure: the node's figures and each container's, raw counters where counters exist.

Counters are cumulative as the kernel keeps them, so the reader computes rates over whatever
interval it likes; `*_percent` fields are rates the agent took over its last period.
"""

import msgspec


class NodeFigures(msgspec.Struct, frozen=True, kw_only=True, tag="node_figures"):
    taken_ns: int
    """Wall time of the sample."""
    cpu_count: int
    cpu_percent: float
    """Of all CPUs together, 0–100."""
    load_1: float
    load_5: float
    load_15: float
    memory_total_bytes: int
    memory_used_bytes: int
    """Total minus available (free(1) counts it so since procps 4)."""
    disk_total_bytes: int
    disk_used_bytes: int
    """Of the file system that holds the engine's data."""
    network_receive_bytes: int
    network_transmit_bytes: int
    """Sum over the host's physical interfaces since boot."""


class ContainerFigures(msgspec.Struct, frozen=True, kw_only=True, tag="container_figures"):
    task_id: str
    container_id: str
    cpu_seconds: float
    """CPU time used since the container started."""
    cpu_percent: float
    """As `docker stats` computes it: 100 is one core."""
    memory_working_set_bytes: int
    """Usage minus inactive file pages, cAdvisor's and Docker's definition."""
    memory_usage_bytes: int
    memory_limit_bytes: int
    """The host's memory when the container has no limit."""
    network_receive_bytes: int
    network_transmit_bytes: int
    block_read_bytes: int
    block_write_bytes: int
    process_count: int
