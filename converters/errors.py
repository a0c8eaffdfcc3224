"""Errors that end the program with a one-line message: what is wrong, where, and what to do."""

MAX_MESSAGE = 1000  # characters; a value quoted from a malformed file may have megabytes


class InputError(Exception):
    """Bad input or usage. The message is one line, ready to be printed; the exit code is 2.

    Names and values in it may come from untrusted files. Therefore characters that would break the line, control a
    terminal or fail to encode are escaped, and the middle of a long message is cut out.
    """

    def __init__(self, message: str) -> None:
        if len(message) > MAX_MESSAGE:
            message = f"{message[: MAX_MESSAGE // 2]} ... {message[-MAX_MESSAGE // 4 :]}"
        super().__init__("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message))


class MissingRuntime(Exception):
    """A library, a device or a build option that is needed is missing; the exit code is 4."""
