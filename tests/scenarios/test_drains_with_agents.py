"""Tasks that stop while others send them connections: nobody is led to one that runs no more.

The real leader and real agents; looked at after each twentieth of a second.
"""

import msgspec
import pytest
from support.leader_lab import Agent, Lab

from essaim_shared.ids import ServiceId
from essaim_shared.limits import DRAIN_BARRIER_S
from essaim_shared.objects import Task
from essaim_shared.spec import TaskSpec, UpdateConfig


class Drain:
    """A service with two tasks on each of three hosts, of which some are to go."""

    def __init__(self, lab: Lab, web: ServiceId) -> None:
        self.lab, self.web = lab, web
        self.stopping: list[Task] = []

    async def scale(self, replicas: int) -> None:
        await self.lab.scale(self.web, replicas)
        await self.lab.until(self._has_chosen)

    def _has_chosen(self) -> bool:
        tasks = self.lab.state.tasks_of_service(self.web).values()
        self.stopping = [task for task in tasks if not task.is_wanted]
        assert all(task.node_id != self.other.name for task in self.stopping)
        return bool(self.stopping)

    @property
    def owner(self) -> Agent:
        return self.lab.agents[str(self.stopping[0].node_id)]

    @property
    def other(self) -> Agent:
        """One that none of the stories takes a task from."""
        return self.lab.agents["h1"]

    def state_at(self, agent: Agent) -> set[str]:
        """How an agent's kernel knows the tasks that are to stop."""
        ids = {task.id for task in self.stopping}
        kernel = self.lab.fabric.kernel(agent.address)
        return {e.state for e in kernel.endpoints if e.task_id in ids}

    def has_stopped(self) -> bool:
        return not any(self.lab.agents[str(task.node_id)].runs(task.id) for task in self.stopping)

    async def until_stopped(self) -> float:
        return await self.lab.until(self.has_stopped)


@pytest.fixture
async def drain(lab: Lab) -> Drain:
    web = await lab.create(6)
    await lab.until(lambda: lab.is_in_order(web))
    await lab.run(1)
    assert not lab.led_astray()
    return Drain(lab, web)


async def test_nobody_is_led_to_a_task_that_stops(drain: Drain) -> None:
    lab = drain.lab
    await lab.scale(drain.web, 2)

    def is_done() -> bool:
        assert not lab.led_astray()
        return lab.is_in_order(drain.web) and len(lab.state.tasks) == 2

    assert await lab.until(is_done) <= 0.5


async def test_nor_during_an_update_of_all(drain: Drain) -> None:
    lab = drain.lab
    template = lab.state.services[drain.web].spec.task
    container = msgspec.structs.replace(template.container, image="img:2")
    other: TaskSpec = msgspec.structs.replace(template, container=container)
    config = UpdateConfig(parallelism=2, monitor=1_000_000_000, order="start-first")
    await lab.change(drain.web, task=other, update_config=config)

    def is_done() -> bool:
        assert not lab.led_astray()
        return lab.update_state(drain.web) == "completed"

    await lab.until(is_done)
    await lab.until(lambda: lab.is_in_order(drain.web))
    lab.check(drain.web)


async def test_a_task_runs_until_the_slowest_node_has_other_tables(drain: Drain) -> None:
    slow = drain.other
    slow.networks.tables_free.clear()
    await drain.scale(5)
    await drain.lab.until(lambda: drain.state_at(drain.owner) == {"draining"})
    await drain.lab.run(1)
    assert not drain.has_stopped()
    slow.networks.tables_free.set()
    assert await drain.until_stopped() <= 0.3
    assert not drain.lab.led_astray()


async def test_a_kernel_that_refuses_costs_the_bound_and_no_more(drain: Drain) -> None:
    drain.other.networks.tables_refusal = "no more memory"
    await drain.scale(5)
    took_s = await drain.until_stopped()
    assert DRAIN_BARRIER_S - 0.2 <= took_s <= DRAIN_BARRIER_S + 0.3
    drain.other.networks.tables_refusal = ""
    await drain.lab.run(11)
    drain.lab.check(drain.web)


async def test_an_agent_that_starts_again_is_waited_for(drain: Drain) -> None:
    again = drain.other
    again.networks.tables_free.clear()
    await drain.scale(5)
    await drain.lab.until(lambda: drain.state_at(drain.owner) == {"draining"})
    await again.kill()
    assert not drain.has_stopped()
    await drain.lab.start_agent(again.name)
    assert await drain.until_stopped() <= 1.0
    assert drain.state_at(again) <= {"draining"}
    await drain.lab.run(2)
    drain.lab.check(drain.web)


async def test_a_host_that_is_cut_off_costs_the_bound_and_no_more(drain: Drain) -> None:
    drain.lab.bus.cut_client(drain.other.name)
    await drain.scale(5)
    assert await drain.until_stopped() <= DRAIN_BARRIER_S + 0.3
    drain.lab.bus.heal_client(drain.other.name)
    await drain.lab.until(lambda: drain.lab.is_in_order(drain.web))
    await drain.lab.run(2)
    drain.lab.check(drain.web)


async def test_a_new_leader_waits_anew_for_the_slow_node(drain: Drain) -> None:
    slow = drain.other
    slow.networks.tables_free.clear()
    await drain.scale(5)
    await drain.lab.until(lambda: drain.state_at(drain.owner) == {"draining"})
    drain.lab.cluster.lead(False, 1)
    await drain.lab.run(0.5)
    drain.lab.cluster.lead(True, 2)
    await drain.lab.until(lambda: all(a.term == 2 for a in drain.lab.agents.values()))
    assert not drain.has_stopped()
    slow.networks.tables_free.set()
    assert await drain.until_stopped() <= 1.0
    await drain.lab.run(2)
    drain.lab.check(drain.web)


async def test_everything_drains_over_a_lossy_bus(drain: Drain) -> None:
    lab = drain.lab
    lab.bus.loss = 0.05
    lab.bus.delay_s = (0.001, 0.03)
    for replicas in (3, 9, 1):
        await lab.scale(drain.web, replicas)
        await lab.run(6)
    lab.bus.loss = 0.0
    await lab.until(lambda: lab.is_in_order(drain.web) and len(lab.state.tasks) == 1)
    await lab.run(3)
    assert not lab.led_astray()
    lab.check(drain.web)


async def test_a_removed_service_is_gone_within_one_round(drain: Drain) -> None:
    more = await drain.lab.create(40, name="more")
    await drain.lab.until(lambda: drain.lab.is_in_order(drain.web, more))
    await drain.lab.run(1)
    await drain.lab.remove(more)
    took_s = await drain.lab.until(lambda: not drain.lab.state.tasks_of_service(more))
    assert took_s <= 0.5
