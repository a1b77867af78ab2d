"""What only a Docker Engine can show."""

import asyncio
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from essaim_agent.docker_executor import DockerExecutor
from essaim_agent.executor import ContainerExit, ExecutorError, Health, Temporary
from essaim_shared.clock import SystemClock, wait_until
from essaim_shared.container_spec import HealthConfig
from essaim_shared.ids import TaskId
from essaim_shared.objects import Task
from essaim_shared.spec import Limits, Resources

pytestmark = pytest.mark.lab

PATIENCE_S = 30.0


@pytest.fixture
def bench(docker_bench: Any) -> Any:
    return docker_bench


async def test_a_container_runs_in_the_namespace_prepared_for_it(bench: Any) -> None:
    task = bench.make_task("exec sleep 1000")
    container = await bench.executor.start(task, bench.namespace())
    pid = await bench.executor.pid_of(container.container_id)
    inside = os.stat(f"/proc/{pid}/ns/net").st_ino
    assert inside == os.stat(bench.namespace()).st_ino
    assert inside != os.stat("/proc/self/ns/net").st_ino


async def test_a_container_is_named_and_knows_its_own_name(bench: Any) -> None:
    task = bench.make_task("cat /etc/hostname; cat /etc/hosts; echo ready")
    spec = msgspec.structs.replace(task.spec.container, hostname="db1", hosts=("192.0.2.9 other",))
    task = msgspec.structs.replace(task, spec=msgspec.structs.replace(task.spec, container=spec))
    await bench.executor.start(task, bench.namespace())
    await bench.ready(task)
    output = bench.output(task).decode()
    assert output.startswith("db1\n")
    assert "192.0.2.9\tother" in output


async def test_a_command_that_does_not_exist_is_refused_in_one_line(bench: Any) -> None:
    task = bench.make_task("")
    spec = msgspec.structs.replace(task.spec.container, command=("/no/such/thing",), args=())
    task = msgspec.structs.replace(task, spec=msgspec.structs.replace(task.spec, container=spec))
    with pytest.raises(ExecutorError, match=r"^starting container failed: .*such file") as refusal:
        await bench.executor.start(task, bench.namespace())
    assert not isinstance(refusal.value, Temporary)
    assert "\n" not in str(refusal.value)
    await bench.executor.remove(task.id)


async def test_a_container_created_before_a_crash_is_started_not_doubled(bench: Any) -> None:
    """The agent ended between create and start, so nobody knew of the container."""
    task = bench.make_task("exec sleep 1000")
    client = bench.engine.client()
    body = {
        "Image": bench.image,
        "Cmd": ["sleep", "1000"],
        "Labels": {"io.essaim.cluster": "contract", "io.essaim.task": task.id},
        "HostConfig": {"NetworkMode": "host", "Runtime": "essaim"},
    }
    created = client.create_container_from_config(body, f"{task.name}.{task.id}")["Id"]
    client.close()
    [found] = await bench.executor.found()
    assert (found.running, found.started) == (False, False)
    container = await bench.executor.start(task, bench.namespace())
    assert container.container_id == created
    [found] = await bench.executor.found()
    assert found.running


