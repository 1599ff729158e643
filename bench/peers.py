"""The peers that generation is measured beside: how each is given the model, and how it writes.

A loader takes the command's options, a precision and the largest batch, and returns what generates. Packages are
imported within it: a peer that is not installed is left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

PEERS = (
    "transformers-fp32", "transformers-bf16", "ctranslate2-int8", "llama.cpp-bf16", "llama.cpp-q8_0", "llama.cpp-q4_0",
    "openvino-fp16", "openvino-int8", "openvino-int4", "onnxruntime-fp32", "onnxruntime-int8",
    "transformers-static-bf16",
)  # fmt: skip
VOCABULARY = 50257
QUANTIZE = """
import sys
from onnxruntime.quantization import quantize_dynamic
quantize_dynamic(*sys.argv[1:], per_channel=True)
"""

Generate = Callable[[list[list[int]], int], int]
"""Prompts and how many tokens to add to each; returns how many tokens were written in all."""


def load_transformers(options: argparse.Namespace, precision: str, batch: int, static: bool = False) -> Generate:
    import torch
    from transformers import GPT2LMHeadModel

    torch.set_num_threads(options.threads)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    model = GPT2LMHeadModel.from_pretrained(options.model, dtype=dtype).eval().to(options.device)

    def generate(prompts: list[list[int]], new: int) -> int:
        ids = torch.tensor(prompts, device=options.device)
        with torch.inference_mode():
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new, min_new_tokens=new,
                pad_token_id=0, cache_implementation="static" if static else None,
            )  # fmt: skip
        return (out.shape[1] - ids.shape[1]) * out.shape[0]

    return generate


def load_static(options: argparse.Namespace, precision: str, batch: int) -> Generate:
    """With a static cache generate compiles the step, and records it as a CUDA graph."""
    return load_transformers(options, precision, batch, static=True)


def load_ctranslate2(options: argparse.Namespace, precision: str, batch: int) -> Generate:
    import ctranslate2

    folder = Path(options.model).with_suffix(".ct2")
    if not folder.is_dir():
        ctranslate2.converters.TransformersConverter(str(options.model)).convert(str(folder), quantization=precision)
    names = {number: name for name, number in json.loads((Path(options.model) / "vocab.json").read_text()).items()}
    generator = ctranslate2.Generator(str(folder), device="cpu", intra_threads=options.threads, inter_threads=1)

    def generate(prompts: list[list[int]], new: int) -> int:
        tokens = [[names[token] for token in prompt] for prompt in prompts]
        found = generator.generate_batch(
            tokens, max_length=new, min_length=new, sampling_topk=1, include_prompt_in_result=False, end_token=[]
        )
        return sum(len(one.sequences_ids[0]) for one in found)

    return generate


def load_llama(options: argparse.Namespace, precision: str, batch: int) -> Generate:
    """llama.cpp's server within this process, asked over loopback for all texts at the same time."""
    from concurrent.futures import ThreadPoolExecutor
    from urllib.request import ProxyHandler, Request, build_opener

    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(gguf_file(options, precision))
    params.n_ctx, params.n_parallel, params.n_gpu_layers = batch * 1024, batch, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.warmup, params.verbosity, params.ui = False, -1, False
    server = xllamacpp.Server(params)
    opener = build_opener(ProxyHandler({}))

    def ask(prompt: list[int], new: int) -> int:
        asked = {"prompt": prompt, "n_predict": new, "temperature": 0.0, "cache_prompt": False, "ignore_eos": True,
                 "return_tokens": True}  # fmt: skip
        data = json.dumps(asked).encode()
        request = Request(f"{server.listening_address}/completion", data, {"Content-Type": "application/json"})
        with opener.open(request, timeout=600) as answer:
            return len(json.load(answer)["tokens"])

    def generate(prompts: list[list[int]], new: int) -> int:
        with ThreadPoolExecutor(batch) as pool:
            return sum(pool.map(lambda prompt: ask(prompt, new), prompts))

    return generate


