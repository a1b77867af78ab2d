"""Which of the nodes that passed is the best, step by step. Pure."""

from collections.abc import Callable

import msgspec

from essaim_master.control.scheduler.filters import Candidate, Demand

Score = tuple[int | str, ...]
"""The least is the best. One number for each step, then the node's id, so that the choice can be
repeated and no two scores are equal."""


class ScoreStep(msgspec.Struct, frozen=True):
    name: str
    of: Callable[[Demand, Candidate], int]
    """Less is better. It decides only between nodes that are equal in the steps before it."""


FAULTY_FROM = 5
"""Fewer failures of the group on a node say nothing about the node (SwarmKit's `maxFailures`)."""


def faults(demand: Demand, candidate: Candidate) -> int:
    """Recent failures of the group on a node, from so many on that they are held against it."""
    failures = demand.failures.get(candidate.node_id, 0)
    return failures if failures >= FAULTY_FROM else 0


STEPS: tuple[ScoreStep, ...] = (
    # Tasks that keep failing on a node may run on another.
    ScoreStep("faulty node", faults),
    # A node's loss costs the service least.
    ScoreStep(
        "tasks of the service",
        lambda demand, candidate: candidate.by_service.get(demand.service_id, 0),
    ),
    ScoreStep("tasks in all", lambda demand, candidate: candidate.tasks),
)


def score(demand: Demand, candidate: Candidate) -> Score:
    return (*[step.of(demand, candidate) for step in STEPS], candidate.node_id)
