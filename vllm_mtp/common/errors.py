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
