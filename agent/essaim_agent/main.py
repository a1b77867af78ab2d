"""Wires an agent's parts together and runs them until a signal. No decisions here.

Order of start: the data directory is locked, the engine met and everything found there taken
over, and only then does the node register. On the way out nothing is stopped: containers, their
namespaces and the overlay's tables stay as they are for the next agent.
"""

import asyncio
import gc
import logging
import os
import random
import signal
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Literal

import msgspec

from essaim_agent.config import AgentConfig, split_address
from essaim_agent.executor import Executor, NodeResources
from essaim_agent.figures_publisher import FiguresPublisher
from essaim_agent.generic_resources import parse_generic_resources
from essaim_agent.host_network import look_at_host_network
from essaim_agent.identity_keeper import IdentityKeeper, identity_keeper, nothing_noted
from essaim_agent.image_cleanup import ImageCleanup, PulledImages
from essaim_agent.journal import DataDirectory, HighestTerm, Journal, LastHeard
from essaim_agent.metrics.network_exposition import render_network
from essaim_agent.metrics.sampler import FiguresSampler
from essaim_agent.metrics.server import MetricsServer
from essaim_agent.metrics.session_exposition import render_session
from essaim_agent.network import TaskNetworks
from essaim_agent.network_health.reporter import CheckedNetworks, NameServerHealth, NetworkReporter
from essaim_agent.no_network import NoNetworks
from essaim_agent.own_identity import own_bus, own_node_id, own_tls
from essaim_agent.payloads.files import MemoryFiles, NoTaskFiles, TaskFiles
from essaim_agent.payloads.master_payloads import MasterPayloads, NoIdentity, calls_over
from essaim_agent.payloads.source import PayloadSource
from essaim_agent.payloads.store import PayloadStore
from essaim_agent.registry_logins import RegistryLogins, node_key_pair
from essaim_agent.reporter import Reporter
from essaim_agent.session import Session
from essaim_agent.session_machine import State
from essaim_agent.worker import Worker
from essaim_shared import __version__, notify
from essaim_shared.clock import Clock, SystemClock
from essaim_shared.errors import ConfigError, EssaimError
from essaim_shared.ids import NodeId, TaskId
from essaim_shared.log import fields
from essaim_shared.loop_lag import LoopLag
from essaim_shared.objects import NodeDescription
from essaim_shared.subjects import Subjects
from essaim_shared.transport import Transport
from essaim_shared.trust.tls import Tls

_log = logging.getLogger(__name__)

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Engine(msgspec.Struct, frozen=True):
    """The executor of a configuration, with what belongs to its kind."""

    executor: Executor
    networks: TaskNetworks
    measured_as: Literal["docker", "process"]
    data_root: Callable[[], Path]
    pid_of: Callable[[str], Awaitable[int]] | None = None
    cleanup: ImageCleanup | None = None
    checked_networks: CheckedNetworks | None = None
    """`networks` again, where they are real."""
    name_server: NameServerHealth | None = None
    files: TaskFiles = NoTaskFiles()


def payload_source(
    clock: Clock, tls: Tls | None = None, keeper: IdentityKeeper | None = None
) -> PayloadSource:
    """The masters, as far as this node may ask them for secrets."""
    if tls is None or keeper is None:
        return NoIdentity()
    return MasterPayloads(lambda: keeper.masters, calls_over(lambda: tls.client), clock)


def make_engine(
    config: AgentConfig,
    clock: Clock,
    logins: RegistryLogins | None = None,
    payloads: PayloadSource | None = None,
) -> Engine:
    """Each kind imports its libraries only when it is chosen: they are half of the memory."""
    run_dir = Path(config.run_dir)
    if config.executor == "docker":
        return _docker_engine(config, clock, logins, payloads or payload_source(clock))
    if config.executor == "process":
        from essaim_agent.process_executor import ProcessExecutor

        processes = ProcessExecutor(run_dir, clock, config.node_name)
        return Engine(processes, NoNetworks(), "process", lambda: run_dir)
    from essaim_agent.fake_executor import FakeEngine, FakeExecutor

    return Engine(FakeExecutor(FakeEngine(), clock), NoNetworks(), "process", lambda: run_dir)


