"""The options of generation: names, meaning, allowed ranges. Knows no torch, so that flags and schemas can read it."""

from __future__ import annotations

import dataclasses
import json
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptwo.errors import UsageError, did_you_mean

DEFAULT_NEW_TOKENS = 128
REQUIRED_BEAMS = 8  # beams of a text with required words, where no number is given

#: What the same thing is called elsewhere; named in the error message of an unknown option.
ELSEWHERE = {
    "do_sample": "temperature (0 is greedy)",
    "num_return_sequences": "n",
    "best_of": "n",
    "no_repeat_ngram_size": "no_repeat_ngram",
    "max_tokens": "max_new_tokens",
    "min_tokens": "min_new_tokens",
    "stop_strings": "stop",
    "ignore_eos": "ignore_end",
    "sequence_bias": "logit_bias",
    "beams": "num_beams",
    "force_words_ids": "required (words, as text)",
    "constraints": "required (words, as text)",
}


def _option(
    default: Any,
    help: str,
    *,
    kind: type = float,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
) -> Any:
    """A field whose metadata says its meaning and range: low <= value <= high, or above < value."""
    return field(default=default, metadata={"help": help, "kind": kind, "low": low, "high": high, "above": above})


@dataclass(frozen=True)
class SamplingOptions:
    """How the next token is chosen and when a text ends. One object serves one call.

    The metadata of each field holds its help text, kind and range; see `help_of`.

    Raises:
        UsageError: a value outside its range or options that exclude each other; names the field and the range.
    """

    max_new_tokens: int | None = _option(
        None, f"At most so many new tokens ({DEFAULT_NEW_TOKENS} if no limit is given).", kind=int, low=0
    )
    max_length: int | None = _option(None, "At most so many tokens, prompt included.", kind=int, low=1)
    min_new_tokens: int = _option(0, "The end-of-text token is held back for so many tokens.", kind=int, low=0)
    temperature: float = _option(1.0, "Divides the logits: below 1 bolder choices, 0 is greedy.", low=0)
    top_k: int = _option(0, "Sample among the k likeliest tokens; 0 is off.", kind=int, low=0)
    top_p: float = _option(
        1.0, "Sample among the likeliest tokens that together reach this probability; 1 is off.", above=0, high=1
    )
    min_p: float = _option(
        0.0, "Sample among tokens at least this share as likely as the likeliest; 0 is off.", low=0, high=1
    )
    repetition_penalty: float = _option(
        1.0, "Above 1 discourages tokens of the prompt and the text so far; 1 is off.", above=0
    )
    presence_penalty: float = _option(
        0.0, "Subtracted once from the logit of a token already generated.", low=-2, high=2
    )
    frequency_penalty: float = _option(
        0.0, "Subtracted from a token's logit for each time it was generated.", low=-2, high=2
    )
    no_repeat_ngram: int = _option(0, "No n-gram of this many tokens occurs twice; 0 is off.", kind=int, low=0)
    logit_bias: Mapping[int, float] | None = _option(
        None, "Added to the logits of token ids: {id: bias}.", kind=dict, low=-100, high=100
    )
    stop: tuple[str, ...] = _option((), "The text ends before any of these strings.", kind=str)
    required: tuple[str, ...] = _option(
        (), f"Words that the text must hold; found by beam search ({REQUIRED_BEAMS} beams if none are given).", kind=str
    )
    ignore_end: bool = _option(False, "Go on after the end-of-text token.", kind=bool)
    n: int = _option(1, "Texts per prompt.", kind=int, low=1)
    seed: int | None = _option(
        None, "Same seed, same text, alone or in any batch; fresh if not given.", kind=int, low=0, high=2**63 - 1
    )
    num_beams: int = _option(1, "Beam search with so many beams; 1 is off.", kind=int, low=1)
    length_penalty: float = _option(
        1.0, "Beam scores are divided by length to this power: above 0 favours longer texts.", low=-100, high=100
    )
    early_stopping: bool | str = _option(
        False, 'Beam search ends as soon as num_beams texts are complete; or "never": only when none can improve.',
        kind=bool,
    )  # fmt: skip
    logprobs: bool = _option(False, "Also return the model's log-probability of every token.", kind=bool)

    def __post_init__(self) -> None:
        for name in ("stop", "required"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value or ()))
        for item in dataclasses.fields(self):
            _check(item.name, getattr(self, item.name), item.metadata, optional=item.default is None)
        self._check_together()

    def _check_together(self) -> None:
        """Options that are fine alone and make no sense together."""
        for word in self.required:
            if self.num_beams == 1:
                raise UsageError(
                    f"Required words are brought in by beam search; num_beams=1 cannot hold {word!r}.",
                    where="required",
                    fix=f"num_beams={REQUIRED_BEAMS}",
                )
            if not word.strip() or any(stop in word for stop in self.stop):
                raise UsageError(f"No text can hold {word!r} and go on.", where="required", fix="another word, or stop")
        if self.num_beams > 1:
            sampling = [name for name in ("top_k", "top_p", "min_p") if getattr(self, name) != _default(name)]
            if self.temperature not in (0, 1):
                sampling.append("temperature")
            if sampling:
                raise UsageError(
                    f"Beam search does not sample: {', '.join(sampling)} cannot go with num_beams={self.num_beams}.",
                    where=sampling[0],
                    fix="leave out one of them",
                )
            if self.n > self.num_beams:
                raise UsageError(
                    f"n={self.n} texts cannot come from num_beams={self.num_beams}.",
                    where="n",
                    fix=f"num_beams of at least {self.n}",
                )
        elif self.temperature == 0 and self.n > 1:
            raise UsageError(
                f"temperature=0 is greedy: all n={self.n} texts would be the same.",
                where="n",
                fix="n=1, a temperature above 0, or num_beams of at least n",
            )

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0 and self.num_beams == 1

    @property
    def draws(self) -> bool:
        """Whether tokens are drawn at random."""
        return self.temperature > 0 and self.num_beams == 1

    def seeded(self) -> SamplingOptions:
        """These options, with a fresh seed where tokens are drawn and none was asked for."""
        if not self.draws or self.seed is not None:
            return self
        return dataclasses.replace(self, seed=secrets.randbelow(2**63))

    def new_tokens(self, prompt_tokens: int) -> int:
        """The largest number of new tokens after a prompt of `prompt_tokens` tokens (both limits hold)."""
        limits = [] if self.max_new_tokens is None else [self.max_new_tokens]
        if self.max_length is not None:
            limits.append(max(0, self.max_length - prompt_tokens))
        return min(limits, default=DEFAULT_NEW_TOKENS)

    @classmethod
    def make(cls, defaults: dict[str, Any] | None = None, **options: Any) -> SamplingOptions:
        """Options from keywords over defaults.

        Raises:
            UsageError: an unknown name (with the nearest known one) or a value out of range.
        """
        known = {item.name for item in dataclasses.fields(cls)}
        for name in options:
            if name not in known:
                meant = f"Here it is called {ELSEWHERE[name]}." if name in ELSEWHERE else did_you_mean(name, known)
                raise UsageError(f"Generation has no option {name!r}.", where=name, fix=meant)
        chosen = {**(defaults or {}), **options}
        if chosen.get("required"):
            chosen.setdefault("num_beams", REQUIRED_BEAMS)
        return cls(**chosen)


