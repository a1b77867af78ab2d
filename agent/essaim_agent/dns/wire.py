"""DNS messages (RFC 1035, RFC 6891): questions read, answers written. Pure.

An answer repeats the question byte for byte: some who ask mix capitals into a name to see that it
comes back so. Its records of addresses all have one length and follow one another, so that they
can be told in another order, or fewer of them, without writing the message anew.
"""

import ipaddress
import struct
from typing import Final

import msgspec
from dnslib import QTYPE, RR, DNSError, DNSQuestion
from dnslib.bimap import BimapError
from dnslib.label import DNSBuffer, DNSLabel, DNSLabelError

from essaim_agent.dns.resolver import NAME_BYTES_MAX, TYPE_A, TYPE_PTR, Answer, Question
from essaim_shared.errors import MalformedMessage

HEADER: Final = struct.Struct(">2sHHHHH")
ID_BYTES: Final = 2
QUERY_BYTES_MAX: Final = 1_232
"""Longer ones are none: a question has one name, and a few options."""
ADDITIONAL_RECORDS_MAX: Final = 2
"""An OPT record, and a signature (TSIG) that we do not look at."""
UDP_BYTES_DEFAULT: Final = 512
"""What one who does not say more can take (RFC 1035, 4.2.1)."""
UDP_BYTES_MAX: Final = 1_232
"""What we send at most, and say that we take: no network in use cuts it into fragments."""
TCP_BYTES_MAX: Final = 65_535

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)
BADVERS: Final = 16
CLASS_IN: Final = 1

RESPONSE: Final = 0x8000
TRUNCATED: Final = 0x0200
_OPCODE: Final = 0x7800
_AUTHORITATIVE: Final = 0x0400
_RECURSION_AVAILABLE: Final = 0x0080
_REPEATED_FLAGS: Final = 0x7910
"""Of the query: opcode, recursion desired, checking disabled."""

_RECORD: Final = struct.Struct(">HHHIH")
_NAME_OF_QUESTION: Final = 0xC000 | HEADER.size
"""A pointer to the name behind the header (RFC 1035, 4.1.4)."""
ADDRESS_RECORD_BYTES: Final = _RECORD.size + 4
_OPT_RECORD: Final = struct.Struct(">BHHBBHH")
_TYPE_AND_CLASS_BYTES: Final = 4
_COUNTS: Final = struct.Struct(">HHHHH")


class Query(msgspec.Struct, frozen=True):
    """A question, and what of it comes back with the answer."""

    flags: int
    question: Question
    question_bytes: bytes
    """As they came: name, type, class."""
    udp_bytes: int
    """How long an answer over UDP may be."""
    has_options: bool
    """It has an OPT record, so the answer gets one."""
    refusal: int
    """A code of ours for what is well-formed and not answered: other classes than that of the
    Internet, other operations than questions, other versions of EDNS. 0: it is answered."""


class Packed(msgspec.Struct, frozen=True):
    """An answer but for its first two bytes (the id), its records of addresses apart."""

    flags: int
    question_bytes: bytes
    addresses: bytes
    others: tuple[bytes, ...]
    """Records of other types."""
    tail: bytes

    def message(self, addresses: bytes, flags: int = 0) -> bytes:
        """The message with some of the addresses."""
        count = len(addresses) // ADDRESS_RECORD_BYTES + len(self.others)
        additional = 1 if self.tail else 0
        counts = _COUNTS.pack(self.flags | flags, 1, count, 0, additional)
        return b"".join((counts, self.question_bytes, addresses, *self.others, self.tail))

    def addresses_bytes_max(self, limit_bytes: int) -> int:
        """How much of `addresses` a message of `limit_bytes` holds, its id included."""
        rest = HEADER.size + len(self.question_bytes) + sum(map(len, self.others)) + len(self.tail)
        fitting = max(0, limit_bytes - rest) // ADDRESS_RECORD_BYTES
        return min(len(self.addresses), fitting * ADDRESS_RECORD_BYTES)


