"""The engine: prompts in, texts out; and how likely a given text is."""

from __future__ import annotations

import copy
import json
import secrets
from collections import Counter
from collections.abc import Sequence as Several
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gptwo.errors import UsageError, did_you_mean
from gptwo.generate.beam import beam_search
from gptwo.generate.codec import Codec, windows
from gptwo.generate.constrained import constrained_search
from gptwo.generate.options import SamplingOptions, as_prompts, model_defaults
from gptwo.generate.required import Required
from gptwo.generate.results import Generation, Likelihood, Stream
from gptwo.generate.run import Run
from gptwo.generate.sampling import stream_key
from gptwo.generate.sequence import Sequence
from gptwo.generate.text import Transcript
from gptwo.generate.torch_backend import TorchBackend
from gptwo.runtime import pick_device, pick_precision, set_threads

if TYPE_CHECKING:
    from gptwo.model.pretrained import Pretrained

BACKENDS = ("auto", "torch")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Engine:
    """A language model ready to write.

    Args:
        model: a folder, a hub name, or a loaded model (as `gptwo.load` returns it; it is not changed, and its
            weights are shared where device and precision stay).
        backend: "torch"; "auto" takes the fastest there is.
        device: "auto", "cpu", "cuda", "cuda:1", "mps". A loaded model stays where it is with "auto".
        precision: "fp32" or "bf16"; "auto": bf16 on GPUs that have it, else fp32. A loaded model stays as it is
            with "auto".
        threads: CPU threads of the whole process; None leaves them as they are.
        max_batch: sequences that run together at most.

    Raises:
        UsageError: an unknown backend, device or precision, or a model without a language head.
        MissingError: there is no such model or device.
    """

    def __init__(
        self,
        model: str | Path | Pretrained,
        *,
        backend: str = "auto",
        device: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
        max_batch: int = 16,
    ):
        if backend not in BACKENDS:
            raise UsageError(f"There is no backend {backend!r}.", where="backend", fix=did_you_mean(backend, BACKENDS))
        if max_batch < 1:
            raise UsageError(f"max_batch must be at least 1, not {max_batch}.", where="max_batch")
        if threads is not None:
            set_threads(threads)
        pretrained = _placed(model, device, precision)
        if pretrained.model.head_kind != "language":
            raise UsageError(
                f"This model scores labels (head {pretrained.model.head_kind!r}); it cannot write text.",
                where=pretrained.folder,
                fix="a model with a language head; labels are given by `gptwo predict`",
            )
        self.codec = Codec(pretrained.tokenizer, pretrained.config.vocab_size)
        self.tokenizer = pretrained.tokenizer
        self.config = pretrained.config
        self.info = pretrained.info
        self.max_batch = max_batch
        self.defaults = _defaults(pretrained.folder)
        self.backend = TorchBackend(pretrained.model)

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
        n_positions = self.config.n_positions
        pieces = [  # (which pair, tokens, first judged token)
            (pair, *window)
            for pair, texts in enumerate(zip(prompts, continuations, strict=True))
            for window in windows(*self.codec.joined(*texts), n_positions)
        ]
        judged: list[Any] = [None] * len(pieces)
        order = sorted(range(len(pieces)), key=lambda i: len(pieces[i][1]))
        for start in range(0, len(order), self.max_batch):
            batch = order[start : start + self.max_batch]
            scores = self.backend.score([pieces[i][1] for i in batch], [pieces[i][2] for i in batch])
            for i, score in zip(batch, scores, strict=True):
                judged[i] = score
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
        chosen = self.options(**options)
        if chosen.draws and chosen.seed is None:
            chosen = replace(chosen, seed=secrets.randbelow(2**63))
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

    # --- running

    def _run(self, sequences: list[Sequence], options: SamplingOptions) -> Run:
        return Run(
            self.backend,
            options,
            [sequence for sequence in sequences if sequence.limit > 0],
            endings=self.codec.endings(options.stop, options.ignore_end),
            end_id=self.codec.end_id,
            vocab_size=self.codec.vocab_size,
            max_batch=self.max_batch,
        )

    def _search(self, sequences: list[Sequence], options: SamplingOptions) -> None:
        """Beam search; the n sequences of a prompt get its n best texts."""
        endings = self.codec.endings(options.stop, options.ignore_end)
        groups = [sequences[start : start + options.n] for start in range(0, len(sequences), options.n)]
        groups = [group for group in groups if group[0].limit > 0 or options.required]
        for group in groups:
            for sequence in group:
                sequence.fit(self.config.n_positions)
        together = max(1, self.max_batch // options.num_beams)
        for start in range(0, len(groups), together):
            batch = groups[start : start + together]
            shared: dict[str, Any] = {
                "end_id": self.codec.end_id,
                "vocab_size": self.codec.vocab_size,
                "ends": self.codec.is_complete(endings, options.stop),
            }
            prompts, limits = [group[0].context for group in batch], [group[0].limit for group in batch]
            if options.required:
                words = [self._required(group[0], options) for group in batch]
                found = constrained_search(self.backend, prompts, limits, words, options, **shared)
            else:
                found = beam_search(self.backend, prompts, limits, options, **shared)
            for group, hypotheses in zip(batch, found, strict=True):
                for sequence in group[len(hypotheses) :]:
                    sequence.finish_reason = "length"
                    sequence.notices.append("There was no further text with all the required words.")
                for sequence, hypothesis in zip(group, hypotheses, strict=False):
                    sequence.score = hypothesis.score
                    for token in hypothesis.ids:
                        sequence.take(token, endings)
        if options.logprobs:
            for sequence in sequences:
                whole = sequence.context
                ((sequence.logprobs, _),) = self.backend.score([whole], [len(whole) - len(sequence.ids)])

    def _required(self, sequence: Sequence, options: SamplingOptions) -> Required:
        """The words that a text must hold.

        Raises:
            UsageError: they do not fit into it, or the vocabulary cannot write one.
        """
        tokenizer = self.codec.need("A required word")
        words = Required(options.required, tokenizer, tokenizer.decode(sequence.prompt[-4:], skip_special=True))
        if words.tokens > sequence.limit:
            raise UsageError(
                f"The required words have {words.tokens} tokens, and the text may have {sequence.limit}.",
                where="required",
                why=f"the words are {', '.join(options.required)}",
                fix=f"max_new_tokens of {words.tokens} at least, a shorter prompt, or fewer words",
            )
        return words

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


def _placed(model: str | Path | Pretrained, device: str, precision: str) -> Pretrained:
    """The model on its device, in its precision; a loaded one that has to move is copied first."""
    if isinstance(model, str | Path):
        from gptwo.adapt.store import load

        place = pick_device(device).value
        wanted = "fp32" if precision == "auto" and place == "cpu" else pick_precision(precision, place).value
        return load(model, device=place, dtype=DTYPES[wanted])
    weight = model.model.transformer.wte.weight
    place = str(weight.device) if device == "auto" else pick_device(device).value
    dtype = weight.dtype if precision == "auto" else DTYPES[pick_precision(precision, place).value]
    if torch.device(place) == weight.device and dtype == weight.dtype:
        return model
    moved = copy.copy(model)
    moved.model = copy.deepcopy(model.model).to(place, dtype)
    return moved


def _defaults(folder: Path | None) -> dict[str, Any]:
    """What the model's generation_config.json asks for."""
    file = None if folder is None else Path(folder) / "generation_config.json"
    if file is None or not file.is_file():
        return {}
    return model_defaults(json.loads(file.read_text(encoding="utf-8")))
