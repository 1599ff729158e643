"""Text comes out in whole characters, and stop strings never leak, wherever tokens end."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gptwo.generate.text import Transcript


class Pieces:
    """A decoder whose token i is the i-th piece of text."""

    def __init__(self, pieces, rest=""):
        self.pieces, self.rest = pieces, rest

    def push(self, token_id):
        return self.pieces[token_id]

    def finish(self):
        return self.rest


def written(pieces, stops, rest=""):
    """The text, the stop string met, and the pieces that came out."""
    transcript, out = Transcript(Pieces(pieces, rest), stops), []
    for token in range(len(pieces)):
        out.append(transcript.push(token))
        if transcript.stopped is not None:
            break
    else:
        out.append(transcript.finish())
    assert "".join(out) == transcript.text
    return transcript.text, transcript.stopped, out


def expected(text, stops):
    """Character by character: the text ends where a stop string is first complete."""
    for end in range(len(text) + 1):
        done = [stop for stop in stops if text[:end].endswith(stop)]
        if done:
            longest = max(done, key=len)
            return text[: end - len(longest)], longest
    return text, None


TEXT = st.text("abX\n", max_size=20)
STOPS = st.lists(st.text("abX\n", min_size=1, max_size=4), max_size=3)


@given(TEXT, STOPS, st.lists(st.integers(0, 20), max_size=6))
def test_the_result_does_not_depend_on_where_tokens_end(text, stops, cuts):
    borders = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[start:end] for start, end in pairwise(borders)]
    found, stopped, _ = written(pieces, stops)
    assert (found, stopped) == expected(text, stops)


def test_a_stop_string_across_tokens_does_not_leak():
    text, stopped, out = written(["one", " E", "N", "D two"], ["END"])
    assert (text, stopped) == ("one ", "END")
    assert out == ["one", " ", "", ""]


def test_what_only_looked_like_a_stop_string_comes_out():
    assert written(["a E", "N", "ough"], ["END"])[2] == ["a ", "", "ENough", ""]
    assert written(["a E"], ["END"])[2] == ["a ", "E"]


def test_without_stop_strings_nothing_is_held_back():
    assert written(["a", "b"], [])[2] == ["a", "b", ""]


def test_an_unfinished_character_comes_at_the_end():
    assert written(["a"], [], rest="\ufffd")[0] == "a\ufffd"


def test_without_a_tokenizer_the_text_is_empty():
    transcript = Transcript(None, [])
    assert transcript.push(3) + transcript.finish() == ""
