"""Between the event loop of HTTP and the scheduler's thread: a job that is waited for, or whose pieces are told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gptwo.serve.errors import ApiError
from gptwo.serve.jobs import Job
from gptwo.serve.scheduler import Scheduler
from gptwo.serve.work import Row


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


@dataclass(frozen=True)
class Piece:
    """A text has grown.

    Args:
        scored: how many of its tokens have been scored by now.
        finish_reason: None while it goes on.
    """

    row: Row
    text: str
    scored: int
    finish_reason: str | None


def deadline_of(request: Request, timeout: float) -> float:
    """When a request must be done: what the server allows, or less where the client says so.

    Raises:
        ApiError: a header that is no number of seconds.
    """
    asked = request.headers.get("x-request-timeout")
    if asked is not None:
        try:
            seconds = float(asked)
        except ValueError:
            seconds = -1.0
        if not 0 < seconds < float("inf"):
            raise ApiError(400, "X-Request-Timeout must be a number of seconds above 0.", param="X-Request-Timeout")
        timeout = min(timeout, seconds)
    return time.monotonic() + timeout


async def finished(scheduler: Scheduler, job: Job, request: Request) -> None:
    """Submit a job and wait until it is done; a client that goes away cancels it.

    Raises:
        GptwoError: what ended the job.
        ClientGone: the client has gone.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def settle(error: Exception | None) -> None:
        if not done.done():
            done.set_result(error)

    job.on_end = lambda error: loop.call_soon_threadsafe(settle, error)
    scheduler.submit(job)
    gone: asyncio.Future[Any] = asyncio.create_task(disconnected(request.receive))
    try:
        await asyncio.wait([done, gone], return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            raise ClientGone
        error = done.result()
        if error is not None:
            raise error
    finally:
        gone.cancel()
        if not done.done():
            scheduler.cancel(job)


async def disconnected(receive: Receive) -> None:
    """Wait until the client goes away."""
    while (await receive())["type"] != "http.disconnect":
        pass


class Pieces:
    """The pieces of a job's texts, as they come.

    Raises (while iterated):
        GptwoError: what ended the job.
    """

    def __init__(self, scheduler: Scheduler, job: Job):
        self._scheduler, self._job = scheduler, job
        self._queue: asyncio.Queue[Piece | Exception | None] = asyncio.Queue()
        self._first: Piece | Exception | None = None
        self._begun = False
        loop = asyncio.get_running_loop()

        def tell(row: Row, text: str) -> None:
            piece = Piece(row, text, len(row.scored), row.text.finish_reason)
            loop.call_soon_threadsafe(self._queue.put_nowait, piece)

        job.on_piece = tell
        job.on_end = lambda error: loop.call_soon_threadsafe(self._queue.put_nowait, error)

    async def begin(self, request: Request) -> None:
        """Submit the job and wait for its first piece, so that an early error still has a status of its own."""
        self._scheduler.submit(self._job)
        gone = asyncio.create_task(disconnected(request.receive))
        first = asyncio.create_task(self._queue.get())
        try:
            await asyncio.wait({first, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not first.done():
                raise ClientGone
            self._first, self._begun = first.result(), True
            if isinstance(self._first, Exception):
                raise self._first
        except BaseException:
            self.close()
            raise
        finally:
            gone.cancel()
            first.cancel()

    def close(self) -> None:
        """Nobody reads any more."""
        if not self._job.over:
            self._scheduler.cancel(self._job)

    async def __aiter__(self) -> AsyncIterator[Piece]:
        item = self._first
        while item is not None:
            if isinstance(item, Exception):
                raise item
            yield item
            item = await self._queue.get()


class EventStream(Response):
    """Server-sent events; stops, and says so, as soon as the client is gone.

    Args:
        chunks: what is sent.
        pieces: closed at the end, whatever happens.
    """

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncIterator[bytes], pieces: Pieces):
        self.status_code = 200
        self.background = None
        self.chunks, self.pieces = chunks, pieces
        self.raw_headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def tell() -> None:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for chunk in self.chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        telling, gone = asyncio.create_task(tell()), asyncio.create_task(disconnected(receive))
        try:
            await asyncio.wait({telling, gone}, return_when=asyncio.FIRST_COMPLETED)
            if telling.done():
                telling.result()
        except OSError:  # the client has gone while we wrote
            pass
        finally:
            self.pieces.close()
            for task in (telling, gone):
                task.cancel()
            await asyncio.gather(telling, gone, return_exceptions=True)
