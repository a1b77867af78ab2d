"""Whom to ask through the overlays next, and what their answers mean. Pure.

Each round asks a few peers of each network: first those that were silent, so that a problem is
confirmed, and its end seen, in the next round; then some chosen at random, so that all are asked
in time however many there are.
"""

import random
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from essaim_agent.network import NetworkPicture
from essaim_shared.ids import NetworkId
from essaim_shared.limits import NETWORK_PROBES_MAX
from essaim_shared.messages import NetworkProbe

PEERS_PER_NETWORK = 3
"""Asked in one round."""
SILENT_PER_ROUND_MAX = NETWORK_PROBES_MAX // 2
"""However many are silent, others are asked too."""
PROBES_REMEMBERED_MAX = 4096

PeerKey = tuple[NetworkId, str]
"""(network, underlay address of the node)."""


class Peer(msgspec.Struct, frozen=True):
    """The bridge of another node on a network that this node is on."""

    network_id: NetworkId
    node_address: str
    """On the underlay."""
    address: str
    """Of its bridge, in the overlay."""
    source: str
    """Of this node's bridge."""
    mtu: int

    @property
    def key(self) -> PeerKey:
        return self.network_id, self.node_address


class Answer(msgspec.Struct, frozen=True):
    peer: Peer
    asked_ns: int
    latency_us: int = 0
    """Of the small packet; 0: it did not come back."""
    is_mtu_whole: bool = False


def peers_of(picture: NetworkPicture) -> list[Peer]:
    """All that could be asked, in a fixed order."""
    found = [
        Peer(
            endpoint.network_id,
            endpoint.node_address,
            endpoint.address,
            network.gateway,
            network.mtu,
        )
        for endpoint in picture.endpoints
        if not endpoint.task_id
        and (network := picture.networks.get(endpoint.network_id)) is not None
        and endpoint.address != network.gateway
    ]
    return sorted(found, key=lambda peer: (peer.key, peer.address))


def choose(peers: Sequence[Peer], silent: Iterable[PeerKey], rng: random.Random) -> list[Peer]:
    """Those of the next round: at most NETWORK_PROBES_MAX."""
    by_network: dict[NetworkId, list[Peer]] = {}
    doubtful = set(silent)
    again: list[Peer] = []
    for peer in peers:
        if peer.key in doubtful:
            again.append(peer)
        else:
            by_network.setdefault(peer.network_id, []).append(peer)
    rng.shuffle(again)
    chosen = again[:SILENT_PER_ROUND_MAX]
    networks = list(by_network.values())
    rng.shuffle(networks)
    for members in networks:
        chosen += rng.sample(members, min(PEERS_PER_NETWORK, len(members)))
    return chosen[:NETWORK_PROBES_MAX]


class Findings:
    """What the last question to each peer brought."""

    def __init__(self) -> None:
        self._probes: dict[PeerKey, NetworkProbe] = {}

    @property
    def silent(self) -> list[PeerKey]:
        """Those whose last answer, or a part of it, did not come."""
        return [k for k, probe in self._probes.items() if probe.misses or probe.mtu_misses]

    @property
    def all(self) -> Mapping[PeerKey, NetworkProbe]:
        return self._probes

    def note(self, answers: Iterable[Answer]) -> None:
        for answer in answers:
            key = answer.peer.key
            before = self._probes.pop(key, None)  # the newest stand last
            self._probes[key] = _probe(answer, before)
        while len(self._probes) > PROBES_REMEMBERED_MAX:
            del self._probes[next(iter(self._probes))]

    def keep_only(self, peers: Iterable[Peer]) -> None:
        """Forget who is not on a common network any more."""
        present = {peer.key for peer in peers}
        self._probes = {k: probe for k, probe in self._probes.items() if k in present}

    def reported(self) -> tuple[NetworkProbe, ...]:
        """What a report has room for: who was silent, then who was asked last."""
        newest_first = list(reversed(self._probes.values()))
        ordered = sorted(newest_first, key=lambda probe: not (probe.misses or probe.mtu_misses))
        return tuple(ordered[:NETWORK_PROBES_MAX])


def _probe(answer: Answer, before: NetworkProbe | None) -> NetworkProbe:
    is_heard = answer.latency_us > 0
    misses = 0 if before is None else before.misses
    mtu_misses = 0 if before is None else before.mtu_misses
    if is_heard:
        misses, mtu_misses = 0, 0 if answer.is_mtu_whole else mtu_misses + 1
    else:
        misses, mtu_misses = misses + 1, 0
    return NetworkProbe(
        network_id=answer.peer.network_id,
        node_address=answer.peer.node_address,
        latency_us=answer.latency_us,
        is_mtu_whole=answer.is_mtu_whole,
        asked_ns=answer.asked_ns,
        misses=misses,
        mtu_misses=mtu_misses,
    )
