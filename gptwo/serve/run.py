"""Starting a server and ending it well: a port of its own, models that load, a drain when it is told to stop."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import signal
import socket
import ssl
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from gptwo.errors import GptwoError, MissingError, UsageError
from gptwo.serve.app import make_app, make_context
from gptwo.serve.context import Context
from gptwo.serve.models import model_folders
from gptwo.serve.settings import Settings

log = logging.getLogger("gptwo.serve")


@dataclass(frozen=True)
class Address:
    """Where to listen, and how.

    Args:
        host: an address or name of this machine.
        port: 0 takes a free one.
        certificate, key: files of TLS, PEM; both or none.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    certificate: Path | None = None
    key: Path | None = None

    @property
    def is_open(self) -> bool:
        """Whether other machines reach it."""
        if self.host == "localhost":
            return False
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return True


def serve(
    address: Address, models: Sequence[tuple[str, str]], adapters: Sequence[tuple[str, str]], settings: Settings
) -> None:
    """Serve until SIGTERM or SIGINT; requests under way are finished first, within `settings.drain` seconds.

    Args:
        models: name and folder (or name) of each.
        adapters: name and folder of each, over the first model.

    Raises:
        UsageError: the port is taken, TLS files that do not fit, no model.
        MissingError, DataError: a model cannot be loaded.
    """
    check_tls(address)
    listening = listen(address)  # before the models: a taken port is known at once
    with contextlib.closing(listening):
        context = make_context(settings)
        for name, source in models:
            context.models.add(name, source)
        for name, source in adapters:
            context.models.add_adapter(name, source, models[0][0])
        for folder in [] if settings.models_dir is None else model_folders(settings.models_dir):
            if folder.name not in context.models.served:
                context.models.add(folder.name, folder)
        if not context.models.served and settings.models_dir is None:
            raise UsageError("Which model?", where="--model", fix="gptwo serve --model runs/mine")
        set_up_log()
        scheme = "https" if address.certificate else "http"
        port = listening.getsockname()[1]
        shown = f"[{address.host}]" if ":" in address.host else address.host
        names = ", ".join(context.models.served) or "none yet"
        say(f"serving {names} on {scheme}://{shown}:{port}")
        if address.is_open and not settings.needs_key:
            say("warning: other machines can reach this server, and no API key is asked for (GPTWO_API_KEYS)")
        config = uvicorn.Config(
            make_app(context),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=max(1, round(settings.drain)),
            ssl_certfile=address.certificate,
            ssl_keyfile=address.key,
        )
        Server(config, context).run(sockets=[listening])
    if context.scheduler.failure is not None:
        raise GptwoError("The scheduler has failed.", why=repr(context.scheduler.failure))
    say("stopped")


class Server(uvicorn.Server):
    """Takes nothing new from the moment it is told to stop, also on connections that stay open."""

    def __init__(self, config: uvicorn.Config, context: Context):
        super().__init__(config)
        self.context = context

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        say(f"{signal.Signals(sig).name}: requests under way are finished, new ones refused")
        self.context.scheduler.refuse()
        super().handle_exit(sig, frame)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but a signal that has been heeded is not raised again: the exit code is 0."""
        before = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, self.handle_exit)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def listen(address: Address) -> socket.socket:
    """A socket that is bound.

    Raises:
        UsageError: the port is taken, or may not be used, or the host is none of this machine.
    """
    try:
        family = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0][0]
        made = socket.socket(family, socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise UsageError(f"There is no host {address.host!r}.", where="--host", why=error.strerror) from None
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address.host, address.port))
        made.listen(2048)
    except OSError as error:
        made.close()
        if error.errno == errno.EADDRINUSE:
            raise UsageError(
                f"Port {address.port} is taken by another program.", where="--port", fix="another --port, or --port 0"
            ) from None
        where = "--port" if error.errno == errno.EACCES else "--host"
        raise UsageError(f"{address.host}:{address.port} cannot be used.", where=where, why=error.strerror) from None
    return made


def check_tls(address: Address) -> None:
    """Raise `UsageError` where certificate and key do not belong together or cannot be read."""
    if (address.certificate is None) != (address.key is None):
        raise UsageError("TLS needs a certificate and its key.", where="--tls-certificate, --tls-key")
    if address.certificate is None or address.key is None:
        return
    for file in (address.certificate, address.key):
        if not file.is_file():
            raise MissingError("There is no such file.", where=file)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(address.certificate, address.key)
    except (ssl.SSLError, OSError) as error:
        raise UsageError(
            "The certificate and the key cannot be used.", where=address.certificate, why=str(error)
        ) from None


def set_up_log() -> None:
    """One JSON object a line on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, level in (("gptwo.serve", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)


class JsonLines(logging.Formatter):
    """Time, level, and what there is to say; the lines of requests are objects already."""

    def format(self, record: logging.LogRecord) -> str:
        import json

        content: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
        }
        message = record.getMessage()
        if record.name == "gptwo.serve.access":
            content |= json.loads(message)
        else:
            content["message"] = message
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return json.dumps(content, ensure_ascii=False)


def say(text: str) -> None:
    """A line for the person who started the server."""
    sys.stderr.write(f"gptwo: {text}\n")
    sys.stderr.flush()
