"""The model class that lm-evaluation-harness calls; importing it needs lm_eval (see harness.py).

Equal to lm_eval's own `hf` model on the same weights: the same tokens, the same truncation on the left, the same
rolling windows; only the network is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lm_eval import utils
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model

from gptwo.errors import UsageError
from gptwo.evaluate.suites.base import judge
from gptwo.generate.engine import Engine
from gptwo.generate.native import NativeEngine
from gptwo.generate.which import pick_backend

NEW_TOKENS = 256


@register_model("gptwo")
class GptwoLM(TemplateLM):
    """A gptwo model behind lm_eval's interface.

    Args:
        pretrained: a folder or a name.
        backend: "torch", "native", or "auto", which is native where only that has the precision.
        device, precision, threads: as everywhere in gptwo; lm_eval's "dtype" is taken for precision too.
        batch_size: sequences that run together.
        max_length: tokens of context; default the network's positions.
        add_bos_token: put the end token (or [CLS]) before every text.
    """

    def __init__(
        self,
        pretrained: str,
        *,
        backend: str = "auto",
        device: str | None = "auto",
        precision: str = "auto",
        dtype: str | None = None,
        threads: int | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        max_length: int | None = None,
        add_bos_token: bool = False,
        **unknown: Any,
    ):
        super().__init__()
        if unknown:
            raise UsageError(f"gptwo has no argument {next(iter(unknown))!r}.", where="--model_args")
        if dtype is not None:
            known = {"float32": "fp32", "float": "fp32", "bfloat16": "bf16", "auto": "auto"}
            precision = known.get(str(dtype).removeprefix("torch."), str(dtype))
        rows = int(batch_size) if str(batch_size or "").isdigit() else max_batch_size or 16
        device, batch = device or "auto", max(1, int(rows))
        self.engine: Engine | NativeEngine
        if pick_backend(backend, pretrained, device, precision)[0] == "native":
            self.engine = NativeEngine(pretrained, precision=precision, threads=threads, max_batch=batch)
        else:
            self.engine = Engine(pretrained, device=device, precision=precision, threads=threads, max_batch=batch)
        self.words = self.engine.codec.need("lm_eval")
        size = self.engine.config.n_positions
        if max_length is not None and not 1 <= int(max_length) <= size:
            raise UsageError(f"max_length must lie in 1..{size}, not {max_length}.", where="--model_args")
        self._max_length = int(max_length or size)
        self.add_bos_token = add_bos_token
        self._name = str(pretrained)

    # --- what lm_eval asks about

    @property
    def eot_token_id(self) -> int:
        end = self.words.end_id if self.words.end_id is not None else self.words.start_id
        if end is None:
            raise UsageError("The vocabulary has no token to begin a text with.", where=self._name)
        return end

    @property
    def prefix_token_id(self) -> int:
        return self.words.start_id if self.words.start_id is not None else self.eot_token_id

    @property
    def max_length(self) -> int:
        return self._max_length

    @property
    def max_gen_toks(self) -> int:
        return NEW_TOKENS

    @property
    def batch_size(self) -> int:
        return self.engine.max_batch

    @property
    def device(self) -> Any:
        return self.engine.backend.device if isinstance(self.engine, Engine) else torch.device("cpu")

    @property
    def tokenizer_name(self) -> str:
        return f"{self._name}:{self.words.fingerprint[:16]}"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Ids of a text, the start token in front where a vocabulary has one (as its tokenizer class puts it)."""
        ids = self.words.encode(string, special=True)
        begin = self.add_bos_token if add_special_tokens is None else add_special_tokens and self.add_bos_token
        return [self.prefix_token_id, *ids] if begin else ids

    def tok_decode(self, tokens: Sequence[int], skip_special_tokens: bool = True) -> str:
        return self.words.decode(list(tokens), skip_special=skip_special_tokens)

    # --- what lm_eval asks for

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        rows = []
        for _texts, context, continuation in requests:
            whole = (list(context) + list(continuation))[-(self.max_length + 1) :]
            rows.append((whole, len(whole) - min(len(continuation), len(whole) - 1)))
        found = [(one.total, all(one.likeliest)) for one in judge(self.engine, rows)]
        for (texts, _, _), answer in zip(requests, found, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of whole texts, in windows that do not overlap, the last with a full context."""
        windows: list[tuple[None, list[int], list[int]]] = []
        counts = []
        for request in requests:
            (text,) = request.args
            rolling = utils.get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            disjoint = [utils.make_disjoint_window(window) for window in rolling]
            windows += [(None, context, continuation) for context, continuation in disjoint]
            counts.append(len(disjoint))
        values = iter([value for value, _ in self._loglikelihood_tokens(windows)])
        totals = [sum(next(values) for _ in range(count)) for count in counts]
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Continuations up to the first of "until"; the context loses tokens on the left to make room."""
        texts = []
        for request in requests:
            context, asked = request.args
            asked = dict(asked)
            until = asked.pop("until", None) or []
            until = [until] if isinstance(until, str) else list(until)
            new = int(asked.pop("max_gen_toks", asked.pop("max_new_tokens", self.max_gen_toks)))
            new = min(new, self.max_length - 1)
            samples = asked.pop("do_sample", False)
            temperature = float(asked.pop("temperature", 1.0 if samples else 0.0) or 0.0)
            chosen = {key: asked[key] for key in ("top_k", "top_p", "min_p", "seed") if key in asked}
            ids = (self.tok_encode(context) or [self.prefix_token_id])[-(self.max_length - new) :]
            (written,) = self.engine.generate(
                [ids],
                max_new_tokens=new,
                temperature=temperature if samples else 0.0,
                stop=[text for text in until if text],
                **chosen,
            )
            texts.append(written.text)
            self.cache_hook.add_partial("generate_until", request.args, written.text)
        return texts
