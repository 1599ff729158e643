"""Packing: the right ids, whatever the number of workers, and after a kill at any moment."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gptwo.data import pack as pack_module
from gptwo.data.encoders import Encoder, Encoders
from gptwo.data.manifest import Manifest
from gptwo.data.shard_writer import Journal
from gptwo.data.shards import Shards, pack
from gptwo.errors import DataError, GptwoError, Interrupted, UsageError

DOCUMENTS = [f"document {n}: the cat sat on the mat {'猫坐在垫子上。' * (n % 5)}" for n in range(40)]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Many small jobs instead of one."""
    monkeypatch.setattr(pack_module, "PIECE_CHARACTERS", 120)


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n<|endoftext|>\n".join(DOCUMENTS), encoding="utf-8")
    return path


def quiet_pack(*args, workers=0, **kwargs):
    return pack(*args, workers=workers, progress=False, **kwargs)


def ids_of(tokenizer, documents) -> list[int]:
    return [i for document in documents for i in [*tokenizer.encode(document), tokenizer.end_id]]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_shards_hold_every_document_closed_by_the_end_id(tmp_path, text_file, tokenizer, tokenizer_folder):
    manifest = quiet_pack(text_file, tmp_path / "out", tokenizer_folder, shard_tokens=300)
    shards = Shards(tmp_path / "out", tokenizer)
    assert shards.read(0, shards.tokens).tolist() == ids_of(tokenizer, DOCUMENTS)
    assert manifest.documents == len(DOCUMENTS)
    assert manifest.bytes == sum(len(document.encode()) for document in DOCUMENTS)
    assert [shard.tokens for shard in manifest.shards[:-1]] == [300] * (len(manifest.shards) - 1)
    assert manifest.dtype == "uint16"
    assert [tokenizer.decode(ids) for ids in shards.documents()] == DOCUMENTS
    assert sorted(contents(tmp_path / "out")) == ["manifest.json", *(shard.file for shard in manifest.shards)]


def test_a_separator_in_a_table_is_text_and_never_an_end(tmp_path, tokenizer, tokenizer_folder):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "a<|endoftext|>b\n<|endoftext|>\nc"}))
    quiet_pack(path, tmp_path / "out", tokenizer_folder)
    shards = Shards(tmp_path / "out")
    assert list(shards.read(0, shards.tokens)).count(tokenizer.end_id) == 1


def test_workers_change_nothing(tmp_path, text_file, tokenizer_folder):
    for workers in (0, 1, 3):
        quiet_pack([text_file, text_file], tmp_path / str(workers), tokenizer_folder, workers=workers, held_out=2)
    assert contents(tmp_path / "0") == contents(tmp_path / "1") == contents(tmp_path / "3")


def test_held_out_documents_are_the_last_of_each_input(tmp_path, text_file, tokenizer, tokenizer_folder):
    folder = tmp_path / "folder"
    folder.mkdir()
    for n, document in enumerate(DOCUMENTS[:5]):
        (folder / f"{n}.txt").write_text(document, encoding="utf-8")
    manifest = quiet_pack([text_file, folder], tmp_path / "out", tokenizer_folder, held_out=3)
    train, valid = Shards(tmp_path / "out" / "train"), Shards(tmp_path / "out" / "valid")
    assert valid.read(0, valid.tokens).tolist() == ids_of(tokenizer, DOCUMENTS[-3:] + DOCUMENTS[2:5])
    assert train.read(0, train.tokens).tolist() == ids_of(tokenizer, DOCUMENTS[:-3] + DOCUMENTS[:2])
    assert (manifest.split, manifest.documents, valid.manifest.documents) == ("train", 39, 6)
    assert [source.documents for source in valid.manifest.sources] == [3, 3]
    with pytest.raises(DataError, match="has 5 documents; holding out 5"):
        quiet_pack(folder, tmp_path / "other", tokenizer_folder, held_out=5)


@pytest.mark.parametrize("after", [0, 1, 7, 19])
@pytest.mark.parametrize("moment", ["before", "torn", "after"])
def test_resumed_equals_uninterrupted(tmp_path, text_file, tokenizer_folder, monkeypatch, after, moment):
    """Stopped around the journal's line of a piece: before it, in the middle of it, after it."""
    settings = {"held_out": 4, "shard_tokens": 200}
    quiet_pack(text_file, tmp_path / "whole", tokenizer_folder, **settings)
    add = Journal.add

    def stop(self, piece):
        if len(self.done) < after:
            return add(self, piece)
        if moment == "torn":
            self._file.write('{"digest": "12')
        if moment == "after":
            add(self, piece)
        self._file.flush()
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", stop)
        with pytest.raises(MemoryError):
            quiet_pack(text_file, tmp_path / "out", tokenizer_folder, **settings)
    with pytest.raises(DataError, match="not finished|no manifest|held-out"):
        Shards(tmp_path / "out")
    quiet_pack(text_file, tmp_path / "out", tokenizer_folder, **settings)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


