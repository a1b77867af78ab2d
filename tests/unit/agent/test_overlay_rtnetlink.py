"""Bytes to and from the kernel: rows as it sends them, and bytes that nobody should send."""

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from essaim_agent.overlay import rtnetlink as rt


def payload_of(request: bytes) -> tuple[int, bytes]:
    [(kind, _, payload)] = rt.messages(request)
    return kind, payload


def test_a_forwarding_entry_is_read_back_as_it_was_written() -> None:
    kind, payload = payload_of(rt.put_forward(7, "02:e5:0a:f4:00:0c", "10.98.0.2"))
    row = rt.neighbour(payload)
    assert kind == rt.RTM_NEWNEIGH
    assert (row.index, row.mac, row.destination) == (7, "02:e5:0a:f4:00:0c", "10.98.0.2")
    assert row.family == rt.AF_BRIDGE
    assert row.flags == rt.NTF_SELF


def test_a_ports_mac_is_static_and_not_local_and_does_not_move() -> None:
    _, payload = payload_of(rt.put_port_mac(7, "02:e5:0a:f4:00:0c"))
    row = rt.neighbour(payload)
    assert (row.state, row.destination) == (rt.NUD_NOARP, "")
    assert row.flags == rt.NTF_MASTER | rt.NTF_STICKY


def test_a_neighbour_never_ages() -> None:
    _, payload = payload_of(rt.put_neighbour(3, "10.244.0.12", "02:e5:0a:f4:00:0c"))
    row = rt.neighbour(payload)
    assert (row.family, row.state) == (socket.AF_INET, rt.NUD_PERMANENT)


@pytest.mark.parametrize(
    ("mac", "flag"), [(rt.FLOOD_MAC, rt.NLM_F_APPEND), ("02:e5:0a:f4:00:0c", rt.NLM_F_REPLACE)]
)
def test_flood_entries_stand_beside_each_other_and_others_take_the_place(
    mac: str, flag: int
) -> None:
    (flags,) = struct.unpack_from("=H", rt.put_forward(7, mac, "10.98.0.2"), 6)
    assert flags & flag
    assert flags & rt.NLM_F_CREATE


def test_an_address_is_read_back_with_its_prefix() -> None:
    _, payload = payload_of(rt.add_address(4, "10.244.0.1/20"))
    assert rt.interface_address(payload) == (4, "10.244.0.1/20")


def test_a_link_without_the_attributes_of_other_kinds_is_read() -> None:
    header = struct.pack("=BxHiII", 0, 1, 9, rt.IFF_UP, 0)
    link = rt.link(header + rt.attribute(3, b"eth0\0"))
    assert (link.index, link.name, link.up, link.kind, link.vni) == (9, "eth0", True, "", 0)


def test_a_batch_is_numbered_in_order() -> None:
    requests = [rt.link_up(1), rt.delete_link("es-v1"), rt.link_up(2)]
    batch = rt.number_requests(requests, 40)
    found = [(kind, sequence) for kind, sequence, _ in rt.messages(batch)]
    assert found == [(rt.RTM_NEWLINK, 40), (rt.RTM_DELLINK, 41), (rt.RTM_NEWLINK, 42)]


def test_an_error_is_a_positive_errno_and_success_is_zero() -> None:
    assert rt.error_number(struct.pack("=i", -17)) == 17
    assert rt.error_number(struct.pack("=i", 0)) == 0


@pytest.mark.parametrize("length", [0, 15, 4096])
def test_a_message_of_an_impossible_length_is_noticed(length: int) -> None:
    data = struct.pack("=IHHII", length, 16, 0, 0, 0)
    with pytest.raises(ValueError, match=f"message of {length} bytes, 16 are left"):
        list(rt.messages(data))


@pytest.mark.parametrize("length", [0, 3, 9])
def test_an_attribute_of_an_impossible_length_is_noticed(length: int) -> None:
    data = struct.pack("=HHI", length, 1, 0)
    with pytest.raises(ValueError, match=f"attribute of {length} bytes, 8 are left"):
        rt.attributes(data)


@given(st.lists(st.tuples(st.integers(1, 60), st.binary(max_size=40)), max_size=8))
def test_attributes_of_any_length_are_read_back(pairs: list[tuple[int, bytes]]) -> None:
    data = b"".join(rt.attribute(kind, payload) for kind, payload in pairs)
    assert len(data) % 4 == 0
    assert rt.attributes(data) == dict(pairs)
