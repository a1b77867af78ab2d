"""A master alone with its API, driven without a socket, and a hand that plays the agents."""

import asyncio
import random
from functools import partial
from urllib.parse import urlsplit

import msgspec
import pytest
from support.callers import CLUSTER_ID
from support.docker_clients import docker_commands, run_docker

from essaim_master.http.api import Api
from essaim_master.http.app import App
from essaim_master.http.host_facts import HostFacts
from essaim_master.http.network_settings import NetworkSettings
from essaim_master.http.protocol import PEER_EXTENSION
from essaim_master.http.server import HttpServer
from essaim_master.state.cluster import LocalCluster, Member
from essaim_master.state.writes import Writes
from essaim_shared.clock import ManualClock
from essaim_shared.ids import NetworkId, NodeId, TaskId, new_id
from essaim_shared.objects import (
    Attachment,
    ClusterInfo,
    Network,
    NodeDescription,
    NodeObject,
    NodeStatus,
    Task,
    TaskStatus,
)
from essaim_shared.spec import NodeSpec
from essaim_shared.task_state import TaskState

SEED = 20261120

FACTS = HostFacts(
    hostname="h1",
    architecture="amd64",
    machine="x86_64",
    kernel_version="6.1.0",
    cpu_count=2,
    memory_bytes=4 << 30,
)


NETWORKS = NetworkSettings(
    udp_port=7472,
    own_ports={
        "udp/7472": "packets between the nodes",
        "tcp/7400": "the API",
        "tcp/7401": "the masters",
    },
)


