"""The real leader and real agents together, on a bus, engines and an overlay in memory.

What is checked at the end of each story: every replica runs once, every running task reaches
every other by its address, no container was started twice, and nothing is left over.
"""

import msgspec
from support.leader_lab import Lab

from essaim_master.state.writes import Writes
from essaim_shared.container_spec import ContainerSpec, ExecAction, Probe, Probes
from essaim_shared.ids import NodeId, ServiceId
from essaim_shared.spec import Limits, Resources, TaskSpec, UpdateConfig
from essaim_shared.task_state import TaskState


async def test_create_scale_and_remove(lab: Lab) -> None:
    web = await lab.create(3)
    await lab.until(lambda: lab.is_in_order(web))
    lab.check(web)
    await lab.scale(web, 12)
    await lab.until(lambda: lab.is_in_order(web))
    lab.check(web)
    await lab.scale(web, 2)
    await lab.until(lambda: lab.is_in_order(web))
    await lab.until(lambda: len(lab.state.tasks) == 2)
    lab.check(web)
    await lab.remove(web)
    await lab.until(lambda: not lab.state.tasks and not lab.state.gateways)
    await lab.run(2)
    assert not lab.containers()
    for agent in lab.agents.values():
        kernel = lab.fabric.kernel(agent.address)
        assert not kernel.namespaces
        assert not kernel.networks


async def test_cut_off_host_and_its_return(lab: Lab) -> None:
    web = await lab.create(9)
    await lab.until(lambda: lab.is_in_order(web))
    lab.bus.cut_client("h3")
    took_s = await lab.until(
        lambda: len(lab.running(web)) == 9 and {t.node_id for t in lab.running(web)} == {"h1", "h2"}
    )
    assert took_s <= 5.5
    assert len(lab.containers()) == 12, "the cut-off host keeps its tasks"
    lab.bus.heal_client("h3")
    await lab.until(lambda: lab.is_in_order(web))
    await lab.run(2)
    lab.check(web)


async def test_killed_agent_adopts_its_containers(lab: Lab) -> None:
    web = await lab.create(6)
    await lab.until(lambda: lab.is_in_order(web))
    before = dict(lab.state.tasks)
    await lab.agents["h1"].kill()
    await lab.run(1)
    await lab.start_agent("h1")
    await lab.run(10)
    assert dict(lab.state.tasks) == before
    lab.check(web)


async def test_task_that_ended_while_its_agent_was_dead_is_replaced(lab: Lab) -> None:
    web = await lab.create(3)
    await lab.until(lambda: lab.is_in_order(web))
    await lab.agents["h1"].kill()
    (task,) = [task for task in lab.running(web) if task.node_id == "h1"]
    lab.engines["h1"].exit(task.id, 1)
    await lab.start_agent("h1")
    await lab.until(lambda: task not in lab.running(web) and lab.is_in_order(web))
    lab.check(web)
    assert lab.state.observed(task.id) is TaskState.FAILED


async def test_change_of_leader_in_the_middle_of_everything(lab: Lab) -> None:
    web = await lab.create(30)
    await lab.clock.advance(0)
    lab.cluster.lead(False, 1)
    await lab.run(1)
    lab.cluster.lead(True, 2)
    await lab.until(lambda: lab.is_in_order(web))
    await lab.scale(web, 7)
    lab.cluster.lead(False, 2)
    lab.cluster.lead(True, 3)
    await lab.until(lambda: lab.is_in_order(web))
    await lab.until(lambda: len(lab.state.tasks) == 7)
    await lab.run(3)
    lab.check(web)


async def test_lossy_bus(lab: Lab) -> None:
    lab.bus.loss = 0.03
    lab.bus.delay_s = (0.001, 0.02)
    web = await lab.create(12)
    api = await lab.create(5, name="api")
    await lab.run(10)
    await lab.scale(web, 4)
    await lab.run(10)
    lab.bus.loss = 0.0
    await lab.until(lambda: lab.is_in_order(web, api))
    await lab.run(5)
    lab.check(web, api)


