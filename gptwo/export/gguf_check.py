"""A GGUF export run in llama.cpp beside the model it came from.

llama.cpp comes as the package xllamacpp, which has wheels. Its server runs within this process and is asked over
loopback, as nothing else of it says which tokens it chose and how it splits a text.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import torch

from gptwo.adapt.gate import PROMPTS
from gptwo.errors import GptwoError, require
from gptwo.export.check import EQUAL, NEW_TOKENS, Check, difference, follows, prompt_ids, scores, worst
from gptwo.export.gguf import read_back
from gptwo.model.heads import Model
from gptwo.model.pretrained import Pretrained

CANDIDATES = 8  # the likeliest tokens whose scores are compared
PLACES = 3  # in each text where they are: after its whole, its half, and its quarter
SECONDS = 600.0  # for one answer
# Its GELU is a table in float16, and with 8 bits it rounds what goes into each product as well.
ALLOWED = {"fp32": 5e-3, "fp16": 5e-3, "bf16": 2e-2, "q8_0": 5e-2, "q4_0": 5e-2}

GREEDY = {"temperature": 0.0, "cache_prompt": False}


class LlamaCpp:
    """A GGUF file in llama.cpp, on the CPU.

    Args:
        file: the model.
        context: tokens of the longest text and its continuation.

    Raises:
        MissingError: xllamacpp is not installed.
        GptwoError: llama.cpp does not take the file.
    """

    def __init__(self, file: Path, context: int):
        package = require("xllamacpp", "export")
        params = package.CommonParams()
        params.model.path = str(file)
        params.n_ctx, params.n_parallel, params.n_gpu_layers = context, 1, 0
        params.cache_type_k = params.cache_type_v = package.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = package.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = torch.get_num_threads()
        params.warmup, params.verbosity, params.ui = False, -1, False
        self.key = secrets.token_hex()
        params.api_keys = [self.key]  # nobody else is to ask it
        try:
            self.server = package.Server(params)
        except Exception as error:  # the package has no class of its own
            raise GptwoError("llama.cpp does not take the file.", where=file, why=str(error)[:300]) from error
        self.name = f"llama.cpp (xllamacpp {package.__version__})"

    def ask(self, path: str, **request: Any) -> dict[str, Any]:
        """The answer of llama.cpp's server (https://github.com/ggml-org/llama.cpp, tools/server)."""
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"}
        url = f"{self.server.listening_address}/{path}"
        try:
            without_proxy = build_opener(ProxyHandler({}))
            with without_proxy.open(Request(url, json.dumps(request).encode(), headers), timeout=SECONDS) as answer:
                return json.load(answer)
        except (OSError, ValueError) as error:
            raise GptwoError("llama.cpp gave no answer.", where=url, why=str(error)) from error

    def tokens(self, text: str) -> list[int]:
        """How it splits a text; special tokens in it are plain text."""
        return self.ask("tokenize", content=text, add_special=False, parse_special=False)["tokens"]

    def greedy(self, ids: Sequence[int], count: int) -> list[int]:
        """The likeliest continuation of some tokens, up to `count` or the end token."""
        answer = self.ask("completion", prompt=list(ids), n_predict=count, return_tokens=True, **GREEDY)
        return answer["tokens"]

    def likeliest(self, ids: Sequence[int]) -> dict[int, float]:
        """The log-probabilities of the best `CANDIDATES` after some tokens.

        Nothing where the best one ends within a character: the server then waits for the rest and says nothing.
        """
        answer = self.ask("completion", prompt=list(ids), n_predict=1, n_probs=CANDIDATES, **GREEDY)
        steps = answer.get("completion_probabilities", [])
        return {one["id"]: one["logprob"] for one in steps[0]["top_logprobs"]} if steps else {}


def check(pretrained: Pretrained, file: Path, precision: str) -> Check:
    """Read a GGUF file back, run it, and compare: scores, greedy text, how texts fall into tokens.

    Raises:
        MissingError: xllamacpp is not installed.
        GptwoError: llama.cpp cannot run the file.
        GateError: the file does not hold the weights.
    """
    stored = read_back(pretrained, file, precision)
    texts = prompt_ids(pretrained, leave=NEW_TOKENS)
    room = min(NEW_TOKENS, pretrained.config.n_positions - max(map(len, texts)))
    theirs = LlamaCpp(file, max(map(len, texts)) + NEW_TOKENS)
    allowed = ALLOWED[precision]
    found: list[float] = []
    moved: list[float] = []
    wrong: list[str] = []
    same = 0
    for text, ids in zip(PROMPTS, texts, strict=True):
        for place in {max(1, len(ids) >> halved) for halved in range(PLACES)}:
            found.append(apart(stored.model, ids[:place], theirs.likeliest(ids[:place])))
        same += follows(stored.model, ids, theirs.greedy(ids, max(1, room)), allowed)
        moved.append(difference(scores(pretrained.model, ids), scores(stored.model, ids)))
        assert pretrained.tokenizer is not None
        if theirs.tokens(text) != pretrained.tokenizer.encode(text):
            wrong.append(f"llama.cpp splits {text!r} into other tokens")
    if precision == "fp32" and not worst(moved) <= EQUAL:
        wrong.append(f"the weights in the file give scores that differ by {worst(moved):.1e}")
    lost = worst(moved)
    notes = [f"{precision} alone moves scores by {lost:.1e} of the largest one"] if precision != "fp32" and lost else []
    return Check(theirs.name, len(texts), worst(found), allowed, same, wrong, notes)


def apart(model: Model, ids: Sequence[int], candidates: dict[int, float]) -> float:
    """The largest difference of two log-probabilities after a text, relative to our largest score (at least 1)."""
    given = scores(model, ids)[-1]
    ours = given.log_softmax(0)
    found = worst([abs(float(ours[token]) - logprob) for token, logprob in candidates.items()])
    return found / max(1.0, float(given.abs().max()))
