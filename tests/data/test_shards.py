"""Shards on disk read as one array, and refuse what does not fit."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from gptwo.data.manifest import Manifest
from gptwo.data.shards import Shards, pack
from gptwo.errors import DataError
from gptwo.tokenizer import train_bpe


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer_folder):
    root = tmp_path_factory.mktemp("shards")
    (root / "a.txt").write_text("\n<|endoftext|>\n".join(f"第{n}篇: the cat {n}" for n in range(60)), encoding="utf-8")
    pack(root / "a.txt", root / "out", tokenizer_folder, workers=0, shard_tokens=64, progress=False)
    return root / "out"


@given(st.data())
def test_read_is_a_slice_of_the_whole(folder, data):
    shards = Shards(folder)
    assert len(shards.manifest.shards) > 3
    whole = np.concatenate([np.fromfile(folder / shard.file, "<u2") for shard in shards.manifest.shards])
    start = data.draw(st.integers(0, shards.tokens))
    count = data.draw(st.integers(0, shards.tokens - start))
    ids = shards.read(start, count)
    assert ids.dtype == np.int64
    assert np.array_equal(ids, whole[start : start + count])


@pytest.mark.parametrize(("start", "count"), [(-1, 2), (0, -1), (0, 10**9), (10**9, 0)])
def test_reading_outside_raises(folder, start, count):
    with pytest.raises(IndexError):
        Shards(folder).read(start, count)


def test_another_tokenizer_is_named(folder, tokenizer):
    other = train_bpe(["completely other text " * 10], 280)
    with pytest.raises(DataError) as error:
        Shards(folder, other)
    assert tokenizer.fingerprint[:16] in str(error.value)
    assert other.fingerprint[:16] in str(error.value)
    Shards(folder, tokenizer)


def test_damage_is_found(folder, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    Shards(copy).verify()
    second = copy / "shard-00001.bin"
    data = bytearray(second.read_bytes())
    data[5] ^= 1
    second.write_bytes(data)
    with pytest.raises(DataError, match=r"damaged(.|\n)*shard-00001"):
        Shards(copy).verify()
    second.write_bytes(data[:-1])
    with pytest.raises(DataError, match="incomplete"):
        Shards(copy)
    second.unlink()
    with pytest.raises(DataError, match="missing"):
        Shards(copy)


def test_a_folder_without_shards_says_what_to_do(tmp_path, folder):
    with pytest.raises(DataError, match="does not exist"):
        Shards(tmp_path / "none")
    with pytest.raises(DataError, match="gptwo data pack"):
        Shards(tmp_path)
    for content in ("no json", "[]", "{}", '{"format": "gptwo-shards-1"}'):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(DataError, match="manifest cannot be read"):
            Shards(tmp_path)
    assert Manifest.read(folder).bytes_per_token > 1
