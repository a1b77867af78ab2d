"""What a container may use, and where its output goes, as the engine takes it: pure.

Reservations are the scheduler's alone, as in Swarm. Source: moby,
daemon/cluster/executor/container/container.go (resources).
"""

from collections.abc import Sequence
from typing import Any, Final

from essaim_agent.engine_facts import EngineFacts
from essaim_shared.container_spec import ContainerSpec
from essaim_shared.spec import GenericResource, Limits, LogDriver, Resources

LOG_ROTATION: Final = {"max-size": "10m", "max-file": "3"}
"""Of a container's log, unless the service says something of its log."""
ROTATING_LOG_DRIVERS: Final = ("json-file", "local")
SWAP_UNLIMITED: Final = -1

GENERIC_RESOURCE_PREFIX: Final = "DOCKER_RESOURCE_"


def limits_config(resources: Resources | None) -> dict[str, Any]:
    """The part of the HostConfig that an engine can change while the container runs; 0: no
    limit."""
    resources = resources or Resources()
    limits = resources.limits or Limits()
    config: dict[str, Any] = {
        "NanoCpus": limits.nano_cpus,
        "Memory": limits.memory_bytes,
        "PidsLimit": limits.pids,
    }
    swap_bytes = resources.swap_bytes
    if limits.memory_bytes > 0 and swap_bytes is not None:
        # Docker's number is the sum of both.
        is_unlimited = swap_bytes == SWAP_UNLIMITED
        config["MemorySwap"] = -1 if is_unlimited else limits.memory_bytes + swap_bytes
    return config


def resources_config(container: ContainerSpec, resources: Resources | None) -> dict[str, Any]:
    """The part of the HostConfig."""
    config = limits_config(resources)
    if resources is not None and resources.memory_swappiness is not None:
        config["MemorySwappiness"] = resources.memory_swappiness
    config["OomScoreAdj"] = container.oom_score_adj
    config["Ulimits"] = [
        {"Name": ulimit.name, "Soft": ulimit.soft, "Hard": ulimit.hard}
        for ulimit in container.ulimits
    ]
    if container.shm_size:
        config["ShmSize"] = container.shm_size
    if container.cgroup_parent:
        # Takes the place of the engine's own `--cgroup-parent`: it is not put below it.
        config["CgroupParent"] = container.cgroup_parent
    return config


def log_config(log_driver: LogDriver | None, engine: EngineFacts) -> dict[str, Any]:
    """`HostConfig.LogConfig`: a service that says nothing of its log cannot fill the disk."""
    asked = log_driver or LogDriver()
    options = asked.driver_options
    if not options and (asked.name or engine.log_driver) in ROTATING_LOG_DRIVERS:
        options = LOG_ROTATION
    return {"Type": asked.name, "Config": dict(options)}


def generic_resource_env(resources: Sequence[GenericResource]) -> list[str]:
    """`DOCKER_RESOURCE_KIND=VALUE[,VALUE…]` for each kind (SwarmKit, genericresource/string.go)."""
    values: dict[str, list[str]] = {}
    for resource in resources:
        unit = resource.named or resource.discrete
        if unit is not None:
            values.setdefault(unit.kind.upper(), []).append(str(unit.resource_value))
    return [f"{GENERIC_RESOURCE_PREFIX}{kind}={','.join(values[kind])}" for kind in sorted(values)]
