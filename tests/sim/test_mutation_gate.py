"""The mutation gate: each known bug is found in a copy of the code that has it."""

import pytest
from sim import mutation_gate

MUTATIONS = 15
"""The list of the project's reference; none may get lost."""

SLOW = ("04-ack-without-term", "12-torn-tail-accepted")
"""Found after half a minute of simulated clusters: `make slow` looks for these."""

CASES = [
    pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
    for name in mutation_gate.names()
]


def test_the_list_is_complete():
    numbers = [int(name.partition("-")[0]) for name in mutation_gate.names()]
    assert numbers == list(range(1, MUTATIONS + 1))
    assert set(SLOW) <= set(mutation_gate.names())


@pytest.mark.timeout(mutation_gate.TIME_LIMIT_S + 30)
@pytest.mark.parametrize("name", CASES)
def test_a_known_bug_is_found(name):
    verdict = mutation_gate.judge(name)
    print(verdict.how)
    assert verdict.is_caught, verdict.how
