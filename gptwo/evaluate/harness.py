"""gptwo in EleutherAI's lm-evaluation-harness: hundreds of tasks, our model.

    pip install "gptwo[harness]"
    python -m gptwo.evaluate.harness run --model gptwo --model_args pretrained=runs/mine --tasks hellaswag

The command is lm_eval's own, with our model registered. From the release on that looks for plug-ins, `lm_eval run
--model gptwo` finds it by itself (the entry point `lm_eval.models` of this package).
"""

from __future__ import annotations

from typing import Any

from gptwo.errors import require


def register() -> Any:
    """Make `--model gptwo` known to lm_eval in this process; returns the model's class.

    Raises:
        MissingError: lm_eval is not installed.
    """
    require("lm_eval.models", "harness")  # its own models first: it looks for them only while it knows none
    from gptwo.evaluate.harness_model import GptwoLM

    return GptwoLM


def main() -> None:
    """lm_eval's command with `--model gptwo`."""
    register()
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    import sys

    from gptwo.errors import GptwoError

    try:
        main()
    except GptwoError as error:
        sys.exit(f"gptwo: {error}")
