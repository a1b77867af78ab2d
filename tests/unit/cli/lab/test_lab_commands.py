"""`essaim lab` as a user meets it, without raising one."""

import uuid
from pathlib import Path

import pytest
from click.testing import CliRunner

from essaim_cli.lab.commands import lab
from essaim_cli.lab.demo import next_steps, read_replicas
from essaim_cli.lab.topology import ExecutorName, plan_lab


def absent_lab() -> str:
    return "u" + uuid.uuid4().hex[:11]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["up", "--hosts", "0"], "--hosts 0: a lab has 1 to 20 hosts"),
        (["up", "--masters", "2"], "--masters 2: a cluster has 1, 3 or 5 masters"),
        (["up", "--hosts", "1"], "each master needs its own host"),
    ],
)
def test_a_lab_that_cannot_be_is_refused_in_one_line(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(lab, [*arguments, "--name", absent_lab()])
    assert done.exit_code == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [["status"], ["cut", "h1"], ["heal", "h1"], ["kill", "h1", "agent"], ["start", "h1"]],
)
def test_commands_for_a_lab_that_is_not_up_say_how_to_raise_it(arguments: list[str]) -> None:
    name = absent_lab()
    done = CliRunner().invoke(lab, [arguments[0], "--name", name, *arguments[1:]])
    assert done.exit_code == 1
    assert f'no lab "{name}" is up' in done.stderr
    assert f"`essaim lab up --name {name}`" in done.stderr


def test_taking_down_what_is_not_there_is_no_error() -> None:
    done = CliRunner().invoke(lab, ["down", "--name", absent_lab()])
    assert done.exit_code == 0
    assert "nothing to do" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["kill", "h1", "kernel"],
        ["kill", "h1"],
        ["kill", "h1", "agent", "--signal", "NICE"],
        ["cut"],
        ["up", "--executor", "magic"],
        ["up", "--hosts", "three"],
    ],
)
def test_words_that_mean_nothing_are_usage_errors(arguments: list[str]) -> None:
    assert CliRunner().invoke(lab, arguments).exit_code == 2


TASKS = [
    {
        "ID": "t2",
        "Slot": 2,
        "NodeID": "n2",
        "Status": {"State": "running", "ContainerStatus": {"ContainerID": "c2"}},
        "NetworksAttachments": [{"Addresses": ["10.244.0.7/20"]}],
    },
    {"ID": "t3", "Slot": 3, "NodeID": "n1", "Status": {"State": "preparing"}},
    {"ID": "t1", "Slot": 1, "NodeID": "gone", "Status": {"State": "running"}},
]
NODES = [{"ID": "n2", "Description": {"Hostname": "h2"}}]


def test_replicas_are_the_running_tasks_in_order() -> None:
    first, second = read_replicas(TASKS, NODES)
    assert (first.name, first.host, first.address) == ("web.1", "?", "")
    assert (second.name, second.host, second.address) == ("web.2", "h2", "10.244.0.7")
    assert second.container_id == "c2"
    assert read_replicas(None, None) == []


@pytest.mark.parametrize("executor", ["docker", "process"])
def test_the_next_steps_are_such_that_this_lab_can_take(executor: ExecutorName) -> None:
    topology = plan_lab(
        "mine",
        host_count=3,
        master_count=3,
        executor=executor,
        subnet_number=0,
        run_root=Path("/run/x"),
        data_root=Path("/var/x"),
    )
    text = next_steps(topology)
    assert ("lab cut --name mine" in text) is (executor == "docker")
    assert "lab down --name mine" in text
