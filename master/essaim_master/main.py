"""Wires a master's parts together and runs them until a signal. No decisions here.

Order of start: the log is recovered and Raft takes part before the API answers; the bus comes
last and is never waited for, since neither the quorum nor a write needs it.
"""

import asyncio
import gc
import logging
import os
import random
import signal
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from essaim_master.authority.parts import AuthorityParts, authority_parts
from essaim_master.bus_users.parts import BusParts, bus_parts
from essaim_master.config import MasterConfig, split_address
from essaim_master.consensus import Consensus
from essaim_master.control.figures_cache import FiguresCache
from essaim_master.control.founding import ControlSettings
from essaim_master.control.leader import Leader
from essaim_master.control.network_reports import NetworkReports
from essaim_master.http.api import Api
from essaim_master.http.app import App
from essaim_master.http.host_facts import read_host_facts
from essaim_master.http.kv_callers import kv_refusal
from essaim_master.http.network_settings import network_settings
from essaim_master.http.peer_requests import PeerRequests
from essaim_master.http.server import HttpServer
from essaim_master.images.images import Images
from essaim_master.images.registry_client import RegistryClient
from essaim_master.images.resolver import ImageResolver
from essaim_master.kv.store import KeyValueStore
from essaim_master.kv_admission import ClientTrust
from essaim_master.kv_server import KvServer
from essaim_master.own_bus import own_bus
from essaim_master.own_tls import own_tls
from essaim_master.process_end import end_process
from essaim_master.state.cluster import Cluster
from essaim_master.state.cluster_state import AppliedChanges, ClusterState
from essaim_master.state.keys import Kind
from essaim_master.vault import Vault
from essaim_master.versions import Feature, is_enabled
from essaim_shared import notify
from essaim_shared.clock import Clock, SystemClock
from essaim_shared.errors import BrokenInvariant, ConfigError
from essaim_shared.ids import MemberId, NodeId, TaskId
from essaim_shared.log import fields
from essaim_shared.sealing import load_data_key
from essaim_shared.subjects import Subjects
from essaim_shared.transport import Transport
from essaim_shared.trust.tls import PeerCertificate, Tls

GC_THRESHOLD = 50_000
"""Allocations between collections: most of what a master allocates is freed by reference counts,
and a collection over the whole state would be a pause."""

_log = logging.getLogger(__name__)


