"""Rows of the kernel's tables, read again and again: as entries, whatever was remembered."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from essaim_agent.overlay import rtnetlink as rt
from essaim_agent.overlay.kernel_rows import RowReader
from essaim_agent.overlay.tables import Forward, Neighbour, PortMac

BRIDGE, VXLAN, OTHER = 3, 4, 9
NAMES = {BRIDGE: "es-b1", VXLAN: "es-x1"}
MAC, FAR, VTEP = "02:e5:0a:f4:00:0c", "10.244.0.12", "10.98.0.2"
CACHE_INFO, MASTER, PORT = 3, 9, 6


def payload(request: bytes) -> bytes:
    [(_, _, found)] = rt.messages(request)
    return found


def aged(row: bytes, age: int) -> bytes:
    """As the kernel sends it: with counters behind it."""
    return row + rt.attribute(CACHE_INFO, struct.pack("=4I", age, age, age, 1))


FORWARD = payload(rt.put_forward(VXLAN, MAC, VTEP))
NEIGHBOUR = payload(rt.put_neighbour(BRIDGE, FAR, MAC))
PORT_MAC = payload(rt.put_port_mac(VXLAN, MAC)) + rt.attribute(MASTER, struct.pack("=I", BRIDGE))
ROWS = {
    FORWARD: Forward("es-x1", MAC, VTEP),
    NEIGHBOUR: Neighbour("es-b1", FAR, MAC),
    PORT_MAC: PortMac("es-x1", MAC),
    payload(rt.put_forward(VXLAN, rt.FLOOD_MAC, VTEP)): Forward("es-x1", rt.FLOOD_MAC, VTEP),
    payload(rt.put_forward(OTHER, MAC, VTEP)): None,
    payload(rt.put_neighbour(OTHER, FAR, MAC)): None,
}


@given(st.lists(st.lists(st.sampled_from(list(ROWS)), max_size=8), max_size=5), st.data())
def test_each_reading_is_as_if_it_were_the_first(readings: list[list[bytes]], data) -> None:
    reader = RowReader()
    for rows in readings:
        ages = [data.draw(st.integers(0, 2**32 - 1)) for _ in rows]
        found = reader.read([aged(row, age) for row, age in zip(rows, ages, strict=True)], NAMES)
        assert found == {ROWS[row] for row in rows} - {None}


def test_a_known_row_of_a_device_that_has_another_name_now_is_read_anew() -> None:
    reader = RowReader()
    assert reader.read([FORWARD], NAMES) == {Forward("es-x1", MAC, VTEP)}
    assert reader.read([FORWARD], {VXLAN: "es-x2"}) == {Forward("es-x2", MAC, VTEP)}
    assert reader.read([FORWARD], {}) == frozenset()


def test_a_remote_with_a_udp_port_of_its_own_is_no_entry_of_ours_whenever_it_comes() -> None:
    def strange(number: int) -> bytes:
        return aged(FORWARD + rt.attribute(PORT, struct.pack("!H", number)), 1)

    reader = RowReader()
    for number in (9999, 9998):
        [found] = reader.read([strange(number)], NAMES)
        assert found == Forward("es-x1", MAC, f"{VTEP} {number:04x}")
    assert reader.read([aged(FORWARD, 1)], NAMES) == {Forward("es-x1", MAC, VTEP)}


def test_learned_rows_are_none_of_ours() -> None:
    learned = struct.pack("=BxxxiHBB", rt.AF_BRIDGE, VXLAN, 0x02, rt.NTF_MASTER, 0)
    row = learned + rt.attribute(2, rt.mac_bytes(MAC))
    assert RowReader().read([row], NAMES) == frozenset()
