"""For executors whose tasks live on the host's network: nothing to make, nothing to keep."""

from collections.abc import Iterable, Mapping, Sequence

from essaim_agent.network import InterfaceCounters, NetworkPicture
from essaim_shared.ids import TaskId
from essaim_shared.objects import Attachment, Task
from essaim_shared.spec import PortConfig


class NoNetworks:
    """Implements `essaim_agent.network.TaskNetworks`. The worker never attaches a task to it."""

    async def start(self) -> None:
        return

    async def adopt_ports(self, tasks: Iterable[Task]) -> None:
        return

    async def want(self, picture: NetworkPicture) -> None:
        return

    async def attach(
        self,
        task_id: TaskId,
        attachments: Sequence[Attachment],
        sysctls: Mapping[str, str],
        ports: Sequence[PortConfig] = (),
    ) -> str:
        return ""

    async def detach(self, task_id: TaskId) -> None:
        return

    async def connections(self, task_id: TaskId) -> int:
        return 0

    async def attached(self) -> frozenset[TaskId]:
        return frozenset()

    def counters(self, task_id: TaskId) -> InterfaceCounters | None:
        return None

    async def close(self) -> None:
        return
