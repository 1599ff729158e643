"""The engine over the native kernels: the interface of `engine.Engine` without PyTorch, on a CPU.

Weights are held packed in float32, bfloat16, int8 or int4; a step of all running sequences is one call into C++.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence as Several
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gptwo import hub
from gptwo.errors import MissingError, UsageError, did_you_mean
from gptwo.generate.codec import Codec
from gptwo.generate.native_run import NativeRun
from gptwo.generate.native_weights import give, open_folder, open_pretrained
from gptwo.generate.options import SamplingOptions, as_prompts, stored_defaults
from gptwo.generate.sequence import Sequence
from gptwo.generate.writer import Writer, check_batch, check_head
from gptwo.runtime import available_cpus

if TYPE_CHECKING:
    from gptwo.model.config import GPT2Config
    from gptwo.model.pretrained import Pretrained
    from gptwo.tokenizer import Tokenizer

PRECISIONS = {"fp32": 0, "bf16": 1, "int8": 2, "int4": 3}
HEAD_OF = {"fp32": "fp32", "bf16": "bf16", "int8": "int8", "int4": "int8"}
MAX_TOKENS = 256  # of one pass: a longer prompt goes in by chunks of so many


def isas() -> list[str]:
    """Instruction sets that the native engine can use here, slowest first; empty where it was not built."""
    try:
        return importlib.import_module("gptwo.generate._native").isas()
    except ImportError:
        return []


def why_not(model: Any, device: str = "auto") -> str | None:
    """Why the native engine cannot serve a model here, in one sentence; None where it can."""
    if not isas():
        return "The native engine was not built on this machine (a C++20 compiler is needed when gptwo is installed)."
    if device not in ("auto", "cpu"):
        return f"The native engine runs on the CPU, and {device!r} was asked for."
    if not isinstance(model, str | Path):
        return None if model.adapter is None else "The native engine takes plain models, and this one has an adapter."
    folder = hub.resolve(model)
    if not (folder / "config.json").is_file():
        return "The native engine takes plain models in Hugging Face's layout."
    if not any((folder / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json")):
        return "The native engine reads safetensors only."
    return None


class NativeEngine(Writer):
    """A language model ready to write, on a CPU, without PyTorch.

    A text is the same alone or in any batch, and with the same seed always, in one precision on one instruction set.

    Args:
        model: a folder, a name (see `gptwo.hub.resolve`), or a loaded model (its weights are copied).
        precision: of the weights: "fp32", "bf16", "int8" (a scale for each output, activations in eight bits too) or
            "int4" (a scale for every 32 weights; the token embedding and the projection to queries, keys and values in
            int8). "auto" is bf16.
        threads: CPU threads; None: those this process may run on.
        max_batch: sequences that run together at most.
        cache_bytes: bound of the key/value cache; None: room for max_batch sequences of full length, a quarter of
            the machine's memory at most.
        isa: instruction set, see `isas`; None: $GPTWO_ISA, else the fastest.
        share: sequences that begin alike share the cache of their beginning.
        speculate: guess at tokens by looking back in the text, up to two texts at a time; the texts stay the same.

    Raises:
        MissingError: the engine was not built, or there is no such model.
        UsageError: an unknown precision or instruction set, a model without a language head, or with an adapter.
        DataError: a damaged or unfitting file.
    """

    def __init__(
        self,
        model: str | Path | Pretrained,
        *,
        precision: str = "auto",
        threads: int | None = None,
        max_batch: int = 16,
        cache_bytes: int | None = None,
        isa: str | None = None,
        share: bool = True,
        speculate: bool = True,
    ):
        check_batch(max_batch)
        if threads is not None and threads < 1:
            raise UsageError(f"The number of threads must be at least 1, not {threads}.", where="--threads")
        self.precision = "bf16" if precision == "auto" else precision
        if self.precision not in PRECISIONS:
            fix = did_you_mean(precision, PRECISIONS)
            raise UsageError(f"The native engine has no precision {precision!r}.", where="--precision", fix=fix)
        if not isas():
            raise MissingError(
                "The native engine is not here.",
                why="it is built when gptwo is installed, by a C++20 compiler, and there was none",
                fix='install g++ 11 or newer and gptwo anew, or use backend="torch"',
            )
        folder, config, tokenizer, info, stored = _opened(model)
        super().__init__(Codec(tokenizer, config.vocab_size), config, info, stored_defaults(folder), max_batch)
        self.folder, self.speculate = folder, speculate
        self.native = self._make(threads or available_cpus(), cache_bytes, isa, share)
        give(self.native, self.config, stored, folder)

    def _make(self, threads: int, cache_bytes: int | None, isa: str | None, share: bool) -> Any:
        config = self.config
        page = page_bytes(config, self.precision)
        if cache_bytes is None:
            pages = -(-config.n_positions // _module().PAGE)
            memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
            cache_bytes = max(min(page * pages * self.max_batch, memory // 4), page * pages)
        elif cache_bytes < page:
            raise UsageError(
                f"cache_bytes is {cache_bytes:,}, and {_module().PAGE} tokens of this model need {page:,} bytes.",
                where="cache_bytes",
                fix=f"cache_bytes of at least {page * -(-config.n_positions // _module().PAGE):,} for a full context",
            )
        try:
            return _module().Engine(
                vocab_size=config.vocab_size,
                n_positions=config.n_positions,
                n_embd=config.n_embd,
                n_layer=config.n_layer,
                n_head=config.n_head,
                n_inner=config.inner,
                layer_norm_epsilon=config.layer_norm_epsilon,
                scale_by_layer=config.scale_attn_by_inverse_layer_idx,
                precision=PRECISIONS[self.precision],
                head=PRECISIONS[HEAD_OF[self.precision]],
                isa=os.environ.get("GPTWO_ISA", "") if isa is None else isa,
                threads=threads,
                max_tokens=max(MAX_TOKENS, self.max_batch),
                cache_bytes=cache_bytes,
                share=share,
            )
        except ValueError as error:
            raise UsageError("The instruction set cannot be used.", where="GPTWO_ISA", why=str(error)) from None

    # --- judging and reading

    def score(self, ids: Several[int], start: int) -> tuple[list[float], list[bool]]:
        """How likely the tokens ids[start:] are after what stands before them.

        Args:
            ids: 2 to n_positions + 1 token ids; the last one is judged only.
            start: first judged token, at least 1.

        Returns:
            their log-probabilities, and whether each was the likeliest token.
        """
        number = self.native.open(list(ids), len(ids), 0, _module().Sampling())
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

    def encode(self, texts: str | Several[str] | Several[Several[int]]) -> list[np.ndarray]:
        """Hidden states after the last layer norm.

        Args:
            texts: as prompts of `generate`, each of at most n_positions tokens.

        Returns:
            for each text (T, n_embd) float32, one row for each of its tokens.

        Raises:
            UsageError: a text is longer than the context.
        """
        contexts = []
        for row, text in enumerate(as_prompts(texts)):
            contexts.append(self.codec.context(text, f"texts[{row}]"))
            if len(contexts[-1]) > self.config.n_positions:
                raise UsageError(
                    f"The text has {len(contexts[-1])} tokens; this network has {self.config.n_positions} positions.",
                    where=f"texts[{row}]",
                    fix="shorten the text, or cut it into windows",
                )
        states = [np.empty((len(ids), self.config.n_embd), np.float32) for ids in contexts]
        done = [0] * len(contexts)
        numbers: dict[int, int] = {}
        try:
            row = 0
            while row < len(contexts):
                work, room, first = [], self.native.max_tokens, row
                while row < len(contexts) and room:
                    ids = contexts[row]
                    if row not in numbers:
                        numbers[row] = self.native.open(ids, len(ids), 0, _module().Sampling())
                    count = min(room, len(ids) - done[row])
                    work.append((numbers[row], count, []))
                    room -= count
                    if done[row] + count < len(ids):
                        break
                    row += 1
                hidden, at = self.native.hidden(work), 0
                for index, (_, count, _) in enumerate(work, first):
                    states[index][done[index] : done[index] + count] = hidden[at : at + count]
                    done[index] += count
                    at += count
                    if done[index] == len(contexts[index]):
                        self.native.close(numbers.pop(index))
        finally:
            for number in numbers.values():
                self.native.close(number)
        return states

    # --- running

    def _run(self, sequences: list[Sequence], options: SamplingOptions) -> NativeRun:
        return NativeRun(
            self.native,
            options,
            [sequence for sequence in sequences if sequence.limit > 0],
            lambda sequence: self._sampling(options, sequence),
            endings=self.codec.endings(options.stop, options.ignore_end),
            n_positions=self.config.n_positions,
            max_batch=self.max_batch,
            speculate=self.speculate,
        )

    def _sampling(self, options: SamplingOptions, sequence: Sequence) -> Any:
        """Options as the C++ engine takes them."""
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

    def _judge(self, rows: list[list[int]], starts: list[int]) -> list[tuple[list[float], list[bool]]]:
        return [self.score(row, start) for row, start in zip(rows, starts, strict=True)]


def page_bytes(config: GPT2Config, precision: str) -> int:
    """Bytes of a cache page: keys and values of its tokens in every layer and head."""
    D = config.head_dim
    numbers = D + D % 2 + -(-D // 16) * 16
    return config.n_layer * config.n_head * numbers * _module().PAGE * (4 if precision == "fp32" else 2)


def _module() -> Any:
    return importlib.import_module("gptwo.generate._native")


def _opened(model: str | Path | Pretrained) -> tuple[Path | None, GPT2Config, Tokenizer | None, dict[str, Any], Any]:
    """Folder, config, tokenizer, gptwo.json and tensors of a language model."""
    if not isinstance(model, str | Path):
        head: str | None = model.model.head_kind
        found = (model.folder, model.config, model.tokenizer, model.info, open_pretrained(model))
    else:
        from gptwo.model.config_json import read_config, read_info
        from gptwo.tokenizer import find_tokenizer

        folder = hub.resolve(model)
        if not (folder / "config.json").is_file():
            raise UsageError(
                "The native engine takes plain models in Hugging Face's layout, and config.json is missing.",
                where=folder,
                fix="gptwo merge makes a plain model of an adapter; --backend torch reads other layouts",
            )
        described = read_config(folder / "config.json")
        head = described.head or "language"
        found = (folder, described.config, find_tokenizer(folder), read_info(folder), open_folder(folder))
    check_head(head, found[0])
    return found
