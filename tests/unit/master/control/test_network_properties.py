"""Whatever users, nodes and leaders do: nothing is given twice, nothing from outside its range,
and in the end nothing is left.

Pools are tiny, so that most histories run out of something; slices are small, so that most of them
are cut in the middle of something.
"""

import ipaddress

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from essaim_master.control.network_index import NetworkIndex
from essaim_master.state.writes import Writes
from essaim_shared.ids import NodeId, ServiceId
from essaim_shared.objects import IngressPort, Network
from essaim_shared.spec import PortConfig
from essaim_shared.task_state import TaskState

EXAMPLES = 150
STEPS_MAX = 25

SERVICES = ("a", "b", "c", "d")
NETWORKS = ("net", "front", "ranged", "plain", "host-id", "gone")
"""Some with all of it, one with a range of its own, one without addresses for services, the
nodes' own, and one that does not exist."""

networks = st.lists(st.sampled_from(NETWORKS), max_size=3).map(tuple)
ports = st.lists(
    st.builds(
        PortConfig,
        target_port=st.sampled_from((80, 81)),
        published_port=st.sampled_from((0, 0, 8080, 30_000, 30_001)),
        protocol=st.sampled_from(("tcp", "tcp", "udp")),
        publish_mode=st.sampled_from(("ingress", "ingress", "", "host")),
    ),
    max_size=3,
    unique_by=lambda port: (port.protocol, port.published_port or id(port)),
).map(tuple)
name = st.sampled_from(SERVICES)
steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("create"),
            name,
            networks,
            ports,
            st.sampled_from(("", "vip", "dnsrr")),
            st.integers(0, 4),
        ),
        st.tuples(st.just("connect"), name, networks),
        st.tuples(st.just("publish"), name, ports, st.sampled_from(("", "vip", "dnsrr"))),
        st.tuples(st.just("scale"), name, st.integers(0, 6)),
        st.tuples(st.just("remove"), name),
        st.tuples(st.just("claim"), st.sampled_from((8080, 30_000, 30_001)), name),
        st.tuples(st.just("fail"), st.integers(0, 5)),
        st.tuples(
            st.just("node"), st.sampled_from(("n1", "n2")), st.sampled_from(("ready", "down"))
        ),
        st.tuples(st.just("mtu"), st.sampled_from(("n1", "n2")), st.sampled_from((0, 1400, 9000))),
        st.tuples(st.just("elect")),
        st.tuples(st.just("slice")),
        st.tuples(st.just("lose")),
        st.tuples(st.just("obey")),
        st.tuples(st.just("converge")),
    ),
    max_size=STEPS_MAX,
)


