"""Who is told of which endpoint and service: members of a network, and all of what is published."""

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.node_mirrors import Listeners, Mirror, full

from essaim_agent.assignment_stream import AssignmentStream
from essaim_master.control.assignments import AssignmentBook
from essaim_master.control.chunks import assignment_payloads
from essaim_master.control.difference import OWN_LISTS, SHARED_LISTS
from essaim_master.state.writes import Writes
from essaim_shared.container_spec import ContainerSpec
from essaim_shared.ids import NetworkId, NodeId, ServiceId, TaskId
from essaim_shared.messages import Assignments, ServiceEntry, decode
from essaim_shared.objects import (
    Attachment,
    Gateway,
    Network,
    NodeDescription,
    NodeStatus,
    Service,
    ServiceAddresses,
    Task,
    TaskStatus,
    VirtualAddress,
)
from essaim_shared.spec import EndpointSpec, NetworkAttachment, PortConfig, ServiceSpec, TaskSpec
from essaim_shared.task_state import TaskState

NODES = ("n1", "n2", "n3")
RED, BLUE = NetworkId("red"), NetworkId("blue")
WEB, API = ServiceId("web"), ServiceId("api")
PORT = PortConfig(target_port=80, published_port=8080)
RUNNING, SHUTDOWN = TaskState.RUNNING, TaskState.SHUTDOWN


class Script:
    """Writes into the state what the loops of the leader would."""

    def __init__(self, world):
        self.world, self.state = world, world.state
        self.put = world.put
        for number, network_id in enumerate((RED, BLUE)):
            self.put(
                Network(
                    id=network_id,
                    name=f"{network_id}-net",
                    vni=10 + number,
                    subnet=f"10.{number}.0.0/24",
                    vip_subnet=f"10.{number}.1.0/24",
                    mtu=1450,
                    created_ns=1,
                )
            )

    def service(self, service_id=WEB, networks=(RED,), labels=None, **endpoint):
        attachments = tuple(
            n if isinstance(n, NetworkAttachment) else NetworkAttachment(target=n) for n in networks
        )
        task = TaskSpec(container=ContainerSpec(image="img"), networks=attachments)
        spec = ServiceSpec(
            name=service_id,
            labels=labels or {},
            task=task,
            endpoint=EndpointSpec(**endpoint) if endpoint else None,
        )
        self.put(Service(id=service_id, spec=spec, created_ns=1, updated_ns=1))

    def addresses(self, service_id=WEB, ports=(), **vips):
        virtual = tuple(VirtualAddress(network_id=NetworkId(n), address=a) for n, a in vips.items())
        self.put(
            ServiceAddresses(service_id=service_id, virtual_addresses=virtual, ports=tuple(ports))
        )

    def delete(self, method, *names):
        writes = Writes()
        getattr(writes, f"delete_{method}")(*names)
        self.world.commit(writes)

    def join(self, node, *networks):
        for network_id in networks:
            number = NODES.index(node) + 250
            subnet = self.state.networks[network_id].subnet
            address = subnet.replace("0/24", str(number))
            self.put(Gateway(network_id=network_id, node_id=NodeId(node), address=address))

    def task(self, name, node, service_id=WEB, networks=(RED,), hostname="", **more):
        number = sum(map(ord, name)) % 200
        attachments = tuple(
            Attachment(
                network_id=network_id,
                address=self.state.networks[network_id].subnet.replace("0/24", str(number)),
            )
            for network_id in networks
        )
        fields = {
            "id": TaskId(name),
            "service_id": service_id,
            "service_name": service_id,
            "slot": 1,
            "spec": TaskSpec(container=ContainerSpec(image="img", hostname=hostname)),
            "spec_version": 1,
            "node_id": NodeId(node),
            "desired_state": RUNNING,
            "attachments": attachments,
            "created_ns": 1,
            "updated_ns": 1,
            **more,
        }
        self.put(Task(**fields))
        return TaskId(name)

    def want(self, task_id, state):
        self.put(msgspec.structs.replace(self.state.tasks[task_id], desired_state=state))

    def see(self, task_id, state=RUNNING, **more):
        writes = Writes()
        writes.put_task_status(task_id, TaskStatus(state=state, timestamp_ns=1, **more))
        self.world.commit(writes)

    def node(self, name, address):
        description = NodeDescription(
            hostname=name,
            address=address,
            architecture="x86_64",
            nano_cpus=1,
            memory_bytes=1,
            engine_version="20.10",
        )
        writes = Writes()
        status = NodeStatus(state="ready", description=description, changed_ns=1)
        writes.put_node_status(NodeId(name), status)
        self.world.commit(writes)


