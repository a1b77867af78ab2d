"""`python -m essaim_agent.dns --run-dir DIR --udp FD --tcp FD --agent FD`, as the agent starts it;
`--run-dir DIR --end` ends the one that runs there."""

import argparse
import asyncio
import gc
import os
import random
import socket
import sys
from pathlib import Path

from essaim_agent.dns import control, link
from essaim_agent.dns.forwarder import RESOLV_CONF
from essaim_agent.dns.server import Server
from essaim_shared import log
from essaim_shared.capabilities import NAME_SERVER, confine
from essaim_shared.clock import SystemClock
from essaim_shared.errors import EssaimError

EXIT_CONFIG = 78
END_WAIT_S = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="essaim-dns", description="The name server of a node.")
    parser.add_argument("--run-dir", type=Path, required=True, metavar="DIR")
    parser.add_argument("--udp", type=int, metavar="FD")
    parser.add_argument("--tcp", type=int, metavar="FD")
    parser.add_argument("--agent", type=int, metavar="FD")
    parser.add_argument("--resolv-conf", type=Path, default=RESOLV_CONF, metavar="FILE")
    parser.add_argument("--end", action="store_true", help="End the server of this directory.")
    arguments = parser.parse_args()
    if arguments.end:
        _end(arguments.run_dir)
        return
    if None in (arguments.udp, arguments.tcp):
        parser.error("--udp and --tcp: the agent hands them over")
    try:
        log.set_up("info", os.environ, sys.stderr)
        confine(NAME_SERVER)
        asyncio.run(_serve(arguments))
    except EssaimError as error:
        print(f"essaim-dns: {error}", file=sys.stderr)
        sys.exit(EXIT_CONFIG)


async def _serve(arguments: argparse.Namespace) -> None:
    udp, tcp = (socket.socket(fileno=number) for number in (arguments.udp, arguments.tcp))
    agent = socket.socket(fileno=arguments.agent) if arguments.agent is not None else None
    for each in (udp, tcp, agent):
        if each is not None:
            each.setblocking(False)
    server = Server(
        arguments.run_dir,
        udp,
        tcp,
        SystemClock(),
        random.SystemRandom(),
        arguments.resolv_conf,
    )
    gc.freeze()
    await server.run(agent)


def _end(run_dir: Path) -> None:
    """Tell it, and wait until its end of the connection closes. None running is fine."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(END_WAIT_S)
        try:
            connection.connect(str(run_dir / link.SOCKET))
            connection.sendall(control.encode(control.End()))
            while connection.recv(link.HELLO_BYTES_MAX):
                pass
        except (FileNotFoundError, ConnectionError):
            return


if __name__ == "__main__":
    main()
