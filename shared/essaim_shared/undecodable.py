"""What a decoder of msgspec raises for bytes that are not what they should be.

`msgspec.DecodeError` alone is not enough: a text that is not UTF-8 raises UnicodeDecodeError, and
values nested some hundred deep RecursionError, both also in fields that nobody knows and that are
skipped. Whoever decodes bytes from the network or from the disk catches all three.
"""

from typing import Final

import msgspec

UNDECODABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
