"""Records out of files: nothing is dropped silently, and every row number is the file's own."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import polars as pl
import pytest
from hypothesis import given

from gptwo.data import rows
from gptwo.data.files import file_sha256
from gptwo.data.sources import Rejects, read_records
from gptwo.errors import DataError, UsageError


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def read(path, **options):
    rejects = Rejects()
    found = list(read_records(path, rejects=rejects, **options))
    return [(record.row, record.fields) for record in found], [(bad.row, bad.reason) for bad in rejects.first]


def test_csv_row_numbers_are_lines_even_with_newlines_in_quotes(tmp_path):
    path = write(tmp_path / "a.csv", 'text,label\n"one\nline\nmore",a\n\nshort\n"say ""hi""",b\nx,\n"二",c,d\n"三",e')
    found, bad = read(path, required=("text", "label"))
    assert found == [
        (2, {"text": "one\nline\nmore", "label": "a"}),
        (7, {"text": 'say "hi"', "label": "b"}),
        (10, {"text": "三", "label": "e"}),
    ]
    assert bad == [(6, "1 columns instead of 2"), (8, "'label' is empty"), (9, "3 columns instead of 2")]


def test_a_quote_never_closed_costs_its_own_line_only(tmp_path, monkeypatch):
    path = write(tmp_path / "a.csv", 'text,label\nfine,a\n"open,b\nnext,c\nlast,d\n')
    expected = ([(2, "a"), (4, "c"), (5, "d")], [(3, "not csv: a quote is opened and not closed")])
    for limit in (rows.MAX_QUOTED_CHARACTERS, 10):
        monkeypatch.setattr(rows, "MAX_QUOTED_CHARACTERS", limit)
        found, bad = read(path)
        assert ([(row, fields["label"]) for row, fields in found], bad) == expected
    path = write(tmp_path / "b.csv", 'text,label\n"open,b\n"fine",c\nlast,d\n')
    found, bad = read(path)
    assert [row for row, _ in found] == [3, 4]
    assert [row for row, _ in bad] == [2]


CELL = st.text(alphabet=st.characters(exclude_categories=("Cs",), exclude_characters="\r\0"), min_size=1).filter(
    str.strip
)


@given(st.lists(st.tuples(CELL, CELL), min_size=1, max_size=8))
def test_what_the_csv_writer_wrote_is_read(table):
    buffer = io.StringIO()
    csv.writer(buffer).writerows([("text", "label"), *table])
    with tempfile.TemporaryDirectory() as folder:
        found, bad = read(write(Path(folder) / "a.csv", buffer.getvalue()))
    assert [tuple(fields.values()) for _, fields in found] == table
    assert not bad
    lines = buffer.getvalue().split("\n")
    for (row, _), (text, _) in zip(found, table, strict=True):
        assert lines[row - 1].lstrip('"').startswith(text.split("\n")[0].split('"')[0])


@given(st.binary(max_size=200), st.sampled_from(["csv", "tsv", "jsonl", "json", "conll", "label-first"]))
def test_any_bytes_give_records_or_a_data_error(content, format):
    rejects = Rejects()
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "a", content)
        try:
            found = list(read_records(path, format=format, rejects=rejects))
        except DataError:
            return
    lines = content.count(b"\n") + content.count(b"\r") + 1
    assert found
    if format != "json":
        assert all(1 <= record.row <= lines for record in found)
    for record in found:
        json.dumps(record.fields, ensure_ascii=False).encode("utf-8")


def test_tsv_keeps_quotes_that_are_text(tmp_path):
    path = write(tmp_path / "a.tsv", 'text\tlabel\n"unclosed\ta\n"He said ""hi"""\tb\n"a" or "b"\tc\r\n')
    found, bad = read(path)
    assert [fields["text"] for _, fields in found] == ['"unclosed', 'He said "hi"', '"a" or "b"']
    assert found[2] == (4, {"text": '"a" or "b"', "label": "c"})
    assert not bad


