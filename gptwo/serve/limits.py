"""Who may ask, and how much: API keys, requests a minute, requests at a time."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from gptwo.errors import DataError, MissingError
from gptwo.serve.errors import ApiError

MOST = 10_000  # keys or addresses that are remembered
LINE = re.compile(r"([\w.@-]+)=(\S+)", re.ASCII)


def read_keys(file: Path | None, variable: str) -> dict[str, str]:
    """API keys by name, from a file of lines `name=key` and an environment variable of the same form.

    Args:
        file: lines that are empty or begin with # do not count; None for none.
        variable: parts are separated by commas; a key without a name is called "default".

    Raises:
        MissingError: the file cannot be read.
        DataError: a line is not of that form, or a name comes twice.
    """
    lines: list[tuple[str, str]] = []
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise MissingError("The file of keys cannot be read.", where=file, why=str(error)) from error
        lines += [(f"{file}:{row}", line.strip()) for row, line in enumerate(text.splitlines(), 1)]
    given = os.environ.get(variable, "")
    lines += [(variable, part.strip() if "=" in part else f"default={part.strip()}") for part in given.split(",")]
    found: dict[str, str] = {}
    for where, line in lines:
        if not line or line == "default=" or line.startswith("#"):
            continue
        match = LINE.fullmatch(line)
        if match is None or match[1] in found:
            what = "The line is not name=key." if match is None else f"There are two keys of the name {match[1]!r}."
            raise DataError(what, where=where, fix="one line for each key: name=key")
        found[match[1]] = match[2]
    return found


class Keys:
    """API keys; comparing takes as long for a wrong key as for a right one.

    Args:
        keys: name -> key.
        needed: whether there must be one; else everybody may ask, and a key only says who asks.
    """

    def __init__(self, keys: dict[str, str], needed: bool):
        self._digests = {name: _digest(key) for name, key in keys.items()}
        self.needed = needed

    def name_of(self, authorization: str | None) -> str | None:
        """The name of the key in an Authorization header; None where there is none and none is needed.

        Raises:
            ApiError: 401, no key or a wrong one.
        """
        scheme, _, given = (authorization or "").partition(" ")
        digest, found = _digest(given.strip()), None
        for name, known in self._digests.items():  # all of them, whichever it is
            if hmac.compare_digest(digest, known):
                found = name
        if found is not None and scheme.lower() == "bearer":
            return found
        if self.needed:
            what = "You gave no API key." if not given else "The API key is not right."
            raise ApiError(
                401,
                f"{what} Send it in the header Authorization: Bearer KEY.",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )
        return None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


@dataclass
class _Account:
    """What is left of a minute's requests, when that was, and how many are under way."""

    left: float
    at: float
    open: int = 0


class Quota:
    """Requests a minute and at a time, for each key or address.

    Args:
        rate: requests a minute; None: no limit. They may come all at once.
        concurrency: requests under way; None: no limit.
    """

    def __init__(self, rate: float | None, concurrency: int | None):
        self.rate, self.concurrency = rate, concurrency
        self._accounts: OrderedDict[str, _Account] = OrderedDict()

    def enter(self, who: str) -> None:
        """A request begins.

        Raises:
            ApiError: 429, with the seconds to wait.
        """
        now = time.monotonic()
        account = self._accounts.setdefault(who, _Account(self.rate or 0.0, now))
        self._accounts.move_to_end(who)
        if self.concurrency is not None and account.open >= self.concurrency:
            raise ApiError(
                429,
                f"{account.open} requests are under way; at most {self.concurrency} at a time.",
                code="concurrency_limit",
                retry_after=1,
            )
        if self.rate is not None:
            account.left = min(self.rate, account.left + (now - account.at) * self.rate / 60)
            account.at = now
            if account.left < 1:
                raise ApiError(
                    429,
                    f"At most {self.rate:g} requests a minute.",
                    code="rate_limit_exceeded",
                    retry_after=(1 - account.left) * 60 / self.rate,
                )
            account.left -= 1
        account.open += 1
        self._forget()

    def leave(self, who: str) -> None:
        """A request is over."""
        account = self._accounts.get(who)
        if account is not None:
            account.open = max(0, account.open - 1)

    def _forget(self) -> None:
        """Keep to `MOST` accounts: those that were idle longest go."""
        for who in list(self._accounts)[: max(0, len(self._accounts) - MOST)]:
            if not self._accounts[who].open:
                del self._accounts[who]
