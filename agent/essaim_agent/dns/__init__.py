"""The node's name server: a process beside the agent that outlives it.

    picture   what the agent knows of networks, as changes of the table (in the agent)
    keeper    starts the process, tells it the table, starts it again (in the agent)
    link      the connection between the two, and the sockets that go over it
    table     the table, as facts and as an index
    resolver  a question's answer
    answers   whole packets: the fast path, and what is refused
    server    sockets of the tasks, of agents; forwarder: questions about the world outside

The process listens on a high port of its node, never on 53: the overlay's nft table leads the
port 53 of the bridges' addresses there.
"""

from typing import Final

DNS_PORT_DEFAULT: Final = 7453