def load_openvino(options: argparse.Namespace, precision: str, batch: int) -> Generate:
    import numpy as np
    import openvino as ov
    import openvino_genai as genai

    if not options.openvino:
        raise SystemExit("openvino needs --openvino FOLDER, which optimum-cli writes")
    pipe = genai.LLMPipeline(str(Path(options.openvino) / precision), "CPU", INFERENCE_NUM_THREADS=options.threads)

    def generate(prompts: list[list[int]], new: int) -> int:
        ids = ov.Tensor(np.array(prompts, np.int64))
        mask = ov.Tensor(np.ones((len(prompts), len(prompts[0])), np.int64))
        chosen = genai.GenerationConfig(max_new_tokens=new, ignore_eos=True, do_sample=False)
        chosen.set_eos_token_id(VOCABULARY - 1)
        return sum(len(tokens) for tokens in pipe.generate(genai.TokenizedInputs(ids, mask), chosen).tokens)

    return generate


def load_onnxruntime(options: argparse.Namespace, precision: str, batch: int) -> Generate:
    """The graph with its cache, whose keys and values stay where ONNX Runtime puts them."""
    import numpy as np
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = options.threads, 1
    session = onnxruntime.InferenceSession(onnx_file(options, precision), settings, ["CPUExecutionProvider"])
    cached = [one for one in session.get_inputs() if one.name.startswith("past_key_values.")]
    binding = session.io_binding()

    def generate(prompts: list[list[int]], new: int) -> int:
        ids, written = np.array(prompts, np.int64), 0
        rows, length = ids.shape
        logits = np.empty((rows, length, session.get_outputs()[0].shape[2]), np.float32)
        past = [np.empty((rows, one.shape[1], 0, one.shape[3]), np.float32) for one in cached]
        past = [onnxruntime.OrtValue.ortvalue_from_numpy(nothing) for nothing in past]
        for _ in range(new):
            binding.clear_binding_outputs()
            binding.bind_cpu_input("input_ids", ids)
            mask = np.ones((rows, length), np.int64)
            binding.bind_cpu_input("attention_mask", mask)
            for one, value in zip(cached, past, strict=True):
                binding.bind_ortvalue_input(one.name, value)
                binding.bind_output(one.name.replace("past_key_values", "present"))
            binding.bind_ortvalue_output("logits", onnxruntime.OrtValue.ortvalue_from_numpy(logits))
            session.run_with_iobinding(binding)
            past = binding.get_outputs()[: len(cached)]
            ids = logits[:, -1:].argmax(-1)
            logits = logits[:, -1:].copy() if logits.shape[1] > 1 else logits
            written, length = written + ids.size, length + 1
        return written

    return generate


LOADERS = {
    "transformers": load_transformers,
    "transformers-static": load_static,
    "ctranslate2": load_ctranslate2,
    "llama.cpp": load_llama,
    "openvino": load_openvino,
    "onnxruntime": load_onnxruntime,
}


# --- the model in the peers' formats


def gguf_file(options: argparse.Namespace, precision: str) -> Path:
    return Path(options.model).with_suffix(f".{precision}.gguf")


def onnx_file(options: argparse.Namespace, precision: str) -> Path:
    return Path(options.model).with_suffix(".onnxruntime") / {"fp32": "model.onnx", "int8": "int8.onnx"}[precision]


def export(options: argparse.Namespace) -> None:
    """The model for llama.cpp and ONNX Runtime, once for all measurements."""
    ours = ["-m", "gptwo", "export", str(options.model)]
    for system in options.systems:
        name, _, precision = system.partition("-")
        if name == "llama.cpp":
            file = gguf_file(options, precision)
            make(system, file, [*ours, "--to", "gguf", "--out", str(file), "--dtype", precision])
        if name == "onnxruntime":
            file = onnx_file(options, "fp32")
            make(system, file, [*ours, "--to", "onnx", "--out", str(file.parent)])
            if precision == "int8":
                small = onnx_file(options, precision)
                make(system, small, ["-c", QUANTIZE, str(file), str(small)])


def make(system: str, file: Path, arguments: list[str]) -> None:
    """Run Python where the file is not there yet; a failure is printed, and the system will be left out."""
    if not file.is_file():
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
        if done.returncode:
            print(f"{system}: {done.stderr.strip()}", file=sys.stderr)
