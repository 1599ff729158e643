"""Entities are read as seqeval reads them; schemes convert into each other without loss."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptwo.errors import DataError, UsageError
from gptwo.evaluate import tagging
from gptwo.evaluate.tagging import Entity

LETTERS = {"IOB1": "BI", "IOB2": "BI", "IOE2": "IE", "BIOES": "BIES", "BILOU": "BILU"}


def sequences(prefixes: str, **limits):
    tags = ["O"] + [f"{prefix}-{kind}" for prefix in prefixes for kind in ("LOC", "PER")]
    return st.lists(st.sampled_from(tags), **limits)


@st.composite
def corpora(draw, prefixes: str):
    """Gold and predicted tags of up to six sentences, with one entity in gold at least."""
    lengths = draw(st.lists(st.integers(1, 8), min_size=1, max_size=6))
    both = [[draw(sequences(prefixes, min_size=n, max_size=n)) for n in lengths] for _ in range(2)]
    for column in both:
        column.append(["B-LOC", "O"] if "B" in prefixes else ["O", "E-LOC"])
    return both


entity_lists = st.lists(
    st.tuples(st.integers(0, 2), st.integers(1, 3), st.sampled_from(["LOC", "PER", "A-B"])), max_size=5
).map(lambda gaps: _laid_out(gaps))


def _laid_out(gaps):
    found, place = [], 0
    for gap, length, kind in gaps:
        found.append(Entity(kind, place + gap, place + gap + length))
        place += gap + length
    return found, place + 1


@given(sequences("BIES"))
def test_lenient_reading_equals_seqeval(tags):
    seqeval = pytest.importorskip("seqeval.metrics.sequence_labeling")
    wanted = [Entity(kind, start, end + 1) for kind, start, end in seqeval.get_entities(tags)]
    assert tagging.entities(tags) == wanted


@pytest.mark.parametrize("scheme", tagging.SCHEMES)
@given(data=st.data())
def test_strict_reading_equals_seqeval(scheme, data):
    reference = pytest.importorskip("seqeval.scheme")
    tags = data.draw(sequences(LETTERS[scheme]))
    kind = getattr(reference, "IOBES" if scheme == "BIOES" else scheme)
    wanted = [Entity(e.tag, e.start, e.end) for e in reference.Tokens(tags, kind).entities]
    assert tagging.entities(tags, scheme=scheme) == wanted


@given(corpora("BI"), st.integers(1, 4))
def test_entity_table_prints_as_seqeval_prints_it(same_table, both, digits):
    reference = pytest.importorskip("seqeval.metrics")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = reference.classification_report(*both, digits=digits)
    same_table(tagging.entity_table(*both).text(digits).rstrip("\n"), wanted.rstrip("\n"), digits)


@given(corpora("BIES"))
def test_strict_entity_scores_equal_seqeval(both):
    reference = pytest.importorskip("seqeval.metrics.v1")
    scheme = pytest.importorskip("seqeval.scheme")
    table = tagging.entity_table(*both, scheme="BIOES")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        types = scheme.Entities(both[0], scheme.IOBES).unique_tags | scheme.Entities(both[1], scheme.IOBES).unique_tags
        if not types:
            return  # seqeval fails where no entity is whole
        for average in ("micro", "macro", "weighted"):
            wanted = reference.precision_recall_fscore_support(*both, scheme=scheme.IOBES, average=average)
            row = table.average(average)
            assert (row.precision, row.recall, row.f1) == pytest.approx(wanted[:3])


@given(corpora("BI"))
def test_token_table_agrees_with_scikit_learn(both):
    from sklearn.metrics import classification_report

    flat = [[tag for tags in column for tag in tags] for column in both]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = classification_report(*flat, digits=4, output_dict=True)
    table = tagging.token_table(*both)
    assert [row.name for row in table.classes] == [name for name in wanted if name == "O" or "-" in name]
    for row in [*table.classes, table.average("macro"), table.average("weighted")]:
        assert [row.precision, row.recall, row.f1, row.support] == pytest.approx(list(wanted[row.name].values()))
    assert table.average("micro").f1 == table.accuracy == wanted["accuracy"]


@pytest.mark.parametrize("scheme", tagging.SCHEMES)
@given(laid_out=entity_lists)
def test_entities_survive_every_scheme(scheme, laid_out):
    found, length = laid_out
    tags = tagging.tags_of(found, length, scheme)
    assert tagging.entities(tags) == found
    assert tagging.entities(tags, scheme=scheme) == found
    assert tagging.detect_scheme([tags]) in {None, scheme, "IOB1", "IOB2", "IOE2"}


@pytest.mark.parametrize("to", tagging.SCHEMES)
@given(laid_out=entity_lists)
def test_conversion_and_back_is_the_identity(to, laid_out):
    found, length = laid_out
    tags = tagging.tags_of(found, length, "IOB1")
    assert tagging.convert_tags(tagging.convert_tags(tags, to), "IOB1") == tags


def test_conversion_by_hand():
    iob1 = ["I-LOC", "I-LOC", "B-LOC", "O", "I-PER", "I-ORG"]
    assert tagging.convert_tags(iob1, to="IOB2") == ["B-LOC", "I-LOC", "B-LOC", "O", "B-PER", "B-ORG"]
    assert tagging.convert_tags(iob1, to="BIOES") == ["B-LOC", "E-LOC", "S-LOC", "O", "S-PER", "S-ORG"]
    assert tagging.convert_tags(iob1, to="BILOU") == ["B-LOC", "L-LOC", "U-LOC", "O", "U-PER", "U-ORG"]
    assert tagging.convert_tags(["B-词", "M-词", "E-词", "S-词"], to="BIO") == ["B-词", "I-词", "I-词", "B-词"]


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        (["I-LOC", "B-LOC", "O"], "IOB1"),
        (["I-LOC", "I-PER"], "IOB1"),
        (["B-LOC", "I-LOC", "B-PER"], "IOB2"),
        (["B-LOC", "E-LOC", "S-PER"], "BIOES"),
        (["B-LOC", "M-LOC", "E-LOC"], "BIOES"),
        (["B-LOC", "L-LOC", "U-PER"], "BILOU"),
        (["I-LOC", "E-LOC"], "IOE2"),
        (["I-LOC", "O", "B-LOC"], "mixed"),
        (["O", "O"], None),
        (["NN", "VB", "DT"], None),
    ],
)
def test_scheme_is_detected(tags, scheme):
    assert tagging.detect_scheme([tags]) == scheme


def test_one_wrong_boundary_costs_a_false_positive_and_a_miss():
    table = tagging.entity_table([["B-PER", "I-PER", "O", "B-LOC"]], [["B-PER", "O", "O", "B-LOC"]])
    micro = table.average("micro")
    assert (micro.precision, micro.recall, micro.f1) == (0.5, 0.5, 0.5)
    assert [(row.name, row.f1, row.support) for row in table.classes] == [("LOC", 1.0, 1), ("PER", 0.0, 1)]


def test_strict_and_lenient_differ_on_a_broken_sequence():
    assert tagging.entities(["O", "I-PER"]) == [Entity("PER", 1, 2)]
    assert tagging.entities(["O", "I-PER"], scheme="IOB2") == []


def test_nothing_tagged_is_a_table_of_zeros():
    assert tagging.entity_table([["O"]], [["O"]]).average("micro").f1 == 0


def test_wrong_input_is_named():
    with pytest.raises(DataError, match=r"'NN' is no entity tag"):
        tagging.entities(["NN"])
    with pytest.raises(DataError, match=r"'S-X' is no tag of the scheme IOB2"):
        tagging.entities(["S-X"], scheme="IOB2")
    with pytest.raises(DataError, match=r"(?s)1 predicted tags for 2 tokens.*sentence 2"):
        tagging.entity_table([["O"], ["O", "O"]], [["O"], ["O"]])
    with pytest.raises(UsageError, match="BIOES"):
        tagging.convert_tags(["O"], to="BIOESX")


def test_conll2003_is_iob1(data_set):
    lines = (data_set("conll2003") / "eng.testb").read_text("utf-8").splitlines()
    sentences, tags = [], []
    for line in [*lines, ""]:
        if line and not line.startswith("-DOCSTART-"):
            tags.append(line.split()[-1])
        elif tags:
            sentences.append(tags)
            tags = []
    assert tagging.detect_scheme(sentences) == "IOB1"
    bioes = [tagging.convert_tags(tags, to="BIOES") for tags in sentences]
    assert tagging.detect_scheme(bioes) == "BIOES"
    table = tagging.entity_table(sentences, bioes)
    assert table.average("micro").f1 == 1.0
    assert {row.name: row.support for row in table.classes} == {"LOC": 1668, "MISC": 702, "ORG": 1661, "PER": 1617}