def help_of(name: str) -> str:
    """The help text of an option, for flags and schemas."""
    return _FIELDS[name].metadata["help"]


def _default(name: str) -> Any:
    return _FIELDS[name].default


def _check(name: str, value: Any, metadata: Any, optional: bool) -> None:
    """Check one value against the kind and range of its field."""
    kind = metadata["kind"]
    if value is None and optional:
        return
    if name == "early_stopping":
        if not isinstance(value, bool) and value != "never":
            raise UsageError(f'early_stopping must be true, false or "never", not {value!r}.', where=name)
    elif kind is str:
        if not all(isinstance(one, str) and one for one in value):
            raise UsageError(f"{name} must be non-empty strings, not {list(value)!r}.", where=name)
    elif kind is bool:
        if not isinstance(value, bool):
            raise UsageError(f"{name} must be true or false, not {value!r}.", where=name)
    elif kind is dict:
        if not isinstance(value, dict) or not all(isinstance(key, int) and key >= 0 for key in value):
            raise UsageError(f"{name} must map token ids to numbers, not {value!r}.", where=name)
        for key, bias in value.items():
            _check_number(f"{name}[{key}]", bias, float, metadata)
    else:
        _check_number(name, value, kind, metadata)


def _check_number(name: str, value: Any, kind: type, metadata: Any) -> None:
    allowed = (int,) if kind is int else (int, float)
    good = isinstance(value, allowed) and not isinstance(value, bool) and math.isfinite(value)
    low, high, above = metadata["low"], metadata["high"], metadata["above"]
    if good:
        good = (low is None or value >= low) and (high is None or value <= high) and (above is None or value > above)
    if not good:
        left = f"{low} <= " if low is not None else f"{above} < " if above is not None else ""
        right = f" <= {high}" if high is not None else ""
        what = "a whole number" if kind is int else "a number"
        raise UsageError(f"{name} must be {what} with {left}{name}{right}, not {value!r}.", where=name)


def model_defaults(generation_config: dict[str, Any]) -> dict[str, Any]:
    """The options that a model's generation_config.json asks for, under our names.

    Values of sampling count only with "do_sample": true, as in transformers; without it the file asks for nothing.
    """
    names = {
        "max_new_tokens": "max_new_tokens", "min_new_tokens": "min_new_tokens",
        "repetition_penalty": "repetition_penalty", "no_repeat_ngram_size": "no_repeat_ngram",
    }  # fmt: skip
    if generation_config.get("do_sample"):
        names |= {name: name for name in ("temperature", "top_k", "top_p", "min_p")}
    found = {ours: generation_config.get(theirs) for theirs, ours in names.items()}
    return {name: value for name, value in found.items() if value is not None}


def stored_defaults(folder: Path | None) -> dict[str, Any]:
    """What the generation_config.json of a model folder asks for; nothing where there is none."""
    file = None if folder is None else folder / "generation_config.json"
    if file is None or not file.is_file():
        return {}
    return model_defaults(json.loads(file.read_text(encoding="utf-8")))


def as_prompts(prompts: str | Sequence[str] | Sequence[Sequence[int]]) -> list[str | list[int]]:
    """One prompt or several, as texts or token ids, as a list.

    Raises:
        UsageError: anything that is neither text nor token ids.
    """
    if isinstance(prompts, str):
        return [prompts]
    result: list[str | list[int]] = []
    for row, prompt in enumerate(prompts):
        if isinstance(prompt, str):
            result.append(prompt)
        elif isinstance(prompt, Sequence) or hasattr(prompt, "tolist"):
            result.append([int(token) for token in prompt])
        else:
            raise UsageError(
                f"A prompt is a text or a list of token ids, not {type(prompt).__name__}.",
                where=f"prompts[{row}]",
                fix="for one prompt of token ids write [[1, 2, 3]]",
            )
    return result


_FIELDS = {item.name: item for item in dataclasses.fields(SamplingOptions)}
