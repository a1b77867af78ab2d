"""Which master to talk to, when the user did not say.

In this order: --host or ESSAIM_HOST, a lab on this machine, the local master's own socket.
"""

import json
import socket
from pathlib import Path

from essaim_cli.errors import usage
from essaim_cli.lab.state import roots

LOCAL_SOCKET = Path("/run/essaim/master.sock")
PROBE_TIMEOUT_S = 1.0


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


def find_host() -> str:
    """The URL of the first master found on this machine; of several labs, the one called lab."""
    found = roots().run.glob("*/lab.json")
    for description in sorted(found, key=lambda path: (path.parent.name != "lab", path)):
        for master in _masters(description):
            if _answers(master):
                return f"unix://{master}"
    return f"unix://{LOCAL_SOCKET}"


def _masters(description: Path) -> list[str]:
    """Sockets of a lab's masters. A lab that is being raised or removed has none yet."""
    try:
        lab = json.loads(description.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return []
    return [master["socket"] for master in lab["masters"]]


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_TIMEOUT_S)
        try:
            probe.connect(path)
        except OSError:
            return False
        return True
