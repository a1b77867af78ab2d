"""The keys with which processes log in to the bus. The only importer of `nkeys`.

NATS calls them nkeys (https://docs.nats.io/running-a-nats-service/configuration/securing_nats/auth_intro/nkey_auth):
Ed25519 pairs in letters. The seed stays with its process, the bus servers know the public half,
and a login signs what the server has just drawn. They are apart from the certificates, so that a
renewed certificate changes nothing on the bus servers.
"""

import base64
import re
import secrets
from typing import Final

import nkeys

SEED_BYTES: Final = 32
CHECKSUM_BYTES: Final = 2
_PUBLIC_KEY = re.compile(r"U[A-Z2-7]{55}")


def new_seed() -> str:
    """A fresh user seed, as NATS writes it (`SU…`)."""
    seed: bytes = nkeys.encode_seed(secrets.token_bytes(SEED_BYTES), nkeys.PREFIX_BYTE_USER)
    return seed.decode()


def public_key_of(seed: str) -> str:
    """`U…`: what bus servers are told."""
    pair = nkeys.from_seed(bytearray(seed.encode()))
    try:
        public: bytes = pair.public_key
        return public.decode()
    finally:
        pair.wipe()


def is_public_key(text: str) -> bool:
    """Whether the text is a user's public key, and so can stand in a bus server's configuration."""
    if _PUBLIC_KEY.fullmatch(text) is None:
        return False
    raw = base64.b32decode(text)
    body, checksum = raw[:-CHECKSUM_BYTES], raw[-CHECKSUM_BYTES:]
    is_right: bool = nkeys.crc16(bytearray(body)) == int.from_bytes(checksum, "little")
    return is_right
