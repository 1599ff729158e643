"""What every engine does around its network: prompts and options become sequences, sequences become texts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence as Several
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptwo.errors import UsageError
from gptwo.generate.codec import Codec, windows
from gptwo.generate.options import SamplingOptions, as_prompts
from gptwo.generate.randomness import stream_key
from gptwo.generate.results import Generation, Likelihood, Run, Stream
from gptwo.generate.sequence import Sequence
from gptwo.generate.text import Transcript

if TYPE_CHECKING:
    from gptwo.model.config import GPT2Config
    from gptwo.tokenizer import Tokenizer


class Writer(ABC):
    """A language model ready to write; an engine says how its network runs sequences and judges tokens.

    Args:
        codec: between texts and tokens of the model.
        config: of the network.
        info: the model's gptwo.json.
        defaults: options that the model's generation_config.json asks for.
        max_batch: sequences that run together at most.
    """

    def __init__(
        self, codec: Codec, config: GPT2Config, info: dict[str, Any], defaults: dict[str, Any], max_batch: int
    ):
        self.codec, self.config, self.info = codec, config, info
        self.defaults, self.max_batch = defaults, max_batch

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The model's tokenizer; without one, prompts are token ids and texts stay empty."""
        return self.codec.tokenizer

    # --- what an engine brings

    @abstractmethod
    def _run(self, sequences: list[Sequence], options: SamplingOptions) -> Run:
        """Begin to write sequences."""

    @abstractmethod
    def _search(self, sequences: list[Sequence], options: SamplingOptions) -> None:
        """Write sequences by beam search; the n sequences of a prompt get its n best texts."""

    @abstractmethod
    def judge(self, rows: Several[list[int]], starts: Several[int]) -> list[tuple[list[float], list[bool]]]:
        """How likely the tokens rows[i][starts[i]:] are after what stands before them.

        Args:
            rows: each of 2 to n_positions + 1 token ids; the last one is judged only.
            starts: first judged token of each, at least 1.

        Returns:
            for each row the log-probabilities, and whether each token was the likeliest one.
        """

    # --- writing

    def generate(self, prompts: str | Several[str] | Several[Several[int]], **options: Any) -> list[Generation]:
        """Continue each prompt.

        A text's random numbers depend on the seed and its place among the n texts of its prompt only, so it is
        the same alone or in any batch; a prompt given twice counts as asking for further texts of it.

        Args:
            prompts: a text, several texts, or several lists of token ids. An empty prompt begins a new text.
            options: fields of `SamplingOptions`.

        Returns:
            n texts of the first prompt, then n of the second, ...; with beam search the best first.

        Raises:
            UsageError: an unknown option, a value out of range, a token id outside the vocabulary.
        """
        chosen, sequences = self._prepare(prompts, options)
        if chosen.num_beams > 1:
            self._search(sequences, chosen)
        else:
            run = self._run(sequences, chosen)
            while run.advance() is not None:
                pass
        return [self._generation(sequence, chosen) for sequence in sequences]

    def stream(self, prompt: str | Several[int], **options: Any) -> Stream:
        """Continue one prompt and get the text as it comes, in whole characters.

        Args:
            prompt: a text, or token ids.
            options: fields of `SamplingOptions`; one text, no beam search.

        Returns:
            an iterator over pieces of text, with the whole `Generation` in its `result`.
        """
        if options.get("required"):
            raise UsageError("Required words need beam search, which has no stream.", where="required", fix="generate")
        for name in ("n", "num_beams"):
            if options.get(name, 1) != 1:
                raise UsageError(f"A stream is of one text; {name}={options[name]} cannot go with it.", where=name)
        chosen, (sequence,) = self._prepare([prompt], options)
        return Stream(self._run([sequence], chosen), lambda: self._generation(sequence, chosen))

    def loglikelihood(self, prompts: str | Several[str], continuations: str | Several[str]) -> list[Likelihood]:
        """How likely each continuation is after its prompt; for choosing among answers.

        Prompt and continuation are tokenized together, so that the border is as in running text; white space at
        the prompt's end counts to the continuation. What does not fit into the context is judged piece by piece,
        each token after at least half a context.

        Args:
            prompts, continuations: texts, as many of the one as of the other.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        continuations = [continuations] if isinstance(continuations, str) else list(continuations)
        if len(prompts) != len(continuations):
            raise UsageError(f"{len(prompts)} prompts, but {len(continuations)} continuations: there must be as many.")
        pieces = [  # (which pair, tokens, first judged token)
            (pair, *window)
            for pair, texts in enumerate(zip(prompts, continuations, strict=True))
            for window in windows(*self.codec.joined(*texts), self.config.n_positions)
        ]
        judged = self.judge([ids for _, ids, _ in pieces], [start for _, _, start in pieces])
        logprobs: list[list[float]] = [[] for _ in prompts]
        greedy = [True] * len(prompts)
        for (pair, _, _), (values, likeliest) in zip(pieces, judged, strict=True):
            logprobs[pair] += values
            greedy[pair] = greedy[pair] and all(likeliest)
        return [Likelihood(sum(values), values, every) for values, every in zip(logprobs, greedy, strict=True)]

    # --- from options and prompts to sequences

    def options(self, **options: Any) -> SamplingOptions:
        """Options over the defaults of the model's generation_config.json."""
        defaults = self.defaults
        if options.get("num_beams", 1) > 1 or options.get("required"):  # beams do not sample
            defaults = {k: v for k, v in defaults.items() if k not in ("temperature", "top_k", "top_p", "min_p")}
        if {"max_length", "max_new_tokens"} & options.keys():
            defaults = {k: v for k, v in defaults.items() if k != "max_new_tokens"}
        return SamplingOptions.make(defaults, **options)

    def _prepare(self, prompts: Any, options: dict[str, Any]) -> tuple[SamplingOptions, list[Sequence]]:
        chosen = self.options(**options).seeded()
        for token in chosen.logit_bias or ():
            self.codec.check(token, "logit_bias")
        asked: Counter[tuple[int, ...]] = Counter()
        sequences = []
        for row, prompt in enumerate(as_prompts(prompts)):
            ids = self.codec.context(prompt, f"prompts[{row}]")
            before = asked[tuple(ids)]
            asked[tuple(ids)] += chosen.n
            for sample in range(chosen.n):
                sequences.append(
                    Sequence(
                        prompt=ids,
                        limit=chosen.new_tokens(len(ids)),
                        transcript=Transcript(self.codec.decoder(), chosen.stop),
                        key=stream_key(chosen.seed or 0, before + sample),
                        prompt_index=row,
                        sample_index=sample,
                        source=prompt if isinstance(prompt, str) else None,
                    )
                )
        for sequence in sequences:
            if sequence.limit == 0:
                sequence.finish_reason = "length"
        return chosen, sequences

    def _generation(self, sequence: Sequence, options: SamplingOptions) -> Generation:
        prompt = sequence.source
        if prompt is None:
            prompt = "" if self.tokenizer is None else self.tokenizer.decode(sequence.prompt)
        return Generation(
            prompt=prompt,
            text=sequence.transcript.text,
            ids=list(sequence.ids),
            finish_reason=sequence.finish_reason,
            stop=sequence.stop,
            prompt_index=sequence.prompt_index,
            sample_index=sequence.sample_index,
            prompt_tokens=len(sequence.prompt),
            seed=options.seed if options.draws else None,
            score=sequence.score,
            logprobs=list(sequence.logprobs) if options.logprobs else None,
            notices=list(sequence.notices),
        )


def check_batch(max_batch: int) -> None:
    """Raise `UsageError` for a batch of no sequence."""
    if max_batch < 1:
        raise UsageError(f"max_batch must be at least 1, not {max_batch}.", where="max_batch")


def check_head(head: str, folder: Path | None) -> None:
    """Raise `UsageError` for a model without a language head."""
    if head != "language":
        raise UsageError(
            f"This model scores labels (head {head!r}); it cannot write text.",
            where=folder,
            fix="a model with a language head; labels are given by `gptwo predict`",
        )
