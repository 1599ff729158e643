"""Beam search for the sequences of an engine, with required words or without."""

from __future__ import annotations

import torch

from gptwo.errors import UsageError
from gptwo.generate.backend import Backend
from gptwo.generate.beam import beam_search
from gptwo.generate.codec import Codec
from gptwo.generate.constrained import constrained_search
from gptwo.generate.frontier import Frontier
from gptwo.generate.options import SamplingOptions
from gptwo.generate.required import Required
from gptwo.generate.sequence import Sequence


@torch.inference_mode()
def search(backend: Backend, codec: Codec, sequences: list[Sequence], options: SamplingOptions, max_batch: int) -> None:
    """Write sequences by beam search; the n sequences of a prompt get its n best texts.

    Args:
        backend: gives logits.
        codec: of its model.
        sequences: n for each prompt, one prompt after the other.
        max_batch: beams that run together at most.

    Raises:
        UsageError: required words do not fit into the text, or the vocabulary cannot write one.
    """
    endings = codec.endings(options.stop, options.ignore_end)
    ends = codec.is_complete(endings, options.stop)
    groups = [sequences[start : start + options.n] for start in range(0, len(sequences), options.n)]
    groups = [group for group in groups if group[0].limit > 0 or options.required]
    for group in groups:
        for sequence in group:
            sequence.fit(backend.config.n_positions)
    together = max(1, max_batch // options.num_beams)
    for start in range(0, len(groups), together):
        batch = groups[start : start + together]
        prompts, limits = [group[0].context for group in batch], [group[0].limit for group in batch]
        words = [_required(codec, group[0], options) for group in batch] if options.required else None
        frontier = Frontier(
            backend, prompts, max(limits) - 1, options, end_id=codec.end_id, vocab_size=codec.vocab_size
        )
        if words is not None:
            found = constrained_search(frontier, limits, ends, words, codec.end_id)
        else:
            found = beam_search(frontier, limits, ends)
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
            ((sequence.logprobs, _),) = backend.score([whole], [len(whole) - len(sequence.ids)])


def _required(codec: Codec, sequence: Sequence, options: SamplingOptions) -> Required:
    """The words that a text must hold.

    Raises:
        UsageError: they do not fit into it, or the vocabulary cannot write one.
    """
    tokenizer = codec.need("A required word")
    words = Required(options.required, tokenizer, tokenizer.decode(sequence.prompt[-4:], skip_special=True))
    if words.tokens > sequence.limit:
        raise UsageError(
            f"The required words have {words.tokens} tokens, and the text may have {sequence.limit}.",
            where="required",
            why=f"the words are {', '.join(options.required)}",
            fix=f"max_new_tokens of {words.tokens} at least, a shorter prompt, or fewer words",
        )
    return words