@pytest.fixture
def script(world):
    return Script(world)


@pytest.fixture
def listen(script):
    """Starts listening, with everything told that there is."""
    return lambda: Listeners(script.state, NODES)


def endpoint_of(mirror, task_id):
    (found,) = [e for e in mirror.endpoints if e.task_id == task_id]
    return found


def entry_of(mirror, service_id):
    (found,) = [entry for entry in mirror.services if entry.service_id == service_id]
    return found


def told(listeners, task_id):
    """The nodes which know a task's endpoints, with the networks of these."""
    return {
        node: {e.network_id for e in mirror.endpoints if e.task_id == task_id}
        for node, mirror in listeners.mirrors.items()
        if any(e.task_id == task_id for e in mirror.endpoints)
    }


# The records.


def test_an_endpoint_says_whose_it_is(script, listen):
    script.join("n1", RED)
    task = script.task("t1", "n1", hostname="db.example")
    endpoint = endpoint_of(listen().mirrors["n1"], task)
    assert (endpoint.service_id, endpoint.slot, endpoint.hostname) == (WEB, "1", "db.example")
    assert endpoint.node_address == script.state.node_status["n1"].description.address
    assert endpoint.state == "starting"


def test_the_slot_of_a_global_task_is_its_node(script, listen):
    script.join("n1", RED)
    task = script.task("t1", "n1", slot=0, target_node=NodeId("n1"))
    assert endpoint_of(listen().mirrors["n1"], task).slot == "n1"


@pytest.mark.parametrize(
    ("hostname", "expected"),
    [
        ("", "t1-012345678"),
        ("literal", "literal"),
        ("{{.Service.Name}}-{{.Task.Slot}}-on-{{.Node.Hostname}}", "web-1-on-n1"),
        ("{{.No.Such.Thing}}", ""),
    ],
)
def test_the_host_name_is_that_of_the_container(script, listen, hostname, expected):
    script.join("n1", RED)
    task = script.task("t1-0123456789abcdef", "n1", hostname=hostname)
    script.see(task)
    assert endpoint_of(listen().mirrors["n1"], task).hostname == expected


@pytest.mark.parametrize(
    ("desired", "observed", "is_ready", "node", "expected"),
    [
        (TaskState.READY, TaskState.READY, True, "ready", "starting"),
        (RUNNING, TaskState.STARTING, True, "ready", "starting"),
        (RUNNING, RUNNING, True, "ready", "serving"),
        (RUNNING, RUNNING, True, "unknown", "serving"),
        (RUNNING, RUNNING, False, "ready", "starting"),
        (RUNNING, RUNNING, True, "down", "starting"),
        (TaskState.COMPLETE, RUNNING, True, "ready", "serving"),
        (SHUTDOWN, RUNNING, True, "ready", "draining"),
        (TaskState.REMOVE, RUNNING, False, "ready", "draining"),
        (SHUTDOWN, TaskState.STARTING, True, "ready", "starting"),
    ],
)
def test_whether_a_task_serves(script, listen, desired, observed, is_ready, node, expected):
    script.join("n2", RED)
    task = script.task("t1", "n1", desired_state=desired)
    script.see(task, observed, is_ready=is_ready)
    script.world.set_node_state("n1", node)
    assert endpoint_of(listen().mirrors["n2"], task).state == expected


