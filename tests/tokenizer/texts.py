"""Strategies for text that breaks tokenizers: many scripts, emoji, odd white space, lone surrogates."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
"""For property tests on fixtures that no test changes."""

FRAGMENTS = [
    *(
        "今天天气",
        "，",
        "。\n",
        "hello",
        " world",
        "  ",
        "   \n\n",
        "\t",
        "'s",
        "'LL",
        "don't",
        "3.14",
        "２０２４",
        "٣",
    ),
    *("😀", "👩‍👩‍👧", "🇨🇳", "👍🏽", "e\u0301", "ﬁ", "ß", "İ", "\u200b", "\u00a0", "\u3000", "\u2028", "\x00", "\x1f"),
    *("\x7f", "\ufeff", "\ufffd", "안녕", "привет", "مرحبا", "नमस्ते", "ไทย", "𠮷", "𝔘", "\U0010ffff", "Ġ", "Ċ", "##"),
    *("[SEP]", "[CLS]", "<|endoftext|>", "<|endof", "text|>", "<|user|>"),
]

unicode_text = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=8)), max_size=12).map("".join)
"""Text in many scripts, with text that looks like special tokens; no lone surrogates."""

any_text = st.lists(
    st.one_of(st.sampled_from([*FRAGMENTS, "\ud83d", "\ude00", "\ud83d\ude00"]), st.text(max_size=8)), max_size=12
).map("".join)
"""The same with lone surrogates and surrogate pairs."""