KILLED = """
import os, signal, sys
from gptwo.data import pack as pack_module
from gptwo.data.encoders import Encoder, Encoders
from gptwo.data.manifest import Manifest
from gptwo.data.shard_writer import Journal

pack_module.PIECE_CHARACTERS = 120
add = Journal.add

def add_and_die(self, piece):
    add(self, piece)
    if len(self.done) == 5:
        os.kill(os.getpid(), signal.SIGKILL)

Journal.add = add_and_die
pack_module.pack(sys.argv[1], sys.argv[2], sys.argv[3], workers=2, shard_tokens=150, progress=False)
"""


def test_killed_with_sigkill_goes_on_where_it_was(tmp_path, text_file, tokenizer_folder, monkeypatch):
    quiet_pack(text_file, tmp_path / "whole", tokenizer_folder, shard_tokens=150)
    arguments = [sys.executable, "-c", KILLED, str(text_file), str(tmp_path / "out"), str(tokenizer_folder)]
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    # its output ends only when the workers have ended too
    done = subprocess.run(arguments, env=environment, check=False, capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    journal = (tmp_path / "out" / ".pack" / "journal.jsonl").read_text().splitlines()
    assert len(journal) == 6
    encoded = []
    encode = Encoders.submit
    monkeypatch.setattr(Encoders, "submit", lambda self, payload: encoded.append(payload) or encode(self, payload))
    quiet_pack(text_file, tmp_path / "out", tokenizer_folder, shard_tokens=150)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    pieces = [text for payload in encoded for text, _ in json.loads(payload)]
    assert 0 < len(pieces) < len(DOCUMENTS)  # what was finished was not encoded again


def test_ids_missing_on_disk_are_encoded_again(tmp_path, text_file, tokenizer_folder, monkeypatch):
    """A power cut may leave the journal ahead of the shards."""
    quiet_pack(text_file, tmp_path / "whole", tokenizer_folder)
    with monkeypatch.context() as patch:
        patch.setattr(pack_module._Run, "_finish", lambda *_: None)
        quiet_pack(text_file, tmp_path / "out", tokenizer_folder)
    partial = tmp_path / "out" / "shard-00000.bin.partial"
    os.truncate(partial, partial.stat().st_size // 2 + 1)
    quiet_pack(text_file, tmp_path / "out", tokenizer_folder)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("after", [0, 1])
def test_stopped_between_the_manifests(tmp_path, text_file, tokenizer_folder, monkeypatch, after):
    quiet_pack(text_file, tmp_path / "whole", tokenizer_folder, held_out=2)
    write, written = Manifest.write, []

    def stop(self, folder):
        if len(written) == after:
            raise MemoryError
        written.append(folder)
        write(self, folder)

    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "write", stop)
        with pytest.raises(MemoryError):
            quiet_pack(text_file, tmp_path / "out", tokenizer_folder, held_out=2)
    quiet_pack(text_file, tmp_path / "out", tokenizer_folder, held_out=2)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_full_disk_is_an_error_and_loses_nothing(tmp_path, text_file, tokenizer_folder, monkeypatch):
    quiet_pack(text_file, tmp_path / "whole", tokenizer_folder)
    add = Journal.add

    def full(self, piece):
        if len(self.done) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        add(self, piece)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", full)
        with pytest.raises(GptwoError, match="No space left"):
            quiet_pack(text_file, tmp_path / "out", tokenizer_folder)
    quiet_pack(text_file, tmp_path / "out", tokenizer_folder)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_finished_folder_is_not_packed_again(tmp_path, text_file, tokenizer_folder, monkeypatch):
    first = quiet_pack(text_file, tmp_path / "out", tokenizer_folder)
    with monkeypatch.context() as patch:
        patch.setattr(pack_module._Run, "run", lambda *_: pytest.fail("packed again"))
        assert quiet_pack(text_file, tmp_path / "out", tokenizer_folder) == first
    text_file.write_text("other text")
    with pytest.raises(DataError, match="already holds shards of other inputs"):
        quiet_pack(text_file, tmp_path / "out", tokenizer_folder)
    assert quiet_pack(text_file, tmp_path / "out", tokenizer_folder, overwrite=True).documents == 1


def test_an_unfinished_folder_of_other_work_is_refused(tmp_path, text_file, tokenizer_folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(pack_module._Run, "_finish", lambda *_: None)
        quiet_pack(text_file, tmp_path / "out", tokenizer_folder)
    with pytest.raises(DataError, match="unfinished packing of other inputs"):
        quiet_pack(text_file, tmp_path / "out", tokenizer_folder, held_out=1)


def test_ctrl_c_keeps_what_is_finished(tmp_path, text_file, tokenizer_folder, monkeypatch):
    add = Journal.add

    def interrupt(self, piece):
        add(self, piece)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", interrupt)
        with pytest.raises(Interrupted, match="Run the same command"):
            quiet_pack(text_file, tmp_path / "out", tokenizer_folder)
    assert quiet_pack(text_file, tmp_path / "out", tokenizer_folder).documents == len(DOCUMENTS)


def test_a_document_longer_than_a_piece(tmp_path, tokenizer, tokenizer_folder):
    document = "the cat sat on the mat.\n" * 200
    path = tmp_path / "a.txt"
    path.write_text(document)
    manifest = quiet_pack(path, tmp_path / "out", tokenizer_folder)
    shards = Shards(tmp_path / "out")
    assert shards.read(0, shards.tokens).tolist() == ids_of(tokenizer, [document.rstrip("\n")])
    assert manifest.documents == 1


@pytest.mark.parametrize("held_out", [0, 1])
def test_standard_input(tmp_path, tokenizer, tokenizer_folder, monkeypatch, held_out):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("猫\n<|endoftext|>\ndog".encode())))
    quiet_pack("-", tmp_path / "out", tokenizer_folder, held_out=held_out)
    folder = tmp_path / "out" / ("train" if held_out else "")
    assert [tokenizer.decode(ids) for ids in Shards(folder).documents()] == ["猫", "dog"][: 2 - held_out]


