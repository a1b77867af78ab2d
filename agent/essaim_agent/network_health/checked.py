"""What one comparison of the wanted tables with those in the kernel found. Pure."""

import msgspec


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    at_ns: int = 0
    """Wall time; 0: nothing was compared yet."""
    mended: tuple[str, ...] = ()
    """In words: what was not as wanted, and is again."""
    problems: tuple[str, ...] = ()
    """In words: what is not as wanted and could not be mended, and why."""
    networks: int = 0
    endpoints: int = 0
    services: int = 0
    connections: int = 0
    """Flows that the kernel tracks."""