def _docker_engine(
    config: AgentConfig, clock: Clock, logins: RegistryLogins | None, payloads: PayloadSource
) -> Engine:
    from essaim_agent.dns.keeper import NameServer
    from essaim_agent.docker_executor import DockerExecutor
    from essaim_agent.overlay.task_networks import OverlayNetworks

    run_dir = Path(config.run_dir)
    pulled = PulledImages(Path(config.data_dir), clock)
    docker_executor = DockerExecutor(
        Path(config.engine_socket),
        config.cluster_id,
        run_dir,
        clock,
        uses_namespaces=True,
        node_name=config.node_name,
        logins=logins,
        pulled=pulled,
    )
    images = docker_executor.images
    cleanup = ImageCleanup(
        images,
        pulled,
        lambda: fill_percent(docker_executor.engine_root),
        clock,
        config.images.clean_up_above_percent,
        config.images.clean_up_below_percent,
    )
    images.make_room = cleanup.make_room
    name_server = NameServer(run_dir, clock, random.Random(), config.overlay.dns_port)
    networks = OverlayNetworks(
        config.address,
        clock,
        config.overlay.udp_port,
        name_server_port=config.overlay.dns_port,
        name_server=name_server,
    )
    return Engine(
        executor=docker_executor,
        networks=networks,
        checked_networks=networks,
        name_server=name_server,
        files=MemoryFiles(run_dir, PayloadStore(payloads)),
        measured_as="docker",
        data_root=lambda: docker_executor.engine_root,
        pid_of=docker_executor.pid_of,
        cleanup=cleanup,
    )


def fill_percent(directory: Path) -> float:
    """Of the file system that the directory is on, as df(1) counts it: what only root may use is
    not there. Raises OSError."""
    system = os.statvfs(directory)
    used = system.f_blocks - system.f_bfree
    return 100 * used / max(1, used + system.f_bavail)


def describe(config: AgentConfig, resources: NodeResources, seal_key: str = "") -> NodeDescription:
    """What the node says of itself when it registers."""
    # A cloned disk takes the node id along, but neither the running kernel nor the address.
    boot_id = BOOT_ID.read_text().strip()
    network = look_at_host_network(config.address)
    return NodeDescription(
        hostname=config.node_name,
        address=config.address,
        architecture=resources.architecture,
        nano_cpus=resources.nano_cpus,
        memory_bytes=resources.memory_bytes,
        engine_version=resources.engine_version,
        engine_labels=resources.engine_labels,
        plugins=resources.plugins,
        generic_resources=parse_generic_resources(config.generic_resources),
        seal_key=seal_key,
        mtu=network.mtu,
        routes=network.routes,
        listening=network.listening,
        agent_version=__version__,
        instance=f"{boot_id}/{config.node_name}/{config.address}",
    )


