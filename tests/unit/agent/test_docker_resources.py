"""What a container may use, and its log, as Docker is asked for them."""

from typing import Any

import pytest

from essaim_agent.docker_resources import limits_config, log_config, resources_config
from essaim_agent.engine_facts import EngineFacts
from essaim_shared.container_spec import ContainerSpec, Ulimit
from essaim_shared.spec import Limits, LogDriver, Reservations, Resources

MIB = 2**20
ROTATION = {"max-size": "10m", "max-file": "3"}


def test_reservations_are_the_schedulers_alone() -> None:
    reserved = Resources(reservations=Reservations(nano_cpus=1, memory_bytes=64 * MIB))
    assert limits_config(reserved) == limits_config(None)


@pytest.mark.parametrize(
    ("swap_bytes", "asked"),
    [(None, None), (0, 64 * MIB), (16 * MIB, 80 * MIB), (-1, -1)],
)
def test_swap_is_counted_beside_the_memory_and_docker_counts_both(
    swap_bytes: int | None, asked: int | None
) -> None:
    limits = Limits(memory_bytes=64 * MIB)
    config = limits_config(Resources(limits=limits, swap_bytes=swap_bytes))
    assert config.get("MemorySwap") == asked


def test_swap_without_a_limit_of_memory_means_nothing_as_in_swarm() -> None:
    assert "MemorySwap" not in limits_config(Resources(swap_bytes=MIB))


def test_a_swappiness_of_none_and_of_zero_are_different_things() -> None:
    container = ContainerSpec(image="busybox")
    assert "MemorySwappiness" not in resources_config(container, Resources())
    assert resources_config(container, Resources(memory_swappiness=0))["MemorySwappiness"] == 0


def test_bounds_of_a_container_are_passed_on() -> None:
    container = ContainerSpec(
        image="busybox",
        ulimits=(Ulimit(name="nofile", soft=10, hard=20), Ulimit(name="core", soft=-1, hard=-1)),
        shm_size=128 * MIB,
        cgroup_parent="/mine",
        oom_score_adj=-5,
    )
    config = resources_config(container, None)
    wanted = {
        "Ulimits": [
            {"Name": "nofile", "Soft": 10, "Hard": 20},
            {"Name": "core", "Soft": -1, "Hard": -1},
        ],
        "ShmSize": 128 * MIB,
        "CgroupParent": "/mine",
        "OomScoreAdj": -5,
    }
    assert {name: config[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("driver", "engines_driver", "asked"),
    [
        (None, "json-file", {"Type": "", "Config": ROTATION}),
        (None, "local", {"Type": "", "Config": ROTATION}),
        (None, "journald", {"Type": "", "Config": {}}),
        (None, "", {"Type": "", "Config": {}}),
        (LogDriver(name="json-file"), "journald", {"Type": "json-file", "Config": ROTATION}),
        (LogDriver(name="none"), "json-file", {"Type": "none", "Config": {}}),
        (
            LogDriver(driver_options={"tag": "x"}),
            "json-file",
            {"Type": "", "Config": {"tag": "x"}},
        ),
        (
            LogDriver(name="local", driver_options={"max-size": "1g"}),
            "json-file",
            {"Type": "local", "Config": {"max-size": "1g"}},
        ),
    ],
)
def test_a_log_is_rotated_unless_the_service_says_something_of_it(
    driver: LogDriver | None, engines_driver: str, asked: dict[str, Any]
) -> None:
    assert log_config(driver, EngineFacts(log_driver=engines_driver)) == asked
