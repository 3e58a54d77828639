"""Triton decides when it decorates a kernel whether it is interpreted or compiled: each kind of test has its process.

The tests in interpreter/ and ahead_of_time/ are ordinary tests, but their bodies run in a child, one for each file,
which is given all selected items of the file when the first is due; here, every item takes its outcome there.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).resolve().parent
REPORT = "VLLM_MTP_TEST_REPORT"  # set in a child: the file that takes the outcomes
ENVIRONMENTS: dict[str, dict[str, str | None]] = {
    "interpreter": {"TRITON_INTERPRET": "1", "VLLM_MTP_KERNELS": "triton"},
    "ahead_of_time": {"TRITON_INTERPRET": None, "VLLM_MTP_KERNELS": None},
}
_outcomes = pytest.StashKey[dict[str, dict[str, Any]]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Takes the outcome from the child, where the item belongs to one."""
    folder = _folder(pyfuncitem)
    if folder is None or REPORT in os.environ:
        return None
    stash = pyfuncitem.session.stash
    if _outcomes not in stash:
        stash[_outcomes] = {}
    if pyfuncitem.nodeid not in stash[_outcomes]:
        stash[_outcomes] |= _run_child(folder, pyfuncitem)
    outcome = stash[_outcomes][pyfuncitem.nodeid]
    if outcome["outcome"] == "failed":
        pytest.fail(outcome["text"], pytrace=False)
    if outcome["outcome"] == "skipped":
        pytest.skip(outcome["text"])
    return True


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """In a child: writes down what became of an item."""
    if REPORT not in os.environ or (report.when != "call" and report.outcome == "passed"):
        return
    text = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longreprtext
    with open(os.environ[REPORT], "a", encoding="utf-8") as file:
        file.write(json.dumps({"nodeid": report.nodeid, "outcome": report.outcome, "text": text}) + "\n")


def _folder(item: pytest.Item) -> str | None:
    folder = item.path.parent
    return folder.name if folder.parent == HERE and folder.name in ENVIRONMENTS else None


def _run_child(folder: str, first: pytest.Item) -> dict[str, dict[str, Any]]:
    """Outcomes of the session's items of the first one's file, by node id; an item without one died with the child."""
    session = first.session
    nodeids = [item.nodeid for item in session.items if item.path == first.path]
    environment = {name: value for name, value in os.environ.items() if name not in ENVIRONMENTS[folder]}
    environment |= {name: value for name, value in ENVIRONMENTS[folder].items() if value is not None}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # nothing here needs one, and they take seconds to import
    with tempfile.TemporaryDirectory() as temporary:
        report = Path(temporary) / "report.jsonl"
        report.touch()
        options = ["--extended"] if session.config.getoption("--extended") else []
        child = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, *nodeids],
            cwd=session.config.rootpath,
            env=environment | {REPORT: str(report)},
            capture_output=True,
            text=True,
        )
        output = child.stdout[-3000:] + child.stderr[-3000:]
        lost = {"outcome": "failed", "text": f"The child ended without it, status {child.returncode}:\n{output}"}
        outcomes = dict.fromkeys(nodeids, lost)
        for line in report.read_text("utf-8").splitlines():
            outcome = json.loads(line)
            if outcomes.get(outcome["nodeid"], lost) is lost or outcome["outcome"] == "failed":
                outcomes[outcome["nodeid"]] = outcome
    return outcomes
