"""What is told to the user in one line: what is wrong, where, and what to do."""


class InputError(Exception):
    """Bad input or usage. The message is one line fit to be shown as it is; the exit code is 2."""


class MissingRuntime(Exception):
    """A library, device or build option that the work needs is not there; the exit code is 4."""
