"""Prompt files: text with prompts between lines of five dashes, or JSONL with a "prompt" in each line."""

import json
from pathlib import Path

SEPARATOR = "-----"


def read_prompts(path: Path) -> list[str]:
    """Every prompt of a file, in order.

    Raises:
        ValueError: if the file is missing, holds no prompt, or a JSONL line has no "prompt" string.
    """
    if not path.is_file():
        raise ValueError(f"--prompts: expected a text or JSONL file, got {path}, which is no file")
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".jsonl":
        prompts = [part.strip("\n") for part in f"\n{text}\n".split(f"\n{SEPARATOR}\n")]
    else:
        prompts = []
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip():
                continue
            try:
                prompt = json.loads(line)["prompt"]
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise ValueError(f'{path}:{number}: expected {{"prompt": "..."}}, got {line[:60]}') from error
            if not isinstance(prompt, str):
                raise ValueError(f'{path}:{number}: expected "prompt" to be a string, got {prompt!r:.60}')
            prompts.append(prompt)
    prompts = [prompt for prompt in prompts if prompt.strip()]
    if not prompts:
        raise ValueError(f"--prompts: {path} holds no prompt")
    return prompts
