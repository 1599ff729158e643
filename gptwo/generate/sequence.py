"""One text on its way: its tokens, what the network sees of them, and when it ends."""

from __future__ import annotations

from dataclasses import dataclass, field

from gptwo.generate.text import Transcript


@dataclass(frozen=True)
class Endings:
    """Tokens that end a text.

    Args:
        end_id: the end-of-text token, None where there is none or it shall not count.
        stop_ids: special tokens that were asked for as stop strings, with the string.
    """

    end_id: int | None = None
    stop_ids: dict[int, str] = field(default_factory=dict)


@dataclass(eq=False)
class Sequence:
    """One text on its way.

    Args:
        prompt: token ids the text continues, a start token included; at least one.
        limit: new tokens at most.
        transcript: its text.
        key: of its random numbers (see `randomness.stream_key`).
        prompt_index, sample_index: which text of which prompt it is.
        source: the prompt as it was given, where it was a text.
    """

    prompt: list[int]
    limit: int
    transcript: Transcript
    key: int = 0
    prompt_index: int = 0
    sample_index: int = 0
    source: str | None = None
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str | None = None
    stop: str | None = None
    first: int = 0  # the network sees the tokens from here on
    score: float | None = None
    notices: list[str] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens in all."""
        return len(self.prompt) + len(self.ids)

    @property
    def context_length(self) -> int:
        """Tokens the network sees."""
        return self.length - self.first

    @property
    def context(self) -> list[int]:
        """The tokens the network sees."""
        return (self.prompt + self.ids)[self.first :]

    @property
    def remaining(self) -> int:
        """New tokens it may still get."""
        return self.limit - len(self.ids)

    def slide(self, n_positions: int) -> None:
        """Move the window where the context does not fit: at least three quarters of it stay, the rest is room."""
        if self.context_length <= n_positions:
            return
        if not self.notices and not self.ids:
            self.notices.append(
                f"The prompt has {self.length} tokens, and the model sees {n_positions} at a time: "
                "the text is continued from its end."
            )
        elif not self.notices:
            self.notices.append(
                f"The text has outgrown the {n_positions} tokens that the model sees at a time: "
                "it goes on from its latest part."
            )
        room = min(self.remaining, n_positions // 4)
        self.first = self.length - max(1, n_positions - room)

    def fit(self, n_positions: int) -> None:
        """Make prompt and new tokens fit into the context together: beams do not slide."""
        kept = min(len(self.prompt), max(n_positions + 1 - self.limit, n_positions // 4, 1))
        if kept < len(self.prompt):
            self.first = len(self.prompt) - kept
            self.notices.append(f"Beam search keeps to the context: the prompt's last {kept} tokens are seen.")
        if self.limit > n_positions + 1 - kept:
            self.limit = n_positions + 1 - kept
            self.notices.append(f"Beam search keeps to the context: the text ends after {self.limit} new tokens.")

    def take(self, token: int, endings: Endings) -> str:
        """Add one token, end the text where it must end, and return the piece of text that is certain now."""
        self.ids.append(token)
        if token == endings.end_id:
            return self._finish("end")
        if token in endings.stop_ids:
            self.stop = endings.stop_ids[token]
            return self._finish("stop")
        piece = self.transcript.push(token)
        if self.transcript.stopped is not None:
            return piece + self._finish("stop")
        if self.remaining <= 0:
            return piece + self._finish("length")
        return piece

    def _finish(self, reason: str) -> str:
        piece = self.transcript.finish()
        if self.transcript.stopped is not None:
            reason, self.stop = "stop", self.transcript.stopped
        self.finish_reason = reason
        return piece
