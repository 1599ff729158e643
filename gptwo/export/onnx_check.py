"""An ONNX export run in onnxruntime beside the model it came from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gptwo.errors import GptwoError, require
from gptwo.export.check import EQUAL, NEW_TOKENS, Check, difference, follows, greedy, prompt_ids, scores, worst
from gptwo.model.config import GPT2Config
from gptwo.model.pretrained import Pretrained


class OnnxModel:
    """A model.onnx in onnxruntime, on the CPU.

    Args:
        file: the graph; its weights may stand beside it.
        config: sizes of the network, for an empty cache.

    Raises:
        MissingError: onnxruntime is not installed.
        GptwoError: it does not take the file.
    """

    def __init__(self, file: Path, config: GPT2Config):
        runtime = require("onnxruntime", "export")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            self.session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the package has no class of its own
            raise GptwoError("onnxruntime does not take the file.", where=file, why=str(error)[:300]) from error
        self.name = f"onnxruntime {runtime.__version__}"
        self.config = config
        self.caches = [value.name for value in self.session.get_inputs() if value.name.startswith("past_key_values.")]

    def run(
        self, ids: np.ndarray, mask: np.ndarray | None = None, past: Sequence[np.ndarray] | None = None
    ) -> tuple[Tensor, list[np.ndarray]]:
        """Scores and, of a language model, the cache that the next call takes.

        Args:
            ids: (B, T) token ids.
            mask: (B, S) 1 at tokens and 0 at padding, of the tokens before too; None: there is no padding.
            past: the cache after the tokens before; None: there are none.
        """
        rows = len(ids)
        if past is None:
            empty = np.zeros((rows, self.config.n_head, 0, self.config.head_dim), np.float32)
            past = [empty] * len(self.caches)
        before = past[0].shape[2] if past else 0
        if mask is None:
            mask = np.ones((rows, before + ids.shape[1]), np.int64)
        feeds = {"input_ids": ids, "attention_mask": mask, **dict(zip(self.caches, past, strict=True))}
        logits, *cache = self.session.run(None, feeds)
        return torch.from_numpy(logits), cache

    def one(self, ids: Sequence[int]) -> Tensor:
        """The scores of one sequence, without padding: (T, V or labels), or (labels,)."""
        return self.run(np.array([ids], np.int64))[0][0]

    def greedy(self, ids: Sequence[int], count: int) -> list[int]:
        """The likeliest continuation, token by token, each with the cache of those before."""
        cache: list[np.ndarray] | None = None

        def step(new: list[int]) -> Tensor:
            nonlocal cache
            found, cache = self.run(np.array([new], np.int64), past=cache)
            return found[0, -1]

        return greedy(step, ids, count)


def padded(rows: Sequence[Sequence[int]], *, left: bool) -> tuple[np.ndarray, np.ndarray]:
    """Rows of one length and their mask, (B, T) each, padded on one side."""
    longest = max(map(len, rows))
    ids, mask = np.zeros((2, len(rows), longest), np.int64)
    for row, (values, seen) in zip(rows, zip(ids, mask, strict=True), strict=True):
        place = slice(longest - len(row), None) if left else slice(0, len(row))
        values[place], seen[place] = row, 1
    return ids, mask


def check(pretrained: Pretrained, file: Path) -> Check:
    """Run model.onnx and compare: each text alone, all of them padded on either side, in two parts, greedy text.

    Raises:
        MissingError: onnxruntime is not installed.
        GptwoError: it cannot run the file.
    """
    import onnx

    onnx.checker.check_model(str(file), full_check=True)
    theirs = OnnxModel(file, pretrained.config)
    model = pretrained.model
    texts = prompt_ids(pretrained, leave=NEW_TOKENS)
    ours = [scores(model, ids) for ids in texts]
    found = [difference(one, theirs.one(ids)) for one, ids in zip(ours, texts, strict=True)]
    for left in (True, False):
        batch = theirs.run(*padded(texts, left=left))[0]
        for row, wanted in zip(batch, ours, strict=True):
            if model.head_kind == "sequence":
                found.append(difference(wanted, row))
            else:
                found.append(difference(wanted, row[-len(wanted) :] if left else row[: len(wanted)]))
    same = None
    if theirs.caches:
        same = 0
        for ids, wanted in zip(texts, ours, strict=True):
            middle = len(ids) // 2
            if middle:
                _, cache = theirs.run(np.array([ids[:middle]], np.int64))
                rest, _ = theirs.run(np.array([ids[middle:]], np.int64), past=cache)
                found.append(difference(wanted[middle:], rest[0]))
            room = min(NEW_TOKENS, model.config.n_positions - len(ids))
            same += follows(model, ids, theirs.greedy(ids, room), EQUAL)
    return Check(theirs.name, len(texts), worst(found), EQUAL, same)
