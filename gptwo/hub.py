"""From a model's name or folder to a folder on this machine: local folders, shipped models, the Hugging Face hub."""

from __future__ import annotations

import fnmatch
import os
import re
from pathlib import Path

from gptwo.errors import MissingError, UsageError, did_you_mean

# Short names of well-known models -> where they live on the hub.
ALIASES = {
    "gpt2": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
    "distilgpt2": "distilbert/distilgpt2",
}

# The hub's rule: letters, digits, "_", "-" and ".", the last two not at an end and not doubled.
_PART = r"\w(?:[\w.-]*\w)?"
HUB_NAME = re.compile(rf"(?!.*(?:\.\.|--|\.git$))(?=.{{1,96}}$){_PART}(?:/{_PART})?", re.ASCII)

TIMEOUT_SECONDS = 5.0  # for the hub's first answer, so that a machine without a network hears so at once

DESCRIPTIONS = ("config.json", "adapter_config.json")  # of a model, of an adapter

SMALL_FILES = (
    *DESCRIPTIONS,
    "generation_config.json",
    "gptwo.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "README.md",
    "LICENSE*",
)
SAFETENSORS = (
    "model.safetensors",
    "adapter_model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
)
PACKED = "packed.safetensors"  # weights for the native engine alone, see gptwo/generate/native_packed.py
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin")


def resolve(name: str | Path, *, revision: str | None = None) -> Path:
    """The local folder of a model.

    Looked up in this order: a folder of that path ("~" is the home folder; a run folder stands for its best/),
    `$GPTWO_MODELS` (several folders, separated as in PATH), ~/.cache/gptwo/models, the models shipped with gptwo,
    the hub, and where that does not answer, its cache on this machine.

    Args:
        name: a folder, or a name such as "gptwo-mini", "gpt2" or "owner/model".
        revision: branch, tag or commit of the hub; None is its main branch.

    Raises:
        MissingError: not here, and the hub cannot be reached or does not have it; the message says what to
            place where.
        UsageError: a file where a folder belongs.
    """
    if not str(name):
        raise UsageError("The model's name is empty.", fix=available())
    folder = Path(name).expanduser()
    if folder.is_dir():
        return run_folder_model(folder)
    if folder.exists():
        raise UsageError(
            "A model is a folder, and this is a file.", where=folder, fix=f"give the folder it lies in: {folder.parent}"
        )
    name = str(name)
    inside = Path(name)
    if revision is None and not inside.is_absolute() and ".." not in inside.parts:
        for place in places():
            for candidate in (name, ALIASES.get(name, name)):
                if (place / candidate).is_dir():
                    return place / candidate
    if not HUB_NAME.fullmatch(name):
        raise MissingError("There is no such model folder.", where=name, fix=available())
    return from_hub(ALIASES.get(name, name), revision)


def run_folder_model(folder: Path) -> Path:
    """A run folder's best model; any other folder as it is."""
    best = folder / "best"
    if any((folder / name).is_file() for name in DESCRIPTIONS):
        return folder
    return best if any((best / name).is_file() for name in DESCRIPTIONS) else folder


def places() -> list[Path]:
    """The folders that hold models by name, in the order they are searched."""
    package = Path(__file__).parent
    own = [Path(place).expanduser() for place in os.environ.get("GPTWO_MODELS", "").split(os.pathsep) if place]
    checkout = [package.parent / "models"] if (package.parent / "pyproject.toml").is_file() else []
    return [*own, default_place(), *checkout, package / "models"]


def default_place() -> Path:
    """Where a model can be placed by hand when $GPTWO_MODELS is not set."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "gptwo" / "models"


def local_names() -> list[str]:
    """Names of the models that are on this machine without any download."""
    configs = {
        config.parent.relative_to(place).as_posix()
        for place in places()
        for pattern in ("*/config.json", "*/*/config.json", "*/hparams.json")
        for config in place.glob(pattern)
    }
    return sorted(configs)


def available() -> str:
    """A closing sentence that names the models at hand."""
    names = local_names()
    here = f"Models on this machine: {', '.join(names)}." if names else "No model is on this machine yet."
    return f"{here} A hub name looks like openai-community/gpt2."


def from_hub(name: str, revision: str | None) -> Path:
    """Download a model that the hub's cache lacks; its snapshot folder."""
    import huggingface_hub as hub
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    kept = [hub.try_to_load_from_cache(name, file, revision=revision) for file in DESCRIPTIONS]
    cached = next((Path(file).parent for file in kept if isinstance(file, str)), None)
    if is_offline():
        if cached:
            return cached
        raise missing(name, revision, "HF_HUB_OFFLINE is set, so nothing is downloaded.")
    try:
        info = hub.HfApi().model_info(name, revision=revision, timeout=TIMEOUT_SECONDS)
        wanted = files_wanted([file.rfilename for file in info.siblings or []])
        if not any(fnmatch.fnmatch(file, pattern) for file in wanted for pattern in (*SAFETENSORS, PACKED, *PICKLES)):
            raise MissingError(f"The model {name} has neither model.safetensors nor pytorch_model.bin on the hub.")
        return Path(hub.snapshot_download(name, revision=revision, allow_patterns=wanted, etag_timeout=TIMEOUT_SECONDS))
    except GatedRepoError as error:
        raise missing(name, revision, "Its owner wants to be asked: accept the terms, then `hf auth login`.") from error
    except RevisionNotFoundError as error:
        raise missing(name, revision, f"The hub has no revision {revision!r} of it.") from error
    except RepositoryNotFoundError as error:
        why = f"The hub has no public model of that name. {did_you_mean(name, [*local_names(), *ALIASES])}"
        raise missing(name, revision, why) from error
    except MissingError:
        raise
    except Exception as error:  # requests, httpx or OSError, by the version of huggingface-hub
        if cached:
            return cached
        raise missing(
            name, revision, f"The hub did not answer ({type(error).__name__}: {first_line(error)})."
        ) from error


def files_wanted(files: list[str]) -> list[str]:
    """Of a hub model's files, those we read: safetensors, pickled weights only where there are none."""
    top = [file for file in files if "/" not in file]

    def matching(patterns: tuple[str, ...]) -> list[str]:
        return [file for file in top if any(fnmatch.fnmatch(file, pattern) for pattern in patterns)]

    return matching(SMALL_FILES) + (matching(SAFETENSORS) or matching((PACKED,)) or matching(PICKLES))


def is_offline() -> bool:
    """Whether the user has switched the hub off."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def missing(name: str, revision: str | None, why: str) -> MissingError:
    """The error that says what to place where."""
    place = places()[0] / name
    return MissingError(
        f"The model {name}{f' ({revision})' if revision else ''} is not on this machine.",
        why=why,
        fix=f"place config.json, model.safetensors and the tokenizer (tokenizer.json, or vocab.json and merges.txt) "
        f"in {place}, or give --model a folder that holds them. {available()}",
    )


def first_line(error: Exception) -> str:
    return (str(error).strip() or "no message").splitlines()[0][:200]
