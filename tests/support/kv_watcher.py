"""A user who watches, through every fault, and goes on elsewhere from where he was.

What is promised to him (etcd's guarantees of a watch): whole revisions, in order, each once, none
left out.
"""

import asyncio
import itertools
import json
from collections import deque
from collections.abc import Sequence
from typing import Any

from essaim_cli.lab.probes import api_of, json_of, open_target
from essaim_cli.lab.topology import Host
from essaim_shared.clock import Clock

SILENCE_S = 1.0
"""Without a line for so long he tries the next master: this one may be frozen."""
RETRY_PAUSE_S = 0.05
LINE_BYTES_MAX = 4 * 1024 * 1024
WAIT_S = 30.0


class Watcher:
    def __init__(self, hosts: Sequence[Host], prefix: str, clock: Clock) -> None:
        self._hosts = hosts
        self._prefix = prefix
        self._clock = clock
        self.told: list[tuple[int, list[dict[str, Any]]]] = []
        """(revision, its events) in the order of their arrival."""
        self.position = 0
        """All up to this revision has been told."""
        self.connections = 0
        self.refusals: deque[bytes] = deque(maxlen=3)

    async def begin(self) -> None:
        """From the present revision on."""
        status = await json_of(api_of(self._hosts[0]), "/essaim/kv/range?prefix=nothing")
        assert status is not None
        self.position = status["Revision"]

    async def run(self) -> None:
        """Until cancelled."""
        for host in itertools.cycle(self._hosts):
            try:
                await self._watch(host)
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                await self._clock.sleep(RETRY_PAUSE_S)

    async def _watch(self, host: Host) -> None:
        async with asyncio.timeout(SILENCE_S):
            reader, writer = await open_target(api_of(host), LINE_BYTES_MAX)
        try:
            query = f"prefix={self._prefix}&revision={self.position + 1}"
            writer.write(f"GET /essaim/kv/watch?{query} HTTP/1.1\r\nHost: lab\r\n\r\n".encode())
            async with asyncio.timeout(SILENCE_S):
                head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in head.partition(b"\r\n")[0]:
                self.refusals.append(head + await reader.read(LINE_BYTES_MAX))
                await self._clock.sleep(RETRY_PAUSE_S)
                return
            self.connections += 1
            while True:
                async with asyncio.timeout(SILENCE_S):
                    line = await reader.readuntil(b"\n")
                # Between the lines stand the lengths of HTTP's chunks, which hold whole lines.
                if line.startswith(b"{"):
                    self._take(json.loads(line))
        finally:
            writer.transport.abort()

    def _take(self, line: dict[str, Any]) -> None:
        assert "Error" not in line, line
        if line["Events"]:
            self.told.append((line["Revision"], line["Events"]))
        self.position = max(self.position, line["Revision"])

    @property
    def _puts(self) -> list[tuple[int, dict[str, Any]]]:
        """With their revisions. What is deleted is what an earlier user left, before any put."""
        return [
            (revision, event["KV"])
            for revision, events in self.told
            for event in events
            if event["Type"] == "put"
        ]

    async def until_told(self, keys: set[str]) -> None:
        """Wait until each of these keys has been told of."""
        deadline_s = self._clock.monotonic_s() + WAIT_S
        while missing := keys - {one["Key"] for _, one in self._puts}:
            assert self._clock.monotonic_s() < deadline_s, (
                f"never told: {sorted(missing)[:5]}; {self.connections} connections, "
                f"last refusals {list(self.refusals)}"
            )
            await self._clock.sleep(RETRY_PAUSE_S)

    def check(self, kept: Sequence[dict[str, Any]]) -> None:
        """`kept` is what stands under the prefix in the end: each key written once. What was told
        of later revisions is not judged: a request whose client left may be carried out after
        the look."""
        revisions = [revision for revision, _ in self.told]
        assert revisions == sorted(set(revisions)), "a revision came twice, or out of order"
        assert all(one["Modified"] == revision for revision, one in self._puts)
        happened = sorted(kept, key=lambda one: int(one["Modified"]))
        newest = int(happened[-1]["Modified"])
        told = [one for revision, one in self._puts if revision <= newest]
        untold = [one for one in happened if one not in told]
        unkept = [one for one in told if one not in happened]
        assert (untold, unkept) == ([], []), "what was told is not what happened"
        assert told == happened, "what was told is not in the order in which it happened"
        print(f"{len(told)} events told over {self.connections} connections")
