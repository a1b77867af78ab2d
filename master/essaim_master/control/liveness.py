"""Which nodes are down: a failure detector that does not blame nodes for the leader's own deafness.

Pure; `now_s` is the leader's monotonic clock.

* A node is silent since its last sign of life. The time is counted on a *hearing clock*, which
  stands still while the leader's own echo does not return over the bus.
* Every node starts with full grace: at the start of a term, and when it registers.
* While more than half of the watched nodes are suspect together, the fault is more likely one of
  the bus: nobody is judged down, and the silent ones are only called unknown (as the node
  lifecycle controller of Kubernetes does with a whole zone).
"""

import msgspec

from essaim_shared.ids import NodeId
from essaim_shared.limits import HEARTBEAT_PERIOD_S, NODE_SILENCE_MAX_S

SUSPECT_AFTER_S = 2.6 * HEARTBEAT_PERIOD_S
"""Two beats and their repetitions are missing. Nodes that were cut off together cross the limit
up to a period apart: those still on their way count as silent together with the first."""

ECHO_PERIOD_S = 0.5
ECHO_SILENCE_MAX_S = 1.25
"""Without an echo for longer the leader is deaf."""


class Verdicts(msgspec.Struct, frozen=True):
    down: tuple[NodeId, ...] = ()
    """Newly judged down; no longer watched."""
    unknown: tuple[NodeId, ...] = ()
    """Newly silent while judgement is withheld; still watched."""
    withheld: str = ""
    """Why nobody is judged, for the log."""


class FailureDetector:
    """Watches the nodes that are believed alive."""

    def __init__(self, now_s: float) -> None:
        self._now_s = now_s
        self._echo_s = now_s
        self._hearing_s = 0.0
        self._heard_at: dict[NodeId, float] = {}
        """Each watched node's last sign of life, on the hearing clock."""
        self._unknown: set[NodeId] = set()

    def __contains__(self, node_id: NodeId) -> bool:
        return node_id in self._heard_at

    def watch(self, node_id: NodeId) -> None:
        """Begin to watch, with full grace."""
        self._heard_at[node_id] = self._hearing_s
        self._unknown.discard(node_id)

    def forget(self, node_id: NodeId) -> None:
        self._heard_at.pop(node_id, None)
        self._unknown.discard(node_id)

    def signal(self, node_id: NodeId) -> None:
        """A sign of life of a watched node."""
        if node_id in self._heard_at:
            self._heard_at[node_id] = self._hearing_s

    def echo(self, now_s: float) -> None:
        """The leader heard itself."""
        self.advance(now_s)
        self._echo_s = now_s

    def advance(self, now_s: float) -> None:
        """Move time on. Call it often: time since the last call counts as heard or not at once."""
        if self.can_hear(self._now_s):
            self._hearing_s += max(now_s - self._now_s, 0.0)
        self._now_s = now_s

    def can_hear(self, now_s: float) -> bool:
        return now_s - self._echo_s <= ECHO_SILENCE_MAX_S

    def silence_s(self, node_id: NodeId) -> float:
        """Seconds of silence that count; infinite for a node that is not watched."""
        heard_at = self._heard_at.get(node_id)
        return float("inf") if heard_at is None else self._hearing_s - heard_at

    def verdicts(self, now_s: float) -> Verdicts:
        """Judge; each node is named once, until it is watched anew."""
        self.advance(now_s)
        if not self.can_hear(now_s):
            return Verdicts(withheld="the leader's own messages do not return over the bus")
        silent = [n for n in self._heard_at if self.silence_s(n) >= NODE_SILENCE_MAX_S]
        if not silent:
            return Verdicts()
        suspects = sum(1 for n in self._heard_at if self.silence_s(n) >= SUSPECT_AFTER_S)
        if 2 * suspects > len(self._heard_at):
            unknown = tuple(node_id for node_id in silent if node_id not in self._unknown)
            self._unknown.update(unknown)
            reason = f"{suspects} of {len(self._heard_at)} nodes fell silent together"
            return Verdicts(unknown=unknown, withheld=reason)
        for node_id in silent:
            self.forget(node_id)
        return Verdicts(down=tuple(silent))
