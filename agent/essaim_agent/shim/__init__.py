"""The runtime shim's other half: install it, register it with an engine, link namespaces for it.

`essaim-runc`, beside this file, is a template; an installed copy has the agent's run directory and
the path of runc written into it, since an engine passes neither on.
"""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import msgspec

from essaim_shared.errors import ConfigError
from essaim_shared.undecodable import UNDECODABLE

RUNTIME_NAME = "essaim"
SHIM_FILE = "essaim-runc"
DAEMON_JSON = Path("/etc/docker/daemon.json")

_SAFE_PATH = re.compile(r"/[A-Za-z0-9/_.+-]*")
"""What needs no quoting in sh, sed and JSON."""
_CONTAINER_ID = re.compile(r"[A-Za-z0-9_.+-]+")


def install(directory: Path, run_dir: Path, runc: Path | None = None) -> Path:
    """Write the shim for one agent into `directory` and return its path. Repeating it is free.

    `runc` is found on the PATH unless given. Raises ConfigError.
    """
    if runc is None:
        found = shutil.which("runc", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin")
        if found is None:
            raise ConfigError("runc is not installed; install a Docker Engine, which brings it")
        runc = Path(found)
    for path in (run_dir, runc):
        if not _SAFE_PATH.fullmatch(str(path)):
            raise ConfigError(f"{path}: the shim needs an absolute path of A-Z a-z 0-9 / _ . + -")
    template = Path(__file__).with_name(SHIM_FILE).read_text()
    text = template.replace("@RUN_DIR@", str(run_dir)).replace("@RUNC@", str(runc))
    target = directory / SHIM_FILE
    if not target.exists() or target.read_text() != text:
        directory.mkdir(parents=True, exist_ok=True)
        _replace(target, text, mode=0o755)
    return target


def register(shim: Path, daemon_json: Path = DAEMON_JSON) -> bool:
    """Name the shim in the engine's configuration; everything else in the file stays.

    True when the file changed: the engine must be told to read it again (SIGHUP). Raises
    ConfigError for a file that is no JSON object, and leaves it alone.
    """
    settings: dict[str, Any] = {}
    if daemon_json.exists():
        try:
            settings = msgspec.json.decode(daemon_json.read_bytes() or b"{}", type=dict[str, Any])
        except UNDECODABLE as error:
            raise ConfigError(f"{daemon_json} is no JSON object: {error}") from error
    runtimes = settings.setdefault("runtimes", {})
    if not isinstance(runtimes, dict):
        raise ConfigError(f"{daemon_json}: `runtimes` is no JSON object")
    wanted = {"path": str(shim)}
    if runtimes.get(RUNTIME_NAME) == wanted:
        return False
    runtimes[RUNTIME_NAME] = wanted
    daemon_json.parent.mkdir(parents=True, exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode(settings), indent=2).decode() + "\n"
    _replace(daemon_json, text, mode=0o644)
    return True


def link_namespace(run_dir: Path, container_id: str, namespace_path: str) -> None:
    """Let the shim start this container in that namespace. Repeating it is free."""
    link = _link(run_dir, container_id)
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink() and str(link.readlink()) == namespace_path:
        return
    fresh = link.with_name(f".{link.name}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(namespace_path)
    fresh.replace(link)


def unlink_namespace(run_dir: Path, container_id: str) -> None:
    """No error when there is no link."""
    _link(run_dir, container_id).unlink(missing_ok=True)


def linked(run_dir: Path) -> dict[str, str]:
    """Namespace path by container id, those whose container is long gone included."""
    directory = run_dir / "netns"
    if not directory.is_dir():
        return {}
    links = [path for path in directory.iterdir() if not path.name.startswith(".")]
    return {link.name: str(link.readlink()) for link in links}


def _link(run_dir: Path, container_id: str) -> Path:
    if not _CONTAINER_ID.fullmatch(container_id) or container_id.startswith("."):
        raise ValueError(f"{container_id!r} is no container id")
    return run_dir / "netns" / container_id


def _replace(target: Path, text: str, mode: int) -> None:
    fresh = target.with_name(f".{target.name}.new")
    fresh.write_text(text)
    fresh.chmod(mode)
    fresh.replace(target)
