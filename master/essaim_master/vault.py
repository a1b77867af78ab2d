"""What a master keeps sealed in the state: registry credentials of services, and secrets.

Sealed with the key that all masters share, and bound to its place. Credentials are opened by the
leader only to be sealed to one node; a secret only for a node that has a task with it.

What is sealed of credentials is the AuthConfig as the client sent it (JSON), so that the engine
gets every field of it, also those unknown here.
"""

from essaim_shared.errors import NotSupported
from essaim_shared.ids import NodeId, PayloadId, ServiceId
from essaim_shared.messages import SealedCredentials
from essaim_shared.objects import RegistryCredentials
from essaim_shared.payload_objects import SecretData
from essaim_shared.sealing import DataKey, SealError, seal_to


class Vault:
    """One per master; without a key it keeps nothing and opens nothing."""

    def __init__(self, key: DataKey | None = None) -> None:
        self._key = key

    def seal_credentials(self, service_id: ServiceId, plain: bytes) -> bytes:
        """Raises NotSupported when this master has no key."""
        if self._key is None:
            raise NotSupported(
                "registry credentials are not kept, since this master has no key to seal them: "
                "set seal_key_file on all masters, or create the service without "
                "--with-registry-auth and log in on each node"
            )
        return self._key.seal(plain, _credentials_context(service_id))

    def open_credentials(self, stored: RegistryCredentials) -> bytes:
        """The AuthConfig, empty when there is none. Raises SealError."""
        if not stored.sealed:
            return b""
        return self._checked_key().open(stored.sealed, _credentials_context(stored.service_id))

    def credentials_for_node(
        self, stored: RegistryCredentials, node_id: NodeId, node_key: str
    ) -> SealedCredentials:
        """What only this node can read. `node_key` is the one it announced. Raises SealError."""
        if not node_key:
            raise SealError(f"node {node_id} announced no key: its agent is of an older version")
        service_id = stored.service_id
        sealed = seal_to(
            node_key,
            self.open_credentials(stored),
            SealedCredentials.context(service_id, node_id),
        )
        return SealedCredentials(service_id=service_id, sealed=sealed)

    def check_can_seal_secrets(self) -> None:
        """Raises NotSupported when this master has no key."""
        if self._key is None:
            raise NotSupported(
                "secrets are not kept, since this master has no key to seal them: set "
                "seal_key_file on all masters (openssl rand -base64 32)"
            )

    def seal_secret(self, secret_id: PayloadId, number: int, plain: bytes) -> bytes:
        """Raises NotSupported when this master has no key."""
        self.check_can_seal_secrets()
        return self._checked_key().seal(plain, _secret_context(secret_id, number))

    def open_secret(self, stored: SecretData) -> bytes:
        """Raises SealError."""
        context = _secret_context(stored.secret_id, stored.number)
        return self._checked_key().open(stored.sealed, context)

    def _checked_key(self) -> DataKey:
        if self._key is None:
            raise SealError("this master has no seal_key_file, and another one sealed it")
        return self._key


def _credentials_context(service_id: ServiceId) -> bytes:
    return b"registry credentials/" + service_id.encode()


def _secret_context(secret_id: PayloadId, number: int) -> bytes:
    return f"secret/{secret_id}/{number}".encode()
