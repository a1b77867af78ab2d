"""What was ever sealed on a disk, read from the bytes as they are written."""

import struct
from collections.abc import Iterator

from essaim_master.at_rest.cipher import PREFIX_BYTES
from essaim_master.at_rest.sealed_stream import MAGIC, read_header
from essaim_master.wal.records import ALIGNMENT_BYTES, CODEC_SEALED, HEADER_BYTES

_LENGTH_MASK = (1 << 56) - 1


def sealed_under(name: str, data: bytes) -> Iterator[bytes]:
    """Of each seal in one write to a file of the log's directory: the key's id with the nonce of a
    record, or with the salt of a whole file."""
    if data.startswith(MAGIC):
        header = read_header(name, data)[1]
        yield header.key_id + header.salt
    if not name.endswith((".wal", "spare.tmp")):
        return
    offset = 0
    while offset + HEADER_BYTES <= len(data):
        length_field, codec = struct.unpack_from("<QxB", data, offset)
        length = length_field & _LENGTH_MASK
        if not length:
            return
        offset += HEADER_BYTES
        if codec == CODEC_SEALED:
            yield data[offset : offset + PREFIX_BYTES]
        offset += length + -length % ALIGNMENT_BYTES


class NonceWatch:
    """Knows all of them, over all lives of a master."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self.twice: list[str] = []

    def written(self, name: str, data: bytes) -> None:
        for one in sealed_under(name, data):
            if one in self.seen:
                self.twice.append(f"{one.hex()} in {name}")
            self.seen.add(one)