def test_a_node_that_goes_down_and_comes_back(script, listen):
    script.join("n2", RED)
    task = script.task("t1", "n1")
    script.see(task)
    listeners = listen()
    for state, expected in (("down", "starting"), ("unknown", "serving"), ("ready", "serving")):
        script.world.set_node_state("n1", state)
        listeners.flush()
        assert endpoint_of(listeners.mirrors["n2"], task).state == expected
    listeners.check()


def test_a_service_is_an_entry_on_each_of_its_networks(script, listen):
    labels = {"com.docker.stack.namespace": "shop"}
    aliases = NetworkAttachment(target=BLUE, aliases=("db", "store"))
    ports = {"affinity": "client-ip", "force_ports": True}
    script.service(WEB, (RED, aliases), labels, **ports)
    script.addresses(WEB, (PORT,), red="10.0.1.7", blue="10.1.1.7")
    script.join("n1", RED, BLUE)
    entry = ServiceEntry(
        service_id=WEB,
        network_id=RED,
        name="web",
        stack="shop",
        vip="10.0.1.7",
        ports=(PORT,),
        has_affinity=True,
        is_forced=True,
    )
    second = msgspec.structs.replace(
        entry, network_id=BLUE, aliases=("db", "store"), vip="10.1.1.7", ports=()
    )
    assert set(listen().mirrors["n1"].services) == {entry, second}


def test_a_service_without_networks_is_on_the_default_one(script, listen):
    script.service(WEB, ())
    script.join("n1", script.world.network_id)
    assert entry_of(listen().mirrors["n1"], WEB).network_id == script.world.network_id


def test_a_service_is_found_on_a_network_that_it_has_left_while_it_has_an_address_there(
    script, listen
):
    script.join("n1", RED, BLUE)
    script.service(WEB, (RED,))
    script.addresses(WEB, (PORT,), red="10.0.1.7")
    listeners = listen()
    script.service(WEB, (BLUE,))
    script.addresses(WEB, (PORT,), blue="10.1.1.7", red="10.0.1.7")
    listeners.flush()
    entries = {entry.network_id: entry for entry in listeners.mirrors["n1"].services}
    assert {n: entry.vip for n, entry in entries.items()} == {BLUE: "10.1.1.7", RED: "10.0.1.7"}
    assert {n: entry.ports for n, entry in entries.items()} == {BLUE: (PORT,), RED: (PORT,)}
    script.delete("network", RED)
    listeners.flush()
    assert entry_of(listeners.mirrors["n1"], WEB).network_id == BLUE
    listeners.check()


def test_a_service_on_the_host_s_network_is_nobody_s_business(script, listen):
    script.put(Network(id=NetworkId("host"), name="host", driver="host", created_ns=1))
    script.service(WEB, ("host",))
    script.join("n1", RED)
    assert not listen().mirrors["n1"].services


def test_a_service_is_told_once_it_has_its_address_and_before_it_has_tasks(script, listen):
    script.join("n1", RED)
    script.service(WEB)
    script.service(API, mode="dnsrr")
    listeners = listen()
    assert set(listeners.mirrors["n1"].services) == {entry_of(listeners.mirrors["n1"], API)}
    script.addresses(WEB, red="10.0.1.7")
    differences = listeners.flush()
    assert set(differences) == {"n1"}
    assert entry_of(listeners.mirrors["n1"], WEB).vip == "10.0.1.7"
    script.world.remove(API)
    script.delete("service_addresses", WEB)
    listeners.flush()
    assert not listeners.mirrors["n1"].services


