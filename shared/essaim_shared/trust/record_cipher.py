"""AES-256-GCM under one key, with nonces that never come twice.

The library is imported when the first cipher is made: see `essaim_shared.sealing`.
"""

import secrets
from collections.abc import Callable
from typing import Final, TypeAlias

from essaim_shared.errors import ConfigError
from essaim_shared.sealing import KEY_BYTES, SealError

SALT_BYTES: Final = 8
COUNTER_BYTES: Final = 4
NONCE_BYTES: Final = SALT_BYTES + COUNTER_BYTES
"""NIST SP 800-38D, 8.2: GCM takes 96 bits as they are."""
TAG_BYTES: Final = 16

Entropy: TypeAlias = Callable[[int], bytes]
"""So many random bytes. `secrets.token_bytes`, but in a simulator."""


class NonceSequence:
    """96 bits: a salt that is drawn now, and a counter. For one writer.

    What a writer forgets when it dies is how far it counted. The next one draws a salt of its
    own, so a record that is written again, at the place where a crash tore it, has another nonce:
    with the same one both would be as good as readable.
    """

    def __init__(self, entropy: Entropy = secrets.token_bytes) -> None:
        self._entropy = entropy
        self._salt = entropy(SALT_BYTES)
        self._count = 0

    def next(self) -> bytes:
        if self._count >> 8 * COUNTER_BYTES:
            self._salt, self._count = self._entropy(SALT_BYTES), 0
        nonce = self._salt + self._count.to_bytes(COUNTER_BYTES, "big")
        self._count += 1
        return nonce


class RecordCipher:
    """Seals and opens; whose nonce it is, the caller says."""

    def __init__(self, key: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        if len(key) != KEY_BYTES:
            raise ConfigError(f"a key has {KEY_BYTES} bytes, this one {len(key)}")
        self._aead = AESGCM(key)

    def seal(self, nonce: bytes, plain: bytes | bytearray | memoryview, context: bytes) -> bytes:
        """The ciphertext, TAG_BYTES longer than `plain`. `context` must be known to open it."""
        return self._aead.encrypt(nonce, plain, context)

    def open(self, nonce: bytes, sealed: bytes | memoryview, context: bytes) -> bytes:
        """Raises SealError."""
        from cryptography.exceptions import InvalidTag

        try:
            return self._aead.decrypt(nonce, sealed, context)
        except (InvalidTag, ValueError) as error:
            raise SealError("it was changed, or was moved from another place") from error
