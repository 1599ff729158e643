"""The models a server has, by name: loaded, found, unloaded."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptwo import hub
from gptwo.adapt.store import is_adapter, load
from gptwo.adapt.switch import AdapterSet
from gptwo.errors import UsageError
from gptwo.generate.codec import Codec
from gptwo.generate.constrain import Constrainer
from gptwo.generate.native import NativeEngine
from gptwo.generate.native_network import NativeNetwork, model_of
from gptwo.generate.options import stored_defaults
from gptwo.model.pretrained import Pretrained
from gptwo.serve.aside import twin
from gptwo.serve.lane import Lane
from gptwo.serve.loading import open_model, use_of
from gptwo.serve.scheduler import Scheduler
from gptwo.serve.settings import Settings
from gptwo.serve.torch_steps import TorchSteps
from gptwo.serve.work import Way
from gptwo.tasks import restore_task

if TYPE_CHECKING:
    from gptwo.model.config import GPT2Config
    from gptwo.model.heads import Model
    from gptwo.serve.calls import Calls
    from gptwo.serve.native_steps import NativeSteps
    from gptwo.tasks.base import Task
    from gptwo.tokenizer import Tokenizer

NAME = re.compile(r"\w[\w.:@/-]{0,126}", re.ASCII)


@dataclass(frozen=True)
class Known:
    """What is known of a model whose weights are another's."""

    folder: Path | None
    tokenizer: Tokenizer | None
    config: GPT2Config
    info: dict[str, Any]


@dataclass(eq=False)
class Served:
    """A model that answers.

    Args:
        name: as clients write it.
        model: what is known of it, and where it is one of PyTorch its network, which over a shared base is whole only
            inside `backend.speaking()`.
        task: what it is tuned for.
        backend: does its work.
        source: the folder or name it came from.
        make_beside: see `beside`.
        base: the name of the model whose weights it shares.
        packed: whether its network is the native engine.
        way: through the engine of its base, for an adapter that shares its passes.
    """

    name: str
    model: Pretrained | NativeEngine | Known
    task: Task
    backend: TorchSteps | NativeSteps
    source: str
    head: str
    make_beside: Callable[[], Pretrained]
    base: str | None = None
    packed: bool = False
    way: Way | None = None
    half: bool = False  # products in bf16 over weights in float32: of heads with labels
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.codec = Codec(self.model.tokenizer, self.model.config.vocab_size)
        self.config = self.backend.config if self.way is None else self.model.config
        self.defaults = stored_defaults(self.model.folder)
        self.labels = list(self.model.info.get("labels", []))

    @property
    def writes(self) -> bool:
        """Whether it has a language head."""
        return self.head == "language"

    @property
    def precision(self) -> str:
        """Of the products of a task, which PyTorch computes."""
        return "bf16" if self.backend.precision == "bf16" or self.half else "fp32"

    def hidden(self, rows: list[list[int]]) -> list[Any]:
        """See `StepBackend.hidden`."""
        if self.way is None:
            return self.backend.hidden(rows)
        assert not isinstance(self.backend, TorchSteps)
        return self.backend.hidden(rows, self.way)

    @cached_property
    def network(self) -> Model:
        """What its task asks; over a shared base it is whole only inside `backend.speaking()`."""
        if isinstance(self.backend, TorchSteps):
            return self.backend.model
        engine = self.backend.engine
        return model_of(engine if self.way is None else engine.through(self.way.name))

    @cached_property
    def beside(self) -> Pretrained:
        """A network of its own over the same weights, for one thread beside the scheduler's; made when it is first
        needed."""
        return self.make_beside()

    @cached_property
    def calls(self) -> Calls:
        """What is done to whole records."""
        from gptwo.serve.calls import Calls

        return Calls(self)

    @cached_property
    def constrainer(self) -> Constrainer:
        """For texts of a required form."""
        return Constrainer(self.codec.need("A text of a required form"))

    @cached_property
    def template(self) -> str | None:
        """The Jinja template of its tokenizer."""
        folder = self.model.folder
        if folder is None:
            return None
        alone = Path(folder) / "chat_template.jinja"
        if alone.is_file():
            return alone.read_text(encoding="utf-8")
        file = Path(folder) / "tokenizer_config.json"
        found = json.loads(file.read_text(encoding="utf-8")).get("chat_template") if file.is_file() else None
        if isinstance(found, list):
            found = next((one.get("template") for one in found if one.get("name") == "default"), None)
        return found

    @property
    def max_length(self) -> int:
        """Tokens of a record at most, as it was tuned."""
        return min(self.model.info.get("max_length") or self.config.n_positions, self.config.n_positions)