async def test_everything_is_killed_and_starts_again(lab: Lab) -> None:
    web = await lab.create(9)
    await lab.until(lambda: lab.is_in_order(web))
    before = dict(lab.state.tasks)
    lab.cluster.lead(False, 1)
    for agent in lab.agents.values():
        await agent.kill()
    await lab.run(60)
    lab.cluster.lead(True, 2)
    await lab.run(10)  # the masters are back long before the agents
    for name in ("h1", "h2", "h3"):
        await lab.start_agent(name)
    await lab.run(10)
    assert dict(lab.state.tasks) == before
    lab.check(web)


async def test_drained_host_is_emptied(lab: Lab) -> None:
    web = await lab.create(9)
    await lab.until(lambda: lab.is_in_order(web))
    node = lab.state.nodes[NodeId("h2")]
    spec = msgspec.structs.replace(node.spec, availability="drain")
    writes = Writes()
    writes.put(msgspec.structs.replace(node, spec=spec))
    await lab.write(writes)
    await lab.until(lambda: {task.node_id for task in lab.running(web)} == {"h1", "h3"})
    await lab.until(lambda: lab.is_in_order(web))
    await lab.run(2)
    lab.check(web)
    assert not lab.fabric.kernel(lab.agents["h2"].address).networks


async def test_crashing_task_backs_off_and_recovers(lab: Lab) -> None:
    web = await lab.create(1)
    for failures in (1, 2):
        await lab.until(lambda: lab.is_in_order(web))
        (task,) = lab.running(web)
        assert task.failures == failures - 1
        assert task.node_id is not None
        lab.engines[task.node_id].exit(task.id, 3)
        await lab.until(lambda: not lab.running(web))
        took_s = await lab.until(lambda: lab.is_in_order(web))
        assert 5 * failures - 0.5 <= took_s <= 5 * failures + 0.5
    lab.check(web)


IS_READY = ("ready",)
PROBED = ContainerSpec(
    image="img",
    probes=Probes(readiness=Probe(exec_=ExecAction(command=IS_READY), period=1_000_000_000)),
)


async def test_readiness_reaches_the_masters_and_replaces_nothing(lab: Lab) -> None:
    lab.every_command(IS_READY, 1)
    web = await lab.create(6, container=PROBED)
    await lab.until(lambda: lab.is_in_order(web))
    before = dict(lab.state.tasks)
    assert lab.ready(web) == 0
    for exit_code, ready in ((0, 6), (1, 0), (0, 6)):
        lab.every_command(IS_READY, exit_code)
        await lab.until(lambda ready=ready: lab.ready(web) == ready)
    assert dict(lab.state.tasks) == before
    lab.check(web)


async def test_readiness_through_a_change_of_leader_and_killed_agents(lab: Lab) -> None:
    """What changes while nobody leads, and what a killed agent finds changed, is told."""
    web = await lab.create(6, container=PROBED)
    await lab.until(lambda: lab.is_in_order(web) and lab.ready(web) == 6)
    lab.cluster.lead(False, 1)
    lab.every_command(IS_READY, 1)
    await lab.run(10)
    lab.cluster.lead(True, 2)
    await lab.until(lambda: lab.ready(web) == 0)
    for name in ("h1", "h2", "h3"):
        await lab.agents[name].kill()
    lab.every_command(IS_READY, 0)
    for name in ("h1", "h2", "h3"):
        await lab.start_agent(name)
    await lab.until(lambda: lab.ready(web) == 6)
    lab.check(web)


