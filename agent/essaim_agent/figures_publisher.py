"""Measures the node every few seconds, tells the masters, and serves /metrics.

A figure that is lost is replaced by the next one: nothing is repeated.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from essaim_agent.docker_options import container_name, labels
from essaim_agent.executor import ExecutorError
from essaim_agent.metrics import cgroups, exposition
from essaim_agent.metrics.sampler import CGROUP_PARENTS_DEFAULT, FiguresSampler
from essaim_agent.metrics.samples import MeasuredContainer
from essaim_agent.task_manager import TaskManager
from essaim_shared.clock import Clock
from essaim_shared.figures import ContainerFigures, NodeFigures
from essaim_shared.ids import NodeId
from essaim_shared.limits import FIGURES_PERIOD_S
from essaim_shared.messages import FiguresReport, encode
from essaim_shared.transport import BusDisconnected, Transport

_log = logging.getLogger(__name__)

CONTAINERS_PER_REPORT_MAX = 400
"""One container's figures take up to 600 bytes: a report stays under 256 KiB."""


class Tasks(Protocol):
    @property
    def running(self) -> Sequence[TaskManager]: ...


def reports(
    node_id: NodeId, node: NodeFigures, containers: Sequence[ContainerFigures]
) -> Iterator[FiguresReport]:
    """The figures of one moment in messages that the bus takes."""
    chunks = max(1, -(-len(containers) // CONTAINERS_PER_REPORT_MAX))
    for chunk in range(chunks):
        start = chunk * CONTAINERS_PER_REPORT_MAX
        yield FiguresReport(
            node_id=node_id,
            node=node,
            containers=tuple(containers[start : start + CONTAINERS_PER_REPORT_MAX]),
            chunk=chunk,
            chunks=chunks,
        )


class FiguresPublisher:
    def __init__(
        self,
        *,
        transport: Transport,
        subject: str,
        node_id: NodeId,
        cluster_id: str,
        tasks: Tasks,
        new_sampler: Callable[[Sequence[str]], FiguresSampler],
        pid_of: Callable[[str], Awaitable[int]] | None,
        may_tell: Callable[[], bool],
        clock: Clock,
    ) -> None:
        """`new_sampler` makes a sampler that looks for containers under these cgroups. `pid_of`
        asks the engine for a container's process; None where the processes are known. `may_tell`
        is whether the figures are those of the node that bears this id: a cloned disk's are not,
        and would be shown in turn with the original's."""
        self._transport = transport
        self._subject = subject
        self._node_id = node_id
        self._cluster_id = cluster_id
        self._tasks = tasks
        self._new_sampler = new_sampler
        self._pid_of = pid_of
        self._may_tell = may_tell
        self._clock = clock
        self._sampler = new_sampler(CGROUP_PARENTS_DEFAULT)

    async def run(self) -> None:
        while True:
            await self._measure_and_tell()
            await self._clock.sleep(FIGURES_PERIOD_S)

    async def _measure_and_tell(self) -> None:
        running = self._tasks.running
        if running and self._pid_of is not None:
            await self._learn_parent(running[0].container_id, self._pid_of)
        containers = [self._measured(manager) for manager in running]
        node, figures = await self._sampler.sample(containers)
        if not self._may_tell():
            return
        try:
            for report in reports(self._node_id, node, figures):
                await self._transport.publish(self._subject, encode(report))
        except BusDisconnected:
            return

    async def _learn_parent(
        self, container_id: str, pid_of: Callable[[str], Awaitable[int]]
    ) -> None:
        """Ask the engine about one container, once: the others' cgroups lie beside its own."""
        try:
            pid = await pid_of(container_id)
            text = _cgroups_of(pid)
        except (ExecutorError, FileNotFoundError, ProcessLookupError):
            return
        for path in cgroups.parse_proc_cgroup(text).values():
            own = cgroups.own_path(path, container_id)
            if own is not None:
                parent = own.strip("/").rpartition("/")[0]
                self._sampler = self._new_sampler((parent, *CGROUP_PARENTS_DEFAULT))
                self._pid_of = None
                return

    def _measured(self, manager: TaskManager) -> MeasuredContainer:
        task = manager.task
        return MeasuredContainer(
            task_id=task.id,
            container_id=manager.container_id,
            pid=manager.pid,
            started_ns=manager.status.started_ns,
            labels=labels(task, self._cluster_id),
            image=task.spec.container.image,
            name=container_name(task),
        )

    def page(self) -> str:
        """For /metrics; empty before the first measurement."""
        sampler = self._sampler
        if sampler.host is None:
            return ""
        return exposition.render(
            sampler.machine, sampler.host, sampler.containers, sampler.device_names
        )


def _cgroups_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text()
