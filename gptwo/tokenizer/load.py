"""Tokenizer files of every common kind, found in a folder or named, to one `Tokenizer`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers

from gptwo.errors import DataError, MissingError
from gptwo.tokenizer import bert, byte_level
from gptwo.tokenizer.base import Tokenizer, special_token
from gptwo.tokenizer.bert import BertTokenizer
from gptwo.tokenizer.byte_level import END_OF_TEXT, ByteLevelTokenizer
from gptwo.tokenizer.vocabulary import read_json, read_merges, read_text, read_tiktoken, read_vocab_json, read_vocab_txt

WHAT_TO_PLACE = (
    "Place one of these there: tokenizer.json; vocab.json and merges.txt; encoder.json and vocab.bpe; "
    "a .tiktoken file; or vocab.txt (BERT)."
)
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "encoder.json", "vocab.txt")  # any of them, or *.tiktoken
_PARTNERS = {"vocab.json": "merges.txt", "encoder.json": "vocab.bpe"}


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Load a tokenizer from a folder or from one of its files.

    A folder is searched for tokenizer.json, vocab.json + merges.txt, encoder.json + vocab.bpe, a .tiktoken file and
    vocab.txt (BERT), in this order; where its tokenizer_config.json names a BERT class, vocab.txt comes second.

    Raises:
        MissingError: nothing is there, or one file of a pair is missing; the message lists what is there.
        DataError: a file is damaged or of a kind that is no byte-level BPE and no BERT vocabulary.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return _load_folder(path)
    if not path.exists():
        near = path.parent if path.parent.is_dir() else None
        raise MissingError(
            f"There is no tokenizer at {str(path)!r}.",
            where=path,
            why=_listing(near) if near else f"The folder {str(path.parent)!r} does not exist either.",
            fix=WHAT_TO_PLACE,
        )
    return _load_file(path)


def find_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer of a folder, None where it has no tokenizer's file."""
    named = any((folder / name).is_file() for name in TOKENIZER_FILES)
    return load_tokenizer(folder) if named or any(folder.glob("*.tiktoken")) else None


def _load_folder(folder: Path) -> Tokenizer:
    config = _config(folder)
    names = [
        "tokenizer.json",
        *(name for name in _PARTNERS),
        *sorted(file.name for file in folder.glob("*.tiktoken")),
        "vocab.txt",
    ]
    if "Bert" in str(config.get("tokenizer_class")):
        names = ["tokenizer.json", "vocab.txt"]
    for name in names:
        if (folder / name).is_file():
            return _load_file(folder / name)
    raise MissingError("The folder holds no tokenizer.", where=folder, why=_listing(folder), fix=WHAT_TO_PLACE)


def _load_file(path: Path) -> Tokenizer:
    config = _config(path.parent)
    if path.name in _PARTNERS.values():  # merges were named: begin with the vocabulary beside them
        path = path.with_name(next(name for name, partner in _PARTNERS.items() if partner == path.name))
    if path.suffix == ".tiktoken":
        return _byte_level(*read_tiktoken(path), path, config)
    if path.suffix == ".txt":
        return _bert(path, config)
    if path.suffix == ".json":
        if path.name in _PARTNERS:
            vocab = read_vocab_json(path)
            return _byte_level(vocab, read_merges(_partner(path), vocab), path, config)
        return _tokenizer_json(path, config)
    raise DataError(f"{path.name} is no tokenizer file that is known.", where=path, fix=WHAT_TO_PLACE)


def _partner(path: Path) -> Path:
    partner = path.with_name(_PARTNERS[path.name])
    if not partner.is_file():
        raise MissingError(
            f"{path.name} is there, but {partner.name}, which belongs to it, is not.",
            where=path.parent,
            why=_listing(path.parent),
            fix=f"Place the {partner.name} of the same model beside it.",
        )
    return partner


def _byte_level(vocab: dict[str, int], merges: list[tuple[str, str]], path: Path, config: dict[str, Any]) -> Tokenizer:
    backend = byte_level.build_backend(vocab, merges, add_prefix_space=bool(config.get("add_prefix_space")))
    _add_tokens(backend, path.parent, config)
    return ByteLevelTokenizer(backend, end_token=_first(backend, config.get("eos_token"), END_OF_TEXT, "</s>"))