def test_rejects_are_written_beside_the_shards(tmp_path, tokenizer_folder):
    path = tmp_path / "a.csv"
    path.write_bytes(b'text\nfine\ntoo,many\n""\nl\xe4tin\n')
    manifest = quiet_pack(path, tmp_path / "out", tokenizer_folder)
    lines = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text("utf-8").splitlines()]
    assert [line["row"] for line in lines] == [3, 5]
    assert (manifest.documents, manifest.empty, manifest.rejects) == (1, 1, 2)
    with pytest.raises(DataError, match="2 columns instead of 1"):
        quiet_pack(path, tmp_path / "strict", tokenizer_folder, strict=True)


def test_a_wrong_column_is_found_before_anything_is_encoded(tmp_path, text_file, tokenizer_folder, monkeypatch):
    path = tmp_path / "z.csv"
    path.write_text("txt\nhello\n")
    monkeypatch.setattr(pack_module._Run, "_encode", lambda *_: pytest.fail("encoded"))
    with pytest.raises(DataError, match=r"no column 'text'(.|\n)*'txt'"):
        quiet_pack([text_file, path], tmp_path / "out", tokenizer_folder)


def test_inputs_without_text(tmp_path, tokenizer_folder):
    path = tmp_path / "a.txt"
    path.write_text(" \n")
    with pytest.raises(DataError, match="no text"):
        quiet_pack(path, tmp_path / "out", tokenizer_folder)


def test_a_tokenizer_without_an_end_is_refused(tmp_path, text_file, tokenizer_folder, monkeypatch):
    import gptwo.tokenizer

    class Endless:
        end_id = None

    monkeypatch.setattr(gptwo.tokenizer, "load_tokenizer", lambda _: Endless())
    with pytest.raises(UsageError, match="no end token"):
        quiet_pack(text_file, tmp_path / "out", tokenizer_folder)


def test_a_worker_that_fails_is_an_error_with_its_words(tmp_path, text_file, tokenizer_folder):
    encoder = Encoder(str(tmp_path / "no tokenizer"), "<u2")
    try:
        with pytest.raises(RuntimeError, match="ended early"):
            encoder.encode(b"[]")
    finally:
        encoder.close()
    encoder = Encoder(str(tokenizer_folder), "<u2")
    try:
        with pytest.raises(RuntimeError, match="JSONDecodeError"):
            encoder.encode(b"no json")
        assert encoder.encode(b"[]") == b""  # it lives on
    finally:
        encoder.close()


def test_large_vocabularies_take_four_bytes(tmp_path, text_file, tokenizer, tokenizer_folder, monkeypatch):
    import gptwo.tokenizer

    class Large:
        vocab_size, end_id, kind, fingerprint = 70_000, 69_999, "bpe", "f" * 64

        def encode_batch(self, texts):
            return [[66_000, len(text)] for text in texts]

    monkeypatch.setattr(gptwo.tokenizer, "load_tokenizer", lambda _: Large())
    manifest = quiet_pack(text_file, tmp_path / "out", tokenizer_folder)
    assert manifest.dtype == "uint32"
    assert Shards(tmp_path / "out").read(0, 3).tolist() == [66_000, len(DOCUMENTS[0]), 69_999]
    Large.vocab_size = 100
    with pytest.raises(GptwoError, match="ids from"):
        quiet_pack(text_file, tmp_path / "other", tokenizer_folder)


def test_two_packings_of_one_folder_at_a_time_are_refused(tmp_path, text_file, tokenizer_folder):
    pytest.importorskip("fcntl")
    with pack_module._locked(tmp_path / "out"):
        for _ in range(2):
            with pytest.raises(UsageError, match="Another process"):
                quiet_pack(text_file, tmp_path / "out", tokenizer_folder)
    assert np.dtype("<u2") == quiet_pack(text_file, tmp_path / "out", tokenizer_folder).numpy_dtype


def test_progress_without_a_terminal_is_plain_lines(tmp_path, text_file, tokenizer_folder, capsys):
    pack(text_file, tmp_path / "out", tokenizer_folder, workers=0)
    said = capsys.readouterr()
    assert said.out == ""
    assert "packing: 100%" in said.err
    assert "tokens/s" in said.err
