"""A conversation as token ids: by the roles that a dialogue model was tuned with, or by a Jinja template."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from gptwo.data.sources import Record
from gptwo.errors import UsageError
from gptwo.serve.errors import ApiError
from gptwo.serve.models import Served
from gptwo.serve.schemas import ChatMessage
from gptwo.tasks.conversation import ROLES, messages_of
from gptwo.tasks.dialogue import role_id
from gptwo.tokenizer import Tokenizer

ROLE_NAMES = {"developer": "system"}
MARK = re.compile("\ue000([0-9]+)\ue001")  # stands for a message's text while a template is filled in


def chat_ids(
    served: Served, messages: Sequence[ChatMessage], template: str | None
) -> tuple[list[int], tuple[str, ...]]:
    """Token ids before the assistant's next message, and strings that end it.

    What people write can never become a special token: a template's own text is read with special tokens, the
    messages without.

    Raises:
        ApiError: the model has no form for conversations.
        DataError: a message without text.
    """
    tokenizer = served.codec.need("A conversation")
    said = [{"role": ROLE_NAMES.get(one.role, one.role), "content": one.text} for one in messages]
    if all(tokenizer.token_to_id(token) is not None for token in ROLES.values()):
        return _by_roles(tokenizer, said), tuple(ROLES.values())
    template = served.template or template
    if template is None:
        raise ApiError(
            400,
            f"The model {served.name!r} is not made for conversations: it has neither the roles of a dialogue model "
            "nor a chat template. Use /v1/completions, or start the server with --chat-template FILE.",
            param="model",
            code="no_chat_template",
        )
    return _by_template(tokenizer, said, template), ()


def _by_roles(tokenizer: Tokenizer, said: list[dict[str, str]]) -> list[int]:
    """As `gptwo.tasks.dialogue` learns it."""
    ids = [] if tokenizer.start_id is None else [tokenizer.start_id]
    for message in messages_of(Record({"messages": said}, "messages", 1)):
        ids += [role_id(tokenizer, message.role), *tokenizer.encode(message.content)]
        if message.role == "assistant" and tokenizer.end_id is not None:
            ids.append(tokenizer.end_id)
    return [*ids, role_id(tokenizer, "assistant")]


def _by_template(tokenizer: Tokenizer, said: list[dict[str, str]], template: str) -> list[int]:
    """What the template makes of the messages, each text put in after it was filled in."""
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise jinja2.exceptions.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    marked: list[dict[str, Any]] = [
        {"role": one["role"], "content": f"\ue000{place}\ue001"} for place, one in enumerate(said)
    ]
    names = {"bos_token": tokenizer.start_id, "eos_token": tokenizer.end_id}
    tokens = {name: "" if i is None else tokenizer.id_to_token(i) for name, i in names.items()}
    try:
        text = environment.from_string(template).render(messages=marked, add_generation_prompt=True, **tokens)
    except jinja2.exceptions.TemplateError as error:
        raise UsageError(f"The chat template refuses the messages: {error}", where="messages") from error
    ids: list[int] = []
    for place, part in enumerate(MARK.split(text)):
        is_text = place % 2 == 1
        ids += tokenizer.encode(said[int(part)]["content"]) if is_text else tokenizer.encode(part, special=True)
    if not ids:
        raise UsageError("The chat template makes an empty prompt of the messages.", where="messages")
    return ids