class Models:
    """The models of a server; loading happens in the caller's thread, changes of a shared base between two steps.

    Args:
        scheduler: works for them.
    """

    def __init__(self, scheduler: Scheduler, settings: Settings):
        self.scheduler, self.settings = scheduler, settings
        self.served: dict[str, Served] = {}
        self._sets: dict[str, AdapterSet] = {}
        self._lock = threading.Lock()

    def find(self, name: str) -> Served | None:
        """The model of a name."""
        return self.served.get(name)

    def add(self, name: str, source: str | Path | Pretrained) -> Served:
        """Load a model, or an adapter with a base of its own, and serve it.

        Raises:
            UsageError: the name is taken or is none.
            MissingError, DataError: it cannot be loaded.
        """
        with self._lock:
            self._check(name)
            told = name if isinstance(source, Pretrained) else str(source)
            model = open_model(source, self.settings)
            if isinstance(model, NativeEngine):
                served = self._native(name, model, source, told)
            elif isinstance(model.model.transformer, NativeNetwork):
                served = self._served(name, model, told, beside=unpacked(source))
            else:
                served = self._served(name, model, told)
            self._begin(served)
            return served

    def add_adapter(self, name: str, folder: str | Path, base: str) -> Served:
        """Load an adapter over a model that is served; both share its weights. On the native engine texts of both are
        written in the same passes, where adapters of that kind can be chosen for each text; PyTorch serves the others,
        over weights of its own that they share.

        Raises:
            UsageError: the name is taken, the base is not served, or the folder holds no adapter.
            DataError: it belongs to another base.
        """
        with self._lock:
            self._check(name)
            below = self.served.get(base)
            if below is None or below.base is not None:
                raise UsageError(f"There is no model {base!r} to put an adapter on.", where="base")

            if isinstance(below.model, NativeEngine):
                served = self._through(name, folder, below, below.model)
                if served is not None:
                    self.scheduler.add(name, self.scheduler.lanes[base])
                    self.served[name] = served
                    return served

            network = twin(below.beside) if below.packed and base not in self._sets else None

            def change() -> Served:
                adapters = self._sets.get(base)
                if adapters is None:
                    own = network or below.model
                    assert isinstance(own, Pretrained)
                    adapters = self._sets[base] = AdapterSet(own)
                    if not below.packed:
                        assert isinstance(below.backend, TorchSteps)
                        below.backend.using = lambda: adapters.use(None)
                adapters.add(name, folder)
                found = adapters.loaded[name]
                return self._served(name, found, str(folder), base=base, using=lambda: adapters.use(name))

            served = self.scheduler.between_steps(change) if self.scheduler.alive else change()
            self._begin(served)
            return served

    def remove(self, name: str) -> None:
        """Unload a model; its requests end.

        Raises:
            UsageError: adapters stand on it.
        """
        with self._lock:
            above = [one.name for one in self.served.values() if one.base == name]
            if above:
                raise UsageError(f"The adapters {', '.join(above)} stand on {name!r}.", fix="unload them first")
            served = self.served.pop(name)
            self.scheduler.remove(name)
            self._sets.pop(name, None)
            if served.way is not None:
                engine = self.served[served.base or ""].model
                assert isinstance(engine, NativeEngine)
                self.scheduler.between_steps(lambda: engine.drop_adapter(name))
            elif served.base is not None:
                adapters = self._sets[served.base]
                self.scheduler.between_steps(lambda: adapters.loaded.pop(name, None))

    def available(self) -> list[str]:
        """Names in the folder of models that are not loaded."""
        folder = self.settings.models_dir
        if folder is None:
            return []
        return [place.name for place in model_folders(folder) if place.name not in self.served]

    def folder_of(self, name: str) -> Path:
        """A model's folder inside the folder of models; nothing outside can be named.

        Raises:
            UsageError: there is none.
        """
        folder = self.settings.models_dir
        found = [] if folder is None else [place for place in model_folders(folder) if place.name == name]
        if not found:
            raise UsageError(f"There is no model {name!r} in the folder of models.", where="model")
        return found[0]

    # --- inside

    def _check(self, name: str) -> None:
        if not NAME.fullmatch(name):
            raise UsageError(f"{name!r} is no name for a model.", fix="letters, digits, and _ . : @ / - between them")
        if name in self.served:
            raise UsageError(f"There is a model {name!r} already.", fix="name=FOLDER gives it another name")

    def _served(
        self,
        name: str,
        pretrained: Pretrained,
        source: str,
        base: str | None = None,
        using: Callable[[], AbstractContextManager[Any]] | None = None,
        beside: Callable[[], Pretrained] | None = None,
    ) -> Served:
        """A network behind PyTorch's backend; `beside` where it is the native engine."""
        codec = Codec(pretrained.tokenizer, pretrained.config.vocab_size)
        backend = TorchSteps(pretrained.model, codec.vocab_size, codec.end_id, using)
        with backend.speaking():
            head = pretrained.model.head_kind
        task = restore_task(pretrained.info, head)
        half = head != "language" and self.settings.precision == "bf16" and beside is None

        def twins() -> Pretrained:
            def copied() -> Pretrained:  # with the adapter in its place
                with backend.speaking():
                    return twin(pretrained)

            return self.scheduler.between_steps(copied) if self.scheduler.alive else copied()

        return Served(
            name, pretrained, task, backend, source, head, beside or twins, base, packed=beside is not None, half=half
        )

    def _native(self, name: str, engine: NativeEngine, source: str | Path | Pretrained, told: str) -> Served:
        from gptwo.serve.native_steps import NativeSteps

        backend = NativeSteps(engine, share=self.settings.share)
        task = restore_task(engine.info, "language")
        return Served(name, engine, task, backend, told, "language", unpacked(source), packed=True)

    def _through(self, name: str, folder: str | Path, below: Served, engine: NativeEngine) -> Served | None:
        """An adapter whose texts share the passes of its base; None where that is not possible."""
        loaded = load(folder, base=engine.folder) if engine.folder is not None else None
        if loaded is None or use_of(loaded) == "labels":
            return None
        try:
            engine.add_adapter(name, loaded)
        except UsageError:  # of a kind that changes the weights themselves
            return None
        chosen = engine.adapters[name]
        way = Way(name, chosen.adapter, engine.config.n_positions - chosen.n_positions)
        config = replace(loaded.config, n_positions=chosen.n_positions)
        known = Known(loaded.folder, loaded.tokenizer, config, loaded.info)
        return Served(
            name, known, restore_task(loaded.info, "language"), below.backend, str(folder), "language",
            lambda: load(folder, base=engine.folder), below.name, packed=True, way=way,
        )  # fmt: skip

    def _begin(self, served: Served) -> None:
        settings, backend = self.settings, served.backend
        tokens = settings.cache_tokens
        if not isinstance(backend, TorchSteps):
            tokens = backend.cache_tokens
        elif settings.cache_bytes is not None:
            tokens = settings.cache_bytes // backend.token_bytes
        lane = Lane(backend, max_batch=settings.max_batch, chunk=settings.prefill_chunk, cache_tokens=tokens)
        self.scheduler.add(served.name, lane)
        self.served[served.name] = served


def unpacked(source: str | Path | Pretrained) -> Callable[[], Pretrained]:
    """What makes a PyTorch network, in float32, of a model that the native engine serves."""
    return lambda: twin(source) if isinstance(source, Pretrained) else load(source)


def model_folders(folder: Path) -> list[Path]:
    """The models and adapters that lie in a folder, run folders included, by name."""
    found = [place for place in sorted(folder.iterdir()) if place.is_dir() and not place.name.startswith(".")]
    return [place for place in found if is_model(hub.run_folder_model(place))]


def is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() or is_adapter(folder)
