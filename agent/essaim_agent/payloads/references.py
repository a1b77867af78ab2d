"""Which files of secrets and configs a task is to have, by its spec: pure.

The masters have checked the spec. Here an id becomes a path on the node and a name a path in the
container, so both are checked once more where they are used.
"""

import posixpath
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from essaim_agent.executor import Refused
from essaim_shared.container_spec import ConfigReference, ContainerSpec, SecretReference

Kind = Literal["secret", "config"]

FILES_PER_TASK_MAX: Final = 256
SECRETS_DIRECTORY: Final = "/run/secrets"
"""In the container; of secrets with a relative name."""
CONFIGS_DIRECTORY: Final = "/"
MODE_MAX: Final = 0o777
OWNER_MAX: Final = 2**32 - 2
"""The last number is no user's: to chown(2) it means `as it is`."""
TARGET_CHARS_MAX: Final = 4095
"""PATH_MAX of Linux without its final NUL."""

_PAYLOAD_ID: Final = re.compile(r"[0-9a-z]{25}")
_TASK_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_OWNER: Final = re.compile(r"[0-9]{1,10}")


class PayloadKey(msgspec.Struct, frozen=True):
    """One version of the data of one secret or config."""

    kind: Kind
    id: str
    number: int
    """The reference's `data_version`."""


class WantedFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a task."""

    key: PayloadKey
    title: str
    """As errors call it: `secret "db-password"`."""
    target: str
    """Absolute, in the container."""
    uid: int
    gid: int
    mode: int


def wanted_files(container: ContainerSpec) -> tuple[WantedFile, ...]:
    """In the order of the spec, secrets first. Raises Refused."""
    count = len(container.secrets) + len(container.configs)
    if count > FILES_PER_TASK_MAX:
        raise Refused(
            f"{count} secrets and configs: a task can be given {FILES_PER_TASK_MAX} of them"
        )
    secrets = [
        _wanted_file("secret", item, item.secret_id, item.secret_name) for item in container.secrets
    ]
    configs = [
        _wanted_file("config", item, item.config_id, item.config_name) for item in container.configs
    ]
    return (*secrets, *configs)


def _wanted_file(
    kind: Kind, reference: SecretReference | ConfigReference, payload_id: str, name: str
) -> WantedFile:
    title = f'{kind} "{name}"'
    if reference.file is None:
        raise Refused(f"{title} names no file")
    if not _PAYLOAD_ID.fullmatch(payload_id):
        raise Refused(f"{title}: {payload_id!r} is no id")
    number = reference.data_version
    if not isinstance(number, int) or number < 0:
        raise Refused(f"{title}: the reference has no data version")
    file = reference.file
    if not 0 <= file.mode <= MODE_MAX:
        raise Refused(f"{title}: mode {file.mode:#o} is not in 0..{MODE_MAX:#o}")
    return WantedFile(
        key=PayloadKey(kind, payload_id, number),
        title=title,
        target=_target(kind, title, file.name),
        uid=_owner(title, "uid", file.uid),
        gid=_owner(title, "gid", file.gid),
        mode=file.mode,
    )


def _target(kind: Kind, title: str, name: str) -> str:
    below = SECRETS_DIRECTORY if kind == "secret" else CONFIGS_DIRECTORY
    parts = [part for part in name.split("/") if part not in ("", ".")]
    target = posixpath.join("/" if name.startswith("/") else below, *parts)
    if not parts or ".." in parts or "\0" in name or len(target) > TARGET_CHARS_MAX:
        raise Refused(f"{title}: {name[:80]!r} is no path of a file")
    return target


def _owner(title: str, what: str, text: str) -> int:
    """Numbers only: the names of users are the container's own, which nobody has looked into."""
    if not _OWNER.fullmatch(text) or int(text) > OWNER_MAX:
        raise Refused(f"{title}: {what} {text[:40]!r} is not a number in 0..{OWNER_MAX}")
    return int(text)


def directory_of(directory: Path, task_id: str) -> Path:
    """Of a task's files. Raises Refused."""
    if not _TASK_ID.fullmatch(task_id):
        raise Refused(f"{task_id[:80]!r} is no id of a task")
    return directory / task_id


def file_name(index: int, wanted: WantedFile) -> str:
    """In the directory of the task: nothing that a user wrote becomes a path on the node."""
    return f"{wanted.key.kind}-{index}"


def file_mounts(container: ContainerSpec, task_id: str, directory: Path) -> list[dict[str, Any]]:
    """`HostConfig.Mounts` for the files of a task below `directory`. Raises Refused."""
    wanted = wanted_files(container)
    own = directory_of(directory, task_id) if wanted else directory
    return [_bind(own / file_name(index, file), file) for index, file in enumerate(wanted)]


def _bind(source: Path, file: WantedFile) -> dict[str, Any]:
    return {"Type": "bind", "Source": str(source), "Target": file.target, "ReadOnly": True}


def keys_of(files: Sequence[WantedFile]) -> tuple[PayloadKey, ...]:
    """Each once, in their order."""
    return tuple(dict.fromkeys(file.key for file in files))
