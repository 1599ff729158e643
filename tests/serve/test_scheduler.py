"""A text is the same alone, in any company, read in pieces or at once; and nothing is left behind."""

from __future__ import annotations

import threading
import time

import pytest

from gptwo.errors import UsageError
from gptwo.generate.codec import Codec
from gptwo.generate.options import SamplingOptions
from gptwo.serve.jobs import Broken, Job, Refused, Stopped, TooLate
from gptwo.serve.lane import Lane
from gptwo.serve.prepare import texts_of
from gptwo.serve.scheduler import Scheduler
from gptwo.serve.torch_steps import TorchSteps
from tests.serve.conftest import PROMPTS, built, native_steps

GREEDY = {"temperature": 0.0}
SAMPLED = {"temperature": 1.3, "seed": 7}
WAYS = {
    "greedy": GREEDY,
    "sampled": SAMPLED,
    "filtered": {**SAMPLED, "top_k": 20, "top_p": 0.9, "min_p": 0.01},
    "penalised": {**SAMPLED, "repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.2},
    "looking back": {**GREEDY, "no_repeat_ngram": 2, "min_new_tokens": 5, "logit_bias": {70: 5.0}},
    "stopping": {**SAMPLED, "stop": ("e", "啼鸟")},
}


class Speaker:
    """What `texts_of` needs of a served model."""

    way = None

    def __init__(self, pretrained, kind="torch", **settings):
        self.codec = Codec(pretrained.tokenizer, pretrained.config.vocab_size)
        if kind == "torch":
            self.backend = TorchSteps(pretrained.model, self.codec.vocab_size, self.codec.end_id)
        else:
            self.backend = native_steps(pretrained, **settings)

    def prompt(self, text, limit=12, count=1, judge=None, constraint=None, **options):
        chosen = SamplingOptions(**options)
        ids = self.codec.context(text)
        return texts_of(self, ids, limit, chosen, count=count, judge=judge, constraint=constraint)


class Waiting(Job):
    """A job that can be waited for."""

    def __init__(self, *prompts, **fields):
        self.ended, self.error, self.pieces = threading.Event(), None, {}
        super().__init__("tiny", list(prompts), on_piece=self.take, on_end=self.end, **fields)

    def take(self, row, text):
        self.pieces.setdefault(row, []).append(text)

    def end(self, error):
        self.error = error
        self.ended.set()

    def result(self):
        assert self.ended.wait(30)
        if self.error is not None:
            raise self.error
        return [row.text.transcript.text for prompt in self.prompts for row in prompt.rows]


@pytest.fixture(params=["torch", pytest.param("native", marks=built)])
def speaker(tiny, request):
    return Speaker(tiny, request.param)


@pytest.fixture
def start(speaker):
    """Starts a scheduler over the tiny model; stops it, and looks whether anything is left."""
    made = []

    def run(*, speaker=speaker, max_batch=16, chunk=64, cache_tokens=None, begin=True, **settings):
        scheduler = Scheduler(strict=True, **settings)
        scheduler.add("tiny", Lane(speaker.backend, max_batch=max_batch, chunk=chunk, cache_tokens=cache_tokens))
        made.append(scheduler)
        if begin:
            scheduler.start()
        return scheduler

    yield run
    for scheduler in made:
        if scheduler.alive:
            assert scheduler.drain(30)
            scheduler.stop()
        assert scheduler.failure is None
        assert all(lane.backend.left_over() is None for lane in scheduler.lanes.values())
        assert not any(lane.jobs for lane in scheduler.lanes.values())


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_texts_are_those_of_the_engine_alone_and_together(way, engine, speaker, start):
    wanted = [one.text for one in engine.generate(PROMPTS, max_new_tokens=12, **way)]
    scheduler = start()
    jobs = [Waiting(speaker.prompt(text, **way)) for text in PROMPTS]
    for job in jobs:
        scheduler.submit(job)
    assert [job.result()[0] for job in jobs] == wanted
    alone = []
    for text in PROMPTS:
        job = Waiting(speaker.prompt(text, **way))
        scheduler.submit(job)
        alone += job.result()
    assert alone == wanted


@pytest.mark.parametrize("chunk", [1, 2, 5, 64])
def test_a_prompt_read_in_pieces_gives_the_same_text(chunk, engine, speaker, start):
    texts = [one * 3 for one in PROMPTS if one]
    wanted = [one.text for one in engine.generate(texts, max_new_tokens=9, **GREEDY)]
    scheduler = start(chunk=chunk)
    jobs = [Waiting(speaker.prompt(text, limit=9, **GREEDY)) for text in texts]
    for job in jobs:
        scheduler.submit(job)
    assert [job.result()[0] for job in jobs] == wanted


@pytest.mark.parametrize("max_batch", [1, 2, 3])
def test_texts_come_and_go_at_different_times(max_batch, engine, speaker, start):
    limits = [3, 30, 7, 1, 18, 2, 25]
    wanted = [
        engine.generate([text], max_new_tokens=limit, **SAMPLED)[0].text
        for text, limit in zip(PROMPTS, limits, strict=True)
    ]
    scheduler = start(max_batch=max_batch, chunk=4)
    jobs = [Waiting(speaker.prompt(text, limit, **SAMPLED)) for text, limit in zip(PROMPTS, limits, strict=True)]
    for job in jobs:
        scheduler.submit(job)
    assert [job.result()[0] for job in jobs] == wanted


def test_several_texts_of_a_prompt_are_those_of_the_engine_and_all_differ(engine, speaker, start):
    wanted = [one.text for one in engine.generate(["the quick"], max_new_tokens=10, n=5, **SAMPLED)]
    scheduler = start()
    job = Waiting(speaker.prompt("the quick", 10, count=5, **SAMPLED))
    scheduler.submit(job)
    assert job.result() == wanted
    assert len(set(wanted)) == 5


def test_pieces_joined_are_the_text_and_hold_whole_characters_only(speaker, start):
    scheduler = start()
    jobs = [Waiting(speaker.prompt(text, 20, **SAMPLED)) for text in PROMPTS]
    for job in jobs:
        scheduler.submit(job)
    for job in jobs:
        (text,) = job.result()
        assert ["".join(pieces) for pieces in job.pieces.values()] == [text]


def test_log_probabilities_are_those_of_the_engine_and_of_the_prompt_too(engine, speaker, start):
    scheduler = start(chunk=3)
    (wanted,) = engine.generate(["the quick brown"], max_new_tokens=6, logprobs=True, **GREEDY)
    prompt = speaker.prompt("the quick brown", 6, judge=2, logprobs=True, **GREEDY)
    prompt.rows[0].top = 3
    job = Waiting(prompt)
    scheduler.submit(job)
    job.result()
    scored = prompt.rows[0].scored
    assert [one.token for one in scored] == wanted.ids
    assert [one.logprob for one in scored] == pytest.approx(wanted.logprobs, abs=1e-4)
    assert all(one.top[0][0] == one.token and len(one.top) == 3 for one in scored)
    assert [one.token for one in prompt.judged] == prompt.ids
    assert prompt.judged[0].logprob is None
    (whole, _), *_ = engine.backend.score([prompt.ids], [1])
    assert [one.logprob for one in prompt.judged[1:]] == pytest.approx(whole, abs=1e-4)


def test_a_prompt_may_be_read_only(speaker, start):
    scheduler = start()
    prompt = speaker.prompt("the quick brown", 0, judge=0, logprobs=True, **GREEDY)
    job = Waiting(prompt)
    scheduler.submit(job)
    assert job.result() == [""]
    assert len(prompt.judged) == len(prompt.ids)


def test_a_cancelled_text_leaves_at_once_and_the_others_stay_as_they_are(engine, speaker, start):
    scheduler = start(begin=False)
    victim = Waiting(speaker.prompt("the quick", 60, ignore_end=True, **GREEDY))
    others = [Waiting(speaker.prompt(text, 30, **SAMPLED)) for text in PROMPTS[:3]]
    seen = []

    def take(row, text):
        if len(row.text.ids) == 5:
            scheduler.cancel(victim)
        seen.append(len(row.text.ids))

    victim.on_piece = take
    scheduler.start()
    for job in [others[0], victim, *others[1:]]:
        scheduler.submit(job)
    with pytest.raises(Stopped):
        victim.result()
    assert max(seen) == 5
    wanted = [engine.generate([text], max_new_tokens=30, **SAMPLED)[0].text for text in PROMPTS[:3]]
    assert [job.result()[0] for job in others] == wanted


def test_a_job_whose_time_is_up_ends_and_frees_its_cache(speaker, start):
    scheduler = start()
    late = Waiting(speaker.prompt("the quick", 60, ignore_end=True, **GREEDY), deadline=time.monotonic())
    scheduler.submit(late)
    with pytest.raises(TooLate):
        late.result()


def test_a_full_queue_refuses_and_a_draining_server_takes_nothing(speaker, start):
    scheduler = start(begin=False, max_queue=2)
    with pytest.raises(Refused, match="shutting down"):
        scheduler.submit(Waiting(speaker.prompt("x", **GREEDY)))
    scheduler.start()
    gate = threading.Event()
    started = threading.Event()

    def hold(records):
        started.set()
        assert gate.wait(30)
        return records

    scheduler.submit(Waiting(call=hold, records=[1]))
    assert started.wait(30)
    second = Waiting(speaker.prompt("x", **GREEDY))
    scheduler.submit(second)
    with pytest.raises(Refused, match="full") as refused:
        scheduler.submit(Waiting(speaker.prompt("x", **GREEDY)))
    assert refused.value.full
    gate.set()
    second.result()


def test_what_could_never_fit_into_the_cache_is_refused(tiny, start):
    speaker = Speaker(tiny)
    scheduler = start(speaker=speaker, cache_tokens=100, max_batch=4)
    with pytest.raises(UsageError, match="do not fit"):
        scheduler.submit(Waiting(speaker.prompt("the quick", 80, **GREEDY)))
    with pytest.raises(UsageError, match="do not fit"):
        scheduler.submit(Waiting(speaker.prompt("x", 2, count=5, **SAMPLED)))


def test_the_cache_stays_within_its_budget_and_all_are_served(engine, tiny, start):
    budget, speaker = 4 * 60, Speaker(tiny)
    scheduler = start(speaker=speaker, cache_tokens=budget, max_batch=16, chunk=8)
    most = []
    jobs = [Waiting(speaker.prompt(text, 10, **SAMPLED)) for text in PROMPTS * 3]
    for job in jobs:
        job.on_piece = lambda row, text: most.append((scheduler.cache_tokens, scheduler.running))
        scheduler.submit(job)
    wanted = [engine.generate([text], max_new_tokens=10, **SAMPLED)[0].text for text in PROMPTS * 3]
    assert [job.result()[0] for job in jobs] == wanted
    assert max(held for held, _ in most) <= budget
    assert 1 < max(running for _, running in most) < 16


def test_a_step_that_fails_ends_its_jobs_and_the_next_ones_are_served(engine, speaker, start, monkeypatch):
    scheduler = start()
    step, faults = speaker.backend.step, [RuntimeError("out of memory")]

    def failing(*given):
        found = step(*given)
        if faults:
            raise faults.pop()
        return found

    monkeypatch.setattr(speaker.backend, "step", failing)
    job = Waiting(speaker.prompt("the quick", **GREEDY))
    scheduler.submit(job)
    with pytest.raises(Broken, match="RuntimeError"):
        job.result()
    job = Waiting(speaker.prompt("the quick", **GREEDY))
    scheduler.submit(job)
    assert job.result()[0] == engine.generate(["the quick"], max_new_tokens=12, **GREEDY)[0].text


def test_calls_are_done_together_and_one_that_fails_fails_alone(start):
    scheduler = start(begin=False, call_records=4)
    sizes = []

    def double(records):
        sizes.append(len(records))
        if -1 in records:
            raise UsageError("a bad record")
        return [2 * record for record in records]

    jobs = [Waiting(call=double, records=records) for records in ([1, 2], [3], [-1], [5, 6, 7, 8, 9])]
    scheduler.start()
    scheduler.between_steps(lambda: [scheduler.submit(job) for job in jobs])
    for job in jobs:
        assert job.ended.wait(30)
    assert [job.results for job in jobs] == [[2, 4], [6], [], [10, 12, 14, 16, 18]]
    assert isinstance(jobs[2].error, UsageError)
    assert max(sizes) == 4


def test_unloading_a_model_ends_its_jobs(speaker, start):
    scheduler = start()
    job = Waiting(speaker.prompt("the quick", 60, ignore_end=True, **GREEDY))
    seen = threading.Event()
    job.on_piece = lambda row, text: seen.set()
    scheduler.submit(job)
    assert seen.wait(30)
    scheduler.remove("tiny")
    assert job.ended.wait(30)
    assert speaker.backend.left_over() is None


def test_the_accounts_are_checked_when_idle(speaker):
    """A text that is never released is found."""
    scheduler = Scheduler(strict=True)
    scheduler.add("tiny", Lane(speaker.backend, max_batch=4, chunk=8, cache_tokens=None))
    kept, speaker.backend.release = speaker.backend.release, lambda row: None
    scheduler.start()
    job = Waiting(speaker.prompt("the quick", **GREEDY))
    scheduler.submit(job)
    job.result()
    scheduler._thread.join(30)
    assert "held" in str(scheduler.failure)
    speaker.backend.release = kept
    for row in job.prompts[0].rows:
        kept(row)
    assert speaker.backend.left_over() is None


# --- calls that take long


def test_a_call_apart_keeps_nobody_waiting_and_ends_when_it_is_cancelled_or_late(speaker, start):
    scheduler = start()
    gate, begun = threading.Event(), threading.Event()

    def slow(records):
        begun.set()
        assert gate.wait(30)
        return [2 * record for record in records]

    first = Waiting(call=slow, records=[1, 2], apart=True)
    gone = Waiting(call=slow, records=[3], apart=True)
    late = Waiting(call=slow, records=[4], apart=True, deadline=time.monotonic() + 0.05)
    for job in (first, gone, late):
        scheduler.submit(job)
    assert begun.wait(30)
    job = Waiting(speaker.prompt("the quick", **GREEDY))
    scheduler.submit(job)
    assert len(job.result()) == 1
    scheduler.cancel(gone)
    for job, error in ((gone, Stopped), (late, TooLate)):
        assert job.ended.wait(30)
        assert isinstance(job.error, error)
    gate.set()
    first.result()
    assert (first.results, gone.results, late.results) == ([2, 4], [], [])


def test_each_record_of_a_call_apart_is_done_once_while_texts_are_written(speaker, start):
    scheduler = start()
    done = []

    def double(records):
        done.extend(records)
        return [2 * record for record in records]

    call = Waiting(call=double, records=list(range(40)), apart=True)
    texts = [Waiting(speaker.prompt(text, 60, ignore_end=True, **GREEDY)) for text in PROMPTS]
    for job in [*texts, call]:
        scheduler.submit(job)
    assert call.ended.wait(30)
    assert call.results == [2 * record for record in call.records]
    assert done == call.records
    for text in texts:
        text.result()


def test_a_call_apart_that_fails_ends_alone_and_calls_take_turns(start):
    scheduler = start(begin=False)
    order = []

    def note(records):
        order.append(records[0])
        if records[0] == "bad":
            raise UsageError("a bad record")
        return records

    jobs = [Waiting(call=note, records=records, apart=True) for records in (["a", "b"], ["bad", "x"], ["c"])]
    scheduler.start()
    scheduler.between_steps(lambda: [scheduler.submit(job) for job in jobs])
    for job in jobs:
        assert job.ended.wait(30)
    assert [job.results for job in jobs] == [["a", "b"], [], ["c"]]
    assert isinstance(jobs[1].error, UsageError)
    assert order == ["a", "bad", "c", "b"]
