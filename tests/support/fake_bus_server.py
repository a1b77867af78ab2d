"""A bus server's file, signal and monitoring, in memory."""

import re

from essaim_master.bus_users.connections import Connection
from essaim_master.bus_users.local_server import BusServerError


class FakeBusServer:
    def __init__(self) -> None:
        self.file = self.loaded = ""
        self.loads: list[str] = []
        """Every file that was in force after the first."""
        self.is_running = True
        self.takes_what_it_reads = True
        self.trouble = ""
        self.has_old_certificates = False
        self.clients: tuple[Connection, ...] = ()

    def write(self, text: str) -> None:
        self.file = text

    def reload(self) -> None:
        if self.trouble:
            raise BusServerError(self.trouble)
        self.has_old_certificates = False
        if self.takes_what_it_reads:
            self.loaded = self.file
            self.loads.append(self.file)

    async def loaded_ns(self) -> int | None:
        if not self.is_running:
            return None
        found = re.search(r'write_deadline: "(\d+)ns"', self.loaded)
        return 10_000_000_000 if found is None else int(found[1])

    async def connections(self) -> tuple[Connection, ...]:
        return self.clients

    def knows(self, bus_key: str) -> bool:
        return bus_key in self.loaded
