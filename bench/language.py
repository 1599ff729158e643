"""Held-out bits per byte of a language model beside xz -9 and Kneser-Ney 5-gram models, for each language.

    python bench/language.py --model gptwo-mini --data mini     # folders as mini_corpus.py and `data pack` make them

The n-gram models are trained on the model's whole training text, the model itself may have read less of it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from gptwo import runtime
from gptwo.data.documents import iter_documents
from gptwo.data.shards import Shards
from gptwo.evaluate.compression import kneser_ney_bytes, xz
from gptwo.evaluate.language import score_texts
from gptwo.evaluate.ngram import KneserNey
from gptwo.model.pretrained import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gptwo-mini")
    parser.add_argument("--data", type=Path, default=Path("mini"), help="holds valid/*.txt, train/*.txt, shards/train")
    parser.add_argument("--no-ngrams", action="store_true", help="leave the n-gram models out")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    runtime.set_threads()
    loaded = load(options.model)
    tokenizer = loaded.tokenizer
    precision = runtime.pick_precision("auto", "cpu").value
    ngrams = None
    if not options.no_ngrams:
        shards = Shards(options.data / "shards" / "train", tokenizer)
        ngrams = KneserNey.fit(shards.read(0, shards.tokens), vocab_size=tokenizer.vocab_size)
    found = {}
    for path in sorted((options.data / "valid").glob("*.txt")):
        texts = list(iter_documents([path]))
        size = sum(len(text.encode()) for text in texts)
        score = score_texts(loaded.model, tokenizer, texts, precision=precision)
        row = {"bytes": size, "tokens": score.tokens, "model": score.bits_per_byte, "loss": score.loss}
        row["xz -9"] = xz("\n".join(texts).encode()).bits_per_byte
        if ngrams is not None:
            ids = [[tokenizer.end_id, *tokenizer.encode(text)] for text in texts]
            bits = sum(-float(ngrams.log2_probabilities(document)[1:].sum()) for document in ids)
            row["Kneser-Ney 5, tokens"] = bits / size
            train = options.data / "train" / path.name
            if train.is_file():
                held_out = "\n".join(texts).encode()
                row["Kneser-Ney 5, bytes"] = kneser_ney_bytes(train.read_bytes(), held_out).bits_per_byte
        found[path.stem] = row
        print(path.stem, {key: round(value, 4) for key, value in row.items()}, flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
