"""Cuts the demo's prompts out of held-out files of the standard library. Not needed to run the demo: they are shipped.

python examples/stdlib/make_prompts.py --output examples/stdlib/prompts.txt
"""

import argparse
import sys
from pathlib import Path

from vllm_mtp.training.data.prompts import SEPARATOR

sys.path.insert(0, str(Path(__file__).resolve().parent))
import corpus

NUM_PROMPTS = 24
NUM_LINES = 12


def prompts() -> list[str]:
    """NUM_LINES lines from a third into each of the longest held-out files, at most one prompt a file."""
    files = sorted((text for _, text in corpus.documents("held_out")), key=len, reverse=True)
    found = []
    for text in files[:NUM_PROMPTS]:
        lines = text.splitlines()
        start = len(lines) // 3
        found.append("\n".join(lines[start : start + NUM_LINES]).strip("\n") + "\n")
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help='text, prompts between lines "-----"')
    args = parser.parse_args(argv)
    found = prompts()
    args.output.write_text(f"\n{SEPARATOR}\n".join(found), encoding="utf-8")
    print(f"{args.output}: {len(found)} prompts")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