def read_query(data: bytes) -> Query:
    """Raises MalformedMessage for anything that is not one question."""
    if not HEADER.size < len(data) <= QUERY_BYTES_MAX:
        raise MalformedMessage(f"{len(data)} bytes are no question")
    _, flags, questions, answers, authorities, additional = HEADER.unpack_from(data)
    counts = (questions, answers, authorities)
    if flags & RESPONSE or counts != (1, 0, 0) or additional > ADDITIONAL_RECORDS_MAX:
        raise MalformedMessage(f"flags {flags:#x}, records {counts} and {additional}")
    buffer = DNSBuffer(data)
    buffer.offset = HEADER.size
    try:
        asked = DNSQuestion.parse(buffer)
        end = buffer.offset
        records = [RR.parse(buffer) for _ in range(additional)]
    except (DNSError, DNSLabelError, BimapError, ValueError, RecursionError) as error:
        raise MalformedMessage(f"no question: {error}") from error
    labels = asked.qname.label
    written_bytes = sum(len(label) + 1 for label in labels) + 1
    if end != HEADER.size + written_bytes + 4 or written_bytes > NAME_BYTES_MAX + 2:
        raise MalformedMessage("a name that points elsewhere, or is too long")
    options = next((record for record in records if record.rtype == QTYPE.OPT), None)
    refusal = NOERROR
    if flags & _OPCODE:
        refusal = NOTIMP
    elif asked.qclass != CLASS_IN:
        refusal = REFUSED
    elif options is not None and options.ttl >> 16 & 0xFF:
        refusal = BADVERS
    udp_bytes = options.rclass if options is not None else UDP_BYTES_DEFAULT
    return Query(
        flags=flags,
        question=Question(b".".join(labels).lower().decode(), asked.qtype),
        question_bytes=data[HEADER.size : end],
        udp_bytes=max(UDP_BYTES_DEFAULT, min(udp_bytes, UDP_BYTES_MAX)),
        has_options=options is not None,
        refusal=refusal,
    )


def pack(query: Query, answer: Answer) -> Packed:
    code = NXDOMAIN if answer.code == "nxdomain" else NOERROR
    head = _NAME_OF_QUESTION, TYPE_A, CLASS_IN, answer.ttl_s, 4
    record = _RECORD.pack(*head)
    return Packed(
        flags=_flags(query, code) | _AUTHORITATIVE,
        question_bytes=query.question_bytes,
        addresses=b"".join(record + octets for octets in map(_octets, answer.addresses) if octets),
        others=tuple(_pointer(name, answer.ttl_s) for name in answer.names),
        tail=_options(code) if query.has_options else b"",
    )


def pack_error(query: Query, code: int) -> bytes:
    """An answer that says no more than a code; without its id."""
    packed = Packed(
        flags=_flags(query, code),
        question_bytes=query.question_bytes,
        addresses=b"",
        others=(),
        tail=_options(code) if query.has_options else b"",
    )
    return packed.message(b"")


def pack_bare_error(data: bytes, code: int) -> bytes:
    """For bytes of which nothing but the header is understood; without its id."""
    flags = int.from_bytes(data[2:4], "big")
    return _COUNTS.pack(RESPONSE | flags & _REPEATED_FLAGS | code, 0, 0, 0, 0)


def question_of(data: bytes) -> bytes:
    """The bytes of name, type and class of a message that `read_query` took, or of an answer.
    Raises MalformedMessage."""
    at = HEADER.size
    while at < len(data) and data[at]:
        at += data[at] + 1
    end = at + 1 + _TYPE_AND_CLASS_BYTES
    if end > len(data):
        raise MalformedMessage(f"{len(data)} bytes hold no question")
    return data[HEADER.size : end]


def is_answer_to(query: bytes, id_bytes: bytes, data: bytes) -> bool:
    """Whether somebody who saw the question wrote this: the id, and the question again."""
    if data[:ID_BYTES] != id_bytes or len(data) < HEADER.size or not data[2] & RESPONSE >> 8:
        return False
    question = question_of(query)
    return data[HEADER.size : HEADER.size + len(question)].lower() == question.lower()


def code_of(data: bytes) -> int:
    """Of an answer with a whole header."""
    return data[3] & 0xF


def _flags(query: Query, code: int) -> int:
    repeated = query.flags & _REPEATED_FLAGS
    return RESPONSE | _RECURSION_AVAILABLE | repeated | code & 0xF


def _options(code: int) -> bytes:
    """An OPT record: root, type, size, the upper bits of the code, version 0."""
    return _OPT_RECORD.pack(0, QTYPE.OPT, UDP_BYTES_MAX, code >> 4, 0, 0, 0)


def _octets(address: str) -> bytes:
    """Nothing for what is no IPv4 address."""
    try:
        return ipaddress.IPv4Address(address).packed
    except ValueError:
        return b""


def _pointer(name: str, ttl_s: int) -> bytes:
    buffer = DNSBuffer()
    buffer.encode_name(DNSLabel(tuple(label.encode() for label in name.split("."))))
    target = bytes(buffer.data)
    return _RECORD.pack(_NAME_OF_QUESTION, TYPE_PTR, CLASS_IN, ttl_s, len(target)) + target
