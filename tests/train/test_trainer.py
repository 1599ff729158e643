"""The training loop: what a step does, when things happen, and how a run ends."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from gptwo.data.batching import Batch
from gptwo.errors import DivergedError, GptwoError, Interrupted, MissingError, UsageError
from gptwo.model.loss import IGNORE
from gptwo.train.checkpoint import list_checkpoints
from gptwo.train.pretrain import NextToken
from gptwo.train.trainer import Hooks


def weights(model) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.named_parameters()}


# --- a step


class Regrouped:
    """The rows of a source in batches of another size."""

    def __init__(self, source, size: int):
        self.source, self.size = source, size
        self.batches_per_epoch = source.batches_per_epoch * source.rows // size

    def epoch(self, epoch: int):
        batch_of = self.source.epoch(epoch)
        rows = [batch_of(number) for number in range(self.source.batches_per_epoch)]
        ids, labels = (torch.cat([getattr(batch, name) for batch in rows]) for name in ("ids", "labels"))

        def batch(number: int) -> Batch:
            chosen = slice(number * self.size, (number + 1) * self.size)
            return Batch(ids=ids[chosen], labels=labels[chosen])

        return batch


class Holes:
    """A source some of whose labels are missing: differently many in each row, none at all in some."""

    def __init__(self, source):
        self.source = source
        self.rows, self.batches_per_epoch = source.rows, source.batches_per_epoch

    def epoch(self, epoch: int):
        batch_of = self.source.epoch(epoch)

        def batch(number: int) -> Batch:
            found = batch_of(number)
            for row in range(self.rows):
                found.labels[row, : [0, 12, 5, 9, 12, 1, 12, 3][row % 8]] = IGNORE
            return found

        return batch


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_accumulating_one_times_eight_equals_eight_times_one(case, rows, optimizer):
    source = Holes(rows(rows=8))
    found = []
    for size, accumulate in ((8, 1), (1, 8), (2, 4)):
        run = case(
            f"{size}x{accumulate}",
            train__accumulate=accumulate,
            train__steps=6,
            optimizer__name=optimizer,
            optimizer__learning_rate=1e-2,
            optimizer__epsilon=1e-4,
        )
        run.run(source=Regrouped(source, size))
        found.append((run.losses, weights(run.trained)))
    for losses, parameters in found[1:]:
        assert losses == pytest.approx(found[0][0], rel=1e-4)
        for name, wanted in found[0][1].items():
            torch.testing.assert_close(parameters[name], wanted, atol=1e-3, rtol=1e-3)


def test_epochs_are_counted_in_batches_whatever_is_accumulated(case, rows):
    for accumulate, steps in ((1, 15), (2, 8), (3, 5), (8, 2)):
        run = case(f"by{accumulate}", train__steps=None, train__epochs=3, train__accumulate=accumulate)
        run.run(source=rows(batches=5))
        assert run.recorder.events[-1]["step"] == steps


def test_a_batch_without_labels_is_harmless(case, rows):
    class Empty(Holes):
        def epoch(self, epoch: int):
            batch_of = self.source.epoch(epoch)

            def batch(number: int) -> Batch:
                found = batch_of(number)
                if number % 2 == 0:
                    found.labels.fill_(IGNORE)
                return found

            return batch

    run = case(optimizer__learning_rate=1e-2)
    run.run(source=Empty(rows()))
    assert run.losses[1] == 0
    assert run.losses[2] > 1
    assert all(tensor.isfinite().all() for tensor in weights(run.trained).values())


def test_the_gradient_is_clipped_to_its_norm(case):
    long, short = case("long", train__clip=0.0), case("short", train__clip=1e-3)
    for run in (long, short):
        run.recipe.optimizer.l2 = 0.0
        run.run()
    norms = [event["grad_norm"] for event in long.recorder.of("step")]
    assert norms[0] == short.recorder.of("step")[0]["grad_norm"]  # the norm before clipping is told
    assert all(norm > 1e-3 for norm in norms)


def test_l2_adds_the_weight_to_the_gradient_of_matrices(case):
    """With zero gradients of the loss, plain L2 is all there is: Adam moves each weight of a matrix towards zero."""

    class Nothing:
        def loss(self, model, batch, label_smoothing):
            return 0.0 * sum(tensor.sum() for tensor in model.parameters())

        def count(self, batch):
            return 1

    run = case(
        train__steps=1, optimizer__l2=0.5, optimizer__learning_rate=1e-7, optimizer__weight_decay=0.0, train__clip=0.0
    )
    model = run.model()
    before = weights(model)
    run.run(model, objective=Nothing())
    for name, tensor in model.named_parameters():
        if tensor.ndim == 1:
            assert torch.equal(tensor, before[name]), name
        else:
            assert ((tensor - before[name]) * before[name] <= 0).all(), name
            assert not torch.equal(tensor, before[name])


def test_label_smoothing_reaches_the_objective(case):
    class Seen(NextToken):
        smoothing = None

        def loss(self, model, batch, label_smoothing):
            Seen.smoothing = label_smoothing
            return super().loss(model, batch, label_smoothing)

    case(train__label_smoothing=0.25, train__steps=1).run(objective=Seen())
    assert Seen.smoothing == 0.25


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_training_learns(case, rows, optimizer):
    class Counting(Holes):
        def epoch(self, epoch: int):
            batch_of = self.source.epoch(epoch)

            def batch(number: int) -> Batch:
                ids = batch_of(number).ids
                return Batch(ids=ids, labels=(ids + 1) % 32)

            return batch

    run = case(train__steps=40, optimizer__name=optimizer, optimizer__learning_rate=2e-2)
    run.run(source=Counting(rows()))
    assert run.losses[40] < run.losses[1] - 1


def test_the_same_seed_gives_the_same_run_and_another_one_another(case):
    found = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run = case(name)
        run.run(dropout=0.2, seed=seed)
        found.append(run.losses)
    assert found[0] == found[1] != found[2]


# --- when things happen


def test_things_happen_at_their_steps(case):
    run = case(
        train__steps=11,
        train__log_every=3,
        train__evaluate_every=4,
        train__checkpoint_every=5,
        train__sample_every=6,
        train__keep_last=9,
    )
    run.run(hooks=Hooks(evaluate=lambda: {"loss": 1.0}, sample=lambda: ["a text"]))
    assert {kind: [event["step"] for event in run.recorder.of(kind)] for kind in ("start", "step", "eval", "end")} == {
        "start": [0],
        "step": [3, 6, 9, 11],
        "eval": [4, 8, 11],
        "end": [11],
    }
    assert [event["step"] for event in run.recorder.of("sample")] == [6, 11]
    assert [event["step"] for event in run.recorder.of("checkpoint")] == [5, 10, 11]
    assert [path.name for path in list_checkpoints(run.folder)] == ["step-000005", "step-000010", "step-000011"]


def test_only_the_newest_checkpoints_are_kept(case):
    run = case(train__checkpoint_every=1, train__keep_last=3)
    run.run()
    assert [path.name for path in list_checkpoints(run.folder)] == ["step-000008", "step-000009", "step-000010"]
    assert len(list((run.folder / "checkpoints").iterdir())) == 3


def test_a_logged_loss_is_the_mean_since_the_last_line(case):
    every, third = case("every"), case("third", train__log_every=5)
    every.run()
    third.run()
    wanted = sum(every.losses[step] for step in range(1, 6)) / 5
    assert third.losses[5] == pytest.approx(wanted, rel=1e-5)


def test_the_learning_rate_follows_the_schedule(case):
    run = case(schedule__warmup=4, schedule__name="linear", optimizer__learning_rate=1.0, schedule__floor=0.5)
    run.recipe.optimizer.learning_rate = 1e-3
    run.run()
    rates = [event["learning_rate"] for event in run.recorder.of("step")]
    assert rates[:5] == pytest.approx([0.0002, 0.0004, 0.0006, 0.0008, 0.001])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] > 0.0005


def test_evaluation_is_without_dropout_and_training_with_it(case):
    seen = []
    run = case(train__steps=2, train__evaluate_every=1)
    model = run.model(0.5)

    class Modes(NextToken):
        def loss(self, model, batch, label_smoothing):
            seen.append(model.training)
            return super().loss(model, batch, label_smoothing)

    def evaluate():
        seen.append(model.training)
        return {"loss": 1.0}

    run.run(model, objective=Modes(), hooks=Hooks(evaluate=evaluate))
    assert seen == [True, False, True, False]
    assert not model.training


# --- the best model


def scores(values: list[float], name: str = "accuracy"):
    left = iter(values)
    return lambda: {name: next(left)}


def evaluated(case, values, *, patience=None, maximise=True, **settings):
    """A run evaluated after every step, and the steps whose model was kept."""
    run = case(train__evaluate_every=1, train__steps=len(values), train__patience=patience, **settings)
    kept = []
    hooks = Hooks(scores(values), "accuracy", maximise, save_best=lambda: kept.append(len(run.recorder.of("eval"))))
    return run, run.run(hooks=hooks), kept


def test_the_best_model_is_kept(case):
    run, outcome, kept = evaluated(case, [0.3, 0.5, 0.5, 0.4, 0.9, 0.1])
    assert kept == [1, 2, 5]
    assert (outcome.progress.best, outcome.progress.best_step) == (0.9, 5)
    assert [event["better"] for event in run.recorder.of("eval")] == [True, True, False, False, True, False]
    assert run.recorder.events[-1] | {"time": 0} == {
        "time": 0,
        "kind": "end",
        "step": 6,
        "reason": "finished",
        "best": 0.9,
        "best_step": 5,
    }


def test_less_may_be_better(case):
    _, outcome, kept = evaluated(case, [3.0, 2.0, 2.5, 1.0], maximise=False)
    assert kept == [1, 2, 4]
    assert outcome.progress.best == 1.0


def test_training_stops_when_patience_is_spent(case):
    run, outcome, kept = evaluated(case, [0.3, 0.5, 0.5, 0.4, 0.1, 0.9, 0.9], patience=3)
    assert kept == [1, 2]
    assert outcome.progress.step == 5
    assert outcome.reason == "early stop: 3 evaluations without a better one"
    assert list_checkpoints(run.folder)[-1].name == "step-000005"
    again = run.run(hooks=Hooks(scores([1.0]), "accuracy", True), resume=True)
    assert again.progress.step == 5  # it stays stopped
    assert again.reason == outcome.reason


def test_whoever_watches_the_evaluations_may_end_the_run(case):
    run, told = case(train__evaluate_every=2), []

    def stop(step, figures):
        told.append((step, figures))
        return "seen enough" if len(told) == 2 else None

    outcome = run.run(hooks=Hooks(scores([0.3, 0.5, 0.7]), "accuracy", True, stop=stop))
    assert told == [(2, {"accuracy": 0.3}), (4, {"accuracy": 0.5})]
    assert (outcome.progress.step, outcome.reason, outcome.progress.best) == (4, "seen enough", 0.5)
    assert run.recorder.events[-1]["reason"] == "seen enough"
    assert list_checkpoints(run.folder)[-1].name == "step-000004"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_no_number_is_never_the_best(case, value):
    run, outcome, kept = evaluated(case, [value, 0.2, value, 0.1])
    assert kept == [2]
    assert outcome.progress.best == 0.2
    assert [event["better"] for event in run.recorder.of("eval")] == [False, True, False, False]


def test_a_metric_that_is_not_measured_is_a_usage_error_with_the_names(case):
    run = case(train__evaluate_every=2)
    with pytest.raises(UsageError, match=r"no metric 'acuracy'[\s\S]*accuracy, loss[\s\S]*Did you mean 'accuracy'"):
        run.run(hooks=Hooks(lambda: {"accuracy": 1.0, "loss": 0.1}, "acuracy"))
    assert run.recorder.events[-1]["kind"] == "end"


# --- how a run ends


class Exploding(NextToken):
    """The loss becomes `value` in the given step."""

    def __init__(self, step: int, value: float):
        self.step, self.value = step, value
        self.before = None

    def loss(self, model, batch, label_smoothing):
        self.step -= 1
        if self.step == 0:
            self.before = weights(model)
        return super().loss(model, batch, label_smoothing) * (self.value if self.step == 0 else 1.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run_before_it_reaches_the_weights(case, value):
    run = case(optimizer__learning_rate=3e-3, schedule__name="constant", train__checkpoint_every=2)
    objective = Exploding(4, value)
    words = r"weights were not changed[\s\S]*step 4\n[\s\S]*3\.00e-03[\s\S]*--resume goes on from step 2"
    with pytest.raises(DivergedError, match=words):
        run.run(objective=objective)
    for name, tensor in run.trained.named_parameters():
        assert torch.equal(tensor, objective.before[name])
        assert tensor.grad is None
    end = run.recorder.events[-1]
    assert (end["kind"], end["step"]) == ("end", 3)
    assert end["reason"].startswith("failed: The loss is ")
    assert list_checkpoints(run.folder)[-1].name == "step-000002"
    run.run(resume=True)
    assert run.recorder.events[-1]["reason"] == "finished"


def test_a_gradient_that_is_no_number_stops_the_run_too(case):
    class Steep(NextToken):
        def loss(self, model, batch, label_smoothing):
            weight = model.transformer.ln_f.bias
            return super().loss(model, batch, label_smoothing) + (weight * 0).sqrt().sum()

    run = case()
    with pytest.raises(DivergedError, match=r"norm of its gradient nan[\s\S]*begin anew with --overwrite"):
        run.run(objective=Steep())


def test_a_checkpoint_that_had_diverged_is_named_when_not_a_step_can_be_taken_from_it(case):
    run = case(train__checkpoint_every=2)
    with pytest.raises(DivergedError):
        run.run(objective=Exploding(5, float("nan")))
    assert [path.name for path in list_checkpoints(run.folder)] == ["step-000002", "step-000004"]
    with pytest.raises(DivergedError, match=r"step 4 had diverged already: remove .*step-000004, .*from step 2"):
        run.run(objective=Exploding(1, float("nan")), resume=True)


def test_weights_that_are_no_numbers_never_become_a_checkpoint(case):
    class Breaking(NextToken):
        """After three steps a weight breaks that no loss looks at."""

        steps = 0

        def loss(self, model, batch, label_smoothing):
            self.steps += 1
            if self.steps == 4:
                model.transformer.wpe.weight.data[-1] = float("inf")
            return super().loss(model, batch, label_smoothing)

    run = case(train__checkpoint_every=1)
    with pytest.raises(DivergedError, match=r"wpe\.weight is not finite[\s\S]*step 4[\s\S]*from step 3") as caught:
        run.run(objective=Breaking())
    assert caught.value.exit_code == 3
    assert list_checkpoints(run.folder)[-1].name == "step-000003"


def test_the_records_of_a_bad_batch_are_named(case, rows):
    class Numbered(Holes):
        def epoch(self, epoch: int):
            batch_of = self.source.epoch(epoch)

            def batch(number: int) -> Batch:
                found = batch_of(number)
                found.indices = [10 * number + row for row in range(self.rows)]
                return found

            return batch

    with pytest.raises(DivergedError, match=r"step 2, records a\.csv:10, a\.csv:11, a\.csv:12, a\.csv:13"):
        case().run(
            source=Numbered(rows()), objective=Exploding(2, float("nan")), hooks=Hooks(place=lambda i: f"a.csv:{i}")
        )


def test_any_failure_ends_the_log_with_its_reason(case):
    def evaluate():
        raise RuntimeError("the evaluation broke\nin two lines")

    run = case(train__evaluate_every=2)
    with pytest.raises(RuntimeError):
        run.run(hooks=Hooks(evaluate))
    assert run.recorder.events[-1]["reason"] == "failed: the evaluation broke"
    assert not run.trained.training


def test_a_failing_source_is_an_error_and_not_a_hang(case, rows):
    class Broken(Holes):
        def epoch(self, epoch: int):
            def batch(number: int) -> Batch:
                raise GptwoError("The shard is gone.")

            return batch

    with pytest.raises(GptwoError, match="shard is gone"):
        case().run(source=Broken(rows()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_a_checkpoint_and_gives_the_handler_back(case, number):
    class Signalled(NextToken):
        def count(self, batch):
            os.kill(os.getpid(), number)
            return super().count(batch)

    run = case(train__checkpoint_every=5)
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=r"step 1; a checkpoint was saved[\s\S]*--resume") as raised:
        run.run(objective=Signalled())
    assert raised.value.exit_code == 130
    assert signal.getsignal(number) is before
    assert [path.name for path in list_checkpoints(run.folder)] == ["step-000001"]
    assert run.recorder.events[-1]["reason"] == "interrupted"


def test_a_second_signal_stops_at_once(case):
    class Impatient(NextToken):
        def count(self, batch):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            return super().count(batch)

    run = case()
    with pytest.raises(KeyboardInterrupt):
        run.run(objective=Impatient())
    assert run.recorder.events[-1]["reason"] == "interrupted"
    assert list_checkpoints(run.folder) == []


def test_outside_the_main_thread_training_runs_without_handlers(case):
    import threading

    run, found = case(train__steps=2), []
    thread = threading.Thread(target=lambda: found.append(run.run()))
    thread.start()
    thread.join()
    assert found[0].progress.step == 2


def test_the_start_event_says_what_is_going_to_happen(case):
    run = case()
    model = run.model()
    model.transformer.wte.weight.requires_grad_(False)
    run.run(model)
    start = run.recorder.events[0]
    count = sum(tensor.numel() for tensor in model.parameters())
    assert start["total"] == 10
    assert (start["device"], start["precision"], start["precision_why"]) == ("cpu", "fp32", "asked for")
    assert (start["parameters"], start["tuned"]) == (count, count - 32 * 8)
    step = run.recorder.of("step")[-1]
    assert step["tokens"] == 10 * 4 * 12
    assert step["tokens_per_second"] > 0
    assert step["share_of_ceiling"] > 0
    assert step["peak_memory_bytes"] > 1e6
    assert step["epoch"] == 2.0


def test_compiling_without_a_compiler_is_told_at_once(case, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    run = case(train__compile=True)
    with pytest.raises(MissingError, match=r"needs a C\+\+ compiler[\s\S]*leave train\.compile out"):
        run.run()
    assert run.losses == {}


@pytest.mark.slow
def test_compiled_equals_plain(case):
    plain, compiled = case("plain", train__steps=3), case("compiled", train__steps=3, train__compile=True)
    plain.run()
    compiled.run()
    assert compiled.losses == pytest.approx(plain.losses, rel=1e-4)
