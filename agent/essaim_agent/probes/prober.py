"""One probe of one task: when to ask next, and what the answers say so far. Pure.

    verdict     a run of successes    a run of failures
    UNDECIDED   SUCCEEDED             FAILED
    SUCCEEDED   SUCCEEDED             FAILED
    FAILED      SUCCEEDED             FAILED

A run is as many equal answers one after the other as the threshold says. What a probe is taken
for before its first run is what tells the kinds apart: a start-up probe is undecided, a task is
taken to live and not to be ready (Kubernetes, pkg/kubelet/prober/worker.go).

Probes must not keep step: an agent that comes back asks all its tasks within one period and not
in one instant, and two hundred tasks that started together drift apart with the second question.
"""

import random
from enum import Enum, auto

import msgspec

from essaim_shared.container_spec import Probe, Probes

SPREAD = 0.25
"""The second question comes up to so great a part of the period late. Never early: a task is given
the time that its thresholds promise."""


PERIOD_MIN_S = 0.1
"""However short a period was asked for: a node has better things to do."""


class Kind(Enum):
    STARTUP = "startup"
    READINESS = "readiness"
    LIVENESS = "liveness"


class Answer(Enum):
    SUCCESS = auto()
    FAILURE = auto()
    UNKNOWN = auto()
    """It could not be asked: the engine is away. It says nothing about the task, and counts for
    nothing."""


class Verdict(Enum):
    UNDECIDED = auto()
    SUCCEEDED = auto()
    FAILED = auto()


VERDICTS: dict[tuple[Verdict, Answer], Verdict] = {
    (before, answer): after
    for before in Verdict
    for answer, after in (
        (Answer.SUCCESS, Verdict.SUCCEEDED),
        (Answer.FAILURE, Verdict.FAILED),
        (Answer.UNKNOWN, before),
    )
}
"""From a verdict, and the answer of which a run is complete, to the next verdict."""

FIRST_VERDICT = {
    Kind.STARTUP: Verdict.UNDECIDED,
    Kind.READINESS: Verdict.FAILED,
    Kind.LIVENESS: Verdict.SUCCEEDED,
}


class Prober:
    """At `due_s` call `begin` and ask, then tell the answer with `answered`."""

    def __init__(
        self, kind: Kind, probe: Probe, verdict: Verdict, first_due_s: float, rng: random.Random
    ) -> None:
        self.kind = kind
        self.probe = probe
        self.verdict = verdict
        self.due_s = first_due_s
        self._rng = rng
        self._run_of = Answer.UNKNOWN
        self._run_length = 0
        self._asked = 0

    def begin(self, now_s: float) -> None:
        """Periods count from question to question, however long an answer takes."""
        self._asked += 1
        late = self._rng.uniform(0.0, SPREAD) if self._asked == 1 else 0.0
        self.due_s = now_s + max(PERIOD_MIN_S, self.probe.period / 1e9) * (1.0 + late)

    def answered(self, answer: Answer) -> Verdict | None:
        """The verdict, if this answer completes a run; a verdict is repeated with every answer
        that prolongs its run. None: nothing is decided."""
        if answer is Answer.UNKNOWN:
            return None
        self._run_length = self._run_length + 1 if answer is self._run_of else 1
        self._run_of = answer
        if self._run_length < self._threshold(answer):
            return None
        self.verdict = VERDICTS[self.verdict, answer]
        return self.verdict

    def _threshold(self, answer: Answer) -> int:
        success = answer is Answer.SUCCESS
        return self.probe.success_threshold if success else self.probe.failure_threshold


class Beginning(msgspec.Struct, frozen=True):
    """What is known of a task when its probing begins."""

    now_s: float
    started_s: float
    """When the container was started, on the same clock."""
    is_taken_over: bool
    """From an agent that ran here before."""
    is_ready: bool
    """As last reported."""


def new_prober(kind: Kind, probe: Probe, beginning: Beginning, rng: random.Random) -> Prober:
    """A fresh container is asked as soon as its initial delay has passed; one that was taken over
    at some moment of the period after it."""
    verdict = FIRST_VERDICT[kind]
    if kind is Kind.READINESS and beginning.is_ready:
        verdict = Verdict.SUCCEEDED
    delay_s = probe.initial_delay / 1e9
    # Bounds on both sides: a start taken from a wall clock that was set may be anywhere.
    wait_s = min(delay_s, max(0.0, beginning.started_s + delay_s - beginning.now_s))
    if beginning.is_taken_over:
        wait_s += rng.uniform(0.0, probe.period / 1e9)
    return Prober(kind, probe, verdict, beginning.now_s + wait_s, rng)


def probe_of(probes: Probes, kind: Kind) -> Probe | None:
    match kind:
        case Kind.STARTUP:
            return probes.startup
        case Kind.READINESS:
            return probes.readiness
        case Kind.LIVENESS:
            return probes.liveness
