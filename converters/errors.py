"""What is told to the user in one line: what is wrong, where, and what to do."""

MAX_MESSAGE = 1000  # characters; what a stranger's file says in place of a number may be of megabytes


class InputError(Exception):
    """Bad input or usage. The message is one line fit to be shown as it is; the exit code is 2.

    Names and values in it come from strangers' files: what would break the line, steer a terminal or not be encoded is
    escaped, and a long message loses its middle.
    """

    def __init__(self, message: str) -> None:
        if len(message) > MAX_MESSAGE:
            message = f"{message[: MAX_MESSAGE // 2]} ... {message[-MAX_MESSAGE // 4 :]}"
        super().__init__("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message))


class MissingRuntime(Exception):
    """A library, device or build option that the work needs is not there; the exit code is 4."""
