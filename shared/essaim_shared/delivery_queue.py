"""The messages of one subscription on their way to its handler; used by both transports.

It outlives a connection: messages that arrived before a loss are handled before those that
arrive after it, a handler at work is not interrupted by a lost connection, and there is never
more than one at work for a subscription.

A handler must not raise. When one does, that is a broken assumption: it is handed, with the
subject, to the event loop's exception handler (a daemon installs one that stops the process with
the traceback), and the subscription goes on with the next message. So where nobody asked for the
process to stop, one bad message does not make a node deaf.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from essaim_shared.transport import Delivery, Handler

WAITING_MESSAGES_MAX: Final = 16_384
WAITING_BYTES_MAX: Final = 32 * 1024 * 1024
"""Per subscription. What comes on top is dropped and counted: to the layers above a slow
consumer looks as a lossy network does, and they live with that anyway."""

HANDLED_PER_TURN_MAX: Final = 64
"""After so many messages the event loop gets a turn, however many wait."""


class DeliveryQueue:
    def __init__(self, pattern: str, handler: Handler, count_drop: Callable[[], None]) -> None:
        """`count_drop` is called once for each message dropped for want of room."""
        self.pattern = pattern
        self._handler = handler
        self._count_drop = count_drop
        self._waiting: deque[Delivery] = deque()
        self._waiting_bytes = 0
        self._wake = asyncio.Event()
        self._is_closed = False
        self._worker = self._start_worker()

    def put(self, delivery: Delivery) -> None:
        size_bytes = len(delivery.payload)
        if self._is_closed:
            return
        if (
            len(self._waiting) >= WAITING_MESSAGES_MAX
            or self._waiting_bytes + size_bytes > WAITING_BYTES_MAX
        ):
            self._count_drop()
            return
        self._waiting.append(delivery)
        self._waiting_bytes += size_bytes
        self._wake.set()

    def close(self) -> None:
        """Forget what waits. A handler at work finishes; it may be the one that calls this."""
        self._is_closed = True
        self._waiting.clear()
        self._waiting_bytes = 0
        self._wake.set()

    async def join(self, timeout_s: float) -> None:
        """After `close`: wait for the handler at work, and cancel it when it takes longer."""
        if self._worker is asyncio.current_task():
            return
        _, running = await asyncio.wait({self._worker}, timeout=timeout_s)
        for worker in running:
            worker.cancel()
        if running:
            await asyncio.wait(running)

    def _start_worker(self) -> asyncio.Task[None]:
        worker = asyncio.get_running_loop().create_task(self._work(), name=f"bus {self.pattern}")
        worker.add_done_callback(self._worker_ended)
        return worker

    async def _work(self) -> None:
        handled = 0
        while not self._is_closed:
            if not self._waiting:
                self._wake.clear()
                await self._wake.wait()
                handled = 0
                continue
            delivery = self._waiting.popleft()
            self._waiting_bytes -= len(delivery.payload)
            await self._handler(delivery)
            handled += 1
            if handled % HANDLED_PER_TURN_MAX == 0:
                await asyncio.sleep(0)

    def _worker_ended(self, worker: asyncio.Task[None]) -> None:
        if worker.cancelled():
            return
        error = worker.exception()
        if error is None:
            return
        if not self._is_closed:
            self._worker = self._start_worker()
        worker.get_loop().call_exception_handler(
            {
                "message": f"the handler of bus subject {self.pattern} raised",
                "exception": error,
                "task": worker,
            }
        )
