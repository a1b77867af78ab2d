"""What a node says of its own network."""

import socket
from collections.abc import Iterator
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from essaim_agent.host_network import look_at_host_network
from essaim_agent.host_network_facts import (
    LISTENING_MAX,
    interface_of,
    listening,
    read_port_range,
    read_routes,
    reserved_subnets,
    tcp_ports,
    udp_ports,
)

ROUTES = """\
Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	010200C0	0003	0	0	0	00000000	0	0	0
eth0	000200C0	00000000	0001	0	0	0	00FFFFFF	0	0	0
es-b12	0000F40A	00000000	0001	0	0	0	00F0FFFF	0	0	0
docker0	000011AC	00000000	0001	0	0	0	0000FFFF	0	0	0
tun0	00000000	0100080A	0003	0	0	0	00000080	0	0	0
eth0	0064A8C0	010200C0	0003	0	0	0	00FFFFFF	0	0	0
"""

TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0
   1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1 0
   2: 0202000A:0016 0302000A:D431 01 00000000:00000000 00:00000000 00000000     0        0 3 1 0
   3: never to be read
"""

UDP = """\
   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
  113: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4 2 0
  114: 00000000:9C40 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 5 2 0
  115: 0202000A:01F4 0302000A:01F4 01 00000000:00000000 00:00000000 00000000     0        0 6 2 0
"""


def test_taken_subnets_are_all_but_the_default_route_and_the_overlays_own() -> None:
    assert reserved_subnets(read_routes(ROUTES)) == (
        "172.17.0.0/16",
        "192.0.2.0/24",
        "192.168.100.0/24",
    )


def test_an_address_is_on_the_interface_with_its_subnet_and_not_behind_a_gateway() -> None:
    routes = read_routes(ROUTES)
    assert interface_of("192.0.2.7", routes) == "eth0"
    assert interface_of("172.17.3.4", routes) == "docker0"
    assert interface_of("192.168.100.1", routes) == ""


def test_ports_that_processes_listen_on() -> None:
    assert tcp_ports(TCP.splitlines()) == {22, 8080}
    assert udp_ports(UDP.splitlines(), range(32_768, 61_000)) == {53}
    assert listening({8080, 22}, {53}) == ("tcp/22", "tcp/8080", "udp/53")
    assert len(listening(range(1, 5000), range(1, 5000))) == LISTENING_MAX


def test_connections_behind_the_listening_sockets_are_not_read() -> None:
    def lines() -> Iterator[str]:
        yield from TCP.splitlines()[:4]
        raise AssertionError("read on")

    assert tcp_ports(lines()) == {22, 8080}


def test_the_range_of_ports_that_the_kernel_chooses() -> None:
    assert read_port_range("32768\t60999\n") == range(32_768, 61_000)
    assert read_port_range("") == range(0)


@given(st.text(max_size=200))
def test_any_text_is_read_or_passed_over(noise: str) -> None:
    read_routes(f"heading\n{noise}")
    tcp_ports(noise.splitlines())
    udp_ports(noise.splitlines(), read_port_range(noise))


def test_a_real_listener_is_seen_and_the_interface_of_an_address_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        seen = look_at_host_network("127.0.0.1")
        assert f"tcp/{server.getsockname()[1]}" in seen.listening
    assert seen.mtu >= 1_280


def test_a_host_that_tells_nothing_is_described_as_far_as_it_goes(tmp_path: Path) -> None:
    seen = look_at_host_network("198.51.100.1", proc=tmp_path)
    assert (seen.mtu, seen.routes, seen.listening) == (0, (), ())