async def run_master(config: MasterConfig) -> None:
    """Run until SIGTERM or SIGINT. Raises ConfigError when the master cannot start, or must not
    go on in its cluster: starting it again would not help."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_on_loose_exception)
    stop = asyncio.Event()
    _stop_on_signals(stop)
    unfit: list[ConfigError] = []

    def on_unfit(error: ConfigError) -> None:
        unfit.append(error)
        stop.set()

    clock, rng = SystemClock(), random.Random()
    tls = own_tls(config)
    consensus = Consensus(config, KeyValueStore(), clock, rng, on_unfit, tls)
    cluster = consensus.cluster
    transport = own_bus(config, f"master-{config.member_id}", clock, rng, tls)
    figures, reports = _caches(config, transport, clock, cluster)
    images = _images(config, clock)
    bus_users = bus_parts(config, cluster, clock, tls)
    authority = _authority(config, cluster, clock, rng, tls, bus_users)
    leader = _leader(config, cluster, transport, clock, rng, images, authority)
    api = _api(config, consensus, clock, rng, figures, images, reports, tls, authority, bus_users)
    http = _http_server(config, consensus, api, tls)
    kv_servers = _kv_servers(config, consensus, clock, rng, tls)
    loops = [
        loop.create_task(leader.run(), name="leader"),
        loop.create_task(api.leases.run(), name="leases"),
        *_authority_loops(authority),
    ]
    async with AsyncExitStack() as started:
        # Whatever goes wrong from here on, what was started is stopped: a thread left behind
        # would keep the process, deaf, from ending.
        try:
            started.push_async_callback(consensus.stop)
            await consensus.start()
            loops += [*consensus.start_loops(), *_bus_loops(bus_users)]
            for running in loops:
                running.add_done_callback(_on_loops_ended)
            gc.freeze()
            gc.set_threshold(GC_THRESHOLD)
            await http.start()
            started.push_async_callback(http.stop)
            await _serve_keys(started, kv_servers, consensus.state)
            started.push_async_callback(transport.close)
            await transport.open(wait_s=0)
            await _hear(started, figures, reports)
            _log.info("started %s", fields(member=config.member_id, cluster=config.cluster_id))
            notify.notify(os.environ, "READY=1")
            await stop.wait()
            if not unfit:  # else this process may go on, standing by
                notify.notify(os.environ, "STOPPING=1")
        finally:
            await _end(loops)
    _log.info("stopped")
    if unfit:
        raise unfit[0]


def _stop_on_signals(stop: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


def _caches(
    config: MasterConfig, transport: Transport, clock: Clock, cluster: Cluster
) -> tuple[FiguresCache, NetworkReports]:
    subjects, state = Subjects(config.cluster_id), cluster.state

    def node_of(task_id: TaskId) -> NodeId | None:
        task = state.tasks.get(task_id)
        return None if task is None else task.node_id

    reports = NetworkReports(transport, subjects, clock, lambda: state.nodes)
    return FiguresCache(transport, subjects, clock, node_of), reports


async def _hear(started: AsyncExitStack, *caches: FiguresCache | NetworkReports) -> None:
    """Follow what agents tell all masters."""
    for cache in caches:
        started.push_async_callback(cache.stop)
        await cache.start()


async def _end(loops: Sequence[asyncio.Task[None]]) -> None:
    for running in loops:
        running.remove_done_callback(_on_loops_ended)
        running.cancel()
    await asyncio.wait(loops)


def _http_server(
    config: MasterConfig, consensus: Consensus, api: Api, tls: Tls | None
) -> HttpServer:
    return HttpServer(
        App(api, config.cluster_id if config.identity_dir else None),
        end_process,
        Path(config.socket),
        config.http_listen,
        tls=tls,
        refusals=consensus.refusals["https"],
    )


def _kv_servers(
    config: MasterConfig,
    consensus: Consensus,
    clock: Clock,
    rng: random.Random,
    tls: Tls | None,
) -> list[KvServer]:
    """One, if it is wanted."""
    if config.kv_listen is None:
        return []
    state = consensus.state
    return [
        KvServer(
            consensus.node,
            state.store,
            clock,
            rng,
            config.cluster_id,
            MemberId(config.member_id),
            split_address(config.kv_listen),
            lambda: is_enabled(state.cluster_version, Feature.SESSIONS),
            None if tls is None else _kv_trust(config, tls, state, clock),
            consensus.refusals["kv"],
        )
    ]


async def _serve_keys(
    started: AsyncExitStack, kv_servers: Sequence[KvServer], state: ClusterState
) -> None:
    for kv_server in kv_servers:
        await kv_server.start()
        started.push_async_callback(kv_server.stop)
        started.callback(_recheck_users(kv_server, state))


def _recheck_users(kv_server: KvServer, state: ClusterState) -> Callable[[], None]:
    """A change of users counts for connections that are there, too; the result ends it."""

    def look(applied: AppliedChanges) -> None:
        if any(change.kind is Kind.USER for change in applied.changes):
            asyncio.get_running_loop().call_soon(kv_server.recheck)

    return state.subscribe(look)


def _kv_trust(config: MasterConfig, tls: Tls, state: ClusterState, clock: Clock) -> ClientTrust:
    def why_not(certificate: PeerCertificate) -> str | None:
        return kv_refusal(state, config.cluster_id, certificate, clock.wall_ns())

    return ClientTrust(tls, config.cluster_id, why_not)


def _leader(
    config: MasterConfig,
    cluster: Cluster,
    transport: Transport,
    clock: Clock,
    rng: random.Random,
    images: Images,
    authority: AuthorityParts | None,
) -> Leader:
    first_trust = None if authority is None else authority.founding.sealed
    settings = _control_settings(config)
    return Leader(cluster, transport, clock, rng, settings, images.vault, first_trust)


def _authority(
    config: MasterConfig,
    cluster: Cluster,
    clock: Clock,
    rng: random.Random,
    tls: Tls | None,
    bus_users: BusParts | None,
) -> AuthorityParts | None:
    if bus_users is None:
        return authority_parts(config, cluster, clock, rng, tls)
    keeper, everywhere = bus_users.keeper, bus_users.everywhere
    return authority_parts(config, cluster, clock, rng, tls, everywhere, keeper.look_again)


def _authority_loops(authority: AuthorityParts | None) -> list[asyncio.Task[None]]:
    if authority is None:
        return []
    loop = asyncio.get_running_loop()
    return [
        loop.create_task(authority.upkeep.run(), name="authority"),
        loop.create_task(authority.renewal.run(), name="identity"),
    ]


def _bus_loops(bus_users: BusParts | None) -> list[asyncio.Task[None]]:
    if bus_users is None:
        return []
    loop = asyncio.get_running_loop()
    return [loop.create_task(run, name=name) for name, run in bus_users.loops.items()]


def _api(
    config: MasterConfig,
    consensus: Consensus,
    clock: Clock,
    rng: random.Random,
    figures: FiguresCache,
    images: Images,
    reports: NetworkReports,
    tls: Tls | None,
    authority: AuthorityParts | None,
    bus_users: BusParts | None,
) -> Api:
    return Api(
        consensus.cluster,
        clock,
        rng,
        figures,
        read_host_facts(),
        consensus.inside,
        images,
        network_settings(config),
        reports,
        PeerRequests(tls).ask,
        None if authority is None else authority.desk,
        bus_users,
    )


def _images(config: MasterConfig, clock: Clock) -> Images:
    """Raises ConfigError for a key that cannot be used."""
    key = load_data_key(Path(config.seal_key_file)) if config.seal_key_file else None
    resolver = None
    if config.images.resolve == "auto":
        client = RegistryClient(clock, config.images.insecure_registries)
        resolver = ImageResolver(client, clock, config.images.unasked_registries)
    return Images(resolver, Vault(key))


def _control_settings(config: MasterConfig) -> ControlSettings:
    overlay = config.overlay
    return ControlSettings(
        cluster_id=config.cluster_id,
        subnet=overlay.subnet,
        vni=overlay.vni,
        mtu=overlay.mtu,
        pools=overlay.network_pools,
    )


def _on_loops_ended(ended: asyncio.Task[None]) -> None:
    """The control loops run as long as the master; a master without them is worse than none."""
    end_process(ended.exception() or BrokenInvariant("the control loops returned"))


def _on_loose_exception(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """An exception that nobody waits for is a defect: better to start again from the log than to
    go on with a dead control loop."""
    error = context.get("exception")
    if isinstance(error, Exception) and not isinstance(error, OSError):
        end_process(error)
    loop.default_exception_handler(context)
