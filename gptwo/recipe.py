"""Recipes: everything a run does, as one checked table. Defaults < TOML file < environment < flags.

Each section is a pydantic model that forbids unknown keys; a field's description is its documentation and the help
of its flag. In the environment a key is written GPTWO__SECTION__KEY, e.g. GPTWO__TRAIN__SEED=3.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from gptwo.errors import MissingError, UsageError, did_you_mean

PREFIX = "GPTWO__"

Texts = Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values are checked again when they are set."""

    model_config = ConfigDict(
        extra="forbid",
        validate_assignment=True,
        protected_namespaces=(),
        allow_inf_nan=False,
        coerce_numbers_to_str=True,  # --set task.positive=1: labels are often numbers
    )


class ModelSection(Section):
    base: str | None = Field(None, description="start from this model: a hub name or a folder; none: fresh weights")
    tokenizer: str | None = Field(None, description="folder or file of the tokenizer; none: that of the base model")
    preset: str | None = Field(None, description="size of fresh weights: gpt2, gpt2-medium, gpt2-large, gpt2-xl")
    n_layer: int | None = Field(None, ge=1, description="blocks, for fresh weights")
    n_embd: int | None = Field(None, ge=1, description="width of the hidden states, for fresh weights")
    n_head: int | None = Field(None, ge=1, description="attention heads, for fresh weights")
    n_positions: int | None = Field(None, ge=1, description="longest sequence in tokens, for fresh weights")
    tie_word_embeddings: bool = Field(True, description="share the token embedding with the vocabulary projection")
    scale_attn_by_inverse_layer_idx: bool = Field(False, description="divide attention scores of block i by i + 1")
    dropout: float | None = Field(None, ge=0, le=1, description="all three dropout rates; none: the model's own")
    random: bool = Field(False, description="keep the base model's shape and tokenizer but start from random weights")


class DataSection(Section):
    train: Texts = Field([], description="files, folders or globs of training data (or a folder of token shards)")
    valid: Texts = Field([], description="data for early stopping; none: a share of the training data")
    test: Texts = Field([], description="data for the report; none: the validation data, and the report says so")
    valid_share: float = Field(0.1, gt=0, lt=1, description="share of the training data set aside without valid")
    columns: dict[str, str] = Field({}, description="our name of a column = its name in the file")
    format: str | None = Field(None, description="csv, tsv, jsonl, json, parquet, conll, label-first; none: by name")
    encoding: str = Field("utf-8-sig", description="text encoding of the files")
    label_separator: str | None = Field(None, description="splits several labels in one column")
    max_length: int | None = Field(None, ge=1, description="tokens kept of a record; none: what the model can take")
    block_size: int | None = Field(None, ge=1, description="tokens in a row of running text; none: n_positions")
    strict: bool = Field(False, description="stop at the first bad row instead of listing it in rejects.jsonl")
    limit: int | None = Field(None, ge=1, description="use only this many training records")
    packed: bool = Field(True, description="put several records in a row instead of padding")


