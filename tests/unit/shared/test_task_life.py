"""The one transition table of tasks, and the drawing of it."""

import pytest

from essaim_shared.task_state import DESIRED_STATES, TRANSITIONS, TaskState, may_move

S = TaskState
OBSERVED = [state for state in TaskState if state is not S.REMOVE]

DRAWING = """
            NEW PEN ASS ACC PRE REA STA RUN COM SHU FAI REJ ORP
NEW          .   x   x   x   x   x   x   x   x   x   x   x   x
PENDING      .   .   x   x   x   x   x   x   x   x   x   x   x
ASSIGNED     .   .   .   x   x   x   x   x   x   x   x   x   x
ACCEPTED     .   .   .   .   x   x   x   x   x   x   x   x   x
PREPARING    .   .   .   .   .   x   x   x   x   x   x   x   x
READY        .   .   .   .   .   .   x   x   x   x   x   x   x
STARTING     .   .   .   .   .   .   .   x   x   x   x   x   x
RUNNING      .   .   .   .   .   .   .   .   x   x   x   x   x
COMPLETE     .   .   .   .   .   .   .   .   .   .   .   .   x
SHUTDOWN     .   .   .   .   .   .   .   .   .   .   .   .   x
FAILED       .   .   .   .   .   .   .   .   .   .   .   .   x
REJECTED     .   .   .   .   .   .   .   .   .   .   .   .   x
ORPHANED     .   .   .   .   .   .   .   .   .   .   .   .   .
"""


def drawn() -> str:
    lines = ["            " + " ".join(state.name[:3] for state in OBSERVED)]
    for state in OBSERVED:
        marks = "   ".join("x" if may_move(state, later) else "." for later in OBSERVED)
        lines.append(f"{state.name:<12} {marks}")
    return "\n".join(["", *lines, ""])


def test_table_is_as_drawn():
    assert drawn() == DRAWING


def test_every_observed_state_stands_in_the_table():
    assert set(TRANSITIONS) == set(OBSERVED)


@pytest.mark.parametrize("state", OBSERVED)
def test_no_state_is_left_for_an_earlier_one(state):
    assert all(later > state for later in TRANSITIONS[state])
    assert S.REMOVE not in TRANSITIONS[state], "that is only ever desired"


def test_what_is_wanted_goes_on_and_what_is_not_does_not():
    wanted = {state for state in DESIRED_STATES if state <= S.COMPLETE}
    assert wanted == {S.READY, S.RUNNING, S.COMPLETE}
    assert DESIRED_STATES - wanted == {S.SHUTDOWN, S.REMOVE}
