"""A verb that takes flags together shows each of them, with the defaults that it chose."""

from __future__ import annotations

import inspect

from gptwo.cli.flags import ALONE, READ, RUN, RecordFlags, RunFlags, flat


def test_flags_stand_where_the_argument_stands_and_come_as_one():
    told = []

    @flat
    def verb(name: str, records: RecordFlags = ALONE, out: str = "here", machine: RunFlags = RUN) -> None:
        """What it does."""
        told.append((name, records, out, machine))

    shown = inspect.signature(verb).parameters
    assert list(shown) == [
        *("name", "columns", "format", "encoding", "out"),
        *("seed", "device", "precision", "threads", "set_"),
    ]
    assert shown["encoding"].default == "utf-8-sig"
    assert verb.__doc__ == "What it does."
    given = {name: one.default for name, one in shown.items()} | {"name": "a", "columns": "text=t", "seed": 3}
    verb(**given)
    assert told == [("a", RecordFlags("text=t", None, "utf-8-sig"), "here", RunFlags(seed=3))]


def test_the_recipe_keys_behind_flags_and_set_goes_over_them():
    assert RecordFlags("text=a,label=b", "csv").settings() == {
        "data.columns": {"text": "a", "label": "b"},
        "data.format": "csv",
        "data.encoding": None,
    }
    found = RunFlags(seed=1, device="cpu", set_=["train.seed=2", "optimizer.name=muon"]).settings()
    assert (found["train.seed"], found["train.device"], found["optimizer.name"]) == (2, "cpu", "muon")
    assert set(READ.settings().values()) == {None}
