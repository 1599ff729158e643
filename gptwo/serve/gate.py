"""What every request passes on its way in and out: keys, limits, an id, a line in the log."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gptwo.serve.errors import ApiError
from gptwo.serve.limits import Keys, Quota
from gptwo.serve.metrics import Metrics
from gptwo.serve.settings import Settings

access = logging.getLogger("gptwo.serve.access")
log = logging.getLogger("gptwo.serve")
PROBES = ("/health", "/ready", "/metrics")  # are asked every few seconds
REQUEST_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)


class Gate:
    """Middleware around the whole application (ASGI)."""

    def __init__(self, app: ASGIApp, settings: Settings, keys: Keys, metrics: Metrics):
        self.app, self.settings, self.keys, self.metrics = app, settings, keys, metrics
        self.quota = Quota(settings.rate, settings.concurrency)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        given = headers.get(b"x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        notes: dict[str, Any] = {}
        scope.setdefault("state", {}).update(request_id=request_id, notes=notes, key=None)
        begun, status, started = time.monotonic(), 0, False

        async def answer(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                message = {
                    **message,
                    "headers": [*message.get("headers", []), (b"x-request-id", request_id.encode())],
                }
            await send(message)

        who = None
        try:
            self._check_length(headers.get(b"content-length"))
            if scope["path"].startswith("/v1/"):
                name = self.keys.name_of(headers.get(b"authorization"))
                scope["state"]["key"] = name
                client = scope.get("client")
                asks = name if name is not None else f"address {client[0] if client else ''}"
                self.quota.enter(asks)
                who = asks
            await self.app(scope, self._limited(receive), answer)
        except ApiError as error:
            if error.code in ("invalid_api_key", "rate_limit_exceeded", "concurrency_limit"):
                self.metrics.refused(error.code)
            if not started:
                await error.response()(scope, receive, answer)
        except ClientDisconnect:  # before its request was here; nobody reads an answer
            status = status or 499
        except Exception:
            log.exception("request %s has failed", request_id)
            if not started:
                await ApiError(500, "The server failed at this request.", code="failed").response()(
                    scope, receive, answer
                )
        finally:
            if who is not None:
                self.quota.leave(who)
            route = getattr(scope.get("route"), "path", None) or "other"
            seconds = time.monotonic() - begun
            self.metrics.requests.labels(route, str(status)).inc()
            self.metrics.whole.observe(seconds)
            line = {
                "request": request_id,
                "method": scope["method"],
                "route": route,
                "status": status,
                "seconds": round(seconds, 4),
                "key": scope["state"]["key"],
                **notes,
            }
            if route not in PROBES or status != 200:
                access.info(json.dumps(line, ensure_ascii=False, default=str))

    def _check_length(self, length: str | None) -> None:
        if length is not None and length.isdecimal() and int(length[:18]) > self.settings.max_body:
            raise self._too_large()

    def _too_large(self) -> ApiError:
        return ApiError(413, f"The request is larger than {self.settings.max_body:,} bytes.", code="request_too_large")

    def _limited(self, receive: Receive) -> Receive:
        """The request's content, at most so much of it and not too slowly; then whether the client is there."""
        size, complete = 0, False

        async def limited() -> Message:
            nonlocal size, complete
            if complete:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), self.settings.body_timeout)
            except TimeoutError:
                raise HTTPException(408, "The request did not come within the time for it.") from None
            size += len(message.get("body", b""))
            if size > self.settings.max_body:
                raise HTTPException(413, self._too_large().message)
            complete = not message.get("more_body", False)
            return message

        return limited
