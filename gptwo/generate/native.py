"""The engine over the native kernels: the interface of `engine.Engine` without PyTorch, on a CPU.

Weights are held packed in float32, bfloat16, int8 or int4; a step of all running sequences is one call into C++.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from collections.abc import Sequence as Several
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gptwo import hub
from gptwo.errors import MissingError, UsageError, did_you_mean
from gptwo.generate.codec import Codec
from gptwo.generate.native_build import PRECISIONS, build
from gptwo.generate.native_draft import Draft
from gptwo.generate.native_judge import judged
from gptwo.generate.native_run import GUESSING, NativeRun, Way
from gptwo.generate.native_states import hidden_states
from gptwo.generate.native_weights import ADAPTER, FILE, INDEX, open_model
from gptwo.generate.options import SamplingOptions, as_prompts, stored_defaults
from gptwo.generate.results import Generation
from gptwo.generate.sequence import Sequence
from gptwo.generate.writer import Writer, check_batch, check_head

if TYPE_CHECKING:
    from gptwo.model.pretrained import Pretrained

POOLINGS = ("all", "last", "mean")
OWN = -1  # the adapter that the engine itself has, or none


def isas() -> list[str]:
    """Instruction sets that the native engine can use here, slowest first; empty where it was not built."""
    try:
        return importlib.import_module("gptwo.generate._native").isas()
    except ImportError:
        return []


def why_not(model: Any, device: str = "auto") -> str | None:
    """Why the native engine cannot serve a model here, in one sentence; None where it can."""
    if not isas():
        return (
            "The native engine was not built: no C++20 compiler was there when gptwo was installed "
            "(install g++ 11 or newer, then gptwo anew)."
        )
    if device not in ("auto", "cpu"):
        return f"The native engine runs on the CPU, and {device!r} was asked for."
    if not isinstance(model, str | Path):
        return None
    folder = hub.resolve(model)
    if not (folder / "config.json").is_file():
        if (folder / ADAPTER).is_file():
            return None
        return "The native engine takes models in Hugging Face's layout."
    if not any((folder / name).is_file() for name in (FILE, INDEX, hub.PACKED)):
        return "The native engine reads safetensors only."
    return None


class NativeEngine(Writer):
    """A language model ready to write, on a CPU, without PyTorch.

    A text is the same alone or in any batch, and with the same seed always, in one precision on one instruction set.

    Args:
        model: a folder, a name (see `gptwo.hub.resolve`), or a loaded model (its weights are copied). An adapter is
            loaded with PyTorch; LoRA, AdaLoRA, IA3 and BitFit are merged, of other kinds every text goes through it.
        precision: of the weights: "fp32", "bf16", "int8" (a scale for each output, activations in eight bits too) or
            "int4" (a scale for every 32 weights; the token embedding and the projection to queries, keys and values in
            int8). "auto" is bf16, and of a packed folder the one that it is in.
        threads: CPU threads; None: those this process may run on.
        max_batch: sequences that run together at most.
        cache: precision of the keys and values that are kept: "fp32", "bf16" or "int8" (a scale for each key and
            value); "auto": int8, and fp32 beside fp32 weights.
        cache_bytes: bound of the key/value cache; None: room for max_batch sequences of full length, a quarter of
            the machine's memory at most.
        isa: instruction set, see `isas`; None: $GPTWO_ISA, else the fastest.
        share: sequences that begin alike share the cache of their beginning.
        speculate: guess at tokens by looking back in the text, up to two texts at a time; the texts stay the same.
        draft: a smaller model with the same tokenizer, which guesses where looking back finds nothing.

    Raises:
        MissingError: the engine was not built, or there is no such model.
        UsageError: an unknown precision or instruction set, a model without a language head, a packed folder in another
            precision, or a draft with another tokenizer.
        DataError: a damaged or unfitting file.
    """

    def __init__(
        self,
        model: str | Path | Pretrained,
        *,
        precision: str = "auto",
        threads: int | None = None,
        max_batch: int = 16,
        cache: str = "auto",
        cache_bytes: int | None = None,
        isa: str | None = None,
        share: bool = True,
        speculate: bool = True,
        draft: str | Path | Pretrained | None = None,
    ):
        check_batch(max_batch)
        self.precision = pick(precision)
        opened = open_model(model)
        check_head(opened.head, opened.folder)
        if opened.packed is not None:
            self.precision = opened.packed.choose(precision)
        codec = Codec(opened.tokenizer, opened.config.vocab_size)
        super().__init__(codec, opened.config, opened.info, stored_defaults(opened.folder), max_batch)
        self.folder, self.speculate = opened.folder, speculate
        self.native = build(
            opened, self.precision, threads=threads, max_batch=max_batch, cache=cache, cache_bytes=cache_bytes, isa=isa,
            share=share,
        )  # fmt: skip
        self.way = Way(OWN, opened.config.n_positions)  # of texts that name no adapter
        self.adapters: dict[str, Way] = {}
        self.give_way: Callable[[], bool] | None = None  # of whoever keeps sequences here: frees pages, if it can
        self._draft = None if draft is None else self._open_draft(draft, threads, isa)

    def _open_draft(self, model: str | Path | Pretrained, threads: int | None, isa: str | None) -> tuple[Any, int]:
        """The engine of the smaller model, and its positions."""
        opened = open_model(model)
        check_head(opened.head, opened.folder)
        ours, theirs = self.tokenizer, opened.tokenizer
        if opened.config.vocab_size != self.config.vocab_size or (
            ours is not None and theirs is not None and ours.fingerprint != theirs.fingerprint
        ):
            raise UsageError(
                "The draft has another vocabulary than the model.",
                where=opened.folder or "draft",
                why="what it guesses are numbers of tokens",
                fix="a smaller model that was trained with the same tokenizer",
            )
        precision = opened.packed.precision if opened.packed else self.precision
        native = build(opened, precision, threads=threads, max_batch=GUESSING, isa=isa)
        return native, opened.config.n_positions

    # --- adapters

    def add_adapter(self, name: str, adapter: str | Path | Pretrained) -> None:
        """Load an adapter over this model under a name, for texts that ask for it; the base stays in memory once.

        LoRA, AdaLoRA, bottlenecks, prefixes and prompts can be chosen for each text. What they add is computed in
        float32. Loading imports PyTorch.

        Args:
            adapter: its folder, or a loaded model that carries one.

        Raises:
            UsageError: the name is taken, a kind that changes the weights themselves, or a network of other sizes.
            DataError: the adapter is over another base.
        """
        from gptwo.generate.native_adapters import add_adapter

        if name in self.adapters:
            raise UsageError(f"There is an adapter {name!r} already.", fix="give it another name")
        if isinstance(adapter, str | Path):
            from gptwo.adapt.store import load

            adapter = load(adapter, base=self.folder)
        number = add_adapter(self.native, adapter)
        self.adapters[name] = Way(number, adapter.config.n_positions)

    def drop_adapter(self, name: str) -> None:
        """Forget an adapter; no text may be on its way through it."""
        (way,) = self._ways(name, 1)
        self.native.drop_adapter(way.adapter)
        del self.adapters[name]

    def through(self, adapter: str) -> NativeEngine:
        """This engine with every text going through an adapter that was added; both share everything else."""
        (way,) = self._ways(adapter, 1)
        view = copy.copy(self)
        view.way, view.config = way, replace(self.config, n_positions=way.n_positions)
        return view

    def _ways(self, adapter: str | Several[str | None] | None, count: int) -> list[Way]:
        """How each of so many texts goes through the network.

        Raises:
            UsageError: an unknown adapter, or another number of them than of texts.
        """
        names = [adapter] * count if adapter is None or isinstance(adapter, str) else list(adapter)
        if len(names) != count:
            raise UsageError(f"{len(names)} adapters for {count} texts: there must be as many.", where="adapter")
        for name in names:
            if name is not None and name not in self.adapters:
                fix = did_you_mean(name, self.adapters)
                raise UsageError(f"There is no adapter {name!r}.", where="adapter", fix=fix)
        return [self.way if name is None else self.adapters[name] for name in names]

    # --- writing

    def generate(
        self,
        prompts: str | Several[str] | Several[Several[int]],
        *,
        adapter: str | Several[str | None] | None = None,
        **options: Any,
    ) -> list[Generation]:
        """Continue each prompt; see `Writer.generate`.

        Args:
            adapter: the name of one that was added, or one for each prompt, None for the model as it is.
        """
        if isinstance(adapter, str):
            return self.through(adapter).generate(prompts, **options)
        if adapter is None:
            return super().generate(prompts, **options)
        prompts = as_prompts(prompts)
        ways = self._ways(adapter, len(prompts))
        chosen, sequences = self._prepare(prompts, options)
        if chosen.num_beams > 1:
            raise UsageError(
                "Beam search takes one adapter at a time.", where="adapter", fix="give one for all prompts"
            )
        run = self._run(sequences, chosen, ways)
        while run.advance() is not None:
            pass
        return [self._generation(sequence, chosen) for sequence in sequences]

    # --- judging and reading

    def score(self, ids: Several[int], start: int) -> tuple[list[float], list[bool]]:
        """How likely the tokens ids[start:] are after what stands before them.

        Args:
            ids: 2 to n_positions + 1 token ids; the last one is judged only.
            start: first judged token, at least 1.

        Returns:
            their log-probabilities, and whether each was the likeliest token.
        """
        number = self.native.open(list(ids), len(ids), 0, _module().Sampling(), self.way.adapter)
        logprobs: list[float] = []
        likeliest: list[bool] = []
        try:
            left = len(ids) - 1 if start == 1 else min(self.native.left(number), len(ids)) - 1
            done = len(ids) - 1 - left
            if done > start - 1:  # pages taken over reach into what is judged: without them
                self.native.rewind(number)
                done = 0
            while done < len(ids) - 1:
                if done < start - 1:  # only read
                    count = min(start - 1 - done, self.native.max_tokens)
                    self.native.hidden([(number, count, [])])
                else:
                    count = min(len(ids) - 1 - done, self.native.max_tokens)
                    values, best = self.native.score(number, count)
                    logprobs += values.tolist()
                    likeliest += best.tolist()
                done += count
        finally:
            self.native.close(number)
        return logprobs, likeliest

    def encode(
        self,
        texts: str | Several[str] | Several[Several[int]],
        *,
        pooling: str = "all",
        adapter: str | Several[str | None] | None = None,
    ) -> list[np.ndarray]:
        """Hidden states after the last layer norm, for texts of any lengths side by side, without padding.

        A text's states are the same alone and in any batch.

        Args:
            texts: as prompts of `generate`, each of at most n_positions tokens.
            pooling: "all" tokens, the "last" one, or the "mean" over all.
            adapter: the name of one that was added, or one for each text, None for the model as it is.

        Returns:
            for each text float32: (T, n_embd), one row for each of its tokens, or (n_embd,).

        Raises:
            UsageError: a text is longer than the context, an unknown pooling or adapter.
        """
        if pooling not in POOLINGS:
            fix = did_you_mean(pooling, POOLINGS)
            raise UsageError(f"There is no pooling {pooling!r}.", where="pooling", fix=fix)
        contexts = [self.codec.context(text, f"texts[{row}]") for row, text in enumerate(as_prompts(texts))]
        ways = self._ways(adapter, len(contexts))
        for row, (ids, way) in enumerate(zip(contexts, ways, strict=True)):
            if len(ids) > way.n_positions:
                raise UsageError(
                    f"The text has {len(ids)} tokens; this network has {way.n_positions} positions.",
                    where=f"texts[{row}]",
                    fix="shorten the text, or cut it into windows",
                )
        wanted = [np.arange(len(ids) - 1 if pooling == "last" else 0, len(ids)) for ids in contexts]
        found = hidden_states(
            self.native, contexts, wanted, [way.adapter for way in ways], self.config.n_embd, self.give_way
        )
        return found if pooling == "all" else [states.mean(0) for states in found]

    # --- running

    def _run(self, sequences: list[Sequence], options: SamplingOptions, ways: list[Way] | None = None) -> NativeRun:
        return NativeRun(
            self.native,
            options,
            [sequence for sequence in sequences if sequence.limit > 0],
            lambda sequence: self.sampling(options, sequence),
            endings=self.codec.endings(options.stop, options.ignore_end),
            way=lambda sequence: ways[sequence.prompt_index] if ways else self.way,
            max_batch=self.max_batch,
            speculate=self.speculate,
            draft=self._guesser(options) if self._draft else None,
        )

    def _guesser(self, options: SamplingOptions) -> Callable[[Sequence], Draft]:
        """What guesses at a sequence's tokens by the smaller model."""
        native, n_positions = self._draft
        return lambda sequence: Draft(
            native,
            n_positions,
            sequence.prompt + sequence.ids,
            len(sequence.prompt),
            sequence.first,
            self.sampling(options, sequence),
        )

    def sampling(self, options: SamplingOptions, sequence: Sequence) -> Any:
        """How the tokens of a sequence are chosen, as the C++ engine takes it."""
        sampling = _module().Sampling()
        for name in (
            "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
            "no_repeat_ngram", "min_new_tokens", "logprobs",
        ):  # fmt: skip
            setattr(sampling, name, getattr(options, name))
        sampling.logit_bias = list((options.logit_bias or {}).items())
        sampling.end_id = -1 if self.codec.end_id is None else self.codec.end_id
        sampling.vocab_size = self.codec.vocab_size
        sampling.key = sequence.key
        return sampling

    def _search(self, sequences: list[Sequence], options: SamplingOptions) -> None:
        """Beam search is the torch engine's, over our logits; this alone imports PyTorch."""
        from gptwo.generate.native_backend import NativeBackend
        from gptwo.generate.search import search

        search(NativeBackend(self), self.codec, sequences, options, self.max_batch)

    def judge(self, rows: Several[list[int]], starts: Several[int]) -> list[tuple[list[float], list[bool]]]:
        """See `Writer.judge`; what rows begin with alike is read once."""
        return judged(self.native, rows, starts, self.way.adapter, self.give_way)


def pick(precision: str) -> str:
    """The precision of the native engine.

    Raises:
        UsageError: it has none of that name.
        MissingError: the engine was not built.
    """
    if precision != "auto" and precision not in PRECISIONS:
        fix = did_you_mean(precision, PRECISIONS)
        raise UsageError(f"The native engine has no precision {precision!r}.", where="--precision", fix=fix)
    if not isas():
        raise MissingError(
            "The native engine is not here.",
            why="it is built when gptwo is installed, by a C++20 compiler, and there was none",
            fix='install g++ 11 or newer and gptwo anew, or use backend="torch"',
        )
    return "bf16" if precision == "auto" else precision


def _module() -> Any:
    return importlib.import_module("gptwo.generate._native")
