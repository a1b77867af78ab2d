"""Orders to stop that wait for the other nodes: agents that answer late, never, or anew."""

import pytest

from essaim_shared.ids import NodeId
from essaim_shared.limits import DRAIN_BARRIER_S, NODE_SILENCE_MAX_S
from essaim_shared.messages import TablesApplied, encode
from essaim_shared.subjects import Subjects
from essaim_shared.task_state import TaskState

SUBJECTS = Subjects("test")


class Story:
    """One service with a task on each of three nodes, of which one is to go."""

    def __init__(self, bench, web):
        self.bench, self.web = bench, web
        self.listeners = bench.agents
        self.stopping = self.owner = None

    async def scale_down(self):
        await self.bench.scale(self.web, 2)
        await self.bench.until(self._has_chosen)
        self.owner = next(a for a in self.bench.agents if a.node_id == self.stopping.node_id)

    def _has_chosen(self):
        tasks = self.bench.state.tasks_of_service(self.web).values()
        self.stopping = next((t for t in tasks if not t.is_wanted), None)
        return self.stopping is not None

    def state_at(self, agent):
        return agent.serving.get(self.stopping.attachments[0].address)

    def is_ordered(self):
        task, _ = self.owner.tasks.get(self.stopping.id, (None, None))
        return task is None or not task.is_wanted

    async def until_ordered(self):
        return await self.bench.until(self.is_ordered)

    async def until_draining(self, *agents):
        await self.bench.until(lambda: all(self.state_at(a) == "draining" for a in agents))


@pytest.fixture
async def story(bench):
    await bench.start_agents()
    web = await bench.create(3)
    await bench.until(lambda: bench.is_in_order(web))
    await bench.run(1)
    return Story(bench, web)


async def test_the_order_follows_the_answers_at_once(story):
    await story.bench.scale(story.web, 2)
    assert await story.bench.until(lambda: len(story.bench.state.tasks) == 2) <= 0.1


async def test_no_order_before_the_slowest_has_answered(story):
    late = story.listeners[1]
    late.answers_after_s = 1.2
    await story.scale_down()
    await story.until_draining(*story.listeners)
    assert not story.is_ordered()
    assert 1.0 <= await story.until_ordered() <= 1.3


async def test_who_never_answers_costs_the_bound_and_is_named(story, caplog):
    story.listeners[2].answers_after_s = None
    await story.scale_down()
    took_s = await story.until_ordered()
    assert DRAIN_BARRIER_S - 0.2 <= took_s <= DRAIN_BARRIER_S + 0.2
    (complaint,) = [r.message for r in caplog.records if "may still lead" in r.message]
    assert "nodes=1 first=n3" in complaint


async def test_all_tasks_of_a_removed_service_wait_together(story):
    for agent in story.listeners:
        agent.answers_after_s = 0.5
    more = await story.bench.create(40, name="more")
    await story.bench.until(lambda: len(story.bench.seen_running(more)) == 40)
    await story.bench.scale(more, 0)
    took_s = await story.bench.until(
        lambda: not any(task.service_id == more for task in story.bench.state.tasks.values())
    )
    assert took_s <= 1.0


async def test_a_cut_off_node_holds_nothing_once_it_is_known_to_be_silent(story):
    cut = story.listeners[0]
    story.bench.bus.cut_client("agent-192.168.0.1")
    await story.bench.run(NODE_SILENCE_MAX_S - 0.5)
    assert story.bench.state.node_status[cut.node_id].state == "ready", "not judged yet"
    await story.bench.scale(story.web, 2)
    assert await story.bench.until(lambda: len(story.bench.state.tasks) == 2) <= 0.1


async def test_a_node_that_goes_down_meanwhile_is_not_waited_for(story):
    silent = story.listeners[0]
    silent.answers_after_s = None
    await story.scale_down()
    await story.until_draining(*story.listeners)
    assert not story.is_ordered()
    await story.bench.remove_node(silent.node_id)
    assert await story.until_ordered() <= 0.2


