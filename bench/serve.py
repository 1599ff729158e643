"""A load test over loopback: `gptwo serve` beside llama.cpp's servers, with the same model and the same requests.

    python bench/serve.py                                   # GPT-2 124M with random weights, gptwo in int8
    python bench/serve.py --peer-python peers/bin/python    # and llama-cpp-python's server, which is installed there
    python bench/serve.py --systems gptwo-int8 --rates 2 --seconds 10 --model gptwo-mini

Arrivals are open-loop: when a request is sent is drawn beforehand (a Poisson process), and nobody waits for an answer
before sending the next, so that a server that falls behind is seen to fall behind. Times count from the moment a
request was due. Prompts and texts are of mixed lengths, the same for all systems. Each system is started anew for each
rate, on the same cores; the systems take turns.

What is sent and what came back is looked into after the last answer; while it runs, the client only notes lines and
times. How late it was itself is printed too: where that is much, the client and not the server was measured.

Systems
    gptwo-fp32, -bf16, -int8, -int4     `gptwo serve`
    llama-cpp-python-q8_0, -bf16        `python -m llama_cpp.server` of --peer-python
    llama.cpp-q8_0, -bf16               llama.cpp's own server, with as many slots as gptwo has places (xllamacpp)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from common import machine, print_table

OURS = ("gptwo-fp32", "gptwo-bf16", "gptwo-int8", "gptwo-int4")
PEERS = ("llama-cpp-python-q8_0", "llama-cpp-python-bf16", "llama.cpp-q8_0", "llama.cpp-bf16")
CONTEXT = 1024
PATIENCE = 120.0  # seconds to wait for a server, and for answers after the last request was sent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", choices=[*OURS, *PEERS], help="default: gptwo-int8 and q8_0 peers")
    parser.add_argument("--rates", nargs="+", type=float, default=[1, 2, 4, 8], help="requests a second")
    parser.add_argument("--seconds", type=float, default=60, help="for which requests are sent")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--prompt", nargs=2, type=int, default=[16, 512], help="tokens of prompts, from and to")
    parser.add_argument("--new", nargs=2, type=int, default=[16, 192], help="new tokens, from and to")
    parser.add_argument("--together", type=int, default=16, help="texts that a server writes at a time")
    parser.add_argument("--limit", type=float, default=2.0, help="seconds to the first token that 95 %% may take")
    parser.add_argument("--threads", type=int, help="default: the CPUs of this process")
    parser.add_argument("--model", help="a model folder or name; default: GPT-2 124M with random weights")
    parser.add_argument("--peer-python", help="the Python where llama-cpp-python[server] is installed")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--host-llama", nargs=2, metavar=("FILE", "PORT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    from gptwo.runtime import available_cpus

    options.threads = options.threads or available_cpus()
    if options.host_llama:
        host_llama(options)
        return
    if options.systems is None:
        options.systems = ["gptwo-int8", "llama.cpp-q8_0"]
        options.systems += ["llama-cpp-python-q8_0"] if options.peer_python else []
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        folder = random_model(place / "gpt2-random") if options.model is None else options.model
        found = run(options, str(folder), place)
    show(found, options)
    if options.json:
        options.json.write_text(json.dumps([one.summary() for one in found], indent=1))


# --- what is sent


@dataclass
class Request:
    """One request and what became of it.

    Args:
        due: seconds after the start.
        sent: when it was sent.
        lines: what came back, each line with its time.
    """

    due: float
    prompt: str
    new: int
    sent: float = 0.0
    lines: list[tuple[float, bytes]] = field(default_factory=list)
    error: str | None = None


def workload(
    folder: str, rate: float, seconds: float, prompt: Sequence[int], new: Sequence[int], seed: int
) -> list[Request]:
    """Requests of a Poisson process; lengths in tokens are drawn evenly on a logarithmic scale."""
    from gptwo import hub
    from gptwo.tokenizer import load_tokenizer

    draw, tokenizer = random.Random(seed), load_tokenizer(hub.resolve(folder))
    tokens = {word: len(tokenizer.encode(word)) for word in (f" {word}" for word in WORDS.split())}

    def length(bounds: Sequence[int]) -> int:
        return round(math.exp(draw.uniform(math.log(bounds[0]), math.log(bounds[1]))))

    requests, at = [], 0.0
    while (at := at + draw.expovariate(rate)) < seconds or not requests:
        text, room = "", length(prompt)
        while room > 0:
            word = draw.choice(list(tokens))
            text, room = text + word, room - tokens[word]
        requests.append(Request(at, text.strip(), length(new)))
    return requests


WORDS = (
    "the of and to in is that for it was as with on be at by this had not are but from or have an they which one you "
    "were all her she there would their we him been has when who will no more if out so up said what its about than "
    "into them can only other time new some could these two may first then do any like my now over such our man me "
    "even most made after also well many before must through back years where much your way down should because long"
)


SAMPLING = {"temperature": 0.8, "top_k": 40}  # greedy texts of random weights repeat themselves: guessing would be easy


# --- the client: sends, notes, and looks into nothing


async def send_all(port: int, requests: Sequence[Request], model: str) -> None:
    """Send each request when it is due, whatever became of the others."""
    start = time.perf_counter() + 0.2

    async def one(request: Request) -> None:
        await asyncio.sleep(start + request.due - time.perf_counter())
        request.sent = time.perf_counter() - start
        try:
            async with asyncio.timeout(PATIENCE + request.due):
                await ask(port, request, model, start)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            request.error = type(error).__name__

    await asyncio.gather(*(one(request) for request in requests))


async def ask(port: int, request: Request, model: str, start: float) -> None:
    """A streamed completion over a connection of its own."""
    asked = {"model": model, "prompt": request.prompt, "max_tokens": request.new, "stream": True}
    body = json.dumps({**asked, **SAMPLING, "seed": request.new}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head.encode() + body)
        while line := await reader.readline():
            if line.startswith((b"data: ", b"HTTP/")):
                request.lines.append((time.perf_counter() - start, line))
    finally:
        writer.close()


# --- what came of it


@dataclass
class Outcome:
    """One system at one rate.

    Args:
        peak: resident memory of the server in bytes, at most.
    """

    system: str
    rate: float
    requests: list[Request]
    peak: int

    def summary(self) -> dict[str, float | str]:
        first, between, tokens, ends, failed = [], [], 0, [0.0], 0
        for request in self.requests:
            pieces, reason = told(request)
            if not pieces or reason is None:
                failed += 1
                continue
            first.append(pieces[0] - request.due)
            between += [after - before for before, after in pairwise(pieces)]
            tokens += request.new if reason == "length" else len(pieces)
            ends.append(pieces[-1])
        asked = sum(request.new for request in self.requests)
        late = [request.sent - request.due for request in self.requests]
        return {
            "system": self.system, "rate": self.rate, "requests": len(self.requests), "failed": failed,
            "asked tokens": asked, "tokens": tokens, "tokens/s": tokens / max(1e-9, max(ends) - self.requests[0].due),
            **{f"first p{p}": percentile(first, p) for p in (50, 95, 99)},
            **{f"between p{p}": percentile(between, p) for p in (50, 95, 99)},
            "client late p99": percentile(late, 99), "peak": self.peak,
        }  # fmt: skip


def told(request: Request) -> tuple[list[float], str | None]:
    """When each piece of text came, and why the text ended; None where it did not."""
    pieces, reason = [], None
    if request.error or not request.lines or b" 200 " not in request.lines[0][1]:
        return [], None
    for at, line in request.lines[1:]:
        content = line[6:].strip()
        if content == b"[DONE]":
            continue
        choices = json.loads(content).get("choices") or []
        for choice in choices:
            if choice.get("text") or choice.get("finish_reason"):
                pieces.append(at)
            reason = choice.get("finish_reason") or reason
    return pieces, reason


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that so many percent do not exceed; not a number where there are none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(len(ordered) * percent / 100) - 1)]


# --- servers


def run(options: argparse.Namespace, folder: str, place: Path) -> list[Outcome]:
    """All systems at all rates in turn."""
    found, left_out = [], set()
    for number in range(options.rounds):
        for rate in options.rates:
            for system in options.systems:
                if system in left_out:
                    continue
                requests = workload(folder, rate, options.seconds, options.prompt, options.new, seed=number)
                try:
                    with serving(system, options, folder, place) as (port, process):
                        warm = workload(folder, 50, 0.05, [16, 64], [4, 8], seed=1)
                        asyncio.run(send_all(port, warm, "bench"))
                        if not any(told(one)[0] for one in warm):
                            raise RuntimeError(f"no answer: {warm[0].error or warm[0].lines[:3]}")
                        asyncio.run(send_all(port, requests, "bench"))
                        outcome = Outcome(system, rate, requests, peak_of(process.pid))
                except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
                    left_out.add(system)
                    print(f"{system} is left out: {error}", file=sys.stderr)
                    continue
                found.append(outcome)
                said = outcome.summary()
                print(
                    f"round {number + 1} {system} at {rate:g}/s: {said['tokens/s']:.0f} tokens/s, "
                    f"first p95 {said['first p95']:.3f} s, {said['failed']} failed",
                    file=sys.stderr,
                )
    return found


@contextmanager
def serving(
    system: str, options: argparse.Namespace, folder: str, place: Path
) -> Iterator[tuple[int, subprocess.Popen]]:
    """A started server that answers, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = place / f"{system}.log"
    with log.open("wb") as output:
        command = command_of(system, options, folder, place, port)
        process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            end = time.monotonic() + PATIENCE
            while not answers(port):
                if process.poll() is not None or time.monotonic() > end:
                    lines = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
                    raise RuntimeError(f"the server did not start: {lines[-1][:300]}")
                time.sleep(0.1)
            yield port, process
        finally:
            process.kill()
            process.wait()


