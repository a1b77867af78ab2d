"""What this node shows to registries for the services it runs, sealed until it is needed.

The masters send it with a service's tasks, sealed to this node's key. It is journaled as it came:
an agent that restarts in the middle of a pull goes on with it. It is opened for a pull, and
forgotten with the service's last task here.
"""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from essaim_agent.executor import ExecutorError
from essaim_shared.errors import ConfigError
from essaim_shared.ids import NodeId, ServiceId
from essaim_shared.messages import SealedCredentials
from essaim_shared.sealing import KeyPair, SealError, load_key_pair, open_with
from essaim_shared.undecodable import UNDECODABLE

KEY_FILE: Final = "seal_key"
MAKE_KEY_LIMIT_S: Final = 30


class RegistryLogins:
    """One per agent; without a key it holds nothing."""

    def __init__(self, node_id: NodeId, pair: KeyPair | None = None) -> None:
        self._node_id = node_id
        self._pair = pair
        self._sealed: dict[ServiceId, SealedCredentials] = {}

    @property
    def public_key(self) -> str:
        """What the node announces; empty without a key."""
        return "" if self._pair is None else self._pair.public_text

    @property
    def sealed(self) -> tuple[SealedCredentials, ...]:
        """For the journal."""
        return tuple(self._sealed.values())

    def take(self, credentials: Iterable[SealedCredentials]) -> None:
        """Newer ones of a service replace what is held."""
        self._sealed.update({item.service_id: item for item in credentials})

    def keep_only(self, service_ids: Iterable[ServiceId]) -> None:
        """Forget those of services without a task here."""
        if self._sealed:
            kept = set(service_ids)
            self._sealed = {key: item for key, item in self._sealed.items() if key in kept}

    def of(self, service_id: ServiceId) -> dict[str, Any] | None:
        """Docker's AuthConfig; None when the service has none. Raises ExecutorError."""
        item = self._sealed.get(service_id)
        if item is None or self._pair is None:
            return None
        context = SealedCredentials.context(service_id, self._node_id)
        try:
            return msgspec.json.decode(
                open_with(self._pair, item.sealed, context), type=dict[str, Any]
            )
        except SealError as error:
            raise ExecutorError(f"the registry credentials cannot be opened: {error}") from error
        except UNDECODABLE:
            # Not chained: msgspec's words may quote what was inside.
            raise ExecutorError("the registry credentials are no AuthConfig") from None


def node_key_pair(directory: Path) -> KeyPair:
    """The node's own keys, made the first time. Raises ConfigError.

    They are made by a process of its own: the library stays in memory (12 MB) once imported, and
    an agent that pulls nothing with credentials never needs it again.
    """
    path = directory / KEY_FILE
    if not path.exists():
        made = subprocess.run(
            [sys.executable, "-m", "essaim_shared.sealing", str(path)],
            capture_output=True,
            text=True,
            timeout=MAKE_KEY_LIMIT_S,
            check=False,
        )
        if made.returncode != 0:
            last = made.stderr.strip().splitlines()[-1:] or ["no reason given"]
            raise ConfigError(f"{path}: cannot be made: {last[0]}")
    return load_key_pair(path)
