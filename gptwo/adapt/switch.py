"""Several adapters over one base, side by side; which of them speaks is chosen for each call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from gptwo import hub
from gptwo.adapt.peft import CONFIG
from gptwo.adapt.store import is_adapter, load, plain, put_on
from gptwo.errors import UsageError, did_you_mean
from gptwo.model.config_json import read_info
from gptwo.model.pretrained import Pretrained


@dataclass
class AdapterSet:
    """A base in memory once, and any number of adapters over it. Switching moves a few dozen references.

    Args:
        base: a plain model; while an adapter is active it stands in this model's network.

    Example:
        adapters = AdapterSet.open("gptwo-mini", poems="runs/poems", mails="runs/mails")
        with adapters.use("poems") as model:
            Engine(model).generate("《忆秦娥》")
    """

    base: Pretrained

    def __post_init__(self):
        self.base = plain(self.base)
        self.loaded: dict[str, Pretrained] = {}
        self.active: str | None = None

    @classmethod
    def open(
        cls,
        base: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        **adapters: str | Path,
    ) -> AdapterSet:
        """Load a base and adapters, given as name=folder."""
        made = cls(load(base, device=device, dtype=dtype))
        for name, folder in adapters.items():
            made.add(name, folder)
        return made

    @property
    def names(self) -> list[str]:
        """The adapters, in the order they were added."""
        return list(self.loaded)

    def add(self, name: str, folder: str | Path) -> None:
        """Load one more adapter under a name.

        Raises:
            UsageError: the name is taken, or the folder holds no adapter.
            DataError: the adapter is over another base.
        """
        if name in self.loaded:
            raise UsageError(f"There is an adapter {name!r} already.", fix="give it another name")
        place = hub.resolve(folder)
        if not is_adapter(place):
            raise UsageError("The folder holds no adapter.", where=place, why=f"it has no {CONFIG} beside the weights")
        before = self.active
        self.activate(None)
        info = read_info(place)
        described = info.pop("adapter", {})
        loaded = put_on(place, replace(self.base), info, described)
        assert loaded.adapter is not None
        loaded.adapter.detach(self.base.model)
        self.loaded[name] = loaded
        self.activate(before)

    def activate(self, name: str | None) -> Pretrained:
        """Let an adapter speak, or with None the base; returns the model as it is now.

        The returned model is good until the next call: all share one network.

        Raises:
            UsageError: no adapter of that name.
        """
        if name is not None and name not in self.loaded:
            raise UsageError(f"There is no adapter {name!r}.", fix=did_you_mean(name, self.loaded))
        if self.active is not None:
            before = self.loaded[self.active].adapter
            assert before is not None
            before.detach(self.base.model)
        self.active = name
        if name is None:
            return self.base
        chosen = self.loaded[name]
        assert chosen.adapter is not None
        chosen.adapter.attach(self.base.model)
        return chosen

    @contextmanager
    def use(self, name: str | None) -> Iterator[Pretrained]:
        """An adapter for the length of a block; what was active before is so again afterwards."""
        before = self.active
        try:
            yield self.activate(name)
        finally:
            self.activate(before)
