"""Raising a lab, taking it down, and hurting it on purpose."""

import asyncio
import os
import random
import shutil
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from essaim_cli.lab import network, parts
from essaim_cli.lab.errors import EngineImpossible, LabError, PartNotReady
from essaim_cli.lab.images import import_web_image, read_busybox, web_image_tar
from essaim_cli.lab.lock import labs_locked
from essaim_cli.lab.probes import count_where, json_of
from essaim_cli.lab.state import Roots, read_state, recorded_labs, write_state
from essaim_cli.lab.topology import (
    LOOPBACK_LABS_MAX,
    PARTS,
    ExecutorName,
    Host,
    PartName,
    Topology,
    check_name,
    plan_lab,
)
from essaim_cli.lab.traces import has_traces, places_of, remove_traces
from essaim_shared.clock import Clock

NODES_READY_TIMEOUT_S = 30.0
NODES_READY_POLL_S = 0.05

_RAISED = "raised"
"""A file in the run directory: network and configuration are complete. Without it, `up` begins
anew after removing what an interrupted run left."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """The arguments of `lab up`."""

    name: str
    host_count: int
    master_count: int
    executor: Literal["docker", "process", "auto"]
    standby_count: int = 0


@dataclass(frozen=True, slots=True)
class HostStatus:
    """One row of `lab status`."""

    host: Host
    parts: dict[PartName, parts.PartState]
    is_leader: bool
    is_cut: bool
    node_state: str
    """What the leader says of the node: ready, down, unknown."""


class Lab:
    """The labs of this machine, by their names."""

    def __init__(self, where: Roots, clock: Clock, say: Say) -> None:
        self._where = where
        self._clock = clock
        self._say = say

    async def up(self, wanted: Wanted) -> Topology:
        """Raise a lab, or complete one that is already there. Repeating it changes nothing."""
        check_name(wanted.name)
        async with labs_locked(self._where.run, self._clock):
            standing = read_state(wanted.name, self._where)
            if standing is not None and (standing.run_dir / _RAISED).exists():
                _refuse_other_shape(standing, wanted)
                await self._start_and_wait(standing)
                return standing
            if has_traces(places_of(wanted.name, self._where)):
                self._say(f"lab {wanted.name}: removing what an interrupted run left")
                await self._remove(wanted.name)
            return await self._raise_new(wanted)

    async def down(self, name: str) -> bool:
        """Remove every trace of a lab; False when there was none."""
        check_name(name)
        async with labs_locked(self._where.run, self._clock):
            if not has_traces(places_of(name, self._where)):
                return False
            await self._remove(name)
        _remove_empty_root(self._where)
        return True

    def topology(self, name: str) -> Topology:
        """A lab that is up; LabError when there is none of this name."""
        found = read_state(check_name(name), self._where)
        if found is None:
            others = ", ".join(lab.name for lab in recorded_labs(self._where))
            hint = f" (there is: {others})" if others else ""
            raise LabError(f'no lab "{name}" is up{hint}: `essaim lab up --name {name}`')
        return found

    async def status(self, name: str) -> list[HostStatus]:
        topology = self.topology(name)
        nodes, cut, states = await asyncio.gather(
            _nodes_seen(topology),
            self._cut_hosts(topology),
            asyncio.gather(*(_states_of(host) for host in topology.hosts)),
        )
        leader = _leader_of(nodes)
        seen = {_hostname(node): node["Status"]["State"] for node in nodes or ()}
        return [
            HostStatus(
                host,
                state,
                host.name == leader,
                host.name in cut,
                seen.get(host.name, "unknown"),
            )
            for host, state in zip(topology.hosts, states, strict=True)
        ]

    async def set_cable(self, name: str, hosts: Sequence[str], *, connected: bool) -> None:
        """Cut hosts off from everybody else, or connect them again."""
        topology = self.topology(name)
        if topology.executor == "process":
            raise LabError(
                f"lab {name} runs on loopback, where hosts have no cable to pull: "
                f"stop its processes with `essaim lab kill HOST agent --signal STOP`"
            )
        for host in [topology.host(wanted) for wanted in hosts]:
            await network.set_cable(topology, host, connected=connected)

    async def kill(
        self, name: str, host: str, wanted: Sequence[PartName], number: signal.Signals
    ) -> None:
        """Signal processes of one host; each is gone when this returns, if it was SIGKILL."""
        found = self.topology(name).host(host)
        for part in wanted:
            await parts.signal_part(found, part, number, self._clock)

    async def start(self, name: str, host: str, wanted: Sequence[PartName]) -> None:
        """Start processes of one host and wait until they answer; without names, all."""
        found = self.topology(name).host(host)
        for part in wanted:
            if part not in found.parts:
                raise LabError(f"{host} has no {part}: it has {', '.join(found.parts)}")
        chosen = tuple(wanted) or found.parts
        for part in chosen:
            parts.start_part(found, part)
        await asyncio.gather(*(parts.wait_ready(found, part, self._clock) for part in chosen))

    # -- raising ------------------------------------------------------------------------------

    async def _raise_new(self, wanted: Wanted) -> Topology:
        if wanted.executor != "process":
            try:
                await _check_engine_possible()
                return await self._raise_as(wanted, "docker")
            except EngineImpossible as reason:
                if wanted.executor == "docker":
                    raise
                self._say(f"{reason}; raising the lab on loopback, tasks as plain processes")
                await self._remove(wanted.name)
        return await self._raise_as(wanted, "process")

    async def _raise_as(self, wanted: Wanted, executor: ExecutorName) -> Topology:
        others = frozenset(lab.subnet_number for lab in recorded_labs(self._where))
        if executor == "docker":
            number = await network.free_subnet_number(others)
        else:
            free = frozenset(range(LOOPBACK_LABS_MAX)) - others
            if not free:
                raise LabError(f"{LOOPBACK_LABS_MAX} labs are up: end one with `essaim lab down`")
            number = min(free)
        topology = plan_lab(
            wanted.name,
            host_count=wanted.host_count,
            master_count=wanted.master_count,
            standby_count=wanted.standby_count,
            executor=executor,
            subnet_number=number,
            run_root=self._where.run,
            data_root=self._where.data,
        )
        write_state(topology)
        runtimes: list[Path | None] = [None] * len(topology.hosts)
        major = None
        if executor == "docker":
            major, installed, _ = await asyncio.gather(
                parts.engine_major(),
                asyncio.gather(*(parts.install_runtime(host) for host in topology.hosts)),
                network.lay_cables(topology),
            )
            runtimes = list(installed)
        _found(topology, self._clock)
        for host, runtime in zip(topology.hosts, runtimes, strict=True):
            parts.write_config(topology, host, runtime, major)
        (topology.run_dir / _RAISED).touch()
        await self._start_and_wait(topology)
        return topology

    async def _start_and_wait(self, topology: Topology) -> None:
        """Start what does not run, all at once, and wait until the cluster is whole."""
        for part in PARTS:
            for host in topology.hosts:
                if part in host.parts:
                    parts.start_part(host, part)
        waits: list[Awaitable[None]] = [
            parts.wait_ready(host, part, self._clock)
            for host in topology.hosts
            for part in host.parts
            if part != "engine"
        ]
        archive = web_image_tar(read_busybox()) if topology.executor == "docker" else b""
        waits += [
            self._ready_engine(host, archive) for host in topology.hosts if "engine" in host.parts
        ]
        await _all_or_first_error(waits)
        await self._wait_nodes_ready(topology)

    async def _ready_engine(self, host: Host, archive: bytes) -> None:
        try:
            await parts.wait_ready(host, "engine", self._clock)
        except PartNotReady as failure:
            raise EngineImpossible(str(failure)) from failure
        await import_web_image(host.engine_socket, archive)

    async def _wait_nodes_ready(self, topology: Topology) -> None:
        """Wait until a master counts every host among its ready nodes."""
        deadline_s = self._clock.monotonic_s() + NODES_READY_TIMEOUT_S
        wanted = len(topology.hosts)
        while True:
            nodes = await _nodes_seen(topology)
            ready = count_where(nodes, lambda node: node["Status"]["State"] == "ready")
            if ready >= wanted:
                return
            if self._clock.monotonic_s() > deadline_s:
                raise PartNotReady(
                    f"{ready} of {wanted} nodes are ready after {NODES_READY_TIMEOUT_S:g} s: "
                    f"see `essaim lab status --name {topology.name}` "
                    f"and {topology.run_dir}/h*/*.log"
                )
            await self._clock.sleep(NODES_READY_POLL_S)

    async def _remove(self, name: str) -> None:
        await remove_traces(places_of(name, self._where), self._clock)

    async def _cut_hosts(self, topology: Topology) -> frozenset[str]:
        if topology.executor == "process":
            return frozenset()
        return await network.cut_hosts(topology)


def _found(topology: Topology, clock: Clock) -> None:
    # The library of certificates is half of what a command imports, and only needed here.
    from essaim_cli.lab.identities import found_cluster

    found_cluster(topology, clock, random.SystemRandom())


async def _check_engine_possible() -> None:
    if os.geteuid() != 0:
        raise EngineImpossible("no engines here: only root can start them")
    for program in ("dockerd", "nsenter", "ip"):
        if shutil.which(program) is None:
            raise EngineImpossible(f"no engines here: {program} is not installed (`make up`)")
    await network.check_namespaces_work()


async def _nodes_seen(topology: Topology) -> list[Any] | None:
    """The node list of the first master that has one; None without a quorum."""
    for host in topology.masters:
        nodes = await json_of(host.master_socket, "/nodes")
        if isinstance(nodes, list):
            return nodes
    return None


def _leader_of(nodes: list[Any] | None) -> str | None:
    for node in nodes or ():
        if (node.get("ManagerStatus") or {}).get("Leader"):
            return _hostname(node)
    return None


def _hostname(node: Any) -> str:
    return str(node["Description"]["Hostname"])


async def _states_of(host: Host) -> dict[PartName, parts.PartState]:
    states = await asyncio.gather(*(parts.state_of_part(host, part) for part in PARTS))
    return dict(zip(PARTS, states, strict=True))


async def _all_or_first_error(waits: Sequence[Awaitable[None]]) -> None:
    """Wait for all; the first failure ends the others, so that it is told at once."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _refuse_other_shape(standing: Topology, wanted: Wanted) -> None:
    have = (len(standing.hosts), len(standing.masters), len(standing.standbys))
    asked = (wanted.host_count, wanted.master_count, wanted.standby_count)
    if have != asked or wanted.executor not in ("auto", standing.executor):
        raise LabError(
            f"lab {standing.name} is up with {have[0]} hosts, {have[1]} masters, {have[2]} that "
            f"stand by and the {standing.executor} executor: "
            f"`essaim lab down --name {standing.name}` first, or give the new one "
            "another --name"
        )


def _remove_empty_root(where: Roots) -> None:
    try:
        where.data.rmdir()
    except OSError:
        return  # other labs keep their data in it