def test_columns_are_mapped_and_missing_ones_listed(tmp_path):
    path = write(tmp_path / "a.csv", "id,review,stars\n1,好,5\n")
    found, _ = read(path, columns={"text": "review", "label": "stars"}, required=("text", "label"))
    assert found == [(2, {"text": "好", "label": "5"})]
    assert read(path)[0] == [(2, {"id": "1", "review": "好", "stars": "5"})]
    assert read(path, required=("stars",))[0][0][1] == {"id": "1", "review": "好", "stars": "5"}
    with pytest.raises(DataError, match=r"no column 'reviews'(.|\n)*'id', 'review', 'stars'(.|\n)*mean 'review'"):
        read(path, columns={"text": "reviews"})
    with pytest.raises(DataError, match="delimiter is ';'"):
        read(write(tmp_path / "b.csv", "text;label\na;b\n"), required=("text",))
    assert read(tmp_path / "b.csv", required=("text",), delimiter=";")[0] == [(2, {"text": "a", "label": "b"})]
    with pytest.raises(DataError, match="Two columns are called 'a'"):
        read(write(tmp_path / "c.csv", "a,a,b\n1,2,3\n"), required=("a",))
    assert read(tmp_path / "c.csv", columns={"text": "1", "label": "b"})[0] == [(2, {"text": "2", "label": "3"})]
    assert read(tmp_path / "c.csv")[0] == [(2, {"0": "1", "1": "2", "b": "3"})]
    with pytest.raises(DataError, match=r"header cannot be read: not csv(.|\n)*d\.csv:1"):
        read(write(tmp_path / "d.csv", '"text,label\na,b\n'))


def test_columns_by_index_without_a_header(tmp_path):
    path = write(tmp_path / "a.csv", "pos,好\nneg,坏\n")
    found, _ = read(path, columns={"text": "1", "label": "0"})
    assert found == [(1, {"text": "好", "label": "pos"}), (2, {"text": "坏", "label": "neg"})]
    found, _ = read(path, columns={"text": "1"}, header=True)
    assert found == [(2, {"text": "坏"})]
    assert read(path, header=False)[0][0] == (1, {"0": "pos", "1": "好"})
    named = write(tmp_path / "b.csv", "0,1\na,b\n")
    assert read(named, columns={"text": "1"})[0] == [(2, {"text": "b"})]


def test_jsonl_rows_that_cannot_be_used(tmp_path):
    lines = [
        '{"text": "a", "n": 1}',
        "{broken",
        "",
        "[1]",
        '"text"',
        '{"text": " "}',
        '{"text": "\\ud83d"}',
        '{"n": 2}',
    ]
    found, bad = read(write(tmp_path / "a.jsonl", "\n".join(lines)), required=("text",))
    assert found == [(1, {"text": "a", "n": 1})]
    assert bad == [
        (2, "not JSON: Expecting property name enclosed in double quotes"),
        (4, "there is no 'text'"),
        (5, "not a JSON object"),
        (6, "'text' is empty"),
        (7, "half a surrogate pair"),
        (8, "there is no 'text'"),
    ]


def test_json_paths_lists_and_line_separators(tmp_path):
    path = write(
        tmp_path / "a.jsonl", '{"data": {"text": "a\u2028b"}, "y": ["p", "q"]}\n{"data": {"text": "c"}, "y": []}\n'
    )
    found, bad = read(path, columns={"text": "data.text", "labels": "y", "first": "y.0"}, lists=("labels",))
    assert found[0] == (1, {"text": "a\u2028b", "labels": ["p", "q"], "first": "p"})
    assert found[1] == (2, {"text": "c", "labels": [], "first": None})
    assert not bad


def test_a_key_that_no_row_has_is_an_error_not_a_million_rejects(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"txt": "a"}\n' * 1000)
    rejects = Rejects()
    with pytest.raises(DataError, match=r"no column 'text'(.|\n)*'txt'"):
        list(read_records(path, required=("text",), rejects=rejects))
    assert rejects.total == 100
    with pytest.raises(DataError, match="no column 'lable'"):
        read(write(tmp_path / "b.jsonl", '{"text": "a"}\n'), columns={"label": "lable"})


def test_json_documents_of_several_shapes(tmp_path):
    rows_ = [{"text": "一", "label": "a"}, {"text": "二", "label": "b"}]
    expected = list(enumerate(rows_, 1))
    assert read(write(tmp_path / "a.json", json.dumps(rows_)))[0] == expected
    columns = {"text": ["一", "二"], "label": ["a", "b"]}
    assert read(write(tmp_path / "b.json", json.dumps(columns)))[0] == expected
    nested = write(tmp_path / "c.json", json.dumps({"data": {"train": [["一", "a"], ["二", "b"]], "test": []}, "v": 1}))
    assert read(nested, section="data.train", columns={"text": "0", "label": "1"})[0] == expected
    with pytest.raises(DataError, match="Name the section"):
        read(nested)
    with pytest.raises(DataError, match=r"no section 'dev'(.|\n)*'train', 'test'"):
        read(nested, section="data.dev")
    with pytest.raises(DataError, match="JSON lines"):
        read(write(tmp_path / "d.json", '{"a": 1}\n{"a": 2}\n'))
    with pytest.raises(DataError, match="not JSON"):
        read(write(tmp_path / "e.json", "{"))