def test_what_a_node_is_told_of_a_network(script, listen):
    script.put(msgspec.structs.replace(script.state.networks[RED], is_internal=True))
    script.join("n1", RED)
    (network,) = listen().mirrors["n1"].networks.values()
    assert (network.vip_subnet, network.is_internal) == ("10.0.1.0/24", True)


def test_every_node_knows_the_addresses_of_all(script, listen):
    listeners = listen()
    everybody = {f"192.168.0.{number}" for number in (1, 2, 3)}
    assert all(set(mirror.nodes) == everybody for mirror in listeners.mirrors.values())
    script.node("n4", "192.168.0.1")
    assert set(listeners.flush()) == {"n4"}, "an address that two nodes have is no news"
    script.node("n4", "192.168.0.9")
    listeners.flush()
    script.delete("node", "n3")
    del listeners.mirrors["n3"]
    listeners.flush()
    assert set(listeners.mirrors["n1"].nodes) == everybody - {"192.168.0.3"} | {"192.168.0.9"}
    listeners.check()


def test_a_node_that_was_not_there_is_told_everything(script, listen):
    script.join("n1", RED)
    script.service()
    script.addresses(WEB, (PORT,), red="10.0.1.7")
    script.task("t1", "n1")
    listeners = listen()
    script.node("n4", "192.168.0.4")
    listeners.mirrors["n4"] = Mirror()
    listeners.flush()
    assert listeners.mirrors["n4"].endpoints
    listeners.check()


# Who is told.


def test_an_endpoint_is_told_to_the_members_of_its_network(script, listen):
    script.join("n1", RED)
    script.join("n2", RED, BLUE)
    script.service()
    task = script.task("t1", "n1")
    listeners = listen()
    assert told(listeners, task) == {"n1": {RED}, "n2": {RED}}
    script.see(task)
    assert set(listeners.flush()) == {"n1", "n2"}


def test_a_published_service_is_told_to_all_and_its_tasks_by_their_first_network(script, listen):
    script.join("n1", RED, BLUE)
    script.service(WEB, (RED, BLUE))
    task = script.task("t1", "n1", networks=(RED, BLUE))
    listeners = listen()
    assert told(listeners, task) == {"n1": {RED, BLUE}}
    script.addresses(WEB, (PORT,), red="10.0.1.7", blue="10.1.1.7")
    listeners.flush()
    assert told(listeners, task) == {"n1": {RED, BLUE}, "n2": {RED}, "n3": {RED}}
    assert entry_of(listeners.mirrors["n3"], WEB).ports == (PORT,)
    script.addresses(WEB, (), red="10.0.1.7", blue="10.1.1.7")
    listeners.flush()
    assert told(listeners, task) == {"n1": {RED, BLUE}}
    assert not listeners.mirrors["n3"].services


def test_a_node_that_comes_to_a_network_and_leaves_it(script, listen):
    script.join("n1", RED)
    script.service(WEB)
    script.service(API)
    script.addresses(WEB, (PORT,), red="10.0.1.7")
    script.addresses(API, red="10.0.1.8")
    public, private = script.task("t1", "n1"), script.task("t2", "n1", API)
    listeners = listen()
    assert told(listeners, private) == {"n1": {RED}}
    script.join("n3", RED)
    difference = listeners.flush()[NodeId("n3")]
    assert {e.task_id for e in difference.endpoints} == {"", private}, "it knew the other"
    assert [entry.service_id for entry in difference.services] == [API]
    script.delete("gateway", RED, NodeId("n3"))
    difference = listeners.flush()[NodeId("n3")]
    assert difference.removed_networks == [RED]
    assert {e.task_id for e in difference.removed_endpoints} == {"", private}
    assert told(listeners, public).keys() == set(NODES)
    listeners.check()