async def run_agent(config: AgentConfig) -> None:
    """Run until SIGTERM or SIGINT. Raises ConfigError or ExecutorError when it cannot start."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    running = loop.create_task(_run(config), name="agent")
    stopping = loop.create_task(stop.wait(), name="signal")
    await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if running.done():
        _raise_outcome(running)
    notify.notify(os.environ, notify.STOPPING)
    running.cancel()
    await asyncio.wait({running})
    if not running.cancelled():
        running.result()
    _log.info("ended; containers keep running")


def _raise_outcome(running: "asyncio.Task[None]") -> None:
    """An error that has a meaning comes out alone, so that it is told in one line; anything else
    is a broken assumption and comes with all it brought along."""
    try:
        running.result()
    except BaseExceptionGroup as group:
        meant, rest = group.split(EssaimError)
        if meant is None or rest is not None:
            raise
        error: BaseException = meant
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None


async def _run(config: AgentConfig) -> None:
    clock, rng, tls = SystemClock(), random.Random(), own_tls(config)
    _make_run_directory(config.run_dir)
    async with AsyncExitStack() as ends:
        data = DataDirectory(Path(config.data_dir))
        ends.callback(data.close)
        node_id, highest_term = own_node_id(config, data, rng), HighestTerm(data.path)
        journal = Journal(data.path, clock)
        logins = _logins(config, data, node_id)
        keeper = identity_keeper(config, tls, clock, rng)
        engine = make_engine(config, clock, logins, payload_source(clock, tls, keeper))
        for part in (engine.executor, engine.networks, engine.files):
            ends.push_async_callback(part.close)
        subjects = Subjects(config.cluster_id)
        transport = own_bus(config, node_id, clock, rng, tls)
        ends.push_async_callback(transport.close)
        reporter = _reporter(transport, subjects, node_id, clock, rng, highest_term)
        worker = _new_worker(engine, journal, reporter, clock, rng, logins)
        resources = await worker.start()
        await transport.open(wait_s=0)
        session = Session(
            transport=transport,
            subjects=subjects,
            node_id=node_id,
            description=lambda: describe(config, worker.resources or resources, logins.public_key),
            sink=worker,
            reporter=reporter,
            highest_term=highest_term,
            last_heard=LastHeard(data.path),
            clock=clock,
            rng=rng,
            on_trust=nothing_noted if keeper is None else keeper.note,
        )
        figures = FiguresPublisher(
            transport=transport,
            subject=subjects.figures(node_id),
            node_id=node_id,
            cluster_id=config.cluster_id,
            tasks=worker,
            new_sampler=_sampler_maker(engine, clock, resources.engine_version),
            pid_of=engine.pid_of,
            may_tell=lambda: session.state is not State.REFUSED,
            clock=clock,
        )
        health = _network_reporter(transport, subjects, node_id, engine, session, clock, rng)
        await _serve_metrics(config, figures, session, health, ends)
        ends.push_async_callback(journal.close)
        gc.freeze()
        _log.info("started %s", fields(node=node_id, name=config.node_name, tasks=worker.count))
        notify.notify(os.environ, notify.READY)
        await _run_all(
            worker=worker.run(),
            journal=journal.run(),
            reporter=reporter.run(),
            session=session.run(),
            figures=figures.run(),
            network_health=health.run(),
            loop_lag=LoopLag(clock).run(),
            **_further_loops(engine, keeper, session),
        )


def _logins(config: AgentConfig, data: DataDirectory, node_id: NodeId) -> RegistryLogins:
    keys = node_key_pair(data.path) if config.executor == "docker" else None
    return RegistryLogins(node_id, keys)


def _reporter(
    transport: Transport,
    subjects: Subjects,
    node_id: NodeId,
    clock: Clock,
    rng: random.Random,
    highest_term: HighestTerm,
) -> Reporter:
    return Reporter(transport, subjects.status(node_id), node_id, clock, rng, highest_term.admits)


def _further_loops(
    engine: Engine, keeper: IdentityKeeper | None, session: Session
) -> dict[str, Coroutine[Any, Any, None]]:
    """Those that not every agent has."""
    loops: dict[str, Coroutine[Any, Any, None]] = {}
    if engine.cleanup is not None:
        loops["images"] = engine.cleanup.run()
    if keeper is not None:
        loops["identity"] = keeper.run()
        loops["standing"] = keeper.look(lambda: session.state is State.IN_SESSION)
    return loops


def _new_worker(
    engine: Engine,
    journal: Journal,
    reporter: Reporter,
    clock: Clock,
    rng: random.Random,
    logins: RegistryLogins,
) -> Worker:
    return Worker(
        engine.executor, engine.networks, journal, reporter, clock, rng, logins, engine.files
    )


async def _run_all(**loops: Coroutine[Any, Any, None]) -> None:
    """Run the agent's loops until one fails; then the others are cancelled."""
    async with asyncio.TaskGroup() as group:
        for name, loop in loops.items():
            group.create_task(loop, name=name)


def _network_reporter(
    transport: Transport,
    subjects: Subjects,
    node_id: NodeId,
    engine: Engine,
    session: Session,
    clock: Clock,
    rng: random.Random,
) -> NetworkReporter:
    return NetworkReporter(
        transport=transport,
        subject=subjects.network_report(node_id),
        node_id=node_id,
        networks=engine.checked_networks,
        names=engine.name_server,
        may_tell=lambda: session.state is not State.REFUSED,
        clock=clock,
        rng=rng,
    )


def _sampler_maker(
    engine: Engine, clock: Clock, engine_version: str
) -> Callable[[Sequence[str]], FiguresSampler]:
    def new_sampler(cgroup_parents: Sequence[str]) -> FiguresSampler:
        return FiguresSampler(
            engine.measured_as,
            engine.data_root(),
            clock,
            lambda task_id: engine.networks.counters(TaskId(task_id)),
            cgroup_parents,
            engine_version,
        )

    return new_sampler


def _make_run_directory(run_dir: str) -> None:
    try:
        Path(run_dir).mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"run_dir {run_dir} cannot be used: {error.strerror}") from error


async def _serve_metrics(
    config: AgentConfig,
    figures: FiguresPublisher,
    session: Session,
    health: NetworkReporter,
    ends: AsyncExitStack,
) -> None:
    if not config.metrics_listen:
        return

    def trouble() -> str | None:
        return None if session.state is State.IN_SESSION else "no session with a leader"

    def page() -> str:
        return (
            figures.page()
            + render_session(session.malformed_count, session.deposed_count)
            + render_network(
                health.checked,
                health.repairs,
                health.dns_answers,
                health.picture.networks,
                health.findings.all.values(),
            )
        )

    server = MetricsServer(page, trouble)
    host, port = split_address(config.metrics_listen)
    try:
        await server.open(host, port)
    except OSError as error:
        raise ConfigError(
            f"metrics_listen: cannot listen on {config.metrics_listen}: {error.strerror}"
        ) from error
    ends.push_async_callback(server.close)
