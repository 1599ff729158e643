"""Tokenizer folders as transformers writes them: tokenizer.json, its config, and the older vocabulary files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptwo.errors import DataError

if TYPE_CHECKING:
    from gptwo.tokenizer.base import Tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write every file of a tokenizer into `folder`, which is made if need be (see `Tokenizer.save`)."""
    state = json.loads(tokenizer._backend.to_str())
    named = _named_tokens(tokenizer, state)
    config = {
        "tokenizer_class": _class_name(tokenizer, state),
        **named,
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {
            str(token["id"]): {key: value for key, value in token.items() if key != "id"}
            for token in state["added_tokens"]
        },
        **_options(state),
    }
    files = {
        "tokenizer.json": _json(state),
        "tokenizer_config.json": _json(config),
        "special_tokens_map.json": _json(named),
        **_vocabulary_files(state),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            partial = folder / f".{name}.partial"
            partial.write_text(text, encoding="utf-8", newline="\n")
            partial.replace(folder / name)
    except OSError as error:
        raise DataError("The tokenizer cannot be saved.", where=folder, why=str(error)) from error


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def _class_name(tokenizer: Tokenizer, state: dict[str, Any]) -> str:
    """The class of transformers that splits text as this backend does.

    GPT2Tokenizer and BertTokenizer build their own rules around the vocabulary; any other rule needs the general one.
    """
    if tokenizer.kind == "bert":
        return "BertTokenizer"
    rule = state["pre_tokenizer"] or {}
    plain = rule.get("type") == "ByteLevel" and rule.get("use_regex", True) and state["normalizer"] is None
    return "GPT2Tokenizer" if plain else "PreTrainedTokenizerFast"


def _named_tokens(tokenizer: Tokenizer, state: dict[str, Any]) -> dict[str, str]:
    end = tokenizer._end_token
    if state["model"]["type"] == "WordPiece":
        names = {"cls_token": tokenizer._start_token, "sep_token": end, "unk_token": state["model"]["unk_token"]}
        names |= {"pad_token": "[PAD]", "mask_token": "[MASK]"}
        return {role: name for role, name in names.items() if name and tokenizer.token_to_id(name) is not None}
    return {} if end is None else dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), end)


def _options(state: dict[str, Any]) -> dict[str, Any]:
    """The settings that transformers' classes read from the config and not from tokenizer.json."""
    if state["model"]["type"] == "WordPiece":
        rule = state["normalizer"] or {}
        return {
            "do_lower_case": rule.get("lowercase", True),
            "tokenize_chinese_chars": rule.get("handle_chinese_chars", True),
            "strip_accents": rule.get("strip_accents"),
        }
    return {"add_prefix_space": (state["pre_tokenizer"] or {}).get("add_prefix_space", False)}


def _vocabulary_files(state: dict[str, Any]) -> dict[str, str]:
    model = state["model"]
    if model["type"] == "WordPiece":
        tokens = {token_id: token for token, token_id in model["vocab"].items()}
        rows = (tokens.get(row, "") for row in range(max(tokens) + 1))  # an id without a token keeps its line, empty
        return {"vocab.txt": "".join(token + "\n" for token in rows)}
    merges = (pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"])
    return {
        "vocab.json": json.dumps(model["vocab"], ensure_ascii=False),
        "merges.txt": "#version: 0.2\n" + "".join(merge + "\n" for merge in merges),
    }
