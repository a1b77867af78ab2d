"""How fast one address may begin handshakes."""

from essaim_shared.trust.handshake_pace import ADDRESSES_MAX, BURST, PER_S, HandshakePace


def admitted(pace: HandshakePace, address: str, now_s: float, count: int) -> int:
    return sum(pace.admits(address, now_s) for _ in range(count))


def test_many_at_once_are_let_in_and_then_as_many_as_time_passes() -> None:
    pace = HandshakePace()
    assert admitted(pace, "10.0.0.1", 0.0, 1000) == BURST
    assert admitted(pace, "10.0.0.1", 1.0, 1000) == PER_S
    assert admitted(pace, "10.0.0.1", 1.0, 1000) == 0
    assert admitted(pace, "10.0.0.1", 1000.0, 1000) == BURST


def test_one_address_takes_nothing_from_another() -> None:
    pace = HandshakePace()
    assert admitted(pace, "10.0.0.1", 0.0, 1000) == BURST
    assert pace.admits("10.0.0.2", 0.0)


def test_what_is_remembered_of_addresses_is_bounded_and_the_busy_ones_stay() -> None:
    pace = HandshakePace()
    assert admitted(pace, "10.0.0.1", 0.0, 1000) == BURST
    for number in range(2 * ADDRESSES_MAX):
        pace.admits(f"others {number}", 0.0)
        assert not pace.admits("10.0.0.1", 0.0)
    assert len(pace._buckets) <= ADDRESSES_MAX