def test_one_change_costs_one_record_however_many_there_are(script, listen):
    for node in NODES:
        script.join(node, RED)
    tasks = [script.task(f"t{number}", "n1") for number in range(50)]
    script.service()
    listeners = listen()
    script.see(tasks[7])
    for difference in listeners.flush().values():
        assert (len(difference.removed_endpoints), len(difference.endpoints)) == (1, 1)
        assert not difference.tasks
        assert not difference.services
    script.addresses(WEB, red="10.0.1.7")
    for difference in listeners.flush().values():
        assert not difference.endpoints
        assert len(difference.services) == 1


def test_what_is_the_same_for_many_nodes_is_made_once(script, listen):
    for node in NODES:
        script.join(node, RED)
    task = script.task("t1", "n1")
    listeners = listen()
    parts = [listeners.book.full_set(NodeId(node)).shared for node in NODES]
    assert parts[0] == parts[1] == parts[2]
    script.see(task)
    (one,), (two,), (three,) = (d.shared for d in listeners.flush().values())
    assert one is two is three


@pytest.mark.parametrize("chunk_bytes_max", [4_000, 256 * 1024])
def test_everything_of_a_difference_goes_over_the_bus_in_chunks(script, listen, chunk_bytes_max):
    listeners = listen()
    aliases = tuple(f"alias-{number}" for number in range(32))
    for number in range(70):
        service_id = ServiceId(f"s{number}")
        script.service(service_id, (NetworkAttachment(target=RED, aliases=aliases),))
        script.addresses(service_id, (PORT,), red=f"10.0.1.{number + 1}")
        script.task(f"t{number}", "n1", service_id)
    script.join("n1", RED)
    told = listeners.flush()[NodeId("n1")]
    payloads = assignment_payloads(told, 7, 3, False, True, chunk_bytes_max)
    assert all(len(payload) <= chunk_bytes_max for payload in payloads)
    stream, whole = AssignmentStream(0), None
    stream.offer(Assignments(term=7, sequence=2, full=True))
    for payload in payloads:
        assert whole is None
        whole = stream.offer(decode(payload, Assignments)).message
    assert whole.wants_applied
    for name in (*OWN_LISTS, *SHARED_LISTS):
        assert list(getattr(whole, name)) == list(getattr(told, name)), name
    assert len(whole.services) == len(whole.tasks) == 70


# The order to stop.


@pytest.fixture
def serving(script):
    """A task on n1 that serves, on a network with n2."""
    script.join("n1", RED)
    script.join("n2", RED)
    task = script.task("t1", "n1")
    script.see(task, container_id="c1")
    return task


def test_a_task_that_serves_drains_before_it_is_told_to_stop(script, listen, serving):
    listeners = listen()
    before = listeners.mirrors["n1"].tasks[serving]
    script.want(serving, SHUTDOWN)
    differences = listeners.flush()
    assert set(differences) == {"n1", "n2"}
    assert differences[NodeId("n1")].tasks == []
    assert endpoint_of(listeners.mirrors["n2"], serving).state == "draining"
    assert full(listeners.book, "n1").tasks == {serving: before}
    (held,) = listeners.book.take_held()
    assert (held.tasks, held.audience) == ((serving,), {"n1", "n2"})
    assert listeners.flush() == {}
    listeners.book.release([serving])
    assert listeners.flush()[NodeId("n1")].tasks == [script.state.tasks[serving]]
    script.want(serving, TaskState.REMOVE)
    assert listeners.flush()[NodeId("n1")].tasks == [script.state.tasks[serving]]
    assert listeners.book.take_held() == [], "it drains already"
    listeners.check()


def test_all_nodes_have_to_know_when_a_published_task_drains(script, listen, serving):
    script.service()
    script.addresses(WEB, (PORT,), red="10.0.1.7")
    listeners = listen()
    script.want(serving, SHUTDOWN)
    listeners.flush()
    (held,) = listeners.book.take_held()
    assert held.audience == set(NODES)


