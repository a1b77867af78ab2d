"""Whole clusters under random harm; see `support/raft_stories.py`.

A failure prints the seed and the last events: `Story(seed, voter_count, …).tell(steps)` repeats it.
"""

import pytest
from support.raft_stories import Story

SEEDS_PER_SIZE = {1: 20, 2: 40, 3: 110, 5: 60}
SEEDS_WITH_CHURN_PER_SIZE = {1: 40, 2: 40, 3: 160}
STEPS_OF_HARM = 3000


@pytest.mark.parametrize("voter_count", SEEDS_PER_SIZE)
def test_safety_and_recovery(voter_count: int) -> None:
    """The eight invariants, state machine safety, linearizable reads (paper, figure 3;
    dissertation 6.4), with snapshots that overtake the log."""
    entries = reads = crashes = terms = installed = 0
    seeds = SEEDS_PER_SIZE[voter_count]
    for seed in range(seeds):
        story = Story(seed, voter_count)
        story.tell(STEPS_OF_HARM)
        entries += len(story.commands)
        reads += story.reads_served
        crashes += sum(machine.starts - 1 for machine in story.machines.values())
        terms += len(story.watch.leaders)
        installed += story.installed
    print(f"{entries} entries, {reads} reads, {crashes} crashes, {terms} terms, {installed} snaps")
    assert entries > 10 * seeds
    assert reads > seeds
    assert crashes > seeds
    assert terms > seeds
    assert installed > 0


@pytest.mark.parametrize("voter_count", SEEDS_WITH_CHURN_PER_SIZE)
def test_safety_and_recovery_while_masters_come_and_go(voter_count: int) -> None:
    """The same, while members are added, promoted and removed, leaders among them."""
    changes = members = installed = 0
    seeds = SEEDS_WITH_CHURN_PER_SIZE[voter_count]
    for seed in range(seeds):
        story = Story(seed, voter_count, has_churn=True)
        story.tell(STEPS_OF_HARM)
        changes += story.changes
        members += len(story.machines)
        installed += story.installed
    print(f"{changes} changes, {members} members, {installed} snaps")
    assert changes > seeds
    assert members > (voter_count + 1) * seeds
    assert installed > 0
