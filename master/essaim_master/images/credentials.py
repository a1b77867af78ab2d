"""The credentials that services' nodes show to registries: sealed in the state, opened by the
leader only to be sealed to one node.

What is sealed is the AuthConfig as the client sent it (JSON), so that the engine gets every field
of it, also those unknown here.
"""

from essaim_shared.errors import NotSupported
from essaim_shared.ids import NodeId, ServiceId
from essaim_shared.messages import SealedCredentials
from essaim_shared.objects import RegistryCredentials
from essaim_shared.sealing import DataKey, SealError, seal_to


class CredentialVault:
    """One per master; without a key it keeps nothing and opens nothing."""

    def __init__(self, key: DataKey | None = None) -> None:
        self._key = key

    def seal(self, service_id: ServiceId, plain: bytes) -> bytes:
        """Raises NotSupported when this master has no key."""
        if self._key is None:
            raise NotSupported(
                "registry credentials are not kept, since this master has no key to seal them: "
                "set seal_key_file on all masters, or create the service without "
                "--with-registry-auth and log in on each node"
            )
        return self._key.seal(plain, _context(service_id))

    def open(self, stored: RegistryCredentials) -> bytes:
        """The AuthConfig, empty when there is none. Raises SealError."""
        if not stored.sealed:
            return b""
        if self._key is None:
            raise SealError("this master has no seal_key_file, and another one sealed it")
        return self._key.open(stored.sealed, _context(stored.service_id))

    def for_node(
        self, stored: RegistryCredentials, node_id: NodeId, node_key: str
    ) -> SealedCredentials:
        """What only this node can read. `node_key` is the one it announced. Raises SealError."""
        if not node_key:
            raise SealError(f"node {node_id} announced no key: its agent is of an older version")
        service_id = stored.service_id
        sealed = seal_to(
            node_key, self.open(stored), SealedCredentials.context(service_id, node_id)
        )
        return SealedCredentials(service_id=service_id, sealed=sealed)


def _context(service_id: ServiceId) -> bytes:
    return b"registry credentials/" + service_id.encode()
