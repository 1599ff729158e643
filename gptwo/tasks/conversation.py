"""Messages of a conversation out of a record, in the shapes in which data sets have them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gptwo.data.sources import Record
from gptwo.errors import DataError, did_you_mean

ROLES = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}  # role -> its special token
ALIASES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "prompter": "user"}


@dataclass(frozen=True)
class Message:
    """What one speaker said; `role` is a key of `ROLES`."""

    role: str
    content: str


def messages_of(record: Record) -> list[Message]:
    """The messages of a record, neighbours of one speaker joined.

    A message is {"role": …, "content": …}, or {"from": "human" | "gpt", "value": …}. The whole may be JSON in a cell;
    any other text is a single message of the user.

    Raises:
        DataError: no messages, one without role or text, an unknown role; names file, row and message.
    """
    value: Any = record.fields["messages"]
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.lstrip().startswith("[") else [{"role": "user", "content": value}]
        except ValueError as error:
            raise DataError(
                "The messages are not a JSON list.", where=record.place(), why=str(error), fix=_shape()
            ) from error
    if not isinstance(value, list) or not value:
        raise DataError("There are no messages.", where=record.place(), fix=_shape())
    found: list[Message] = []
    for number, item in enumerate(value, start=1):
        where = f"{record.place()}, message {number}"
        if not isinstance(item, dict):
            raise DataError(f"A message is an object, not {type(item).__name__}.", where=where, fix=_shape())
        role, content = item.get("role", item.get("from")), item.get("content", item.get("value"))
        if not isinstance(role, str) or not isinstance(content, str) or not content.strip():
            missing = "role" if not isinstance(role, str) else "text"
            raise DataError(f"The message has no {missing}.", where=where, fix=_shape())
        role = ALIASES.get(role.lower(), role.lower())
        if role not in ROLES:
            raise DataError(f"There is no role {role!r}.", where=where, fix=did_you_mean(role, [*ROLES, *ALIASES]))
        if found and found[-1].role == role:
            found[-1] = Message(role, f"{found[-1].content}\n{content.strip()}")
        else:
            found.append(Message(role, content.strip()))
    return found


def before_reply(messages: Sequence[Message]) -> list[Message]:
    """What is replied to: all messages, but for a last one that is the assistant's."""
    return list(messages[:-1] if messages[-1].role == "assistant" else messages)


def to_reply(record: Record) -> Record:
    """A record up to the assistant's last message, which is the reply that is judged."""
    messages = messages_of(record)
    while messages and messages[-1].role != "assistant":
        messages.pop()
    return Record(
        {"messages": [{"role": message.role, "content": message.content} for message in messages]},
        record.file,
        record.row,
    )


def _shape() -> str:
    return 'write [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]'
