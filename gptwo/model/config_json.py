"""config.json and generation_config.json: Hugging Face's description of a model, read and written."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptwo.errors import DataError, GptwoError
from gptwo.model.config import GPT2Config

if TYPE_CHECKING:  # a config is read without torch
    from gptwo.model.heads import HeadKind

INFO = "gptwo.json"  # what gptwo knows of a model beside config.json

# Hugging Face's class -> our head.
ARCHITECTURES: dict[str, HeadKind] = {
    "GPT2LMHeadModel": "language",
    "GPT2ForSequenceClassification": "sequence",
    "GPT2ForTokenClassification": "token",
    "GPT2Model": "language",
    "GPT2DoubleHeadsModel": "language",
}
OTHER_HEADS = ("GPT2ForQuestionAnswering",)  # only the network below them can be used
# Several names of the tanh form of GELU, the only one GPT-2 has.
ACTIVATIONS = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")
# Names that Hugging Face accepts in place of GPT-2's own.
SYNONYMS = {
    "n_positions": ("n_positions", "max_position_embeddings", "n_ctx"),
    "n_embd": ("n_embd", "hidden_size"),
    "n_layer": ("n_layer", "num_hidden_layers"),
    "n_head": ("n_head", "num_attention_heads"),
}


@dataclass(frozen=True)
class Description:
    """What config.json says of a model.

    Args:
        config: sizes and switches.
        architecture: Hugging Face's class; None where the file does not say.
        labels: names of the labels, by index; empty where the file has none.
        problem_type: "single_label_classification", "multi_label_classification", "regression" or None.
    """

    config: GPT2Config
    architecture: str | None = None
    labels: list[str] = field(default_factory=list)
    problem_type: str | None = None

    @property
    def head(self) -> HeadKind | None:
        """Our head; None where the file does not say, or names one we do not have."""
        return ARCHITECTURES.get(self.architecture or "")


def read_config(file: Path) -> Description:
    """Read a config.json.

    Missing sizes have Hugging Face's defaults, which are those of the smallest GPT-2.

    Raises:
        DataError: not JSON, not a GPT-2, or a GPT-2 with an option we do not have.
    """
    raw = read_json(file)
    architectures = raw.get("architectures") or []
    strangers = [name for name in architectures if name not in (*ARCHITECTURES, *OTHER_HEADS)]
    if strangers or raw.get("model_type", "gpt2") != "gpt2":
        what = ", ".join(strangers) or raw["model_type"]
        raise DataError(
            f"This model is a {what}, not a GPT-2.", where=file, why=f"only {', '.join(ARCHITECTURES)} are read"
        )
    refuse_options(raw, file)

    values: dict[str, Any] = {}
    for size in fields(GPT2Config):
        key = next((key for key in SYNONYMS.get(size.name, (size.name,)) if raw.get(key) is not None), None)
        if key is not None:
            values[size.name] = check_type(raw[key], size.default, f"{file}, {key}")
    try:
        config = GPT2Config(**values)
    except GptwoError as error:
        raise DataError(error.what, where=file, fix=error.fix) from error
    architecture = architectures[0] if architectures else None
    return Description(config, architecture, read_labels(raw, file), raw.get("problem_type"))


def refuse_options(raw: dict, file: Path) -> None:
    """Refuse what would silently give other numbers."""
    checks = {
        "activation_function": raw.get("activation_function", "gelu_new") in ACTIVATIONS,
        "add_cross_attention": not raw.get("add_cross_attention", False),
        "scale_attn_weights": raw.get("scale_attn_weights", True),
        "quantization_config": not raw.get("quantization_config"),
    }
    for key, fine in checks.items():
        if not fine:
            value = json.dumps(raw[key])
            raise DataError(
                f"The model has {key} = {value if len(value) < 60 else '…'}, which is not supported.",
                where=f"{file}, {key}",
                why=f"one of {', '.join(ACTIVATIONS)} is needed" if key == "activation_function" else None,
            )


def check_type(value: Any, default: Any, where: str) -> Any:
    """The value, where it has the kind of the default (n_inner, without one, is a whole number)."""
    kind = int if default is None else type(default)
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    raise DataError(
        f"{value!r} stands where a value like {default if default is not None else 3072} belongs.", where=where
    )


def read_labels(raw: dict, file: Path) -> list[str]:
    """Label names by index, from id2label or, without names, num_labels."""
    named = raw.get("id2label")
    if not named:
        count = raw.get("num_labels", 0)
        return [f"LABEL_{index}" for index in range(count if isinstance(count, int) else 0)]
    try:
        by_index = {int(index): str(name) for index, name in named.items()}
    except (AttributeError, ValueError) as error:
        raise DataError("id2label is not a map from numbers to names.", where=file, why=str(error)) from error
    if sorted(by_index) != list(range(len(by_index))):
        raise DataError("The numbers of id2label do not run from 0 without gaps.", where=file)
    return [by_index[index] for index in range(len(by_index))]


def config_json(
    config: GPT2Config, head: HeadKind, labels: list[str], start_id: int | None, end_id: int | None, dtype: str
) -> dict[str, Any]:
    """The content of config.json that transformers, llama.cpp and others expect.

    Args:
        labels: names of the labels; empty for a language model.
        start_id, end_id: the tokenizer's; the end id also stands in for the pad id, which is none of ours.
        dtype: "float32", "bfloat16" or "float16".
    """
    architecture = next(name for name, kind in ARCHITECTURES.items() if kind == head)
    content: dict[str, Any] = {
        "architectures": [architecture],
        "model_type": "gpt2",
        **{size.name: getattr(config, size.name) for size in fields(GPT2Config)},
        "n_ctx": config.n_positions,
        "activation_function": ACTIVATIONS[0],
        "add_cross_attention": False,
        "reorder_and_upcast_attn": False,
        "scale_attn_weights": True,
        "bos_token_id": end_id if start_id is None else start_id,
        "eos_token_id": end_id,
        "pad_token_id": end_id,
        "torch_dtype": dtype,
        "use_cache": True,
    }
    if head != "language":
        content["id2label"] = {str(index): name for index, name in enumerate(labels)}
        content["label2id"] = {name: index for index, name in enumerate(labels)}
    if head == "token":
        content["classifier_dropout"] = config.resid_pdrop
    return content


def generation_config_json(start_id: int | None, end_id: int | None) -> dict[str, Any]:
    """The content of generation_config.json."""
    return {
        "bos_token_id": end_id if start_id is None else start_id,
        "eos_token_id": end_id,
        "pad_token_id": end_id,
    }


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        DataError: the file holds something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError("The file is not JSON.", where=file, why=str(error)) from error
    if not isinstance(content, dict):
        raise DataError("The file does not hold a JSON object.", where=file)
    return content


def read_info(folder: Path) -> dict[str, Any]:
    """gptwo.json of a model's or an adapter's folder; empty where there is none.

    Raises:
        DataError: it is damaged.
    """
    return read_json(folder / INFO) if (folder / INFO).is_file() else {}


def write_json(content: dict[str, Any], file: Path) -> None:
    """Write a JSON object, readable by people."""
    file.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
