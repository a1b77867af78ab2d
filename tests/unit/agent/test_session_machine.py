"""How an agent keeps its session: every answer of the bus, and what follows."""

import pytest

from essaim_agent.session_machine import (
    TRANSITIONS,
    Action,
    Event,
    SessionState,
    State,
    step,
)
from essaim_shared.limits import HEARTBEAT_MISSES_MAX

IMPOSSIBLE = {
    (State.IN_SESSION, Event.REGISTERED),
    (State.REGISTERING, Event.ACKNOWLEDGED),
    (State.REFUSED, Event.ACKNOWLEDGED),
}


def test_every_answer_that_can_come_has_a_consequence() -> None:
    assert set(TRANSITIONS) == {(s, e) for s in State for e in Event} - IMPOSSIBLE


def test_an_answer_that_cannot_come_is_a_broken_assumption() -> None:
    for state, event in IMPOSSIBLE:
        with pytest.raises(KeyError):
            step(SessionState(state), event)


def test_one_miss_is_repeated_at_once_and_two_change_the_server() -> None:
    assert HEARTBEAT_MISSES_MAX == 2
    once, action = step(SessionState(State.IN_SESSION), Event.MISSED)
    assert action is Action.GO_ON
    twice, action = step(once, Event.MISSED)
    assert (twice, action) == (SessionState(State.IN_SESSION, 0), Action.RECONNECT)


def test_an_answer_between_two_misses_forgives_the_first() -> None:
    once, _ = step(SessionState(State.IN_SESSION), Event.MISSED)
    answered, _ = step(once, Event.ACKNOWLEDGED)
    _, action = step(answered, Event.MISSED)
    assert action is Action.GO_ON


@pytest.mark.parametrize("state", State)
def test_without_a_leader_the_server_is_kept(state: State) -> None:
    now = SessionState(state)
    for _ in range(10):
        now, action = step(now, Event.NO_LEADER)
        assert (now.state, action) == (state, Action.WAIT_SHORTLY)


def test_a_new_leader_is_registered_with_at_once() -> None:
    now, action = step(SessionState(State.IN_SESSION), Event.REGISTER_AGAIN)
    assert (now.state, action) == (State.REGISTERING, Action.GO_ON)


def test_a_refused_node_asks_again_now_and_then_and_is_taken_when_it_may() -> None:
    now, action = step(SessionState(), Event.REFUSED)
    assert (now.state, action) == (State.REFUSED, Action.WAIT_REFUSED)
    now, action = step(now, Event.REFUSED)
    assert (now.state, action) == (State.REFUSED, Action.WAIT_REFUSED)
    now, action = step(now, Event.REGISTERED)
    assert (now.state, action) == (State.IN_SESSION, Action.GO_ON)
