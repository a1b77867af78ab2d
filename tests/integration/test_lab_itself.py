"""The lab as a product: raised twice, interrupted, hurt, and gone without a trace."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.lab_cluster import Cluster, lab_command

from essaim_cli.lab.processes import read_pid_file
from essaim_cli.lab.state import roots
from essaim_cli.lab.topology import check_name
from essaim_cli.lab.traces import has_traces, places_of
from essaim_shared.capabilities import AGENT, MASTER
from essaim_shared.clock import SystemClock, wait_until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]


@pytest.fixture
def spare() -> Iterator[str]:
    """The name of a lab of this test's own."""
    name = check_name(f"s{os.getpid()}")
    yield name
    subprocess.run(lab_command(name, "down"), check=True, capture_output=True)


def pids(cluster: Cluster) -> dict[str, object]:
    return {
        f"{host.name} {part}": read_pid_file(host.pid_file(part))
        for host in cluster.hosts
        for part in host.parts
    }


async def test_raising_it_again_changes_nothing(cluster: Cluster) -> None:
    before = pids(cluster)
    await cluster.lab("up", "--hosts", "3")
    assert pids(cluster) == before


async def test_another_shape_is_refused_while_it_is_up(cluster: Cluster) -> None:
    done = await cluster.run(*lab_command(cluster.topology.name, "up", "--hosts", "5"))
    assert done.code == 1
    assert "is up with 3 hosts" in done.stderr


async def test_status_shows_every_process_and_what_was_done_to_it(cluster: Cluster) -> None:
    leader = await cluster.leader()
    rows = {line.split()[0]: line for line in (await cluster.lab("status")).lines[1:]}
    assert "running (leader)" in rows[leader]
    assert all(row.count("running") == 4 and "ready" in row for row in rows.values())
    await cluster.lab("cut", "h3")
    await cluster.lab("kill", "h2", "bus", "--signal", "STOP")
    await cluster.lab("kill", "h1", "agent")
    rows = {line.split()[0]: line for line in (await cluster.lab("status")).lines[1:]}
    assert "cut" in rows["h3"]
    assert "stopped" in rows["h2"]
    assert "dead" in rows["h1"]


def privileges(process: Path) -> tuple[str, set[int]]:
    """no_new_privs, and what stands in its permitted, effective and bounding sets."""
    lines = (process / "status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines)
    return status["NoNewPrivs"], {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")}


async def test_daemons_keep_only_the_privileges_that_they_need(cluster: Cluster) -> None:
    for host in cluster.hosts:
        for part, kept in (("master", MASTER), ("agent", AGENT)):
            found = read_pid_file(host.pid_file(part))
            assert found is not None
            mask = sum(1 << capability for capability in kept)
            assert privileges(Path(f"/proc/{found.pid}")) == ("1", {mask}), f"{host.name} {part}"


async def test_a_shell_on_a_host_has_its_network_and_its_engine(cluster: Cluster) -> None:
    script = "cat /proc/sys/net/ipv4/ip_forward; ip -br address show eth0; docker info -f '{{.ID}}'"
    for host in cluster.hosts:
        done = await cluster.lab("sh", host.name, "--", "sh", "-c", script)
        assert host.address in done.stdout
        assert "default" not in (await cluster.lab("sh", host.name, "ip", "route")).stdout


async def test_an_interrupted_up_is_completed_by_the_next_and_removed_by_down(spare: str) -> None:
    clock = SystemClock()
    where = roots()
    places = places_of(spare, where)
    command = lab_command(spare, "up", "--hosts", "1", "--masters", "1", "--executor", "docker")
    engine_pid = where.run / spare / "h1" / "engine.pid"
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    assert await wait_until(engine_pid.exists, clock, 20.0)
    first.send_signal(signal.SIGKILL)
    first.wait()
    # As after a crash that took the record with it: what `down` and `up` need is on the machine.
    (where.run / spare / "lab.json").unlink(missing_ok=True)
    assert has_traces(places)
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "interrupted" in again.stderr
    (where.run / spare / "lab.json").unlink()
    subprocess.run(lab_command(spare, "down"), check=True, capture_output=True)
    assert not has_traces(places)


async def test_two_labs_do_not_know_each_other(cluster: Cluster, spare: str) -> None:
    command = lab_command(spare, "up", "--hosts", "1", "--masters", "1", "--executor", "docker")
    raised = subprocess.run(command, capture_output=True, text=True, check=False)
    assert raised.returncode == 0, raised.stderr
    before = pids(cluster)
    subprocess.run(lab_command(spare, "down"), check=True, capture_output=True)
    assert pids(cluster) == before
    assert len((await cluster.ok("node", "ls", "-q")).lines) == 3


async def test_the_main_job_runs_on_loopback_where_there_is_no_engine(
    spare: str, cluster: Cluster
) -> None:
    command = lab_command(spare, "up", "--executor", "process")
    raised = subprocess.run(command, capture_output=True, text=True, check=False)
    assert raised.returncode == 0, raised.stderr
    demo = await cluster.run(*lab_command(spare, "demo"))
    assert demo.code == 0, demo.stderr
    assert demo.stdout.count("at 127.0.0.1:") == 3
    agent = read_pid_file(roots().run / spare / "h1" / "agent.pid")
    assert agent is not None
    assert privileges(Path(f"/proc/{agent.pid}")) == privileges(Path("/proc/self")), (
        "its tasks are its children"
    )
    socket = roots().run / spare / "h1" / "master.sock"
    for words in (("scale", "web=5"), ("scale", "web=1"), ("rm", "web")):
        done = await cluster.run(
            *lab_command(spare, "sh")[:3], "service", *words, ESSAIM_HOST=f"unix://{socket}"
        )
        assert done.code == 0, done.stderr
    subprocess.run(lab_command(spare, "down"), check=True, capture_output=True)
    assert not has_traces(places_of(spare, roots()))
