"""What generation gives back: texts, pieces of text, likelihoods."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gptwo.generate.sequence import Sequence


class Run(Protocol):
    """What writes: see `run.Run`, and `native_run.NativeRun`."""

    def advance(self) -> list[tuple[Sequence, str]] | None: ...


@dataclass(frozen=True)
class Generation:
    """One generated text.

    Args:
        prompt: as given; of token ids, their text.
        text: what follows the prompt, without the end token and without the stop string.
        ids: all new tokens, those of the end token or stop string included.
        finish_reason: "end" (end-of-text token), "stop" (a stop string), "length" (a limit); None while streaming.
        stop: the stop string that was met.
        prompt_index, sample_index: which of the prompts, and which of its n texts.
        prompt_tokens: tokens before the text, a start token included.
        seed: with it, the same options give the same text again; None where nothing is drawn.
        score: of beam search: log-probability / length ** length_penalty.
        logprobs: of each new token under the model itself (no penalty, temperature or filter), where asked for.
        notices: what the reader of the text should know, e.g. that the prompt was longer than the context.
    """

    prompt: str
    text: str
    ids: list[int]
    finish_reason: str | None
    stop: str | None = None
    prompt_index: int = 0
    sample_index: int = 0
    prompt_tokens: int = 0
    seed: int | None = None
    score: float | None = None
    logprobs: list[float] | None = None
    notices: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Likelihood:
    """How likely a continuation is.

    Args:
        logprob: natural logarithm of its probability; the sum of `logprobs`.
        logprobs: of each of its tokens.
        greedy: whether greedy choice would have written it.
    """

    logprob: float
    logprobs: list[float]
    greedy: bool


class Stream(Iterator[str]):
    """The pieces of one text as they come; `result` is the `Generation`, complete after the last piece."""

    def __init__(self, run: Run, result: Callable[[], Generation]):
        self._run, self._result = run, result

    def __next__(self) -> str:
        while (pieces := self._run.advance()) is not None:
            text = "".join(piece for _, piece in pieces)
            if text:
                return text
        raise StopIteration

    @property
    def result(self) -> Generation:
        """What there is so far; its finish_reason is None until the last piece has come."""
        return self._result()