class CountingCluster(LocalCluster):
    """Counts read barriers, and can let other writers in just before a commit or a barrier: the
    latter makes it a master that lags until it asks."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.barriers = 0
        self.before_commit = []
        self.before_barrier = []

    async def read_barrier(self, timeout_s):
        self.barriers += 1
        if self.before_barrier:
            missed = self.before_barrier.pop(0)
            await missed()
        await super().read_barrier(timeout_s)

    async def commit(self, transaction, timeout_s):
        if self.before_commit:
            rival = self.before_commit.pop(0)
            await rival()
        return await super().commit(transaction, timeout_s)


class StillFigures:
    def __init__(self):
        self.node_figures = {}
        self.container_figures = {}

    def nodes(self):
        return self.node_figures

    def containers(self):
        return self.container_figures


class Answer:
    def __init__(self, status, headers, body):
        self.status = status
        self.headers = {name.decode().lower(): value.decode() for name, value in headers}
        self.body = body

    @property
    def json(self):
        return msgspec.json.decode(self.body)

    @property
    def message(self):
        assert set(self.json) == {"message"}, self.json
        return self.json["message"]


class World:
    """What a test holds: the state, the API on it, and the nodes and tasks it makes."""

    def __init__(self, images=None, cluster_id=None):
        print(f"seed {SEED}")
        self.rng = random.Random(SEED)
        self.clock = ManualClock()
        members = tuple(
            Member(f"h{n}", f"10.98.0.{n}:7401", f"10.98.0.{n}:7400") for n in (1, 2, 3)
        )
        self.cluster = CountingCluster(self.clock, members[0], members[1:])
        self.state = self.cluster.state
        self.figures = StillFigures()
        self.api = Api(
            self.cluster,
            self.clock,
            self.rng,
            self.figures,
            FACTS,
            images=images,
            networks=NETWORKS,
        )
        self.app = App(self.api, cluster_id)
        self.network_id = NetworkId(new_id(self.rng))

    async def write(self, fill):
        writes = Writes()
        fill(writes)
        for transaction in writes.transactions():
            result = await self.cluster.commit(transaction, 1.0)
            assert result.succeeded

    async def found(self):
        """What the first leader writes."""
        now_ns = self.clock.wall_ns()
        network = Network(
            id=self.network_id,
            name="default",
            vni=70001,
            subnet="10.244.0.0/20",
            vip_subnet="10.160.0.0/20",
            mtu=1450,
            created_ns=now_ns,
        )
        host = Network(
            id=NetworkId(new_id(self.rng)), name="host", driver="host", created_ns=now_ns
        )
        await self.write(lambda writes: writes.put(ClusterInfo(id="lab", created_ns=now_ns)))
        await self.write(lambda writes: writes.put(network))
        await self.write(lambda writes: writes.put(host))

    async def add_node(self, number, state="ready", **spec):
        node_id = NodeId(new_id(self.rng))
        now_ns = self.clock.wall_ns()
        node = NodeObject(
            id=node_id,
            spec=NodeSpec(name=f"h{number}", **spec),
            created_ns=now_ns,
            updated_ns=now_ns,
        )
        await self.write(lambda writes: writes.put(node))
        await self.set_node_state(node_id, number, state)
        return node_id

    async def set_node_state(self, node_id, number, state, **described):
        description = NodeDescription(
            hostname=f"h{number}",
            address=f"10.98.0.{number}",
            architecture="x86_64",
            nano_cpus=2_000_000_000,
            memory_bytes=4 << 30,
            engine_version="20.10.24",
            engine_labels={"storage": "ssd"},
            **described,
        )
        status = NodeStatus(state=state, description=description, changed_ns=self.clock.wall_ns())
        await self.write(lambda writes: writes.put_node_status(node_id, status))

    async def add_task(
        self, service, slot, node_id, observed=TaskState.RUNNING, desired=TaskState.RUNNING, **rest
    ):
        now_ns = self.clock.wall_ns()
        task = Task(
            id=TaskId(new_id(self.rng)),
            service_id=service.id,
            service_name=service.spec.name,
            service_labels=service.spec.labels,
            slot=slot,
            spec=service.spec.task,
            spec_version=rest.pop("spec_version", service.spec_version),
            node_id=node_id,
            desired_state=desired,
            attachments=(Attachment(network_id=self.network_id, address=f"10.244.0.{slot + 10}"),),
            created_ns=now_ns,
            updated_ns=now_ns,
            target_node=rest.pop("target_node", None),
            iteration=rest.pop("iteration", None),
        )
        await self.write(lambda writes: writes.put(task))
        await self.observe(task, observed, **rest)
        return task

    async def observe(self, task, observed, **rest):
        status = TaskStatus(state=observed, timestamp_ns=self.clock.wall_ns(), **rest)
        await self.write(lambda writes: writes.put_task_status(task.id, status))

    async def remove_task(self, task):
        await self.write(lambda writes: writes.delete_task(task.id))

    async def converge(self, node_ids):
        """Make tasks what the services ask, as the leader and ideal agents would."""
        for service in list(self.state.services.values()):
            if service.spec.mode.is_job:
                await self._finish_job(service, node_ids)
            else:
                await self._fill(service, node_ids)
        for task in list(self.state.tasks.values()):
            if task.service_id not in self.state.services:
                await self.remove_task(task)

    async def _fill(self, service, node_ids):
        """One up to date task in each slot: a number, or a node of a global service."""
        have = {task.slot_key: task for task in self.state.tasks_of_service(service.id).values()}
        is_global = service.spec.mode.is_global
        for slot in node_ids if is_global else range(1, service.spec.replicas + 1):
            known = have.pop(slot, None)
            if known is not None and known.spec_version != service.spec_version:
                await self.remove_task(known)
                known = None
            if known is None and is_global:
                await self.add_task(service, 0, slot, target_node=slot)
            elif known is None:
                await self.add_task(service, slot, node_ids[slot % len(node_ids)])
        for surplus in have.values():
            await self.remove_task(surplus)

    async def _finish_job(self, service, node_ids):
        """All tasks of the present run, complete; those of earlier ones are gone."""
        job = service.spec.mode.replicated_job
        done = {"desired": TaskState.COMPLETE, "observed": TaskState.COMPLETE}
        done["iteration"] = service.job_iteration
        tasks = list(self.state.tasks_of_service(service.id).values())
        for task in tasks:
            if task.iteration != service.job_iteration:
                await self.remove_task(task)
        if any(task.iteration == service.job_iteration for task in tasks):
            return
        if job is None:
            for node_id in node_ids:
                await self.add_task(service, 0, node_id, target_node=node_id, **done)
            return
        for slot in range(job.total_completions):
            await self.add_task(service, slot, node_ids[slot % len(node_ids)], **done)

    async def call(self, method, url, body=b"", chunks=None, headers=None, gone=None, peer=None):
        """One request, straight into the application. `gone` is an event: the client left; `peer`:
        who is at the other end."""
        parts = urlsplit(url)
        if isinstance(body, dict | list):
            body = msgspec.json.encode(body)
        pending = list(chunks if chunks is not None else [body])
        headers = {"Content-Type": "application/json"} if headers is None else headers
        sent = []

        async def receive():
            if not pending:
                await (gone or asyncio.Event()).wait()
                return {"type": "http.disconnect"}
            part = pending.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(pending)}

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": parts.path,
            "raw_path": parts.path.encode(),
            "query_string": parts.query.encode(),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
            "server": ("127.0.0.1", 80),
            "client": None,
            "state": {},
            "extensions": {} if peer is None else {PEER_EXTENSION: peer},
        }
        await asyncio.wait_for(self.app(scope, receive, send), 10)
        start = sent[0]
        content = b"".join(message.get("body", b"") for message in sent[1:])
        return Answer(start["status"], start["headers"], content)

    async def get(self, url):
        return await self.call("GET", url)

    async def post(self, url, body=b""):
        return await self.call("POST", url, body)

    async def create(self, name="web", replicas=3, **container):
        """A service through the API; the stored object."""
        answer = await self.post(
            "/v1.47/services/create",
            {
                "Name": name,
                "Labels": {"tier": "front"},
                "TaskTemplate": {"ContainerSpec": {"Image": "busybox:latest", **container}},
                "Mode": {"Replicated": {"Replicas": replicas}},
            },
        )
        assert answer.status == 201, answer.body
        return self.state.services[answer.json["ID"]]


@pytest.fixture
async def new_world():
    """A master before any leader wrote anything."""
    made = World()
    yield made
    made.app.close()


@pytest.fixture
async def world():
    made = World()
    await made.found()
    yield made
    made.app.close()


@pytest.fixture
async def guarded():
    """A master with an identity: who asks it must say who he is."""
    made = World(cluster_id=CLUSTER_ID)
    await made.found()
    yield made
    made.app.close()


@pytest.fixture(params=docker_commands())
def docker_command(request):
    return request.param


@pytest.fixture
async def cluster(world, tmp_path):
    """Three nodes, a socket, and tasks that follow the services at once."""
    nodes = [await world.add_node(number) for number in (1, 2, 3)]
    path = tmp_path / "master.sock"
    server = HttpServer(world.app, lambda broken: None, socket_path=path)
    await server.start()
    changed = asyncio.Event()
    unsubscribe = world.state.subscribe(lambda applied: changed.set())

    async def follow():
        while True:
            await changed.wait()
            changed.clear()
            await world.converge(nodes)

    following = asyncio.create_task(follow())
    world.socket_path = path
    world.node_ids = nodes
    yield world
    following.cancel()
    await asyncio.wait({following})
    unsubscribe()
    await server.stop()


@pytest.fixture
def run_any(cluster, tmp_path):
    """Run a docker command of a given client."""
    return lambda command, *words: run_docker(command, cluster.socket_path, tmp_path, *words)


@pytest.fixture
def run(run_any, docker_command):
    return partial(run_any, docker_command)


@pytest.fixture
async def world_with():
    """Makes a World whose master has these `Images`."""
    made = []

    async def make(images):
        world = World(images)
        await world.found()
        made.append(world)
        return world

    yield make
    for world in made:
        world.app.close()
