"""Which master to talk to, and as whom, when the user did not say.

The master, in this order: --host, --context, ESSAIM_HOST, ESSAIM_CONTEXT, the current context
(`client` looks at these), a lab on this machine, the local master's own socket. The identity for
masters over TCP: --identity or ESSAIM_IDENTITY, the context's, Docker's variables, that of the lab
whose master it is.
"""

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path

from essaim_cli.errors import usage
from essaim_cli.lab.state import roots
from essaim_cli.lab.topology import ADMIN_IDENTITY

LOCAL_SOCKET = Path("/run/essaim/master.sock")
PROBE_TIMEOUT_S = 1.0
LEADER_REQUEST = b"GET /essaim/leader HTTP/1.0\r\nHost: localhost\r\n\r\n"
STATUS_LINE_BYTES_MAX = 64


def parse_host(url: str) -> tuple[str, str | tuple[str, int]]:
    """`unix:///PATH` → ("unix", path); `tcp://HOST:PORT` → ("tcp", (host, port))."""
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "unix" and rest.startswith("/"):
        return "unix", rest
    if separator and scheme in ("tcp", "http"):
        name, _, port = rest.rstrip("/").rpartition(":")
        if name and port.isdigit():
            return "tcp", (name.strip("[]"), int(port))
    raise usage(f"invalid host {url!r}: use unix:///PATH or tcp://HOST:PORT")


def find_host(run: Path | None = None) -> str:
    """The URL of a master on this machine; of several labs (in `run`), the one called lab.

    One that knows a leader is preferred: a master that is frozen, or cut off from the others, is
    of no use while they work on without it.
    """
    found = (run or roots().run).glob("*/lab.json")
    cut_off = ""
    for description in sorted(found, key=lambda path: (path.parent.name != "lab", path)):
        for master in _masters(description):
            knows_leader = _asked_for_leader(master)
            if knows_leader:
                return f"unix://{master}"
            if knows_leader is not None:
                cut_off = cut_off or master
        if cut_off:
            break
    return f"unix://{cut_off or LOCAL_SOCKET}"


def other_masters(url: str, run: Path | None = None) -> list[str]:
    """The masters of the same lab, when the URL is one of theirs."""
    scheme, address = parse_host(url)
    if scheme != "unix":
        return []
    for description in sorted((run or roots().run).glob("*/lab.json")):
        masters = _masters(description)
        if address in masters:
            return [f"unix://{master}" for master in masters if master != address]
    return []


def find_identity(
    named: str | None,
    url: str,
    environment: Mapping[str, str] = os.environ,
    run: Path | None = None,
) -> Path | None:
    """The directory of the certificate to show; None where nobody said, and TLS is not spoken.

    A lab's masters may name others over TCP, to whom its user shows what the lab made for him.
    """
    if named:
        return Path(named)
    if environment.get("DOCKER_TLS_VERIFY"):
        return Path(environment.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
    scheme, address = parse_host(url)
    if scheme == "unix" and Path(str(address)).is_relative_to(run or roots().run):
        found = Path(str(address)).parent.parent / ADMIN_IDENTITY
        return found if found.is_dir() else None
    return None


def _masters(description: Path) -> list[str]:
    """Sockets of a lab's masters. A lab that is being raised or removed has none yet."""
    try:
        lab = json.loads(description.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return []
    return [master["socket"] for master in lab["masters"]]


def _asked_for_leader(path: str) -> bool | None:
    """Whether the master knows a leader; None where nobody listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_TIMEOUT_S)
        try:
            probe.connect(path)
        except OSError:
            return None
        try:
            probe.sendall(LEADER_REQUEST)
            status_line = probe.recv(STATUS_LINE_BYTES_MAX)
        except OSError:
            return False
        return status_line.partition(b" ")[2].startswith(b"200")
