"""Dialogue: the assistant's part of a conversation; loss on its words alone.

    <|user|> Hello! <|assistant|> Hi, how are you? <|endoftext|> <|user|> Fine. <|assistant|> Good. <|endoftext|>
                                  ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^                             ^^^^^^^^^^^^^^^^^^^ learned

A role is one special token that no text encodes to, so what a user types cannot pass for another speaker.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from gptwo.data.batching import Example
from gptwo.data.sources import Record
from gptwo.errors import DataError, UsageError
from gptwo.evaluate.assess_text import Counted, mean_of
from gptwo.evaluate.text_metrics import answer_f1, distinct, is_cjk
from gptwo.model.loss import IGNORE
from gptwo.tasks.conversation import ROLES, Message, before_reply, messages_of, to_reply
from gptwo.tasks.replies import CANDIDATES, RANKED, NearestReply, candidates_of, rank_replies
from gptwo.tasks.runner import ModelRunner
from gptwo.tasks.texts import Written, costs_of, evenly
from gptwo.tasks.write import Write
from gptwo.tokenizer import Tokenizer


class Dialogue(Write):
    """Learn to answer as the assistant of conversations.

    A record holds `messages`: a list of {"role": "user" | "assistant" | "system", "content": text}. Every assistant
    message is learned; the last one is what the report is on. A conversation that does not fit is learned in pieces,
    each beginning with up to half a context of what was said before; for writing the oldest messages are left out.
    """

    name = "dialogue"
    source, target = "messages", "reply"
    columns = ("messages",)
    inputs = ("messages",)
    template = "{messages}"  # not a text: see `prompt_ids`
    special_tokens = tuple(ROLES.values())
    decoding: ClassVar[dict[str, Any]] = {"num_beams": 1, "temperature": 0.0}
    measures = ("hits_1", "hits_5", "f1", "distinct_1", "distinct_2")
    worst_by = "perplexity"

    def __init__(self, prompt: str | None = None, **settings: Any):
        if prompt not in (None, self.template):
            raise UsageError("A dialogue has no prompt: its messages are given with their roles.", where="task.prompt")
        super().__init__(None, **settings)
        self.columns = ("messages",)

    @property
    def figures(self) -> tuple[str, ...]:
        """Those of an evaluation; replies are ranked for the report only."""
        return tuple(key for key in super().figures if not key.startswith("hits"))

    # --- learning

    def targets_of(self, record: Record) -> list[str]:
        replies = [message.content for message in messages_of(record) if message.role == "assistant"]
        if not replies:
            raise DataError(
                "The dialogue has no message of the assistant, so there is nothing to learn from it.",
                where=record.place(),
                fix='the speaker to be learned has the role "assistant"',
            )
        return replies

    def check(self, record: Record) -> None:
        self.targets_of(record)

    def references_of(self, record: Record) -> list[str]:
        """The last reply of the assistant."""
        return self.targets_of(record)[-1:]

    def source_of(self, record: Record) -> str:
        return "\n".join(
            f"{message.role}: {message.content}" for message in before_reply(messages_of(to_reply(record)))
        )

    def encode(
        self, record: Record, tokenizer: Tokenizer, max_length: int, index: int = 0, *, target: bool = True
    ) -> list[Example]:
        if not target:
            prompt, cut = self.prompt_ids(record, tokenizer, max_length)
            return [Example(prompt, index=index, truncated=cut)]
        self.targets_of(record)
        start = [] if tokenizer.start_id is None else [tokenizer.start_id]
        room = max_length + 1 - len(start)
        pieces, cut = self.pieces_of(messages_of(record), tokenizer, room)
        if sum(len(ids) for ids, _ in pieces) > room:
            pieces, cut = self.pieces_of(messages_of(record), tokenizer, room // 2)
        examples: list[Example] = []
        begin = done = 0
        while done < len(pieces):
            end, used = done, sum(len(ids) for ids, _ in pieces[begin:done])
            while end < len(pieces) and used + len(pieces[end][0]) <= room:
                used += len(pieces[end][0])
                end += 1
            examples += self._example(pieces[begin:end], done - begin, start, index, cut if not examples else 0)
            done = begin = end
            kept = 0
            while begin > 0 and kept + len(pieces[begin - 1][0]) <= room // 2:
                begin -= 1
                kept += len(pieces[begin][0])
        return examples

    @staticmethod
    def _example(
        pieces: Sequence[tuple[list[int], bool]], context: int, start: list[int], index: int, cut: int
    ) -> list[Example]:
        """Messages as an example; those of the assistant after the first `context` ones carry loss."""
        ids, labels = list(start), [IGNORE] * len(start)
        for place, (piece, learned) in enumerate(pieces):
            ids += piece
            labels += [IGNORE, *piece[1:]] if learned and place >= context else [IGNORE] * len(piece)
        if all(label == IGNORE for label in labels):
            return []
        return [Example(ids[:-1], labels[1:], index=index, truncated=cut)]

    def pieces_of(
        self, messages: Sequence[Message], tokenizer: Tokenizer, longest: int
    ) -> tuple[list[tuple[list[int], bool]], int]:
        """Each message with its role's token, and the end token where the assistant ends; whether it is learned; and
        how many tokens were cut: the beginning of others' messages, the end of replies."""
        pieces, cut = [], 0
        encoded = tokenizer.encode_batch([message.content for message in messages])
        for message, ids in zip(messages, encoded, strict=True):
            learned = message.role == "assistant"
            if learned and tokenizer.end_id is not None:
                ids = [*ids, tokenizer.end_id]
            size = min(longest - 1, self.max_target or longest) if learned else longest - 1
            cut += max(0, len(ids) - size)
            ids = ids[:size] if learned else ids[max(0, len(ids) - size) :]
            pieces.append(([role_id(tokenizer, message.role), *ids], learned))
        return pieces, cut

    def prompt_ids(self, record: Record, tokenizer: Tokenizer, max_length: int) -> tuple[list[int], int]:
        """The messages before the reply and the assistant's token, and how many tokens were left out: whole messages,
        the oldest first, but for a system message at the beginning."""
        start = [] if tokenizer.start_id is None else [tokenizer.start_id]
        last = [role_id(tokenizer, "assistant")]
        room = max_length + 1 - self.target_room(max_length) - len(start) - len(last)
        messages = before_reply(messages_of(record))
        if not messages:
            raise DataError(
                "There is no message to reply to.", where=record.place(), fix="a message of the user comes first"
            )
        if room < 2:
            raise UsageError(
                f"Of {max_length} tokens {self.max_target} are for the reply; nothing is left for what was said.",
                where="task.max_target",
            )
        pieces, cut = self.pieces_of(messages, tokenizer, room if len(messages) == 1 else max(2, room // 2))
        head = [pieces[0][0]] if messages[0].role == "system" and len(pieces) > 1 else []
        rest = [ids for ids, _ in pieces[len(head) :]]
        while len(rest) > 1 and sum(map(len, head + rest)) > room:
            cut += len(rest.pop(0))
        return [*start, *(i for ids in head + rest for i in ids), *last], cut

    # --- figures

    def evaluate(self, runner: ModelRunner, records: Sequence[Record]) -> dict[str, float]:
        closed = [to_reply(record) for record in records]
        return super().evaluate(runner, closed)

    def opinion(self, runner: ModelRunner, records: Sequence[Record]) -> Written:
        records = [to_reply(record) for record in records]
        said = super().opinion(runner, records)
        asked = ranked_records(records)
        contexts = [self.prompt_ids(records[i], runner.tokenizer, runner.max_length)[0] for i in asked]
        candidates = [
            [self.target_ids(text, runner.tokenizer)[0] for text in texts]
            for texts in candidates_of([self.references_of(record)[0] for record in records], asked)
        ]
        said.ranks = placed(rank_replies(runner.model, contexts, candidates), asked, len(records))
        return said

    def costs(self, runner: ModelRunner, records: Sequence[Record]) -> np.ndarray:
        """(N, 2) nats and tokens of all the assistant's messages of each record."""
        examples = self.encode_all(runner, records)
        return costs_of(runner, examples, len(records))

    def measured(self, records: Sequence[Record], said: Written) -> dict[str, Counted | float]:
        known = [self.references_of(record) for record in records]
        chinese = is_cjk(references[0] for references in known)
        figures: dict[str, Counted | float] = {}
        if said.ranks is not None:
            ranks = np.array(said.ranks)
            for k in (1, 5):
                figures[f"hits_{k}"] = mean_of((ranks >= 0) & (ranks < k), ranks >= 0)
        pairs = zip(said.texts, known, strict=True)
        figures["f1"] = mean_of([answer_f1(text, references, chinese=chinese) for text, references in pairs])
        return {**figures, **{f"distinct_{n}": distinct(said.texts, n) for n in (1, 2)}}

    def notes(self, records: Sequence[Record]) -> list[str]:
        asked, several = len(ranked_records(records)), min(CANDIDATES, len(records))
        return [
            "Perplexity is of all the assistant's words; the other figures are of the last reply of each dialogue, "
            "written after what was really said before it.",
            f"Hits@k: the right reply is among the k likeliest of {several}, by mean log-likelihood of its tokens, the "
            f"others being replies of other dialogues; {asked:,} dialogues, evenly spread. By chance Hits@1 is "
            f"{100 / several:.1f} %, Hits@5 {min(100, 500 / several):.1f} %.",
            "F1: words (Chinese: the longest run of characters) in common with the right reply. Distinct-n: different "
            "n-grams over all n-grams of the replies; many different words are no merit by themselves.",
        ]

    def baselines(self, train: Sequence[Record], test: Sequence[Record]) -> dict[str, Any]:
        counts = Counter(text for record in train for text in self.targets_of(record))
        usual = min(counts, key=lambda text: (-counts[text], text))
        test = [to_reply(record) for record in test]
        nearest = NearestReply([messages_of(record) for record in train])
        asked = ranked_records(test)
        candidates = candidates_of([self.references_of(record)[0] for record in test], asked)
        before = [before_reply(messages_of(record)) for record in test]
        ranks = nearest.ranks([before[i] for i in asked], candidates)
        return {
            "Most frequent reply": Written([usual] * len(test)),
            NearestReply.name: Written(nearest.replies(before), ranks=placed(ranks, asked, len(test))),
        }


def ranked_records(records: Sequence[Record]) -> list[int]:
    """Places of the records whose replies are ranked."""
    return evenly(range(len(records)), RANKED)


def placed(ranks: Sequence[int], asked: Sequence[int], records: int) -> list[int]:
    """Ranks of some records among those of all, which are -1."""
    found = [-1] * records
    for i, rank in zip(asked, ranks, strict=True):
        found[i] = rank
    return found


def role_id(tokenizer: Tokenizer, role: str) -> int:
    """The id of a role's token.

    Raises:
        UsageError: the vocabulary has none: the model is not tuned for dialogue.
    """
    found = tokenizer.token_to_id(ROLES[role])
    if found is None:
        raise UsageError(
            f"The vocabulary has no token {ROLES[role]}.", why="the model is not tuned for dialogue", where="tokenizer"
        )
    return found
