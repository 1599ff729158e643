"""Which backend serves a model: the native engine where it can, PyTorch where it cannot, and neither silently where the
operator asked for one."""

from __future__ import annotations

import copy

import pytest

from gptwo.cli.serve import _cache
from gptwo.errors import MissingError, UsageError
from gptwo.generate.native import NativeEngine
from gptwo.generate.native_network import NativeNetwork
from gptwo.model.pretrained import Pretrained
from gptwo.serve import loading
from gptwo.serve.loading import open_model, use_of
from gptwo.serve.settings import Settings
from tests.serve.conftest import built, made


@pytest.fixture(scope="module")
def labelled(tokenizer):
    return made(tokenizer, head="sequence", labels=["bad", "good"])


@pytest.fixture(scope="module")
def ranker(tiny):
    found = copy.copy(tiny)
    found.info = {"task": "rank"}
    return found


def opened(source, **settings):
    return open_model(source, Settings(threads=1, **settings))


def kind(model):
    if isinstance(model, NativeEngine):
        return "engine"
    return "packed network" if isinstance(model.model.transformer, NativeNetwork) else "network"


def test_what_a_model_is_there_for(tiny, labelled, ranker, folder):
    assert [use_of(one) for one in (tiny, labelled, ranker, folder)] == ["writing", "labels", "judging", "writing"]


@built
@pytest.mark.parametrize("backend", ["auto", "native"])
def test_the_native_engine_serves_what_writes_and_what_has_labels(backend, tiny, labelled, ranker, folder):
    found = [kind(opened(one, backend=backend)) for one in (tiny, folder, labelled, ranker)]
    assert found == ["engine", "engine", "packed network", "engine"]
    assert [kind(opened(one, backend="torch")) for one in (tiny, labelled)] == ["network"] * 2
    assert opened(tiny, precision="int8").precision == "int8"
    assert opened(tiny).precision == "bf16"


def test_where_the_native_engine_cannot_serve_pytorch_does_unless_it_was_asked_for(tiny, folder, monkeypatch):
    monkeypatch.setattr(loading, "why_not", lambda model, device: "It was not built.")
    assert [kind(opened(one)) for one in (tiny, folder)] == ["network"] * 2
    for settings in ({"backend": "native"}, {"precision": "int8"}, {"precision": "int4", "backend": "auto"}):
        with pytest.raises(MissingError, match="not built"):
            opened(tiny, **settings)


def test_what_nobody_has_is_refused(tiny, folder):
    with pytest.raises(UsageError, match="no backend"):
        opened(tiny, backend="cuda")
    with pytest.raises(UsageError, match="int8"):
        opened(folder, backend="torch", precision="int8")


@built
def test_a_cache_is_given_by_tokens_or_by_bytes(tiny):
    by_tokens = opened(tiny, cache_tokens=100, precision="fp32").native.usage()
    assert by_tokens["limit_pages"] == 4
    by_bytes = opened(tiny, cache_bytes=3 * by_tokens["page_bytes"], precision="fp32").native.usage()
    assert by_bytes["limit_pages"] == 3
    assert (_cache(None), _cache("20000"), _cache("2GB")) == ((None, None), (20000, None), (None, 2 * 10**9))
    for wrong in ("0", "much", "-1", "5 apples"):
        with pytest.raises(UsageError, match="no size of a cache"):
            _cache(wrong)


@built
def test_an_adapter_s_folder_is_a_model_too(folder, tmp_path):
    from gptwo.adapt.apply import apply_adapter
    from gptwo.adapt.base import base_of
    from gptwo.adapt.store import save
    from gptwo.model.pretrained import load
    from gptwo.recipe import Recipe

    start = load(folder)
    start.adapter = apply_adapter(start.model, Recipe.model_validate({"adapter": {"name": "lora"}}).adapter, seed=1)
    start.config = start.model.config
    start.adapter.base = base_of(load(folder), str(folder))
    place = save(start, tmp_path / "adapted")
    assert kind(opened(place)) == "engine"
    found = opened(place, backend="torch")
    assert isinstance(found, Pretrained)
    assert found.adapter is not None
