"""The sections of a recipe: every key with its type, its range, its default and its description."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

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
        None, gt=0, le=1, description="classify, match, choice: abstain below the confidence that reaches it on valid"
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
    required: bool = Field(False, description="control: bring in the words of the field required, by beam search")
    judges: dict[str, str] = Field({}, description="control: a tuned classifier that judges a control, by its name")
    execute: bool = Field(False, description="code: run what was written with its tests, within limits")
    tries: int = Field(1, ge=1, description="code: programs written for each description")
    loss: Literal["listwise", "pairwise"] = Field("listwise", description="rank: over whole lists, or pairs of a list")
    score: Literal["head", "likelihood"] = Field("head", description="choice: judged by a new head or as likely text")
    stride: int | None = Field(None, ge=1, description="tag, extract: tokens between windows; none: half a window")
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
