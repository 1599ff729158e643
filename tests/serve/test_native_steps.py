"""The native backend: a text is the same alone, in any batch, with shared pages or not, and after it was put off."""

from __future__ import annotations

import re
import threading

import pytest

from gptwo.errors import GptwoError
from gptwo.serve.jobs import Stopped
from gptwo.serve.lane import Lane
from gptwo.serve.scheduler import Scheduler
from gptwo.serve.watch import Watch
from tests.serve.conftest import PROMPTS, built, made
from tests.serve.test_scheduler import GREEDY, SAMPLED, WAYS, Speaker, Waiting

pytestmark = built

BEGINNING = "the quick brown fox jumps over the lazy dog. Once upon a time there was 🙂. 春眠不觉晓，处处闻啼鸟。"
ALIKE = [BEGINNING, f"{BEGINNING} the", f"{BEGINNING} dog", BEGINNING, "春眠"]
LIMIT = 80  # several pages: a text outgrows what it began with


class Counting(Watch):
    """How often texts were put off, and how many tokens were taken over."""

    def __init__(self):
        self.put_off = self.shared = self.read = self.steps = 0

    def stepped(self, seconds, step):
        self.put_off += step.put_off
        self.shared += step.shared
        self.read += step.read
        self.steps += 1


@pytest.fixture(scope="module")
def tiny(tokenizer):
    """As in the other tests, with a longer context."""
    return made(tokenizer, n_positions=192)


@pytest.fixture
def run():
    """Runs jobs over a backend of its own, and looks whether anything is left."""

    def served(speaker, jobs, *, max_batch=16, chunk=64, together=True):
        backend, watch = speaker.backend, Counting()
        scheduler = Scheduler(strict=True, watch=watch)
        lane = Lane(backend, max_batch=max_batch, chunk=chunk, cache_tokens=backend.cache_tokens)
        scheduler.add("tiny", lane)
        scheduler.start()
        if together:
            scheduler.between_steps(lambda: [scheduler.submit(job) for job in jobs])
        for job in jobs:
            if not together:
                scheduler.submit(job)
            job.result()
        assert scheduler.drain(30)
        scheduler.stop()
        assert scheduler.failure is None
        assert backend.left_over() is None
        return watch

    return served


def texts(jobs):
    return [[row.text.ids for prompt in job.prompts for row in prompt.rows] for job in jobs]


def prompts(speaker, way, **changes):
    limit = {"limit": LIMIT, "ignore_end": True, **way, **changes}
    return [Waiting(speaker.prompt(text, **limit)) for text in [*ALIKE, *PROMPTS]]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_text_is_the_same_alone_together_unshared_and_after_it_was_put_off(tiny, run, way, precision):
    speaker = Speaker(tiny, "native", precision=precision)
    alone = prompts(speaker, way)
    run(speaker, alone, together=False)
    wanted = texts(alone)
    streamed = ["".join(piece for pieces in job.pieces.values() for piece in pieces) for job in alone]
    assert streamed == [text for job in alone for text in job.result()]

    fresh = Speaker(tiny, "native", precision=precision)
    together = prompts(fresh, way)
    assert run(fresh, together, chunk=7).shared > 0
    assert texts(together) == wanted

    apart = Speaker(tiny, "native", precision=precision, share=False)
    unshared = prompts(apart, way)
    assert run(apart, unshared, max_batch=5).shared == 0
    assert texts(unshared) == wanted

    for pages in (5, 9):
        narrow = Speaker(tiny, "native", precision=precision, pages=pages, share=pages == 9)
        squeezed = prompts(narrow, way)
        assert run(narrow, squeezed, chunk=33).put_off > 0 or "stop" in way
        assert texts(squeezed) == wanted


@pytest.mark.parametrize("pages", [None, 6])
def test_several_texts_of_a_prompt_part_where_they_differ(tiny, run, pages):
    whole, narrow = Speaker(tiny, "native"), Speaker(tiny, "native", pages=pages)
    found = []
    for speaker in (whole, narrow):
        jobs = [Waiting(speaker.prompt(text, LIMIT, count=4, **SAMPLED)) for text in (BEGINNING, "the", BEGINNING)]
        watch = run(speaker, jobs)
        found.append(texts(jobs))
    assert found[0] == found[1]
    assert len({tuple(ids) for ids in found[0][0]}) == 4
    assert (watch.put_off > 0) == (pages is not None)


@pytest.mark.parametrize("pages", [None, 6])
@pytest.mark.parametrize("judge", [0, 2])
def test_a_prompt_is_judged_once_also_when_it_was_put_off(tiny, run, pages, judge):
    found = []
    for speaker in (Speaker(tiny, "native"), Speaker(tiny, "native", pages=pages)):
        judged = speaker.prompt(BEGINNING, 6, judge=judge, logprobs=True, **GREEDY)
        only = speaker.prompt(BEGINNING, 0, judge=judge, logprobs=True, **GREEDY)
        for prompt in (judged, only):
            for row in prompt.rows:
                row.top = judge
        others = [Waiting(speaker.prompt(text, LIMIT, ignore_end=True, **SAMPLED)) for text in PROMPTS]
        jobs = [*others[:3], Waiting(judged), Waiting(only), *others[3:]]
        run(speaker, jobs, chunk=5)
        assert [one.token for one in judged.judged] == judged.ids
        assert judged.judged == only.judged
        assert all(len(one.top) == judge for one in judged.judged[1:])
        found.append((judged.judged, [row.scored for row in judged.rows], texts(jobs)))
    assert found[0] == found[1]