def command_of(system: str, options: argparse.Namespace, folder: str, place: Path, port: int) -> list[str]:
    """What starts a server."""
    name, precision = system.rsplit("-", 1)
    threads, together = str(options.threads), str(options.together)
    if name == "gptwo":
        return [
            sys.executable, "-m", "gptwo", "serve", "--model", f"bench={folder}", "--backend", "native",
            "--precision", precision, "--threads", threads, "--max-batch", together, "--max-queue", "100000",
            "--port", str(port),
        ]  # fmt: skip
    file = gguf(folder, precision, place)
    if name == "llama.cpp":
        return [
            sys.executable, __file__, "--host-llama", str(file), str(port), "--threads", threads,
            "--together", together,
        ]  # fmt: skip
    if not options.peer_python:
        raise RuntimeError("it needs --peer-python")
    return [
        options.peer_python, "-m", "llama_cpp.server", "--model", str(file), "--model_alias", "bench",
        "--host", "127.0.0.1", "--port", str(port), "--n_ctx", str(CONTEXT), "--n_threads", threads,
        "--n_threads_batch", threads, "--interrupt_requests", "False", "--verbose", "False",
    ]  # fmt: skip


def gguf(folder: str, precision: str, place: Path) -> Path:
    """The model as a GGUF file, made once."""
    file = place / f"model-{precision}.gguf"
    if not file.is_file():
        command = [sys.executable, "-m", "gptwo", "export", folder, "--to", "gguf", "--out", str(file)]
        subprocess.run([*command, "--dtype", precision, "--unchecked"], check=True, capture_output=True)
    return file


