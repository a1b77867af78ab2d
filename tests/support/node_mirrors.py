"""What agents know if they believe every difference of an assignment book."""

from collections.abc import Iterable

from essaim_master.control.assignments import AssignmentBook
from essaim_master.control.difference import Difference
from essaim_master.state.cluster_state import ClusterState
from essaim_shared.ids import NodeId

KINDS = ("tasks", "networks", "endpoints", "services", "nodes")
NAMES = {
    "tasks": lambda task: task.id,
    "networks": lambda network: network.network_id,
    "endpoints": lambda endpoint: endpoint,
    "services": lambda service: service,
    "nodes": lambda address: address,
}
"""How a removal names what it removes."""


class Mirror:
    """What one agent knows."""

    def __init__(self) -> None:
        self.known: dict[str, dict] = {kind: {} for kind in KINDS}

    def __getattr__(self, kind: str) -> dict:
        return self.known[kind]

    def apply(self, difference: Difference) -> None:
        """Removals first. Nothing is removed that was not there, and nothing is told twice."""
        for kind in KINDS:
            known = self.known[kind]
            for name in getattr(difference, f"removed_{kind}"):
                assert name in known, f"removal of what it never had: {name}"
                del known[name]
            for item in getattr(difference, kind):
                name = NAMES[kind](item)
                assert known.get(name) != item, f"told twice: {name}"
                known[name] = item

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mirror) and self.known == other.known


def full(book: AssignmentBook, node: str) -> Mirror:
    """A node that was told everything just now."""
    mirror = Mirror()
    mirror.apply(book.full_set(NodeId(node)))
    return mirror


class Listeners:
    """A mirror for each node, fed by one book."""

    def __init__(self, state: ClusterState, nodes: Iterable[str]) -> None:
        self.state = state
        self.book = AssignmentBook(state)
        self.unsubscribe = state.subscribe(self.book.note)
        self.mirrors = {node: full(self.book, node) for node in nodes}

    def flush(self) -> dict[NodeId, Difference]:
        differences = self.book.flush()
        for node, difference in differences.items():
            assert difference != Difference(), "an empty difference is not worth a message"
            assert all(difference.shared), "nor is an empty part worth its place"
            if node in self.mirrors:
                self.mirrors[node].apply(difference)
        return differences

    def release(self) -> dict[NodeId, Difference]:
        """Let all orders to stop go that are held back."""
        self.book.release([t for held in self.book.take_held() for t in held.tasks])
        return self.flush()

    def expected(self, node: str) -> Mirror:
        """The full set computed from nothing but the state."""
        book = AssignmentBook(self.state)
        book.release([t for held in book.take_held() for t in held.tasks])
        book.flush()
        return full(book, node)

    def check(self) -> None:
        """Everybody knows what the state says, and what a full set would say now."""
        for node, mirror in self.mirrors.items():
            assert mirror == full(self.book, node)
            assert mirror == self.expected(node)