def test_a_form_is_kept_after_a_text_was_put_off(tiny, run):
    from gptwo.generate.constrain import Constrainer

    form = Constrainer(tiny.tokenizer).regex("(the|fox|春){60}")
    found = []
    for pages in (None, 4):
        speaker = Speaker(tiny, "native", pages=pages)
        jobs = [
            Waiting(speaker.prompt(text, LIMIT, constraint=None if place % 2 else form.copy, **SAMPLED))
            for place, text in enumerate(PROMPTS * 2)
        ]
        watch = run(speaker, jobs)
        found.append(texts(jobs))
        for job in jobs[::2]:
            assert re.fullmatch("(the|fox|春)*(t|th|f|fo|�+)?", job.result()[0])
    assert watch.put_off > 0
    assert found[0] == found[1]


def test_a_beginning_is_read_once_by_all_that_come_together(tiny, run):
    speaker = Speaker(tiny, "native")
    jobs = [Waiting(speaker.prompt(f"{BEGINNING} {tail}", 3, **GREEDY)) for tail in ("the", "fox", "dog", "quick")]
    watch = run(speaker, jobs, chunk=512)
    length = len(jobs[0].prompts[0].ids)
    assert length > 64
    assert watch.shared == 3 * 64
    assert watch.read < 2 * length


def test_a_text_that_repeats_itself_needs_fewer_steps(tiny, run):
    speaker = Speaker(tiny, "native")
    repeating = {"limit": 40, "logit_bias": {70: 100.0}, "ignore_end": True, **GREEDY}
    assert run(speaker, [Waiting(speaker.prompt("the", **repeating))]).steps < 25
    many = [Waiting(speaker.prompt("the", **repeating)) for _ in range(3)]
    assert run(speaker, many).steps >= 40


def test_pages_are_free_before_the_next_step_when_a_client_goes(tiny):
    speaker = Speaker(tiny, "native")
    backend, seen = speaker.backend, []
    scheduler = Scheduler(strict=True)
    scheduler.add("tiny", Lane(backend, max_batch=8, chunk=4, cache_tokens=None))
    victims = [
        Waiting(speaker.prompt(BEGINNING, 9, count=3, ignore_end=True, **SAMPLED)),
        Waiting(speaker.prompt("the", 60, ignore_end=True, **GREEDY)),
    ]
    keeper = Waiting(speaker.prompt("the quick", 50, ignore_end=True, **GREEDY))
    step, gone = backend.step, threading.Event()

    def watched(reading, budget):
        if gone.is_set():
            seen.append(set(backend._places))
        found = step(reading, budget)
        if len(keeper.prompts[0].rows[0].text.ids) == 5 and not gone.is_set():
            for job in victims:
                scheduler.cancel(job)
            gone.set()
        return found

    backend.step = watched
    scheduler.start()
    scheduler.between_steps(lambda: [scheduler.submit(job) for job in [*victims, keeper]])
    assert len(keeper.result()[0])
    for job in victims:
        with pytest.raises(Stopped):
            job.result()
    assert seen[0] == set(keeper.prompts[0].rows)
    assert scheduler.drain(30)
    scheduler.stop()
    assert scheduler.failure is None
    assert backend.left_over() is None


@pytest.mark.parametrize("what", ["vectors", "likelihoods"])
def test_vectors_and_likelihoods_are_had_while_texts_are_written_with_few_pages(tiny, what):
    """One record takes all the pages there are: texts that are written give way, and go on."""
    whole, narrow = Speaker(tiny, "native"), Speaker(tiny, "native", pages=6)
    rows = [*(whole.codec.context(text) for text in ALIKE), [7] * (6 * 32)]

    def calling(speaker):
        if what == "vectors":
            return lambda rows: [vector.tolist() for vector in speaker.backend.hidden(rows)]
        return lambda rows: speaker.backend.engine.judge(rows, [1] * len(rows))

    wanted = calling(whole)(rows)
    scheduler = Scheduler(strict=True)
    scheduler.add("tiny", Lane(narrow.backend, max_batch=8, chunk=64, cache_tokens=narrow.backend.cache_tokens))
    texts_ = [Waiting(narrow.prompt(text, LIMIT, ignore_end=True, **GREEDY)) for text in PROMPTS]
    calls = [Waiting(call=calling(narrow), records=part) for part in ([rows[-1]], rows)]
    scheduler.start()
    scheduler.between_steps(lambda: [scheduler.submit(job) for job in [*texts_[:4], *calls, *texts_[4:]]])
    for job in [*texts_, *calls]:
        assert job.ended.wait(30)
        assert job.error is None
    assert [call.results for call in calls] == [wanted[-1:], wanted]
    assert scheduler.drain(30)
    scheduler.stop()
    assert scheduler.failure is None


def test_a_cache_too_small_for_one_record_is_an_error(tiny):
    narrow = Speaker(tiny, "native", pages=1)
    with pytest.raises(GptwoError, match="too small"):
        narrow.backend.hidden([list(range(40))])
    assert narrow.backend.left_over() is None


def test_other_python_threads_run_during_a_step(tokenizer):
    """The interpreter's lock is free while the engine computes: the event loop answers."""
    speaker = Speaker(made(tokenizer, n_embd=512, n_layer=4, n_head=8, n_positions=512), "native")
    ids, turns, over = list(range(2, 258)), 0, threading.Event()

    def count():
        nonlocal turns
        while not over.is_set():
            turns += 1

    number = speaker.backend.native.open(ids, len(ids), 0, speaker.backend._sampling(speaker.prompt("x").rows[0]))
    other = threading.Thread(target=count)
    before = turns
    other.start()
    speaker.backend.native.step([(number, len(ids), [])])
    after = turns
    over.set()
    other.join()
    speaker.backend.native.close(number)
    assert after > before
