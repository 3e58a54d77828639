"""`vllm-mtp doctor`: the findings as lines or JSON, and the exit status."""

import json
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout

from vllm_mtp.doctor.case import Case
from vllm_mtp.doctor.config import DoctorConfig
from vllm_mtp.doctor.examine import examine
from vllm_mtp.doctor.finding import ERROR, OK, WARNING, Finding


def report(config: DoctorConfig, *, target: str, draft: str, as_json: bool) -> int:
    """Examines and prints.

    Returns:
        0, or 1 if vLLM, the drafter or their requests would be refused.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # the findings say it
    with redirect_stdout(sys.stderr):
        found = examine(Case(config, target=target, draft=draft))
    statuses = [one.status for _, one in found]
    worst = next(status for status in (ERROR, WARNING, OK) if status in statuses)
    if as_json:
        lines = [{"check": name, "status": one.status, "message": one.message} for name, one in found]
        print(json.dumps({"target": target, "draft": draft, "status": worst, "findings": lines}, indent=1))
    else:
        print("\n".join(_lines(found)))
    return int(worst == ERROR)


def _lines(found: Sequence[tuple[str, Finding]]) -> list[str]:
    width = max(len(name) for name, _ in found)
    return [f"{one.status:<8} {name:<{width}}  {one.message}" for name, one in found]