async def test_readiness_over_a_lossy_bus_ends_as_it_is(lab: Lab) -> None:
    web = await lab.create(6, container=PROBED)
    await lab.until(lambda: lab.is_in_order(web))
    lab.bus.loss = 0.03
    lab.bus.delay_s = (0.001, 0.02)
    for exit_code in (1, 0, 1):
        lab.every_command(IS_READY, exit_code)
        await lab.run(6)
    lab.bus.loss = 0.0
    await lab.until(lambda: lab.is_in_order(web) and lab.ready(web) == 0)
    lab.check(web)


async def test_a_task_whose_liveness_probe_fails_is_replaced(lab: Lab) -> None:
    is_alive = ("alive",)
    liveness = Probe(exec_=ExecAction(command=is_alive), period=1_000_000_000)
    probed = ContainerSpec(image="img", probes=Probes(liveness=liveness))
    web = await lab.create(3, container=probed)
    await lab.until(lambda: lab.is_in_order(web))
    (task,) = [task for task in lab.running(web) if task.node_id == "h2"]
    lab.engines["h2"].commands[is_alive] = 1
    await lab.until(lambda: lab.state.observed(task.id) is TaskState.FAILED)
    assert lab.state.task_status[task.id].err.startswith("liveness probe failed")
    lab.engines["h2"].commands[is_alive] = 0
    await lab.until(lambda: lab.is_in_order(web))
    lab.check(web)


def other_image(lab: Lab, service_id: ServiceId) -> TaskSpec:
    template = lab.state.services[service_id].spec.task
    container = msgspec.structs.replace(template.container, image="img:2")
    return msgspec.structs.replace(template, container=container)


async def test_rolling_update_through_a_change_of_leader(lab: Lab) -> None:
    web = await lab.create(12)
    await lab.until(lambda: lab.is_in_order(web))
    config = UpdateConfig(parallelism=3, monitor=1_000_000_000)
    await lab.change(web, task=other_image(lab, web), update_config=config)
    await lab.until(lambda: any(t.spec_version == 2 for t in lab.running(web)))
    assert any(t.spec_version == 1 for t in lab.running(web))
    lab.cluster.lead(False, 1)
    lab.cluster.lead(True, 2)

    def is_everywhere() -> bool:
        assert len(lab.running(web)) >= 9, "no more than three slots are down"
        return lab.is_in_order(web) and all(t.spec_version == 2 for t in lab.running(web))

    await lab.until(is_everywhere)
    await lab.until(lambda: lab.update_state(web) == "completed")
    lab.check(web)


async def test_update_that_fails_is_rolled_back_by_the_leader(lab: Lab) -> None:
    web = await lab.create(4)
    await lab.until(lambda: lab.is_in_order(web))
    config = UpdateConfig(parallelism=1, failure_action="rollback")
    await lab.change(web, task=other_image(lab, web), update_config=config)
    await lab.until(lambda: any(t.spec_version == 2 for t in lab.running(web)))
    new = next(t for t in lab.running(web) if t.spec_version == 2)
    lab.engines[str(new.node_id)].exit(new.id, 1)
    await lab.until(lambda: lab.update_state(web) == "rollback_completed")
    await lab.until(lambda: lab.is_in_order(web))
    assert {t.spec.container.image for t in lab.running(web)} == {"img"}
    service = lab.state.services[web]
    assert service.spec.update_config is None, "the whole spec goes back, as in Swarm"
    assert [r.spec.task.container.image for r in lab.state.revisions_of(web).values()] == [
        "img",
        "img:2",
        "img",
    ]
    lab.check(web)


async def test_other_limits_reach_the_engines_and_no_container_starts_anew(lab: Lab) -> None:
    web = await lab.create(3)
    await lab.until(lambda: lab.is_in_order(web))
    before = lab.containers()
    template = msgspec.structs.replace(
        lab.state.services[web].spec.task, resources=Resources(limits=Limits(pids=50))
    )
    await lab.change(web, task=template)
    await lab.until(lambda: lab.update_state(web) == "completed")
    told = {task_id for engine in lab.engines.values() for task_id in engine.limits_updates}
    assert told == before == lab.containers()
    lab.check(web)