async def test_a_name_taken_by_a_foreign_container_is_refused(bench: Any) -> None:
    task = bench.make_task("exec sleep 1000")
    client = bench.engine.client()
    name = f"{task.name}.{task.id}"
    foreign = {"Image": bench.image, "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}}
    created = client.create_container_from_config(foreign, name)["Id"]
    with pytest.raises(ExecutorError, match="not ours"):
        await bench.executor.start(task, bench.namespace())
    assert client.inspect_container(created)["State"]["Status"] == "created"
    client.remove_container(created)
    client.close()


async def test_a_container_without_a_prepared_namespace_is_refused(bench: Any) -> None:
    """Nothing lands on the host's network by mistake."""
    task = bench.make_task("exec sleep 1000")
    with pytest.raises(ExecutorError):
        await bench.executor.start(task, "/run/netns/essaim-there-is-none")
    await bench.executor.remove(task.id)


async def test_out_of_memory_is_said(bench: Any) -> None:
    task = bench.make_task("x=x; while :; do x=$x$x; done")
    resources = Resources(limits=Limits(memory_bytes=16 * 2**20))
    task = msgspec.structs.replace(
        task, spec=msgspec.structs.replace(task.spec, resources=resources)
    )
    await bench.executor.start(task, bench.namespace())
    async with asyncio.timeout(PATIENCE_S):
        async for ended in bench.executor.events():
            if isinstance(ended, ContainerExit) and ended.task_id == task.id:
                break
    assert ended.exit_code == 137
    assert ended.error == "out of memory"


def limited(task: Task, **resources: Any) -> Task:
    spec = msgspec.structs.replace(task.spec, resources=Resources(**resources))
    return msgspec.structs.replace(task, spec=spec)


def in_force(bench: Any, container_id: str) -> tuple[int, int, int]:
    """Memory, billionths of a CPU, processes; as the engine tells them, 0 for none."""
    client = bench.engine.client()
    config = client.inspect_container(container_id)["HostConfig"]
    client.close()
    return (
        max(0, config["Memory"]),
        config["NanoCpus"],
        max(0, config["PidsLimit"] or 0),
    )


async def test_limits_of_a_running_container_are_changed_and_its_process_stays(bench: Any) -> None:
    task = limited(bench.make_task("exec sleep 1000"), limits=Limits(memory_bytes=32 << 20))
    container = await bench.executor.start(task, bench.namespace())
    pid = await bench.executor.pid_of(container.container_id)
    # Far above memory and swap together as they were: both have to be changed in one call.
    wide = limited(task, limits=Limits(memory_bytes=512 << 20, nano_cpus=5 * 10**8, pids=64))
    await bench.executor.update_limits(wide)
    assert in_force(bench, container.container_id) == (512 << 20, 5 * 10**8, 64)
    narrow = limited(task, limits=Limits(memory_bytes=16 << 20), swap_bytes=16 << 20)
    await bench.executor.update_limits(narrow)
    assert in_force(bench, container.container_id)[0] == 16 << 20
    await bench.executor.update_limits(limited(task))
    all_there_is = await bench.executor.open()
    memory, nano_cpus, pids = in_force(bench, container.container_id)
    assert memory > all_there_is.memory_bytes
    assert nano_cpus == all_there_is.nano_cpus
    assert pids == 0
    assert await bench.executor.pid_of(container.container_id) == pid


async def test_limits_that_the_engine_refuses_are_refused_in_its_words(bench: Any) -> None:
    task = bench.make_task("exec sleep 1000")
    await bench.executor.start(task, bench.namespace())
    with pytest.raises(ExecutorError, match="inimum memory limit") as refusal:
        await bench.executor.update_limits(limited(task, limits=Limits(memory_bytes=1024)))
    assert not isinstance(refusal.value, Temporary)
    assert "\n" not in str(refusal.value)


async def test_the_images_health_check_counts_unless_the_task_turns_it_off(bench: Any) -> None:
    client = bench.engine.client()
    made = client.create_container_from_config(
        {"Image": bench.image, "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}}
    )["Id"]
    client.commit(made, "essaim-test-checked", changes='HEALTHCHECK --interval=1h CMD ["true"]')
    client.remove_container(made)
    client.close()
    task = bench.make_task("exec sleep 1000")
    for test, health in (((), Health.STARTING), (("NONE",), Health.NONE)):
        container = msgspec.structs.replace(
            task.spec.container, image="essaim-test-checked", healthcheck=HealthConfig(test=test)
        )
        spec = msgspec.structs.replace(task.spec, container=container)
        one = msgspec.structs.replace(
            task, id=TaskId(f"{task.id[:-4]}{health.value[:4]}"), spec=spec
        )
        await bench.executor.prepare(one)
        assert (await bench.executor.start(one, bench.namespace())).health is health
        [found] = [item for item in await bench.executor.found() if item.task_id == one.id]
        assert found.health is health


async def test_an_engine_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    executor = DockerExecutor(tmp_path / "docker.sock", "c", tmp_path, SystemClock(), True)
    with pytest.raises(Temporary, match="does not answer"):
        await executor.open()
    await executor.close()


async def test_a_removed_container_leaves_no_link_to_its_namespace(bench: Any) -> None:
    task = bench.make_task("exec sleep 1000")
    container = await bench.executor.start(task, bench.namespace())
    link = bench.engine.run_dir / "netns" / container.container_id
    assert link.is_symlink()
    await bench.executor.remove(task.id)
    assert await wait_until(lambda: not link.is_symlink(), SystemClock(), PATIENCE_S)
