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
from pathlib import Path

from essaim_master.config import MasterConfig, split_address
from essaim_master.control.figures_cache import FiguresCache
from essaim_master.control.leader import ControlSettings, Leader
from essaim_master.http.api import Api
from essaim_master.http.app import App
from essaim_master.http.host_facts import read_host_facts
from essaim_master.http.server import HttpServer
from essaim_master.kv.store import KeyValueStore
from essaim_master.process_end import end_process
from essaim_master.raft.config import RaftConfig
from essaim_master.raft.messages import Configuration
from essaim_master.raft_driver import RaftNode
from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.replicated import ReplicatedCluster
from essaim_master.tcp_peer_transport import PeerAddress, TcpPeerTransport
from essaim_master.wal.files import DiskLogFiles
from essaim_master.wal.records import Identity
from essaim_shared import notify
from essaim_shared.clock import SystemClock
from essaim_shared.errors import BrokenInvariant
from essaim_shared.ids import MemberId
from essaim_shared.log import fields
from essaim_shared.nats_transport import NatsTransport
from essaim_shared.subjects import Subjects

GC_THRESHOLD = 50_000
"""Allocations between collections: most of what a master allocates is freed by reference counts,
and a collection over the whole state would be a pause."""

_log = logging.getLogger(__name__)


async def run_master(config: MasterConfig) -> None:
    """Run until SIGTERM or SIGINT. Raises ConfigError when the master cannot start."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_on_loose_exception)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    clock, rng = SystemClock(), random.Random()
    member_id = MemberId(config.member_id)
    store = KeyValueStore()
    state = ClusterState(store)
    node = _raft_node(config, member_id, store, clock, rng)
    cluster = ReplicatedCluster(node, state, member_id, config.first_members, clock, rng)
    transport = NatsTransport(config.bus_servers, f"master-{member_id}", clock, rng)
    subjects = Subjects(config.cluster_id)
    figures = FiguresCache(transport, subjects, clock)
    overlay = config.overlay
    leader = Leader(
        cluster,
        transport,
        clock,
        rng,
        ControlSettings(
            cluster_id=config.cluster_id,
            subnet=overlay.subnet,
            vni=overlay.vni,
            mtu=overlay.mtu,
        ),
    )
    api = Api(cluster, clock, rng, figures, read_host_facts())
    http = HttpServer(App(api), end_process, Path(config.socket), config.http_listen)

    loops = (
        loop.create_task(leader.run(), name="leader"),
        loop.create_task(api.leases.run(), name="leases"),
    )
    for running in loops:
        running.add_done_callback(_on_loops_ended)
    await node.start()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    await http.start()
    await transport.open(wait_s=0)
    await figures.start()
    _log.info("started %s", fields(member=member_id, cluster=config.cluster_id))
    notify.notify(os.environ, "READY=1")

    await stop.wait()
    notify.notify(os.environ, "STOPPING=1")
    for running in loops:
        running.remove_done_callback(_on_loops_ended)
        running.cancel()
    await asyncio.wait(loops)
    await http.stop()
    await figures.stop()
    await transport.close()
    await node.stop()
    _log.info("stopped")


def _raft_node(
    config: MasterConfig,
    member_id: MemberId,
    store: KeyValueStore,
    clock: SystemClock,
    rng: random.Random,
) -> RaftNode:
    peers = TcpPeerTransport(
        config.cluster_id, member_id, PeerAddress(*split_address(config.raft_listen)), clock, rng
    )
    peers.set_peers(
        {
            member.id: PeerAddress(*split_address(member.raft))
            for member in config.first_members
            if member.id != member_id
        }
    )
    voters = tuple(member.id for member in config.first_members)
    return RaftNode(
        RaftConfig(member_id),
        Identity(config.cluster_id, member_id, Configuration(voters)),
        DiskLogFiles(Path(config.data_dir) / "wal"),
        peers,
        store,
        clock,
        rng,
        end_process,
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