class TaskSection(Section):
    name: Literal[
        "language", "classify", "tag", "match", "rank", "choice", "extract", "joint",
        "translate", "summarize", "answer", "dialogue", "control", "code",
    ] = Field("language", description="what is learned")  # fmt: skip
    labels: Texts | None = Field(None, description="labels in order; none: those of the training data, sorted")
    multi_label: bool = Field(False, description="a text may have several labels, or none")
    class_weights: Literal["none", "balanced"] | dict[str, float] = Field(
        "none", description="weight of each label in the loss; balanced: inverse to its frequency"
    )
    ordinal: bool = Field(False, description="classify: the labels stand in an order, as stars do")
    hierarchy: str | None = Field(None, description="classify: what parts the steps of labels that are paths: a/b")
    kinds: Texts = Field([], description="joint: the fields that hold a label each, such as topic and sentiment")
    positive: str | None = Field(None, description="the label that counts as positive in binary metrics")
    threshold: float = Field(0.5, gt=0, lt=1, description="a label is predicted above this probability")
    target_precision: float | None = Field(
        None, gt=0, le=1, description="classify, match: abstain below the confidence that reaches it on valid"
    )
    scheme: Literal["auto", "IOB1", "IOB2", "BIOES", "plain"] = Field("auto", description="how the tags mark entities")
    context: Literal["both", "left"] = Field(
        "both", description="tag, extract: text seen by a token (both: given twice)"
    )
    prompt: str | None = Field(None, description="what stands before the text, with {column} fields; carries no loss")
    decode: dict[str, Any] = Field({}, description="tasks that write: options of generation over the task's own")
    max_target: int | None = Field(None, ge=1, description="tasks that write: tokens at most; none: as in training")
    evaluate_texts: int = Field(32, ge=0, description="tasks that write: validation records written at an evaluation")
    no_answer: str = Field("unanswerable", description="answer: what is written where there is no answer")
    execute: bool = Field(False, description="code: run what was written with its tests, within limits")
    tries: int = Field(1, ge=1, description="code: programs written for each description")
    loss: Literal["listwise", "pairwise"] = Field("listwise", description="rank: over whole lists, or pairs of a list")
    score: Literal["head", "likelihood"] = Field("head", description="choice: judged by a new head or as likely text")
    stride: int | None = Field(None, ge=1, description="extract: tokens between windows; none: half a window")
    answer_length: int = Field(30, ge=1, description="extract: tokens of an answer at most")


class TrainSection(Section):
    steps: int | None = Field(None, ge=1, description="optimizer steps; none: by epochs")
    epochs: float = Field(3.0, gt=0, description="passes over the training data")
    batch_size: int = Field(8, ge=1, description="rows (running text) or records in a micro-batch")
    accumulate: int = Field(1, ge=1, description="micro-batches in an optimizer step")
    clip: float = Field(1.0, ge=0, description="largest norm of the gradient; 0 is none")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread over all labels")
    seed: int = Field(0, ge=0, description="of weights, order and dropout")
    device: str = Field("auto", description="auto, cpu, cuda, mps")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="of matrix products")
    threads: int | None = Field(None, ge=1, description="CPU threads; none: all this process may use")
    compile: bool = Field(False, description="compile the blocks with torch.compile (needs a C++ compiler on a CPU)")
    gradient_checkpointing: bool = Field(False, description="recompute activations to save memory")
    log_every: int = Field(10, ge=1, description="steps between log lines")
    evaluate_every: int | None = Field(None, ge=1, description="steps between evaluations; none: once an epoch")
    evaluate_batches: int | None = Field(None, ge=1, description="batches of an evaluation of running text; none: all")
    checkpoint_every: int | None = Field(None, ge=1, description="steps between checkpoints; none: at evaluations")
    keep_last: int = Field(2, ge=1, description="checkpoints that are kept")
    sample_every: int | None = Field(None, ge=1, description="steps between samples of generated text; none: never")
    sample_prompts: Texts = Field([], description="prompts of the samples; none: an empty one")
    metric: str | None = Field(None, description="what decides the best checkpoint; none: the task's own")
    patience: int | None = Field(None, ge=1, description="stop after this many evaluations without a better one")


class OptimizerSection(Section):
    name: Literal["adamw", "muon"] = Field("adamw", description="muon: Muon for the blocks' matrices, AdamW beside it")
    learning_rate: float = Field(5e-5, gt=0, description="peak learning rate of AdamW")
    muon_learning_rate: float | None = Field(None, gt=0, description="peak of Muon; none: learning_rate")
    weight_decay: float = Field(0.01, ge=0, description="decoupled decay of matrices")
    l2: float = Field(0.0, ge=0, description="L2 penalty: adds this times the weight to the gradient of matrices")
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's first moment")
    beta2: float = Field(0.999, ge=0, lt=1, description="AdamW's second moment")
    epsilon: float = Field(1e-8, gt=0, description="AdamW's epsilon")
    layer_decay: float = Field(1.0, gt=0, le=1, description="factor of the learning rate from a block to the one below")
    head_learning_rate: float | None = Field(None, gt=0, description="peak for a label head; none: learning_rate")


