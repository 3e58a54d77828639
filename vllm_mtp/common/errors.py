"""Errors that name the input they are about."""


class InputError(ValueError):
    """An input that cannot be used. The command line makes the flag out of the field's name."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(field, message)
        self.field = field
        """Name of a field of a config class, or an argument of the function that raises."""
        self.message = message
        """What was expected, what was found, what to do."""

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


def in_a_line(error: BaseException) -> str:
    """An error of any library, of whatever length: its type and the first of what it says."""
    said = " ".join(str(error).strip().partition("\n\n")[0].split())
    return f"{type(error).__name__}: {said[:_LONGEST_LINE]}" if said else type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was wanting: Python's, or torch's, of a GPU or the host."""
    said = str(error)
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in said for words in _NO_MEMORY)
    )


def is_out_of_gpu_memory(error: BaseException) -> bool:
    """Whether it was memory of a GPU: `CUDA out of memory`, or another maker's words before it."""
    return isinstance(error, RuntimeError) and "out of memory" in str(error)


_LONGEST_LINE = 300
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc")
"""What torch says, which on the host has no type of its own for it."""