def _bert(path: Path, config: dict[str, Any]) -> Tokenizer:
    vocab = read_vocab_txt(path)
    unknown = config.get("unk_token") or bert.UNKNOWN
    if unknown not in vocab:
        raise DataError(
            f"{path.name} is no BERT vocabulary: it lacks {unknown!r}.",
            where=path,
            why=f"One token a line is needed; there are {len(vocab):,}, the first is {next(iter(vocab), '')[:40]!r}.",
        )
    backend = bert.build_backend(
        vocab,
        lowercase=config.get("do_lower_case", True),
        chinese_characters=config.get("tokenize_chinese_chars", True),
        strip_accents=config.get("strip_accents"),
        unknown=unknown,
    )
    names = [config.get(f"{role}_token") or f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")]
    backend.add_special_tokens([special_token(name) for name in names if name in vocab])
    _add_tokens(backend, path.parent, config)
    return _bert_tokenizer(backend, config)


def _bert_tokenizer(backend: tokenizers.Tokenizer, config: dict[str, Any]) -> Tokenizer:
    return BertTokenizer(
        backend,
        end_token=_first(backend, config.get("sep_token"), bert.END, config.get("eos_token")),
        start_token=_first(backend, config.get("cls_token"), bert.START),
    )


def _tokenizer_json(path: Path, config: dict[str, Any]) -> Tokenizer:
    text = read_text(path)
    try:
        backend = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception
        read_json(path)  # a broken file is told apart from one of another kind
        raise DataError(
            f"{path.name} is no tokenizer of the `tokenizers` library.", where=path, why=str(error), fix=WHAT_TO_PLACE
        ) from error
    kind = type(backend.model).__name__
    decoder = b"" if backend.decoder is None else backend.decoder.__getstate__()  # JSON
    if kind == "WordPiece":
        return _bert_tokenizer(backend, config)
    if kind == "BPE" and b'"ByteLevel"' in decoder:
        end = _first(backend, config.get("eos_token"), END_OF_TEXT, "</s>")
        return ByteLevelTokenizer(backend, end_token=end)
    raise DataError(
        f"{path.name} holds a tokenizer of another kind.",
        where=path,
        why=f"Its model is {kind}; GPT-2 checkpoints use byte-level BPE or a BERT vocabulary (WordPiece).",
    )


def _config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json over special_tokens_map.json; token names as plain strings."""
    merged: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            values = read_json(folder / name)
            if not isinstance(values, dict):
                raise DataError(f"{name} holds no object.", where=folder / name)
            merged |= {key: value for key, value in values.items() if value is not None}
    for key, value in merged.items():
        if key.endswith("_token") and isinstance(value, dict):
            merged[key] = value.get("content")
    return merged


def _add_tokens(backend: tokenizers.Tokenizer, folder: Path, config: dict[str, Any]) -> None:
    """Tokens that transformers keeps beside the vocabulary files: added_tokens.json, added_tokens_decoder."""
    tokens: dict[int, tokenizers.AddedToken] = {}
    named = read_json(folder / "added_tokens.json") if (folder / "added_tokens.json").is_file() else {}
    try:
        tokens |= {int(token_id): special_token(name) for name, token_id in named.items()}
        for token_id, fields in config.get("added_tokens_decoder", {}).items():
            options = {key: bool(fields.get(key)) for key in ("single_word", "lstrip", "rstrip", "normalized")}
            special = bool(fields.get("special", True))
            tokens[int(token_id)] = tokenizers.AddedToken(fields["content"], special=special, **options)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        why = f"added_tokens.json or added_tokens_decoder of tokenizer_config.json is damaged: {error!r}"
        raise DataError("The added tokens cannot be read.", where=folder, why=why) from error
    for token_id, token in sorted(tokens.items(), key=lambda item: item[0]):
        add: Callable[[list[tokenizers.AddedToken]], int]
        add = backend.add_special_tokens if token.special else backend.add_tokens
        add([token])
        if backend.token_to_id(token.content) != token_id:
            raise DataError(
                f"The added token {token.content!r} cannot have id {token_id}.",
                where=folder,
                why=f"With this vocabulary it gets id {backend.token_to_id(token.content)}.",
                fix="Take all tokenizer files from the same model.",
            )


def _first(backend: tokenizers.Tokenizer, *names: str | None) -> str | None:
    """The first of the names that the vocabulary holds."""
    return next((name for name in names if name and backend.token_to_id(name) is not None), None)


def _listing(folder: Path) -> str:
    """What a folder holds, in one line."""
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"{folder} holds {', '.join(names[:12]) + more if names else 'nothing'}."