class ScheduleSection(Section):
    name: Literal["cosine", "linear", "wsd", "constant", "ramp"] = Field(
        "linear", description="shape after the warm-up; ramp rises to the end by a factor"
    )
    warmup: float = Field(0.05, ge=0, description="steps of warm-up; below 1 a share of the run")
    floor: float = Field(
        0.0, ge=0, le=1, description="factor of the learning rate at the end; of ramp, at the beginning"
    )
    decay: float = Field(0.2, gt=0, le=1, description="share of the run in which wsd falls")


class FreezeSection(Section):
    policy: Literal["all", "head", "last", "embeddings", "pattern"] = Field(
        "all", description="tuned: all, the head only, the last blocks and head, all but embeddings, or by name"
    )
    last: int = Field(2, ge=0, description="blocks tuned with policy last")
    pattern: str | None = Field(None, description="regular expression of the parameters that are tuned")
    gradual_every: int | None = Field(None, ge=1, description="unfreeze one more block from the top each so many steps")


class AdapterSection(Section):
    name: Literal["none", "lora", "adalora", "houlsby", "pfeiffer", "parallel", "prefix", "prompt", "bitfit", "ia3"] = (
        Field("none", description="tune this beside a frozen model instead of the model itself")
    )
    rank: int = Field(8, ge=1, description="lora: rank of an update; adalora: mean rank at the end")
    alpha: float | None = Field(
        None, gt=0, description="lora, adalora: the update counts alpha / rank; none: twice the rank"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="lora, adalora: dropout before the update")
    targets: Texts = Field([], description="lora, adalora, ia3: linear layers by name; none: the method's usual ones")
    rank_stabilised: bool = Field(False, description="lora: divide alpha by the square root of the rank")
    dora: bool = Field(False, description="lora: learn the length of each row apart from its direction")
    initial_rank: int | None = Field(None, ge=1, description="adalora: rank at the start; none: one and a half of rank")
    rank_warmup: float = Field(0.1, ge=0, lt=1, description="adalora: share of the run before ranks fall")
    rank_final: float = Field(0.3, ge=0, lt=1, description="adalora: share of the run after they have fallen")
    rank_every: int = Field(10, ge=1, description="adalora: steps between two allocations of the budget")
    orthogonality: float = Field(0.5, ge=0, description="adalora: weight of the orthogonality penalty")
    width: int | None = Field(
        None, ge=1, description="houlsby, pfeiffer, parallel: middle of an adapter; none: n_embd / 16"
    )
    tokens: int = Field(16, ge=1, description="prefix, prompt: virtual tokens before every text")
    also: Texts = Field([], description="modules that are tuned whole beside the adapter, such as ln_f")


class TrackSection(Section):
    trackers: Texts = Field(["console", "events"], description="console, events, tensorboard, wandb, mlflow")
    project: str = Field("gptwo", description="project name for wandb and mlflow")


