"""The agent's process, as a supervisor sees it."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from essaim_agent.config import AgentConfig
from essaim_agent.executor import NodeResources
from essaim_agent.main import describe
from essaim_shared.capabilities import AGENT

PATIENCE_S = 30.0


def config_file(directory: Path, extra: str = "", executor: str = "process") -> Path:
    path = directory / "agent.toml"
    path.write_text(
        f'cluster_id = "test"\nnode_name = "h1"\ndata_dir = "{directory}/data"\n'
        f'run_dir = "{directory}/run"\naddress = "127.0.0.1"\nexecutor = "{executor}"\n'
        f'bus_servers = ["nats://127.0.0.1:1"]\n{extra}'
    )
    return path


def agent(path: Path, *more: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "essaim_agent", "--config", str(path), *more],
        stderr=subprocess.PIPE,
        text=True,
    )


def first_line_with(process: "subprocess.Popen[str]", words: str) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return line
    raise AssertionError(f"it ended without {words!r}")


def privileges(process: str) -> dict[str, int]:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines)
    names = ("NoNewPrivs", "CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb")
    return {name: int(status[name], 16) for name in names}


def privileges_of_agent(directory: Path, executor: str) -> dict[str, int]:
    process = agent(config_file(directory, executor=executor))
    first_line_with(process, "started")
    seen = privileges(str(process.pid))
    process.terminate()
    process.communicate(timeout=PATIENCE_S)
    return seen


def test_it_keeps_only_the_privileges_that_it_needs(tmp_path: Path) -> None:
    kept = sum(1 << capability for capability in AGENT)
    own, seen = privileges("self"), privileges_of_agent(tmp_path, "fake")
    assert seen["NoNewPrivs"] == 1
    for name in ("CapPrm", "CapEff", "CapBnd"):
        # An ordinary user cannot lower what bounds him.
        if own["CapPrm"] or name != "CapBnd":
            assert seen[name] == own[name] & kept, name
    assert (seen["CapInh"], seen["CapAmb"]) == (0, 0)


def test_it_keeps_all_where_its_tasks_are_its_children(tmp_path: Path) -> None:
    assert privileges_of_agent(tmp_path, "process") == privileges("self")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_starts_without_a_bus_and_ends_on_a_signal(
    tmp_path: Path, number: signal.Signals
) -> None:
    process = agent(config_file(tmp_path))
    first_line_with(process, "started")
    process.send_signal(number)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert "containers keep running" in said
    assert "Traceback" not in said


def test_a_second_agent_in_the_same_directory_says_so_in_one_line(tmp_path: Path) -> None:
    path = config_file(tmp_path)
    first = agent(path)
    first_line_with(first, "started")
    second = agent(path)
    _, said = second.communicate(timeout=PATIENCE_S)
    assert second.returncode == 78
    assert said.startswith("essaim-agent: data_dir")
    assert said.count("\n") == 1
    first.terminate()
    first.communicate(timeout=PATIENCE_S)


def test_a_mistake_in_the_file_is_one_line(tmp_path: Path) -> None:
    process = agent(config_file(tmp_path, 'metrics_listne = "x"\n'))
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 78
    assert "metrics_listen" in said
    assert said.count("\n") == 1


def test_the_node_id_is_kept_over_restarts(tmp_path: Path) -> None:
    path = config_file(tmp_path)
    names = []
    for _ in range(2):
        process = agent(path)
        line = first_line_with(process, "started")
        names.append([word for word in line.split() if word.startswith("node=")])
        process.terminate()
        process.communicate(timeout=PATIENCE_S)
    assert names[0] == names[1] != []


def test_machines_with_the_same_disk_describe_themselves_differently(tmp_path: Path) -> None:
    resources = NodeResources(1, 1, "x86_64", "1")
    configs = [
        AgentConfig(
            cluster_id="c",
            node_name="h1",
            data_dir="/d",
            run_dir="/r",
            address=address,
            bus_servers=("nats://127.0.0.1:1",),
        )
        for address in ("192.0.2.1", "192.0.2.2")
    ]
    one, other = (describe(config, resources).instance for config in configs)
    assert one != other
    assert one == describe(configs[0], resources).instance
