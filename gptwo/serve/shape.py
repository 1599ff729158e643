"""From finished or growing texts to what OpenAI's interface calls choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gptwo.generate.codec import Codec
from gptwo.serve.work import Prompt, Row, Scored

LOWEST = -9999.0  # stands for minus infinity, which JSON has not


def finish_reason(reason: str | None) -> str | None:
    """Ours in OpenAI's words."""
    return {"end": "stop"}.get(reason or "", reason)


def usage(prompts: Sequence[Prompt]) -> dict[str, int]:
    """Tokens of a request: each prompt once, every text that was written."""
    read = sum(len(prompt.ids) for prompt in prompts)
    written = sum(len(row.text.ids) for prompt in prompts for row in prompt.rows)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def best(prompt: Prompt, n: int) -> list[Row]:
    """The n texts of a prompt with the highest mean log-probability of a token; all in their order if there are n."""
    if len(prompt.rows) == n:
        return prompt.rows

    def mean(row: Row) -> float:
        values = [one.logprob or 0.0 for one in row.scored]
        return sum(values) / max(1, len(values))

    return sorted(prompt.rows, key=mean, reverse=True)[:n]


class Tokens:
    """The tokens of one text as its log-probabilities are told: where each begins, and which are in the text.

    Args:
        codec: of the model.
        offset: of the text's first character in what is given out.
    """

    def __init__(self, codec: Codec, offset: int = 0):
        self._codec, self._offset = codec, offset
        self._decoder = codec.decoder()
        self._characters = 0
        self._waiting: list[tuple[Scored, int]] = []

    def push(self, scored: Sequence[Scored], characters: int) -> list[tuple[Scored, int]]:
        """Take new tokens; returns those that begin before `characters` of the text, with their offsets."""
        for one in scored:
            self._waiting.append((one, self._characters))
            if self._decoder is not None:
                self._characters += len(self._decoder.push(one.token))
        found = [(one, self._offset + at) for one, at in self._waiting if at < characters]
        self._waiting = [(one, at) for one, at in self._waiting if at >= characters]
        return found


def legacy_logprobs(codec: Codec, tokens: Sequence[tuple[Scored, int]], top: int) -> dict[str, Any]:
    """In the shape of completions."""
    tops = [
        None
        if one.logprob is None
        else {_name(codec, token): _number(value) for token, value in (*reversed(one.top), (one.token, one.logprob))}
        for one, _ in tokens
    ]
    return {
        "tokens": [_name(codec, one.token) for one, _ in tokens],
        "token_logprobs": [_number(one.logprob) for one, _ in tokens],
        "top_logprobs": tops if top else None,
        "text_offset": [offset for _, offset in tokens],
    }


def chat_logprobs(codec: Codec, tokens: Sequence[tuple[Scored, int]]) -> dict[str, Any]:
    """In the shape of chat."""
    content = [
        {
            **_token(codec, one.token, one.logprob),
            "top_logprobs": [_token(codec, token, value) for token, value in one.top],
        }
        for one, _ in tokens
    ]
    return {"content": content, "refusal": None}


def _number(value: float | None) -> float | None:
    return None if value is None else max(value, LOWEST)


def _bytes(codec: Codec, token: int) -> bytes | None:
    return None if codec.tokenizer is None else codec.tokenizer.token_bytes(token)


def _name(codec: Codec, token: int) -> str:
    """A token as text; one that is no whole characters by its bytes, as OpenAI writes it."""
    content = _bytes(codec, token)
    if content is None:
        return f"token_id:{token}"
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


def _token(codec: Codec, token: int, logprob: float | None) -> dict[str, Any]:
    content = _bytes(codec, token)
    text = f"token_id:{token}" if content is None else content.decode("utf-8", "replace")
    return {
        "token": text,
        "logprob": _number(logprob),
        "bytes": None if content is None else list(content),
    }
