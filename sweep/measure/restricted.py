"""The child process of `code_eval`: runs one program under limits and prints a secret if the program ran to its end.

Started as `python -I -S restricted.py PROGRAM SECRET CPU_SECONDS MEMORY_BYTES FILE_BYTES OPEN_FILES WALL_SECONDS`.

The kernel limits time, memory, files and processes. An audit hook, which cannot be removed again, lets the program read
the standard library and read and write its own directory. It blocks every other event: other files, processes, signals,
sockets, ctypes.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import sysconfig
from typing import NoReturn

ALLOWED = frozenset(
    "import compile exec code.__new__ function.__new__ marshal.loads marshal.load pickle.find_class builtins.id "
    "object.__getattr__ object.__setattr__ object.__delattr__ sys._getframe sys._getframemodulename array.__new__ "
    "sys.unraisablehook sys.excepthook time.sleep builtins.breakpoint cpython.PyInterpreterState_Clear".split()
)
PATH_EVENTS = frozenset({"open", "os.listdir", "os.scandir"})  # allowed for some paths
FORBIDDEN_MODULES = frozenset({"ctypes", "_ctypes", "_posixsubprocess", "_testcapi", "_xxsubinterpreters", "mmap"})
# Functions of os to remove: not all of them raise an audit event.
PROCESS_CALLS = ("kill", "killpg", "pidfd_open", "fork", "forkpty", "setsid", "setpgid", "tcsetpgrp")
SIGNALS = ("signal", "alarm", "setitimer", "pthread_sigmask", "pthread_kill", "raise_signal", "pidfd_send_signal")
WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def set_limits(cpu_seconds: int, memory_bytes: int, file_bytes: int, open_files: int) -> None:
    """Set the limits of this process and of any process that it starts."""
    limits = {
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_NOFILE: open_files,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,  # no process and no thread; the kernel exempts root from it, the hook does not
    }
    for limit, value in limits.items():
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(limit, (value, value))
        except ValueError:  # macOS rejects RLIMIT_AS
            if limit != resource.RLIMIT_AS:
                raise


def install_audit_hook(own: str) -> None:
    """Block everything that is not allowed; `own` is the directory that the program may read and write."""
    library = tuple(os.path.realpath(sysconfig.get_path(name)) + os.sep for name in ("stdlib", "platstdlib"))
    own = os.path.realpath(own) + os.sep
    # local names: the program could replace the functions of the os module
    realpath, fsdecode, write_flags, joined = os.path.realpath, os.fsdecode, WRITE_FLAGS, os.path.join

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in ALLOWED:
            if event == "import" and arguments[0] in FORBIDDEN_MODULES:
                raise ImportError(f"{arguments[0]} is not available here")
            return
        if event in PATH_EVENTS:
            path = arguments[0]
            if isinstance(path, int):  # a file that is already open
                return
            place = joined(realpath(fsdecode(path if path is not None else ".")), "")  # type: ignore[arg-type]
            if place.startswith(own):
                return
            mode, flags = (*arguments[1:3], None, 0)[:2] if event == "open" else ("r", 0)
            writes = any(letter in (mode or "r") for letter in "wax+") or bool((flags or 0) & write_flags)  # type: ignore[operator]
            if place.startswith(library) and not writes:
                return
        raise PermissionError(f"{event} is not allowed here")

    def reject_signal(*_: object) -> NoReturn:
        raise PermissionError("signals are not available here")

    for name in SIGNALS:
        for module in (signal, sys.modules["_signal"]):
            if hasattr(module, name):
                setattr(module, name, reject_signal)
    for name in PROCESS_CALLS:
        for module in (os, sys.modules["posix"]):
            if hasattr(module, name):
                delattr(module, name)
    sys.addaudithook(hook)


def main() -> None:
    program, secret = sys.argv[1:3]
    with open(program, encoding="utf-8") as file:
        source = file.read()
    os.unlink(program)
    verdict = os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    write, leave = os.write, os._exit
    *limits, wall_seconds = (int(value) for value in sys.argv[3:])
    sys.argv[1:] = []
    set_limits(*limits)
    # Ends the process if its parent does not exist by then. The first process of a namespace ignores the alarm unless
    # it has a handler.
    signal.signal(signal.SIGALRM, lambda *_: leave(1))
    signal.alarm(wall_seconds + 1)
    install_audit_hook(os.getcwd())
    try:
        exec(compile(source, "program.py", "exec"), {})  # with empty globals, as in evaluate's code_eval
    except BaseException:  # includes SystemExit: a program that exits early has not passed
        leave(1)
    write(verdict, secret.encode())
    leave(0)


if __name__ == "__main__":
    main()
