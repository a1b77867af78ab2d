"""What the agent asks of the overlay: a network namespace per task, wanted tables kept true,
names answered, connections led to those who serve.

`overlay` implements it with netlink; `fake_network` in memory. Both pass the same contract tests.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from essaim_shared.errors import EssaimError
from essaim_shared.ids import HOST_NETWORK_ID, NetworkId, TaskId
from essaim_shared.messages import Endpoint, NodeNetwork, ServiceEntry
from essaim_shared.objects import Attachment, Task
from essaim_shared.spec import PortConfig


class NetworkError(EssaimError):
    """The kernel refused something. The task that asked for it is rejected with this text."""


class NetworksRefused(NetworkError):
    """The kernel refused something of these networks. All others are as wanted."""

    def __init__(self, reason: str, networks: frozenset[NetworkId]) -> None:
        super().__init__(reason)
        self.networks = networks


class InterfaceCounters(msgspec.Struct, frozen=True, gc=False):
    """As seen from inside the container, since its interface was made."""

    receive_bytes: int
    transmit_bytes: int
    receive_packets: int
    transmit_packets: int


EndpointState = Literal["starting", "serving", "draining"]
"""Of `Endpoint.state`."""


def is_on_host_network(task: Task) -> bool:
    """Whether the task asked for its node's own network, and for nothing else."""
    wanted = [network.target for network in task.spec.networks]
    return wanted == [HOST_NETWORK_ID] and not task.attachments


class NetworkPicture(msgspec.Struct, frozen=True):
    """All that is wanted of this node's networks at one moment; each change makes another one."""

    networks: Mapping[NetworkId, NodeNetwork] = {}
    endpoints: frozenset[Endpoint] = frozenset()
    """As the masters told them, but for the `state` of this node's own tasks: that is what the
    node itself knows, which is never older."""
    services: frozenset[ServiceEntry] = frozenset()
    nodes: frozenset[str] = frozenset()
    """Underlay addresses of the cluster's nodes."""
    tasks: Mapping[TaskId, tuple[Attachment, ...]] = {}
    """Tasks of this node: which names a task may ask for follows from its networks."""
    nameservers: Mapping[TaskId, tuple[str, ...]] = {}
    """Of tasks whose users named some (`--dns`): asked instead of the node's own for what the
    node's name server does not know itself."""


class TaskNetworks(Protocol):
    async def start(self) -> None:
        """Take over what an earlier run of the agent left; begin watching the kernel's tables."""
        ...

    async def adopt_ports(self, tasks: Iterable[Task]) -> None:
        """Tell once, after `start`, which tasks of an earlier run still have their ports; ports
        that lead to any other are closed. Raises NetworkError."""
        ...

    async def want(self, picture: NetworkPicture) -> None:
        """Set what is wanted.

        Returns once the kernel agrees, the name server too. Repeating it is free; what is no
        longer wanted goes away, a network's bridge with its last task. Raises NetworkError.
        """
        ...

    async def attach(
        self,
        task_id: TaskId,
        attachments: Sequence[Attachment],
        sysctls: Mapping[str, str],
        ports: Sequence[PortConfig] = (),
    ) -> str:
        """Make the task's network namespace, complete, and return its path (`/run/netns/…`).

        The networks must be wanted already. `ports` of the node lead to the task from then on;
        one that a process of the host or another task has is refused. Repeating it for the same
        task is free.
        """
        ...

    async def detach(self, task_id: TaskId) -> None:
        """Remove the namespace and its interfaces, and close its ports; no error when there is
        none."""
        ...

    async def connections(self, task_id: TaskId) -> int:
        """TCP connections under way that the task serves; 0 for a task that is not known. Raises
        NetworkError."""
        ...

    async def attached(self) -> frozenset[TaskId]:
        """Tasks that have a namespace now, those of an earlier run included."""
        ...

    def counters(self, task_id: TaskId) -> InterfaceCounters | None:
        """Traffic of a task's interfaces; None when it has no namespace."""
        ...

    async def close(self) -> None:
        """Stop watching. Namespaces and tables stay: containers outlive the agent."""
        ...
