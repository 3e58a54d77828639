"""What a check says."""

from dataclasses import dataclass

OK, WARNING, ERROR = "ok", "warning", "error"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One line of the doctor's report."""

    status: str
    """OK; WARNING: it is served, but not as well as it could be; ERROR: it is refused, or requests are."""
    message: str
    """What was found and, where that is not well, what to do."""


def ok(message: str) -> Finding:
    return Finding(status=OK, message=message)


def warning(message: str) -> Finding:
    return Finding(status=WARNING, message=message)


def error(message: str) -> Finding:
    return Finding(status=ERROR, message=message)