def test_tasks_that_stop_together_are_held_together(script, listen, serving):
    others = [script.task(f"t{number}", "n2") for number in range(2, 200)]
    for task in others:
        script.see(task)
    listeners = listen()
    for task in (serving, *others):
        script.want(task, TaskState.REMOVE)
    listeners.flush()
    (held,) = listeners.book.take_held()
    assert set(held.tasks) == {serving, *others}


@pytest.mark.parametrize(
    "sees",
    [
        {"state": TaskState.STARTING},
        {"state": RUNNING, "is_ready": False},
        {"state": TaskState.FAILED, "container_id": "c1"},
    ],
)
def test_a_task_that_does_not_serve_is_ordered_at_once(script, listen, sees):
    script.join("n1", RED)
    task = script.task("t1", "n1")
    script.see(task, **sees)
    listeners = listen()
    script.want(task, TaskState.REMOVE)
    assert listeners.flush()[NodeId("n1")].tasks == [script.state.tasks[task]]
    assert listeners.book.take_held() == []


def test_a_task_without_networks_is_ordered_at_once(script, listen):
    task = script.task("t1", "n1", networks=())
    script.see(task)
    listeners = listen()
    script.want(task, SHUTDOWN)
    assert listeners.flush()[NodeId("n1")].tasks == [script.state.tasks[task]]


def test_a_held_task_that_is_deleted_goes_at_once(script, listen, serving):
    listeners = listen()
    script.want(serving, TaskState.REMOVE)
    listeners.flush()
    script.delete("task", serving)
    assert listeners.flush()[NodeId("n1")].removed_tasks == [serving]
    assert listeners.book.take_held() == []
    listeners.book.release([serving])
    assert listeners.flush() == {}
    listeners.check()


def test_a_held_task_that_ends_by_itself_is_held_no_more(script, listen, serving):
    listeners = listen()
    script.want(serving, SHUTDOWN)
    listeners.flush()
    script.see(serving, TaskState.FAILED, container_id="c1")
    assert listeners.flush()[NodeId("n1")].tasks == [script.state.tasks[serving]]
    assert listeners.book.take_held() == []
    listeners.check()


def test_a_held_task_that_changes_otherwise_stays_as_it_was_told(script, listen, serving):
    listeners = listen()
    before = script.state.tasks[serving]
    script.want(serving, SHUTDOWN)
    listeners.flush()
    script.want(serving, TaskState.REMOVE)
    assert listeners.flush() == {}
    assert full(listeners.book, "n1").tasks == {serving: before}
    listeners.release()
    assert listeners.mirrors["n1"].tasks == {serving: script.state.tasks[serving]}


def test_a_new_leader_holds_anew_what_drains(script, serving):
    idle = script.task("t2", "n1")
    script.see(idle, is_ready=False)
    wanted = script.state.tasks[serving]
    for task in (serving, idle):
        script.want(task, SHUTDOWN)
    book = AssignmentBook(script.state)
    told_tasks = full(book, "n1").tasks
    assert told_tasks[serving] == wanted, "as before; who has the order does not take it back"
    assert told_tasks[idle].desired_state is SHUTDOWN
    (held,) = book.take_held()
    assert held.tasks == (serving,)
    book.release(held.tasks)
    assert book.flush()[NodeId("n1")].tasks == [script.state.tasks[serving]]


# Any history.

