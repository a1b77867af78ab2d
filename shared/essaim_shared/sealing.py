"""What must not be read on the way or on a disk, sealed. The only importer of `cryptography`.

Two kinds of seal:

* with a `DataKey`, which some processes share as a file: ChaCha20-Poly1305 (RFC 8439) with a
  random nonce, which a key that seals fewer than 2**32 times never repeats in practice;
* to the public key of one receiver: HPKE (RFC 9180) in its base mode, X25519, HKDF-SHA256 and
  ChaCha20-Poly1305. Only the receiver opens it; that the sender is known is not promised.

Both bind a *context*, bytes that say what is sealed for whom: a seal that was moved to another
place of the state, or to another node, does not open.

The library is imported when something is sealed: it is 12 MB of memory, and most processes never
need it.
"""

import base64
import binascii
import hashlib
import os
import secrets
import sys
from pathlib import Path
from typing import Final

import msgspec

from essaim_shared.errors import ConfigError, EssaimError

KEY_BYTES: Final = 32
KEY_ID_BYTES: Final = 4
"""In front of what a data key sealed, so that a wrong key is told from damage."""
NONCE_BYTES: Final = 12
"""RFC 8439, section 2.8."""
SEAL_VERSION: Final = b"\x01"
KEY_FILE_BYTES_MAX: Final = 256
READ_BY_OTHERS: Final = 0o077
"""Mode bits that a file with a key must not have."""


class SealError(EssaimError):
    """It cannot be opened: another key, another place, or damage. Never says what was inside."""


class DataKey:
    """A key that several processes hold, and what it seals."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ConfigError(f"a key has {KEY_BYTES} bytes, this one {len(key)}")
        self._key = key
        self.id = hashlib.sha256(b"essaim data key" + key).digest()[:KEY_ID_BYTES]

    def seal(self, plain: bytes, context: bytes) -> bytes:
        """version, key id, nonce, ciphertext with its tag."""
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed = ChaCha20Poly1305(self._key).encrypt(nonce, plain, context)
        return SEAL_VERSION + self.id + nonce + sealed

    def derived(self, salt: bytes, purpose: bytes) -> bytes:
        """A key for one purpose alone (HKDF-SHA256, RFC 5869): what is sealed with it can neither
        be taken for what this key seals itself, nor share a nonce with it."""
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        return HKDF(SHA256(), KEY_BYTES, salt, purpose).derive(self._key)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """Raises SealError."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

        version, rest = sealed[:1], sealed[1:]
        if version != SEAL_VERSION:
            raise SealError("it was sealed by another version of Essaim, or is damaged")
        key_id, rest = rest[:KEY_ID_BYTES], rest[KEY_ID_BYTES:]
        if key_id != self.id:
            raise SealError(
                f"it was sealed with the key {key_id.hex()}, this process has {self.id.hex()}: "
                "give all masters the same seal_key_file"
            )
        try:
            return ChaCha20Poly1305(self._key).decrypt(
                rest[:NONCE_BYTES], rest[NONCE_BYTES:], context
            )
        except (InvalidTag, ValueError) as error:
            raise SealError("it is damaged, or was moved from another place") from error


class KeyPair(msgspec.Struct, frozen=True):
    """Of one receiver (X25519, raw). Its repr is that of no secret."""

    private: bytes
    public: bytes

    def __repr__(self) -> str:
        return f"KeyPair(public={self.public_text!r})"

    @property
    def public_text(self) -> str:
        """As a node announces it."""
        return base64.b64encode(self.public).decode()


def new_key_pair() -> KeyPair:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    private = X25519PrivateKey.generate()
    return KeyPair(private.private_bytes_raw(), private.public_key().public_bytes_raw())


def seal_to(public_text: str, plain: bytes, context: bytes) -> bytes:
    """Seal to the receiver who announced this public key. Raises SealError when it is none."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

    try:
        public = X25519PublicKey.from_public_bytes(base64.b64decode(public_text, validate=True))
        suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
        return suite.encrypt(plain, public, context)
    except ValueError as error:
        # binascii's error is one too; and a key of low order makes no shared secret.
        raise SealError("the receiver announced no usable key") from error


def open_with(pair: KeyPair, sealed: bytes, context: bytes) -> bytes:
    """What was sealed to this receiver. Raises SealError."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

    private = X25519PrivateKey.from_private_bytes(pair.private)
    suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
    try:
        return suite.decrypt(sealed, private, context)
    except (InvalidTag, ValueError) as error:
        raise SealError("it was sealed to another key or for another use, or is damaged") from error


def load_data_key(path: Path) -> DataKey:
    """The key in a file: 32 bytes in base64, readable by its owner alone. Raises ConfigError."""
    return DataKey(_decoded_key(path, _read_private(path), KEY_BYTES))


def load_key_pair(path: Path) -> KeyPair:
    """A receiver's own keys. Raises ConfigError for a damaged file.

    The public key stands in the file too: it can then be announced without the library.
    """
    both = _decoded_key(path, _read_private(path), 2 * KEY_BYTES)
    return KeyPair(both[:KEY_BYTES], both[KEY_BYTES:])


def make_key_pair_file(path: Path) -> None:
    pair = new_key_pair()
    write_private(path, base64.b64encode(pair.private + pair.public) + b"\n")


def new_data_key_text() -> str:
    """The content of a new key file."""
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode() + "\n"


def write_private(path: Path, content: bytes) -> None:
    """Whole, on disk, and never readable by others, not even for a moment."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    # Its name, too: a node that confirms a renewed certificate is not believed with the one before.
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _read_private(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(KEY_FILE_BYTES_MAX)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    if mode & READ_BY_OTHERS:
        raise ConfigError(f"{path}: others may read this key: run chmod 600 {path}")
    return content


def _decoded_key(path: Path, content: bytes, length: int) -> bytes:
    try:
        key = base64.b64decode(content.strip(), validate=True)
    except binascii.Error as error:
        raise ConfigError(f"{path}: holds no key in base64") from error
    if len(key) != length:
        raise ConfigError(f"{path}: holds {len(key)} bytes, a key has {length}")
    return key


if __name__ == "__main__":
    # For a process that wants the keys without the library: see its importer.
    make_key_pair_file(Path(sys.argv[1]))
