"""How an agent keeps its session with the leader: the decisions.

    REGISTERING ──registered──▶ IN_SESSION ──register again──▶ REGISTERING
         └───────────refused──▶ REFUSED ◀──────refused── …

In REGISTERING and REFUSED the driver's next request is a Register, in IN_SESSION a Heartbeat.
Each request ends in one event; the table says where that leads and what to do before the next.

What silence means depends on who is silent. No answer at all may be a bus server that is hung or
cut off, so two in a row change the server. "No responders" is an answer of the bus: it works and
there is no leader, so changing the server would help nobody. "Disconnected" is known to the
transport already, which reconnects by itself.
"""

from enum import Enum, auto

import msgspec

from essaim_shared.limits import HEARTBEAT_MISSES_MAX


class State(Enum):
    REGISTERING = auto()
    IN_SESSION = auto()
    REFUSED = auto()
    """A leader will not have this node (another machine has its id): run nothing new, ask again
    now and then."""


class Event(Enum):
    REGISTERED = auto()
    ACKNOWLEDGED = auto()
    """A beat was answered in the present term."""
    REGISTER_AGAIN = auto()
    REFUSED = auto()
    NO_LEADER = auto()
    """Nobody listens, or someone answered who leads no more."""
    DISCONNECTED = auto()
    MISSED = auto()
    """No answer in time."""


class Action(Enum):
    """What to do before the next request."""

    WAIT_PERIOD = auto()
    GO_ON = auto()
    """Nothing: the next request leaves at once."""
    RECONNECT = auto()
    """Change the bus server."""
    WAIT_SHORTLY = auto()
    """A short, random pause, so that a thousand agents do not ask in step."""
    WAIT_REFUSED = auto()


class SessionState(msgspec.Struct, frozen=True):
    state: State = State.REGISTERING
    misses: int = 0
    """Unanswered requests in a row on the present bus server."""


TRANSITIONS: dict[tuple[State, Event], tuple[State, Action]] = {
    (State.REGISTERING, Event.REGISTERED): (State.IN_SESSION, Action.GO_ON),
    (State.REGISTERING, Event.REGISTER_AGAIN): (State.REGISTERING, Action.WAIT_SHORTLY),
    (State.REGISTERING, Event.REFUSED): (State.REFUSED, Action.WAIT_REFUSED),
    (State.REGISTERING, Event.NO_LEADER): (State.REGISTERING, Action.WAIT_SHORTLY),
    (State.REGISTERING, Event.DISCONNECTED): (State.REGISTERING, Action.WAIT_SHORTLY),
    (State.REGISTERING, Event.MISSED): (State.REGISTERING, Action.GO_ON),
    (State.IN_SESSION, Event.ACKNOWLEDGED): (State.IN_SESSION, Action.WAIT_PERIOD),
    (State.IN_SESSION, Event.REGISTER_AGAIN): (State.REGISTERING, Action.GO_ON),
    (State.IN_SESSION, Event.REFUSED): (State.REFUSED, Action.WAIT_REFUSED),
    (State.IN_SESSION, Event.NO_LEADER): (State.IN_SESSION, Action.WAIT_SHORTLY),
    (State.IN_SESSION, Event.DISCONNECTED): (State.IN_SESSION, Action.WAIT_SHORTLY),
    (State.IN_SESSION, Event.MISSED): (State.IN_SESSION, Action.GO_ON),
    (State.REFUSED, Event.REGISTERED): (State.IN_SESSION, Action.GO_ON),
    (State.REFUSED, Event.REGISTER_AGAIN): (State.REGISTERING, Action.WAIT_SHORTLY),
    (State.REFUSED, Event.REFUSED): (State.REFUSED, Action.WAIT_REFUSED),
    (State.REFUSED, Event.NO_LEADER): (State.REFUSED, Action.WAIT_SHORTLY),
    (State.REFUSED, Event.DISCONNECTED): (State.REFUSED, Action.WAIT_SHORTLY),
    (State.REFUSED, Event.MISSED): (State.REFUSED, Action.GO_ON),
}
"""Every pair but REGISTERED in a session (no Register is under way there) and ACKNOWLEDGED
outside of one (no beat is)."""


def step(before: SessionState, event: Event) -> tuple[SessionState, Action]:
    """Raises KeyError for an event that cannot happen in the state."""
    state, action = TRANSITIONS[before.state, event]
    if event is not Event.MISSED:
        return SessionState(state), action
    misses = before.misses + 1
    if misses < HEARTBEAT_MISSES_MAX:
        return SessionState(state, misses), action
    return SessionState(state), Action.RECONNECT