IDS = ("t1", "t2", "t3", "t4")
NETS = st.sampled_from([(RED,), (BLUE,), (RED, BLUE), (BLUE, RED), ()])
SERVICES = st.sampled_from([WEB, API])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.sampled_from(NODES), st.sampled_from([RED, BLUE])),
        st.tuples(st.just("leave"), st.sampled_from(NODES), st.sampled_from([RED, BLUE])),
        st.tuples(st.just("service"), SERVICES, NETS),
        st.tuples(st.just("unserve"), SERVICES),
        st.tuples(st.just("address"), SERVICES, st.sampled_from([(), (PORT,)])),
        st.tuples(st.just("unaddress"), SERVICES),
        st.tuples(st.just("task"), st.sampled_from(IDS), st.sampled_from(NODES), SERVICES, NETS),
        st.tuples(
            st.just("see"),
            st.sampled_from(IDS),
            st.sampled_from([TaskState.STARTING, RUNNING, TaskState.FAILED, TaskState.SHUTDOWN]),
            st.booleans(),
        ),
        st.tuples(
            st.just("want"), st.sampled_from(IDS), st.sampled_from([SHUTDOWN, TaskState.REMOVE])
        ),
        st.tuples(st.just("untask"), st.sampled_from(IDS)),
        st.tuples(st.just("state"), st.sampled_from(NODES), st.sampled_from(["ready", "down"])),
        st.tuples(st.just("node"), st.sampled_from(NODES), st.integers(1, 4)),
        st.tuples(st.just("network"), st.sampled_from([RED, BLUE]), st.integers(1400, 1402)),
        st.tuples(st.just("unnetwork"), st.sampled_from([RED, BLUE])),
        st.tuples(st.just("flush")),
        st.tuples(st.just("flush")),
        st.tuples(st.just("register"), st.sampled_from(NODES)),
        st.tuples(st.just("release")),
    ),
    max_size=60,
)


def take_step(script, listeners, step):
    state = script.state
    match step:
        case ("join", node, network) if network in state.networks:
            script.join(node, network)
        case ("leave", node, network):
            script.delete("gateway", network, NodeId(node))
        case ("service", service_id, networks):
            script.service(service_id, networks)
        case ("unserve", service_id) if service_id in state.services:
            script.world.remove(service_id)
        case ("address", service_id, ports):
            number = 7 if service_id == WEB else 8
            script.addresses(service_id, ports, red=f"10.0.1.{number}", blue=f"10.1.1.{number}")
        case ("unaddress", service_id):
            script.delete("service_addresses", service_id)
        case ("task", name, node, service_id, networks) if name not in state.tasks:
            known = tuple(network for network in networks if network in state.networks)
            script.task(name, node, service_id, known)
        case ("see", name, observed, is_ready) if name in state.tasks:
            if observed >= state.observed(TaskId(name)):
                script.see(TaskId(name), observed, is_ready=is_ready, container_id="c" * 12)
        case ("want", name, desired) if name in state.tasks:
            script.want(TaskId(name), max(desired, state.tasks[TaskId(name)].desired_state))
        case ("untask", name) if name in state.tasks:
            script.delete("task", TaskId(name))
        case ("state", node, word) if node in state.node_status:
            script.world.set_node_state(node, word)
        case ("node", node, number):
            script.node(node, f"172.16.0.{number}")
        case ("network", network, mtu) if network in state.networks:
            script.put(msgspec.structs.replace(state.networks[network], mtu=mtu))
        case ("unnetwork", network):
            script.delete("network", network)
        case ("flush",):
            listeners.flush()
        case ("register", node):
            listeners.mirrors[node] = full(listeners.book, node)
        case ("release",):
            listeners.release()


def test_a_full_set_in_the_middle_is_of_that_moment(script, listen):
    script.join("n1", RED)
    script.service()
    listeners = listen()
    for vip in ("10.0.1.7", "10.0.1.8"):
        script.addresses(WEB, red=vip)
        listeners.flush()
        assert entry_of(full(listeners.book, "n1"), WEB).vip == vip


@given(STEPS)
@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_differences_add_up_to_what_the_state_says(make_world, steps):
    world = make_world()
    for node in NODES:
        world.add_node(node)
    script = Script(world)
    listeners = Listeners(world.state, NODES)
    for step in steps:
        take_step(script, listeners, step)
    listeners.flush()
    for node, mirror in listeners.mirrors.items():
        assert mirror == full(listeners.book, node)
    listeners.release()
    listeners.check()
    assert listeners.flush() == {}
