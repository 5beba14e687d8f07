"""What the user can mend: one exception, one line."""


class InputError(ValueError):
    """Bad data or parameters. The message says what, where and how to mend it, in one line."""
