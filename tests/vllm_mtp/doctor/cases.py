"""Cases for the doctor's tests."""

from pathlib import Path

from vllm_mtp.doctor.case import Case
from vllm_mtp.doctor.config import DoctorConfig
from vllm_mtp.doctor.finding import Finding


def case_of(target: Path, draft: Path | str, **config: object) -> Case:
    return Case(DoctorConfig(**config), target=str(target), draft=str(draft))  # type: ignore[arg-type]


def said(findings: list[tuple[str, Finding]], check: str) -> list[tuple[str, str]]:
    """(status, message) of a check's findings."""
    return [(one.status, one.message) for name, one in findings if name == check]
