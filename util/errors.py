"""Errors that the user can mend: shown as one line, exit code 2, nothing written."""


class UsageError(ValueError):
    """Bad input from outside: a flag, a file, a folder. The message says which value and what is allowed."""
