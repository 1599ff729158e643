"""A model's name or folder becomes a local folder, or an error that says what to place where."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from gptwo import hub
from gptwo.errors import MissingError, UsageError


@pytest.fixture(autouse=True)
def bare_machine(tmp_path, monkeypatch):
    """No model anywhere, no network, and an empty hub cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("GPTWO_MODELS", raising=False)
    monkeypatch.setattr(hub, "__file__", str(tmp_path / "checkout" / "gptwo" / "hub.py"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def make_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def fake_error(kind: type[Exception]) -> Exception:
    error = kind.__new__(kind)
    error.args = ("no",)
    return error


@pytest.fixture
def online(monkeypatch):
    """A hub that lists the files given to it and notes what is downloaded; an error is raised instead."""
    calls = SimpleNamespace(files=[], error=None, wanted=None)

    def model_info(self, name, revision=None, timeout=None):
        assert timeout is not None
        assert timeout <= 10
        if calls.error:
            raise calls.error
        return SimpleNamespace(sha="abc", siblings=[SimpleNamespace(rfilename=file) for file in calls.files])

    def snapshot_download(name, *, revision, allow_patterns, etag_timeout):
        assert revision is None  # a commit instead would leave the branch unknown to the cache
        assert etag_timeout <= 10
        calls.wanted = sorted(allow_patterns)
        return f"/snapshots/{name}"

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls


def test_a_folder_is_taken_as_it_is(tmp_path):
    assert hub.resolve(tmp_path) == tmp_path
    assert hub.resolve(str(tmp_path)) == tmp_path


def test_a_tilde_is_the_home_folder(tmp_path):
    make_model(tmp_path / "home" / "mine")
    assert hub.resolve("~/mine") == tmp_path / "home" / "mine"


def test_a_run_folder_stands_for_its_best_model(tmp_path):
    best = make_model(tmp_path / "run" / "best")
    assert hub.resolve(tmp_path / "run") == best


def test_a_file_is_refused_with_its_folder_as_the_fix(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UsageError, match=f"give the folder it lies in: {tmp_path}"):
        hub.resolve(tmp_path / "pytorch_model.bin")


def test_an_empty_name_is_not_the_current_folder():
    with pytest.raises(UsageError, match="empty"):
        hub.resolve("")


@pytest.mark.parametrize("place", ["own", "cache/gptwo/models", "checkout/models", "checkout/gptwo/models"])
def test_a_name_is_found_in_every_place_for_models(tmp_path, monkeypatch, place):
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout" / "pyproject.toml").touch()
    monkeypatch.setenv("GPTWO_MODELS", str(tmp_path / "own"))
    folder = make_model(tmp_path / place / "gptwo-mini")
    assert hub.resolve("gptwo-mini") == folder
    assert hub.local_names() == ["gptwo-mini"]


def test_a_short_name_finds_the_folder_of_the_full_name(tmp_path, monkeypatch):
    monkeypatch.setenv("GPTWO_MODELS", f"{tmp_path / 'empty'}:{tmp_path / 'own'}")
    folder = make_model(tmp_path / "own" / "openai-community" / "gpt2")
    assert hub.resolve("gpt2") == folder
    assert hub.resolve("openai-community/gpt2") == folder


@pytest.mark.parametrize("name", ["../other", "a/../../b", "/nowhere/at/all", "a/b/c", "-x", "a//b", "c:\\x", "a--b"])
def test_a_path_that_leads_nowhere_is_not_looked_up_on_the_hub(name, online, tmp_path, monkeypatch):
    make_model(tmp_path / "other")
    monkeypatch.setenv("GPTWO_MODELS", str(tmp_path / "own"))
    (tmp_path / "own").mkdir()
    monkeypatch.chdir(tmp_path / "own" / "..")
    with pytest.raises(MissingError, match="no such model folder"):
        hub.resolve(name)


def test_offline_the_error_names_the_folder_and_the_files(tmp_path):
    with pytest.raises(MissingError) as caught:
        hub.resolve("gpt2")
    message = str(caught.value)
    assert caught.value.exit_code == 4
    assert "HF_HUB_OFFLINE is set" in message
    assert str(tmp_path / "cache" / "gptwo" / "models" / "openai-community" / "gpt2") in message
    for file in ("config.json", "model.safetensors", "tokenizer.json", "vocab.json", "merges.txt"):
        assert file in message


def make_cached(cache: Path) -> Path:
    storage = cache / "models--owner--model"
    (storage / "refs").mkdir(parents=True)
    (storage / "refs" / "main").write_text("0123")
    return make_model(storage / "snapshots" / "0123")


def test_offline_the_hubs_cache_is_used(tmp_path):
    snapshot = make_cached(tmp_path / "hub")
    assert hub.resolve("owner/model") == snapshot


def test_a_hub_out_of_reach_falls_back_to_its_cache(tmp_path, online):
    online.error = ConnectionError("no route")
    with pytest.raises(MissingError, match=r"did not answer \(ConnectionError: no route\)"):
        hub.resolve("owner/model")
    snapshot = make_cached(tmp_path / "hub")
    assert hub.resolve("owner/model") == snapshot


def test_only_the_files_that_are_read_are_downloaded(online):
    online.files = [
        "config.json",
        "model.safetensors",
        "pytorch_model.bin",
        "tf_model.h5",
        "onnx/config.json",
        "onnx/model.safetensors",
        "merges.txt",
        "training_args.bin",
    ]
    assert hub.resolve("gpt2") == Path("/snapshots/openai-community/gpt2")
    assert online.wanted == ["config.json", "merges.txt", "model.safetensors"]


def test_pickled_weights_are_downloaded_only_where_there_is_nothing_else(online):
    online.files = ["config.json", "pytorch_model.bin", "vocab.txt"]
    hub.resolve("uer/gpt2-chinese-cluecorpussmall")
    assert online.wanted == ["config.json", "pytorch_model.bin", "vocab.txt"]


def test_a_hub_model_without_weights_is_an_error(online):
    online.files = ["README.md", "tf_model.h5"]
    with pytest.raises(MissingError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        hub.resolve("owner/model")
    assert online.wanted is None


@pytest.mark.parametrize(
    ("kind", "words"),
    [(RepositoryNotFoundError, "Did you mean 'gpt2-medium'"), (GatedRepoError, "accept the terms")],
)
def test_what_the_hub_answers_is_said_in_words(online, kind, words):
    online.error = fake_error(kind)
    with pytest.raises(MissingError, match=words):
        hub.resolve("gpt2-mediun")
