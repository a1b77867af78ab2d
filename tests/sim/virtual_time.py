"""Virtual time: many machines on one heap of events, each with an event loop and clocks of its own.

Rules:

* Nothing takes time but what asks for it (a sleep, a delivery, a sync). The world jumps from one
  event to the next, so a quiet second costs as much as the heartbeats in it.
* All chance comes from one seed; events of the same moment run in the order in which they were
  ordered. Nothing here looks at a real clock, a socket or a thread, so a seed is a history.
* Each life of a machine is one `MachineLoop`: what asyncio needs of an event loop and no more. A
  crash is `kill`: nothing of that life runs any more, wherever it stood. A pause keeps
  everything in the queue, as a stopped process leaves its bytes in the sockets.
"""

import asyncio
import contextvars
import heapq
import inspect
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from concurrent.futures import Future as ConcurrentFuture
from typing import Any

CALLBACKS_PER_MOMENT_MAX = 100_000
"""More than so many callbacks of one machine without time passing are an endless loop."""


class PowerCut(BaseException):
    """The machine lost its power at this very file operation. Not an Exception: nobody may
    take it for an error that can be handled."""


class Timer:
    """An event of the world; cancelled by taking its action away."""

    __slots__ = ("action", "arguments")

    def __init__(self, action: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
        self.action = action
        self.arguments = arguments

    def cancel(self) -> None:
        self.action = None
        self.arguments = ()


class World:
    """The heap of everything that will happen."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.events = 0
        """Carried out so far."""
        self._order = 0
        self._heap: list[tuple[float, int, Timer]] = []

    def after(self, delay_s: float, action: Callable[..., None], *arguments: Any) -> Timer:
        timer = Timer(action, arguments)
        self._order += 1
        heapq.heappush(self._heap, (self.now_s + delay_s, self._order, timer))
        return timer

    def run_until(self, end_s: float, is_over: Callable[[], bool] | None = None) -> None:
        """Carry out events until `end_s`, or until `is_over` says so between two of them."""
        heap = self._heap
        while heap and heap[0][0] <= end_s:
            if is_over is not None and is_over():
                return
            when_s, _, timer = heapq.heappop(heap)
            action = timer.action
            if action is None:
                continue
            self.now_s = when_s
            self.events += 1
            action(*timer.arguments)
        self.now_s = end_s


class MachineLoop(asyncio.AbstractEventLoop):
    """The event loop of one life of one machine. `failed` hears of what no callback may raise."""

    def __init__(self, world: World, rate: float, failed: Callable[[BaseException], None]) -> None:
        self._world = world
        self._rate = rate
        """Seconds of this machine's clock in one second of the world."""
        self._failed = failed
        self._ready: deque[asyncio.Handle] = deque()
        self._unstarted: deque[Coroutine[Any, Any, Any]] = deque()
        self._is_wakeup_due = False
        self.is_dead = False
        self.is_paused = False
        self.crash_after_callbacks: int | None = None
        self.on_crash: Callable[[], None] = lambda: None
        self.turn_ended: Callable[[], None] = lambda: None
        """Called when all that was ready has run."""

    # What asyncio asks of a loop

    def time(self) -> float:
        return self._world.now_s * self._rate

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self.is_dead

    def is_closed(self) -> bool:
        return self.is_dead

    def call_soon(  # type: ignore[override]
        self,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if self.is_dead:
            return handle
        self._ready.append(handle)
        if not self._is_wakeup_due:
            self._is_wakeup_due = True
            self._world.after(0.0, self._run_ready)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(self.time() + delay, callback, args, self, context)
        self._world.after(max(0.0, delay) / self._rate, self._timer_due, handle)
        return handle

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_later(when - self.time(), callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Any, *, name: str | None = None, context: contextvars.Context | None = None
    ) -> asyncio.Task[Any]:
        unstarted = self._unstarted
        while unstarted and inspect.getcoroutinestate(unstarted[0]) != inspect.CORO_CREATED:
            _ = unstarted.popleft()
        unstarted.append(coro)
        return asyncio.Task(coro, loop=self, name=name, context=context)

    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Threads do not exist here: the work is done in one of the next callbacks."""
        future: asyncio.Future[Any] = self.create_future()

        def work() -> None:
            if future.done():
                return
            try:
                result = func(*args)
            except PowerCut:
                raise
            except Exception as error:  # whatever it is: a real executor hands on all of them
                future.set_exception(error)
            else:
                future.set_result(result)

        self.call_soon(work)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if self.is_dead or isinstance(error, PowerCut):
            return
        self._failed(error if error is not None else RuntimeError(str(context.get("message"))))

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Its moment comes and finds it cancelled."""

    # What the world does to it

    def arrive(self, callback: Callable[..., object], *arguments: Any) -> None:
        """Something came from outside."""
        if not self.is_dead:
            self.call_soon(callback, *arguments)

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begin a task here, called from outside of the loop."""
        return self.create_task(coroutine)

    def run_inside(self, call: Callable[[], object]) -> None:
        """Call something of this machine now, as one of its own callbacks would."""
        asyncio._set_running_loop(self)
        try:
            call()
        finally:
            asyncio._set_running_loop(None)

    def kill(self) -> None:
        self.is_dead = True
        self._ready.clear()
        for coroutine in self._unstarted:
            if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
                coroutine.close()  # Or Python would warn that nobody ever awaited it.
        self._unstarted.clear()

    def pause(self) -> None:
        self.is_paused = True

    def resume(self) -> None:
        self.is_paused = False
        if self._ready and not self._is_wakeup_due:
            self._is_wakeup_due = True
            self._world.after(0.0, self._run_ready)

    def _timer_due(self, handle: asyncio.TimerHandle) -> None:
        if self.is_dead or handle.cancelled():
            return
        self._ready.append(handle)
        if not self._is_wakeup_due:
            self._run_ready()

    def _run_ready(self) -> None:
        self._is_wakeup_due = False
        if self.is_paused or self.is_dead:
            return
        ready = self._ready
        asyncio._set_running_loop(self)
        try:
            for _ in range(CALLBACKS_PER_MOMENT_MAX):
                if not ready:
                    self.turn_ended()
                    return
                handle = ready.popleft()
                if handle.cancelled():
                    continue
                if self.crash_after_callbacks is not None:
                    self.crash_after_callbacks -= 1
                    if self.crash_after_callbacks <= 0:
                        self.on_crash()
                        return
                handle._run()
                if self.is_paused:
                    return
        finally:
            asyncio._set_running_loop(None)
        raise RuntimeError(f"over {CALLBACKS_PER_MOMENT_MAX} callbacks in one moment")


class MachineClock:
    """A clock that may run fast or slow. A skewed wall clock is off by a constant as well."""

    def __init__(self, world: World, rate: float, wall_offset_ns: int) -> None:
        self._world = world
        self._rate = rate
        self._wall_offset_ns = wall_offset_ns

    def monotonic_s(self) -> float:
        return 1000.0 + self._world.now_s * self._rate

    def wall_ns(self) -> int:
        return self._wall_offset_ns + int(self._world.now_s * self._rate * 1e9)

    async def sleep(self, duration_s: float) -> None:
        loop = asyncio.get_running_loop()
        if duration_s <= 0:
            woken: asyncio.Future[None] = loop.create_future()
            loop.call_soon(_wake, woken)
        else:
            woken = loop.create_future()
            loop.call_later(duration_s, _wake, woken)
        await woken


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


class WorkAtOnce(Executor):
    """In place of a pool of threads: what is submitted is done before `submit` returns."""

    def submit(  # type: ignore[override]
        self, work: Callable[..., Any], *arguments: Any
    ) -> ConcurrentFuture[Any]:
        future: ConcurrentFuture[Any] = ConcurrentFuture()
        try:
            result = work(*arguments)
        except OSError as error:
            future.set_exception(error)
        else:
            future.set_result(result)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """There is nothing to wait for."""