def test_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    pl.DataFrame({"review": ["好", None, "坏"], "y": [1, 0, None], "tags": [["a"], [], None]}).write_parquet(path)
    found, bad = read(path, columns={"text": "review", "label": "y"}, required=("text", "label"))
    assert found == [(1, {"text": "好", "label": 1})]
    assert bad == [(2, "'text' is empty"), (3, "'label' is empty")]
    assert read(path)[0][0] == (1, {"review": "好", "y": 1, "tags": ["a"]})
    assert [row for row, _ in rows.parquet_rows(str(path), ["y"], batch=2)] == [1, 2, 3]
    with pytest.raises(DataError, match="mean 'review'"):
        read(path, columns={"text": "revew"})
    with pytest.raises(DataError, match="parquet file cannot be read"):
        read(write(tmp_path / "b.parquet", "no"))


def test_conll(tmp_path):
    path = write(
        tmp_path / "a.conll", "-DOCSTART- -X- O O\n\nEU NNP B-ORG\nrejects VB O\n\n\nbad O\nline VB O\n \n猫 N O\n# # O"
    )
    found, bad = read(path, required=("tokens", "tags"))
    assert found == [
        (3, {"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]}),
        (10, {"tokens": ["猫", "#"], "tags": ["O", "O"]}),
    ]
    assert bad == [(7, "2 columns instead of 3; its sentence is left out")]
    found, _ = read(path, columns={"tokens": "0", "pos": "1"})
    assert found[0][1] == {"tokens": ["EU", "rejects"], "pos": ["NNP", "VB"]}
    with pytest.raises(UsageError, match="by index"):
        read(path, columns={"tokens": "word"})
    with pytest.raises(UsageError, match="No column is given for 'tags'"):
        read(path, columns={"tokens": "0"}, required=("tags",))


def test_conll_with_tabs_comments_and_spaces_in_tokens(tmp_path):
    path = write(tmp_path / "a.bio", "# id = 1\nNew York\tB-LOC\nis\tO\n\n# id = 2\na\tO\n")
    found, bad = read(path)
    assert found == [(2, {"tokens": ["New York", "is"], "tags": ["B-LOC", "O"]}), (6, {"tokens": ["a"], "tags": ["O"]})]
    assert not bad


def test_one_column_conll_has_no_tags(tmp_path):
    path = write(tmp_path / "a.conll", "a\nb\n\nc\n")
    with pytest.raises(DataError, match="at least 2"):
        read(path)
    assert read(path, columns={"tokens": "0"})[0] == [(1, {"tokens": ["a", "b"]}), (4, {"tokens": ["c"]})]


def test_label_first(tmp_path):
    path = write(tmp_path / "a.train", "pos 很 好\nDESC:def\tWhat is it ?\n\nlonely\n")
    found, bad = read(path, format="label-first", required=("text", "label"))
    assert found == [(1, {"label": "pos", "text": "很 好"}), (2, {"label": "DESC:def", "text": "What is it ?"})]
    assert bad == [(4, "no text after the label")]
    with pytest.raises(DataError, match="label-first"):
        read(path)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.conll", "a.label-first"])
def test_bytes_outside_the_encoding_cost_their_row_only(tmp_path, name):
    kind = name[2:]
    template = {
        "csv": "text,label\n%s,a\n{},b\n",
        "tsv": "text\tlabel\n%s\ta\n{}\tb\n",
        "jsonl": '{"text": "%s", "label": "a"}\n{"text": "{}", "label": "b"}\n',
        "conll": "%s a\n\n{} b\n",
        "label-first": "a %s\nb {}\n",
    }[kind]
    content = template.replace("%s", "café", 1).replace("{}", "fine").encode("latin-1")
    path = write(tmp_path / name, content)
    found, bad = read(path, format=kind)
    assert len(found) == 1
    assert [reason for _, reason in bad] == ["not UTF-8; give the encoding, e.g. latin-1 or gb18030"]
    found, bad = read(path, format=kind, encoding="latin-1")
    assert len(found) == 2
    assert not bad


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
def test_encodings(tmp_path, encoding):
    path = write(tmp_path / "a.csv", "text,label\n中文，标点,好\n".encode(encoding))
    expected = [(2, {"text": "中文，标点", "label": "好"})]
    assert read(path, encoding="utf-8" if encoding == "utf-8-sig" else encoding)[0] == expected
    if encoding == "utf-16":
        with pytest.raises(DataError, match="--encoding utf-16"):
            read(path)


def test_several_labels_in_a_cell(tmp_path):
    path = write(tmp_path / "a.csv", 'text,labels\na,x|y\nb,\nc,"[""x"", ""z""]"\nd,"[broken"\n')
    found, bad = read(path, lists=("labels",), list_separator="|", required=("text", "labels"))
    assert [fields["labels"] for _, fields in found] == [["x", "y"], [], ["x", "z"]]
    assert [row for row, _ in bad] == [5]
    assert read(path, lists=("labels",), columns={"labels": "labels"})[0][0][1]["labels"] == ["x|y"]


def test_strict_raises_at_the_first_with_its_place(tmp_path):
    path = write(tmp_path / "a.csv", "text,label\na,b\nc\n")
    with pytest.raises(DataError, match=r"1 columns instead of 2(.|\n)*a\.csv:3") as error:
        list(read_records(path, rejects=Rejects(strict=True)))
    assert error.value.exit_code == 3


def test_rejects_are_written_with_file_row_reason_and_what_stands_there(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text": "a"}\n{"t": "b"}\nnö\n')
    out = tmp_path / "run" / "rejects.jsonl"
    with Rejects(out) as rejects:
        list(read_records(path, required=("text",), rejects=rejects))
    lines = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert lines == [
        {"file": str(path), "row": 2, "reason": "there is no 'text'", "raw": '{"t": "b"}'},
        {"file": str(path), "row": 3, "reason": "not JSON: Expecting value", "raw": "nö"},
    ]
    assert rejects.as_json()["total"] == 2
    assert "2 rows rejected" in rejects.summary()
    with Rejects(out):
        pass
    assert not out.exists()


def test_files_that_cannot_be_records(tmp_path):
    with pytest.raises(DataError, match="no rows"):
        read(write(tmp_path / "a.csv", ""))
    with pytest.raises(DataError, match="no rows"):
        read(write(tmp_path / "b.csv", "text,label\n"))
    with pytest.raises(DataError, match=r"No row of the file can be used(.|\n)*not JSON"):
        read(write(tmp_path / "c.jsonl", "text\n"))
    with pytest.raises(DataError, match="format of the file is unknown"):
        read(write(tmp_path / "d.train", "a b"))
    with pytest.raises(UsageError, match="mean 'jsonl'"):
        read(tmp_path / "a.csv", format="jsonll")
    assert read(write(tmp_path / "e.data", '\n{"a": 1}'))[0] == [(2, {"a": 1})]
    assert read(write(tmp_path / "eng.train", "-DOCSTART- O\n\na O\n"))[0] == [(3, {"tokens": ["a"], "tags": ["O"]})]


def test_large_files_are_read_a_row_at_a_time(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text": "a"}\nbroken\n')
    records = read_records(path, rejects=Rejects(strict=True))
    assert next(records).row == 1
    with pytest.raises(DataError):
        next(records)


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("conll2003/eng.train", {"required": ("tokens", "tags")}, 14_041),
        ("sst_trec_etc/stsa.binary.train", {"format": "label-first", "required": ("text", "label")}, 6_920),
        ("sst_trec_etc/TREC.train", {"format": "label-first", "encoding": "latin-1"}, 5_452),
        ("chnsenticorp/train.tsv", {"columns": {"text": "text_a", "label": "label"}}, 9_600),
        ("clinc150/data_full.json", {"section": "train", "columns": {"text": "0", "label": "1"}}, 15_000),
    ],
)
def test_real_sets_are_read_whole(data_set, name, options, count):
    folder, file = name.split("/")
    found, bad = read(data_set(folder) / file, **options)
    assert (len(found), bad) == (count, [])


def test_a_files_hash_is_sha256(tmp_path):
    (tmp_path / "a.txt").write_bytes(os.urandom(100_000))
    said = subprocess.run(["sha256sum", tmp_path / "a.txt"], capture_output=True, text=True, check=True).stdout
    assert file_sha256(tmp_path / "a.txt") == said.split()[0]