class History:
    """A world in which everything may happen, with what must hold after every transaction."""

    def __init__(self, world):
        self.world = world
        self.state = world.state
        world.change_network("default", vip_subnet="10.160.0.0/29")
        world.add_network("front", "10.2.0.0/29", vip_subnet="10.162.0.0/30")
        world.add_network(
            "ranged", "10.3.0.0/24", vip_subnet="10.163.0.0/29", ip_range="10.3.0.248/29"
        )
        world.add_network("plain", "10.4.0.0/29")
        world.put(Network(id="host-id", name="host", driver="host", created_ns=1))
        for node in ("n1", "n2"):
            world.add_node(node, mtu=1500)
        self.state.subscribe(lambda _: self.check())

    def do(self, step):
        verb, *words = step
        getattr(self, verb)(*words)

    def create(self, name, networks, ports, mode, replicas):
        if self.find(name) is None:
            self.world.create(name, replicas, networks=networks, ports=ports, endpoint_mode=mode)

    def connect(self, name, networks):
        if self.find(name) is not None:
            self.world.connect(self.find(name), *networks)

    def publish(self, name, ports, mode):
        if self.find(name) is not None:
            self.world.publish(self.find(name), *ports, mode=mode)

    def scale(self, name, replicas):
        if self.find(name) is not None:
            self.world.scale(self.find(name), replicas)

    def remove(self, name):
        if self.find(name) is not None:
            self.world.remove(self.find(name))

    def claim(self, number, name):
        """The API claims a port, perhaps for a service that is just being deleted."""
        if f"tcp/{number}" not in self.state.ingress_ports:
            self.world.put(
                IngressPort(protocol="tcp", number=number, service_id=ServiceId(f"service-{name}"))
            )

    def fail(self, number):
        running = [
            task
            for task in self.state.tasks.values()
            if self.state.observed(task.id) is TaskState.RUNNING
        ]
        if running:
            self.world.report(running[number % len(running)].id, TaskState.FAILED)

    def node(self, name, state):
        self.world.set_node_state(name, state)

    def mtu(self, name, value):
        description = self.state.node_status[NodeId(name)].description
        self.world.describe_node(name, msgspec.structs.replace(description, mtu=value))

    def elect(self):
        self.world.elect()

    def slice(self):
        self.world.slice()

    def lose(self):
        """A slice of which the first transaction fails, as one whose guard does not hold."""
        parts = self.world.plan().transactions()
        for part in parts[1:]:
            writes = Writes()
            writes._operations = {each.key: each for each in part.then}
            self.world.commit(writes)
        self.world.worklist.add_everything()

    def obey(self):
        self.world.agents_obey()

    def converge(self):
        self.world.converge()

    def find(self, name):
        service_id = ServiceId(f"service-{name}")
        return service_id if service_id in self.state.services else None

    # What must hold.

    def check(self):
        """After every transaction."""
        self.check_places()
        self.check_virtual()

    def check_places(self):
        taken = set()
        for gateway in self.state.gateways.values():
            self.take(taken, gateway.network_id, gateway.address)
        for task in self.state.tasks.values():
            if self.state.observed(task.id).is_terminal:
                continue
            for place in task.attachments:
                self.take(taken, place.network_id, place.address)

    def take(self, taken, network_id, address):
        assert (network_id, address) not in taken, f"{address} on {network_id} given twice"
        taken.add((network_id, address))
        network = self.state.networks[network_id]
        check_inside(address, network.subnet)
        if network.ip_range:
            assert ipaddress.IPv4Address(address) in ipaddress.IPv4Network(network.ip_range)

    def check_virtual(self):
        taken = set()
        for addresses in self.state.service_addresses.values():
            for virtual in addresses.virtual_addresses:
                key = (virtual.network_id, virtual.address)
                assert key not in taken, f"{key} given twice"
                taken.add(key)
                check_inside(virtual.address, self.state.networks[virtual.network_id].vip_subnet)

    def check_rest(self):
        """When nobody has anything to do."""
        published = set()
        for service in self.state.services.values():
            addresses = self.state.service_addresses.get(service.id)
            for port in () if addresses is None else addresses.ports:
                key = f"{port.protocol}/{port.published_port}"
                assert key not in published, f"{key} published twice"
                published.add(key)
                assert self.state.ingress_ports[key].service_id == service.id
                assert port.published_port in range(30_000, 32_768) or port.published_port == 8080
        assert published == set(self.state.ingress_ports), "claimed and not published"
        held = {
            f"{port.protocol}/{port.published_port}"
            for task in self.state.tasks.values()
            if task.node_id and not self.state.observed(task.id).is_terminal
            for port in task.ports
        }
        chosen = {key for key, each in self.state.ingress_ports.items() if each.is_chosen}
        assert not held & chosen, "a chosen port is some node's"
        self.check_index()
        for task in self.state.tasks.values():
            if task.is_wanted and task.node_id is None:
                assert self.world.reason(task), f"{task.name} waits without a reason"
        before = self.decided()
        self.world.full_pass()
        assert self.decided() == before, "a second look changes something"

    def decided(self):
        """All but the reasons of tasks that wait: of two full networks one is named."""
        state = self.state
        kinds = (state.tasks, state.gateways, state.service_addresses, state.ingress_ports)
        return [dict(kind) for kind in (*kinds, state.networks)]

    def check_index(self):
        """What is kept beside the state is what a new leader would read in it."""
        known, fresh = self.world.worklist.addresses.index, NetworkIndex(self.state)
        assert known.virtual == fresh.virtual
        assert known.claims == fresh.claims
        assert known.host_ports == fresh.host_ports


def check_inside(address, subnet):
    network = ipaddress.IPv4Network(subnet)
    found = ipaddress.IPv4Address(address)
    assert found in network, f"{address} is outside of {subnet}"
    assert found not in (network.network_address, network.broadcast_address)


@given(steps, st.integers(1, 4))
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    print_blob=True,
)
def test_nothing_is_given_twice_and_in_the_end_nothing_is_left(make_world, history, limit):
    world = make_world(subnet="10.1.0.0/28", limit=limit)
    played = History(world)
    for step in history:
        played.do(step)
    world.converge()
    played.check_rest()
    for node in ("n1", "n2"):
        world.set_node_state(node, "ready")
    world.converge()
    played.check_rest()
    for name in SERVICES:
        played.remove(name)
    world.converge()
    assert not world.state.tasks
    assert not world.state.task_status
    assert not world.state.gateways
    assert not world.state.service_addresses
    assert not world.state.ingress_ports
    played.check_index()
