"""Documents out of files: whatever the sizes of blocks and pieces, the same text comes out."""

from __future__ import annotations

import gzip
import json
import lzma
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import polars as pl
import pytest
import zstandard
from hypothesis import given

from gptwo.data import documents
from gptwo.data.documents import DocumentReader, cut_place, iter_documents, split_long
from gptwo.data.rejects import Rejects
from gptwo.errors import DataError, UsageError

END = "<|endoftext|>"


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def test_documents_are_parted_by_the_separator_line(tmp_path):
    path = write(tmp_path / "a.txt", f"one\nmore\n{END}\n\n二\n\n三\n{END}\n")
    assert list(iter_documents(path)) == ["one\nmore", "二\n\n三"]


@pytest.mark.parametrize("line", [f"see {END}", f"{END} follows", f"{END}{END}"])
def test_a_separator_inside_a_line_is_text(tmp_path, line):
    path = write(tmp_path / "a.txt", f"one\n{line}\ntwo")
    assert list(iter_documents(path)) == [f"one\n{line}\ntwo"]


def test_windows_line_ends_and_byte_order_mark(tmp_path):
    path = write(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\ntwo\r\n<|endoftext|>\r\nthree\r\n")
    assert list(iter_documents(path)) == ["one\ntwo", "three"]


def test_empty_documents_are_counted(tmp_path):
    path = write(tmp_path / "a.txt", f"{END}\none\n{END}\n \n\t\n{END}\n")
    reader = DocumentReader(Rejects())
    assert [piece.text for piece in reader.file(str(path))] == ["one"]
    assert reader.empty == 2
    reader = DocumentReader(Rejects())
    assert list(reader.file(str(write(tmp_path / "b.txt", "")))) == []
    assert reader.empty == 1


LINES = st.lists(
    st.sampled_from(
        ["", "a", "猫坐在", " b ", END, f"{END} ", f"x{END}", "word " * 5, "无空格" * 6, "\t", "\ufeff", "é"]
    ),
    max_size=14,
)


def plain_documents(text: str) -> list[str]:
    """What the reader should find, said simply."""
    found, current = [], []
    for line in [*text.split("\n"), END]:
        if line.rstrip(" \t") == END:
            document = "\n".join(current).strip("\n")
            found += [document] if document.strip() else []
            current = []
        else:
            current.append(line)
    return found


@given(LINES, st.integers(4, 40), st.integers(1, 30), st.sampled_from(["\n", "\r\n"]))
def test_blocks_and_pieces_change_nothing(lines, block, limit, newline):
    text = newline.join(lines)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = write(Path(folder) / "a.txt", text)
        patch.setattr(documents, "BLOCK_BYTES", block)
        whole = list(iter_documents(path))
        parts = list(DocumentReader(Rejects(strict=True), limit=limit).file(str(path)))
    assert whole == plain_documents(text.replace("\r\n", "\n").removeprefix("\ufeff"))
    assert all(len(part.text) <= limit for part in parts)
    joined = "".join(part.text + ("\0" if part.ends else "") for part in parts)
    assert joined == "".join(document + "\0" for document in whole)


@given(st.text(), st.integers(1, 20))
def test_splitting_keeps_the_text(text, limit):
    pieces = list(split_long(text, limit))
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.ends for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert all(0 < len(piece.text) <= limit for piece in pieces[:-1])


def test_cuts_before_white_space_so_that_no_token_changes(tokenizer):
    text = "the cat sat on the mat.\n" * 30
    pieces = list(split_long(text, 100))
    assert [i for piece in pieces for i in tokenizer.encode(piece.text)] == tokenizer.encode(text)
    assert cut_place("ab cd\nef gh", 9) == 5
    assert cut_place("abcd efgh", 8) == 4
    assert cut_place("abcdefghijk", 8) == 8


@pytest.mark.parametrize("block", [7, 1 << 19])
def test_bytes_that_are_no_text_are_reported_with_their_offset(tmp_path, monkeypatch, block):
    monkeypatch.setattr(documents, "BLOCK_BYTES", block)
    content = "猫 one\nbad \udcff and \udcfe\nfine\nagain \udc80".encode("utf-8", "surrogateescape")
    path = write(tmp_path / "a.txt", content)
    with Rejects(tmp_path / "rejects.jsonl") as rejects:
        found = list(iter_documents(path, rejects=rejects))
    assert found == ["猫 one\nbad \ufffd and \ufffd\nfine\nagain \ufffd"]
    lines = [json.loads(line) for line in (tmp_path / "rejects.jsonl").read_text("utf-8").splitlines()]
    assert [(line["row"], line["offset"]) for line in lines] == [
        (2, content.index(b"\xff")),
        (4, content.index(b"\x80")),
    ]
    assert "\\xff" in lines[0]["raw"]
    with pytest.raises(DataError, match=r"a\.txt:2 \(byte 12\)"):
        list(iter_documents(path, rejects=Rejects(strict=True)))


def test_other_encodings(tmp_path):
    text = "中文文本\n第二行"
    for encoding in ("gb18030", "utf-16", "utf-16-le", "utf-32"):
        path = write(tmp_path / "a.txt", text.encode(encoding))
        assert list(iter_documents(path, encoding=encoding)) == [text]
    with pytest.raises(DataError, match="UTF-16"):
        list(iter_documents(write(tmp_path / "b.txt", text.encode("utf-16"))))
    with pytest.raises(DataError, match="not utf-16"):
        list(iter_documents(write(tmp_path / "c.txt", b"\xff\xfe\x00\xd8a"), encoding="utf-16"))
    with pytest.raises(DataError, match="no encoding 'utf-9'"):
        list(iter_documents(path, encoding="utf-9"))


def test_compressed_files_and_tables(tmp_path):
    text = "一\n<|endoftext|>\ntwo"
    write(tmp_path / "a.txt.gz", gzip.compress(text.encode()))
    write(tmp_path / "b.txt.xz", lzma.compress(text.encode()))
    frames = zstandard.compress("一\n<|endo".encode()) + zstandard.compress(b"ftext|>\ntwo")
    write(tmp_path / "c.txt.zst", frames)
    rows = [{"body": "一", "n": 1}, {"body": "two", "n": 2}]
    write(tmp_path / "d.jsonl.gz", gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    write(tmp_path / "e.csv", 'n,body\n1,一\n2,"two"\n')
    write(tmp_path / "f.tsv", "n\tbody\n1\t一\n2\ttwo\n")
    write(tmp_path / "g.json", json.dumps(rows))
    pl.DataFrame(rows).write_parquet(tmp_path / "h.parquet")
    (tmp_path / ".hidden.txt").write_text("no")
    (tmp_path / "image.png").write_text("no")
    assert list(iter_documents(tmp_path, text_column="body")) == ["一", "two"] * 8
    assert list(iter_documents(f"{tmp_path}/*.txt.*")) == ["一", "two"] * 3


@pytest.mark.parametrize("ending", ["gz", "xz", "zst"])
def test_damaged_compression_names_the_file(tmp_path, ending):
    pack = {"gz": gzip.compress, "xz": lzma.compress, "zst": zstandard.compress}[ending]
    path = write(tmp_path / f"a.txt.{ending}", b"not compressed at all")
    with pytest.raises(DataError, match=rf"damaged(.|\n)*a\.txt\.{ending}"):
        list(iter_documents(path))
    if ending != "zst":  # its frames may be cut without notice of the library
        write(path, pack(bytes(range(256)) * 500)[:-20])
        with pytest.raises(DataError, match="damaged"):
            list(iter_documents(path, encoding="latin-1"))


def test_rows_without_text(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text": "one"}\n{"text": ""}\n{"text": null}\n{"text": 5}\n{"t": 1}\nnope\n')
    rejects = Rejects()
    reader = DocumentReader(rejects)
    assert [piece.text for piece in reader.file(str(path))] == ["one"]
    assert reader.empty == 2
    assert [(reject.row, reject.reason) for reject in rejects.first] == [
        (4, "'text' is no text"),
        (5, "there is no 'text'"),
        (6, "not JSON: Expecting value"),
    ]


def test_missing_inputs_say_what_is_near(tmp_path):
    write(tmp_path / "train.txt", "x")
    with pytest.raises(DataError, match=r"Did you mean .*train\.txt"):
        list(iter_documents(tmp_path / "trian.txt"))
    with pytest.raises(DataError, match="No file matches"):
        list(iter_documents(f"{tmp_path}/*.jsonl"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no file of a known kind"):
        list(iter_documents(tmp_path / "empty"))
    with pytest.raises(UsageError, match="Unknown format 'cvs'"):
        list(iter_documents(tmp_path / "train.txt", format="cvs"))


def test_longest_gives_a_long_document_in_parts(tmp_path):
    path = write(tmp_path / "a.txt", "word " * 100)
    parts = list(iter_documents(path, longest=50))
    assert len(parts) > 5
    assert max(map(len, parts)) <= 50
    assert "".join(parts) == "word " * 100
