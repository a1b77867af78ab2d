"""The kernel's table of flows: looks for some, and deletes them. Blocking.

One dump however many endpoints went, and one batch of deletions; nothing at all is sent when no
flow can be concerned.
"""

import errno
from collections.abc import Iterable, Iterator

from essaim_agent.overlay import flows as fl
from essaim_agent.overlay.channel import Channel, check
from essaim_agent.overlay.flows import Flow, Suspicion
from essaim_agent.overlay.nft import NETLINK_NETFILTER

SERVERS_ASKED_ALONE_MAX = 4
"""The kernel looks through all flows for each; beyond, one dump of them all costs less."""

_GONE = frozenset((errno.ENOENT,))


class Conntrack:
    """Of the network namespace of the thread that makes this object, and for that thread."""

    def __init__(self) -> None:
        self._channel = Channel(NETLINK_NETFILTER)

    def close(self) -> None:
        self._channel.close()

    def forget(self, suspected: Suspicion) -> int:
        """Delete the flows that lead astray or nowhere; how many. Raises NetworkError."""
        found: list[Flow] = []
        if suspected.has_lost:
            lost = suspected.lost
            if lost is not None and len(lost) <= SERVERS_ASKED_ALONE_MAX:
                requests = [fl.dump_by_server(server) for server in lost]
            else:
                requests = [fl.dump_by_status(fl.IPS_DST_NAT, fl.IPS_DST_NAT)]
            flows = self._flows(requests, None if lost is None else fl.packed(lost))
            found += {flow.id: flow for flow in fl.astray(flows, suspected)}.values()
        if suspected.has_opened:
            request = fl.dump_by_status(0, fl.IPS_SEEN_REPLY | fl.IPS_DST_NAT)
            found += fl.to_nowhere(self._flows([request]), suspected)
        return self._delete(found)

    def forget_ports(self, udp_ports: Iterable[int]) -> int:
        """Delete the UDP flows of clients that called these ports, wherever they lead: they are
        to be looked at anew. Raises NetworkError."""
        numbers = frozenset(udp_ports)
        if not numbers:
            return 0
        return self._delete(
            flow
            for flow in self._flows([fl.dump_all()])
            if flow.protocol == fl.UDP and flow.called_port in numbers
        )

    def open_connections(self, servers: Iterable[str]) -> dict[str, int]:
        """Of TCP, to each of these addresses. Raises NetworkError."""
        counts = dict.fromkeys(servers, 0)
        if len(counts) <= SERVERS_ASKED_ALONE_MAX:
            asked = [(fl.dump_by_server(server), fl.packed([server])) for server in counts]
        else:
            asked = [(fl.dump_all(), fl.packed(counts))]
        for request, those in asked:
            for flow in self._flows([request], those):
                if fl.is_open(flow):
                    counts[flow.server] += 1
        return counts

    def _flows(
        self, requests: Iterable[bytes], servers: frozenset[bytes] | None = None
    ) -> Iterator[Flow]:
        """Of some dumps; only those to the servers, if any are named."""
        for request in requests:
            for payload in self._channel.dump(request):
                if servers is None or fl.leads_to(payload, servers):
                    flow = fl.read_flow(payload)
                    if flow is not None:
                        yield flow

    def _delete(self, flows: Iterable[Flow]) -> int:
        requests = [fl.delete_flow(flow) for flow in flows]
        check(self._channel.send(requests), "forget flows", _GONE)
        return len(requests)