async def test_a_node_that_registers_anew_is_waited_for_until_its_new_tables_are_in_force(story):
    again = story.listeners[1]
    again.answers_after_s = None
    await story.scale_down()
    await story.until_draining(*story.listeners)
    again.session = None  # as if its process was started anew
    again.answers_after_s = 0.3
    sequence = again.sequence
    await story.bench.until(lambda: again.sequence < sequence)
    assert again.messages[-1].full
    assert again.messages[-1].wants_applied
    assert story.state_at(again) == "draining"
    assert not story.is_ordered()
    assert await story.until_ordered() <= 0.5


async def test_the_owner_registering_anew_is_shown_the_task_as_before(story):
    for agent in story.listeners:
        agent.answers_after_s = None
    await story.scale_down()
    await story.until_draining(*story.listeners)
    story.owner.session = None
    sequence = story.owner.sequence
    await story.bench.until(lambda: story.owner.sequence < sequence)
    (shown,) = [t for t in story.owner.messages[-1].tasks if t.id == story.stopping.id]
    assert shown.desired_state is TaskState.RUNNING
    assert await story.until_ordered() <= DRAIN_BARRIER_S


async def test_a_lost_difference_is_waited_for_until_it_came_with_a_full_set(story):
    story.bench.bus.loss = 1.0
    await story.bench.scale(story.web, 2)
    for _ in range(3):
        await story.bench.clock.advance(0)
    story.bench.bus.loss = 0.0
    assert story._has_chosen()
    story.owner = next(a for a in story.listeners if a.node_id == story.stopping.node_id)
    assert not story.is_ordered()
    assert await story.until_ordered() < DRAIN_BARRIER_S - 0.5, "the heartbeats told of it"
    assert {story.state_at(a) for a in story.listeners} <= {"draining", None}


async def test_a_new_leader_waits_anew(story):
    for agent in story.listeners:
        agent.answers_after_s = None
    await story.scale_down()
    await story.until_draining(*story.listeners)
    story.bench.cluster.lead(False, 1)
    for agent in story.listeners:
        agent.answers_after_s = 0.2
    story.bench.cluster.lead(True, 2)
    await story.bench.until(lambda: all(a.term == 2 for a in story.listeners))
    assert all(story.state_at(a) == "draining" for a in story.listeners)
    assert not story.is_ordered()
    assert await story.until_ordered() <= 0.5


async def test_a_new_leader_waits_no_longer_than_the_bound_for_who_does_not_come(story):
    for agent in story.listeners:
        agent.answers_after_s = None
    await story.scale_down()
    await story.until_draining(*story.listeners)
    lost = next(a for a in story.listeners if a is not story.owner)
    story.bench.cluster.lead(False, 1)
    story.bench.bus.cut_client(lost.transport.name)
    story.bench.cluster.lead(True, 2)
    took_s = await story.until_ordered()
    assert took_s <= DRAIN_BARRIER_S + 0.2


@pytest.mark.parametrize("wrong", ["session", "term", "node", "future"])
async def test_answers_that_are_none_release_nothing(story, wrong):
    for agent in story.listeners:
        agent.answers_after_s = None
    await story.scale_down()
    await story.until_draining(*story.listeners)
    rejects = story.bench.leader.rejects.count
    for agent in story.listeners:
        applied = TablesApplied(
            node_id=NodeId("n9") if wrong == "node" else agent.node_id,
            session="old" if wrong == "session" else agent.session,
            term=0 if wrong == "term" else agent.term,
            sequence=agent.sequence + 5 if wrong == "future" else agent.sequence,
        )
        await agent.transport.publish(SUBJECTS.applied(agent.node_id), encode(applied))
    await story.bench.run(1)
    assert not story.is_ordered()
    assert story.bench.leader.rejects.count - rejects == (3 if wrong in ("future", "node") else 0)