def host_llama(options: argparse.Namespace) -> None:
    """llama.cpp's own server in this process, until it is ended."""
    import xllamacpp

    file, port = options.host_llama
    params = xllamacpp.CommonParams()
    params.model.path, params.port = file, int(port)
    params.n_parallel, params.n_gpu_layers = options.together, 0
    params.n_ctx = CONTEXT * options.together  # of all slots
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.verbosity, params.ui = -1, False
    server = xllamacpp.Server(params)
    while server is not None:
        time.sleep(3600)


def answers(port: int) -> bool:
    """Whether a server is ready."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/v1/models", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def peak_of(process: int) -> int:
    """Resident memory of a process at most, in bytes; 0 where the system does not tell."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)


def random_model(folder: Path) -> Path:
    """GPT-2 124M with random weights, and a tokenizer of gptwo-mini's; tokens are as costly as those of any text."""
    from gptwo import hub
    from gptwo.model.config import GPT2Config
    from gptwo.model.pretrained import create, save
    from gptwo.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(hub.resolve("gptwo-mini"))
    return save(create(GPT2Config(vocab_size=50257), tokenizer), folder)


# --- figures


def show(found: Sequence[Outcome], options: argparse.Namespace) -> None:
    print(f"{machine()}; {options.threads} threads, {options.together} texts at a time")
    lengths, new = (f"{least} to {most}" for least, most in (options.prompt, options.new))
    name = os.path.basename(options.model or "GPT-2 124M, random weights")
    print(f"{name}; prompts of {lengths} tokens, {new} new tokens, arrivals for {options.seconds:g} s")
    print("Seconds to the first token and between tokens as p50 / p95 / p99.")
    by_case: dict[tuple[str, float], list[dict]] = {}
    for one in found:
        by_case.setdefault((one.system, one.rate), []).append(one.summary())
    rows = []
    best: dict[str, float] = {}
    for (system, rate), several in by_case.items():

        def median(name: str, several: list[dict] = several) -> float:
            return statistics.median(one[name] for one in several)

        kept = median("failed") == 0 and median("first p95") <= options.limit
        if kept:
            best[system] = max(best.get(system, 0.0), median("tokens/s"))
        rows.append(
            [
                system, f"{rate:g}", f"{median('requests'):.0f}", f"{median('failed'):.0f}",
                f"{median('tokens/s'):.0f}", *(
                    " / ".join(f"{median(f'{what} p{p}'):.3f}" for p in (50, 95, 99)) for what in ("first", "between")
                ), f"{median('client late p99'):.3f}", f"{median('peak') / 1e9:.2f}",
            ]
        )  # fmt: skip
    head = ("system", "requests/s", "sent", "failed", "tokens/s", "first token", "between tokens", "client late p99")
    print_table([*head, "peak GB"], rows)
    print(f"\nTokens per second at most where 95 % have their first token within {options.limit:g} s:")
    reference = max((best[system] for system in best if not system.startswith("gptwo")), default=math.nan)
    for system in options.systems:
        if system not in best:
            print(f"{system}: at none of these rates")
        else:
            beside = "" if math.isnan(reference) else f" ({best[system] / reference:.2f} x the best peer)"
            print(f"{system}: {best[system]:.0f}{beside}")


if __name__ == "__main__":
    main()