class Range(Section):
    """Numbers that a search chooses from, both ends included; whole numbers where both ends are."""

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.low > self.high:
            raise ValueError(f"low = {self.low} lies above high = {self.high}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("with log = true, low must lie above 0 and there is no step")
        return self


class SearchSection(Section):
    ranges: dict[str, Range | list[Any]] = Field(
        {}, description="recipe key = [choices] or { low, high, log, step }; may stand in [search] itself"
    )
    trials: int = Field(20, ge=1, description="trials in all, those of earlier calls among them")
    metric: str | None = Field(None, description="what is to become best on valid; none: train.metric")
    sampler: Literal["tpe", "random", "grid"] = Field("tpe", description="how the next trial is chosen")
    pruner: Literal["median", "halving", "hyperband", "none"] = Field(
        "median", description="how trials that promise little are ended early"
    )
    startup: int = Field(5, ge=0, description="trials before the sampler (then at random) and the pruner judge")
    parallel: int = Field(1, ge=1, description="trials at the same time, each a process of its own")
    patience: int | None = Field(None, ge=1, description="stop after this many trials without a better one")
    minutes: float | None = Field(None, gt=0, description="begin no trial after this time")
    keep: Literal["best", "all"] = Field("best", description="trials whose weights and checkpoints stay on disk")


class Recipe(Section):
    """Everything a run does. See the sections for their keys."""

    model: ModelSection = Field(default_factory=ModelSection)
    data: DataSection = Field(default_factory=DataSection)
    task: TaskSection = Field(default_factory=TaskSection)
    train: TrainSection = Field(default_factory=TrainSection)
    optimizer: OptimizerSection = Field(default_factory=OptimizerSection)
    schedule: ScheduleSection = Field(default_factory=ScheduleSection)
    freeze: FreezeSection = Field(default_factory=FreezeSection)
    adapter: AdapterSection = Field(default_factory=AdapterSection)
    track: TrackSection = Field(default_factory=TrackSection)
    search: SearchSection = Field(default_factory=SearchSection)

    def to_toml(self) -> str:
        """The recipe as TOML; keys without a value are left out, and [search] where there is nothing to search."""
        lines = []
        for section, values in self.model_dump(exclude_none=True).items():
            if section == "search" and not self.search.ranges:
                continue
            lines += [f"[{section}]", *(f"{key} = {_toml(value)}" for key, value in values.items()), ""]
        return "\n".join(lines)


def commented_recipe(values: Mapping[str, Mapping[str, Any]]) -> str:
    """A recipe to begin with: every key with its description; those without a value here are commented out.

    Args:
        values: section to keys that are set.
    """
    lines = []
    for section, field in Recipe.model_fields.items():
        chosen = values.get(section, {})
        lines.append(f"[{section}]")
        for key, info in _section(field).model_fields.items():
            value = chosen.get(key, info.default)
            shown = '""' if value is None else _toml(value)
            mark = "" if key in chosen else "# "
            lines.append(f"{f'{mark}{key} = {shown}':<44}  # {info.description}")
        lines.append("")
    return "\n".join(lines)


def load_recipe(
    file: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Recipe:
    """Defaults < TOML file < environment < overrides.

    Args:
        file: a TOML file.
        overrides: dotted keys to values, as flags and `--set a.b=value` give them; None values are skipped.
        environment: variables to look into; None means os.environ.

    Raises:
        MissingError: no such file.
        UsageError: not TOML, an unknown key, or a value out of range; names the key and what is near it.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}  # "section.key" -> where its value was given last
    if file is not None:
        path = Path(file).expanduser()
        if not path.is_file():
            raise MissingError("There is no such recipe.", where=path, fix="gptwo init classify --out recipe.toml")
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError("The recipe is not valid TOML.", where=path, why=str(error)) from error
        _gather_ranges(values, f"{path}: search")
        _check_keys(values, lambda key: f"{path}: {key}")
        origins = {f"{section}.{key}": f"{path}: {section}.{key}" for section in values for key in values[section]}
    given = [
        (".".join(name[len(PREFIX) :].lower().split("__")), parse_value(text), name)
        for name, text in (os.environ if environment is None else environment).items()
        if name.startswith(PREFIX)
    ]
    given += [(key, value, key) for key, value in (overrides or {}).items() if value is not None]
    for key, value, where in given:
        origins[".".join(key.split(".")[:2])] = where
        _put(values, key, value, where)
    _gather_ranges(values, "search")
    _check_keys(values, lambda key: origins.get(key, key))
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise _misfit(error, origins) from error


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """`--set` values, "a.b=value" each, as dotted keys to values.

    >>> parse_assignments(["train.steps=10", "task.labels=['a', 'b']", "model.base=gpt2"])
    {'train.steps': 10, 'task.labels': ['a', 'b'], 'model.base': 'gpt2'}
    """
    found = {}
    for text in assignments:
        key, sign, value = text.partition("=")
        if not sign:
            raise UsageError(f"--set needs key=value, not {text!r}.", where="--set", fix="--set train.steps=100")
        found[key.strip()] = parse_value(value.strip())
    return found


def parse_value(text: str) -> Any:
    """A value as TOML writes it in one line; anything else is the text itself."""
    try:
        value = text if "\n" in text else tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return value if isinstance(value, bool | int | float | str | list | dict) else text  # no key is a date


def _put(values: dict[str, Any], key: str, value: Any, where: str) -> None:
    *path, last = key.split(".")
    for part in path:
        inner = values.setdefault(part, {})
        if not isinstance(inner, dict):  # --set task.class_weights.good=2 goes over class_weights = "balanced"
            inner = values[part] = {}
        values = inner
    if not path or not all(path) or not last:
        homes = _homes(key)
        fix = f"write {homes[0]}.{key}" if homes else "keys look like train.steps"
        raise UsageError(f"{key!r} is no key of a recipe.", where=where, fix=fix)
    values[last] = value


def _gather_ranges(values: dict[str, Any], where: str) -> None:
    """Put what [search] says of recipe keys, dotted or nested, into its `ranges`; each must be a key of a recipe."""
    search = values.get("search")
    if not isinstance(search, dict):
        return
    ranges: dict[str, Any] = {}
    given = search.pop("ranges", {})
    if not isinstance(given, Mapping):
        raise UsageError("search.ranges is a table of recipe keys.", where=where, fix='"train.batch_size" = [8, 16]')
    for key in [key for key in search if key.partition(".")[0] in Recipe.model_fields]:
        ranges |= _dotted(key, search.pop(key))
    for key, value in given.items():
        ranges |= _dotted(key, value)
    for key in ranges:
        section, _, name = key.partition(".")
        if section == "search" or not name:
            raise UsageError(f"{key!r} cannot be searched.", where=where, fix='"train.batch_size" = [8, 16]')
        _check_keys({section: {name.partition(".")[0]: None}}, lambda key: f"{where}: {key}")
    if ranges:
        search["ranges"] = ranges


def _dotted(key: str, value: Any) -> dict[str, Any]:
    """Nested tables as dotted keys, down to ranges and lists."""
    if not isinstance(value, Mapping) or "low" in value or "high" in value:
        return {key: value}
    return {name: found for inner, item in value.items() for name, found in _dotted(f"{key}.{inner}", item).items()}


def _check_keys(values: Mapping[str, Any], where: Callable[[str], str]) -> None:
    for section, content in values.items():
        if section not in Recipe.model_fields:
            raise UsageError(
                f"A recipe has no section {section!r}.",
                where=where(section),
                fix=_like(section, Recipe.model_fields),
            )
        if not isinstance(content, Mapping):
            raise UsageError(f"{section!r} is a section, not a value.", where=where(section), fix=f"write [{section}]")
        fields = _section(Recipe.model_fields[section]).model_fields
        for key in content:
            if key not in fields:
                raise UsageError(
                    f"The section {section!r} has no key {key!r}.",
                    where=where(f"{section}.{key}"),
                    fix=_like(key, fields),
                )


def _like(key: str, choices: Mapping[str, Any]) -> str:
    """Did you mean; of a key that belongs into another section, which."""
    homes = _homes(key)
    return f"{key} belongs to [{homes[0]}]" if homes else did_you_mean(key, choices)


def _homes(key: str) -> list[str]:
    """The sections that have a key of that name."""
    return [section for section, field in Recipe.model_fields.items() if key in _section(field).model_fields]


def _section(field: FieldInfo) -> type[Section]:
    """The class of a section from its field in `Recipe`."""
    assert isinstance(field.annotation, type)
    return field.annotation


def _misfit(error: ValidationError, origins: Mapping[str, str]) -> UsageError:
    """One clear message: the first wrong key, what was given, what it may be."""
    faults = error.errors()
    key = ".".join(str(part) for part in faults[0]["loc"][:2])
    reasons = [fault["msg"] for fault in faults if ".".join(str(part) for part in fault["loc"][:2]) == key]
    return UsageError(
        f"The recipe's value {faults[0]['input']!r} does not fit {key}.",
        where=origins.get(key, key),
        why="; or ".join(dict.fromkeys(reasons)),
    )


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(str(key))} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str):  # JSON's escapes are TOML's; TOML also wants DEL escaped
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
