"""The program `loftr2flax`: its verbs, and the outer edge where every error becomes two lines and an exit code."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from itertools import takewhile
from types import FrameType
from typing import NoReturn, TextIO

import typer

from loftr2flax.cli import machine, output
from loftr2flax.cli.room import NO_THREAD, check_room
from loftr2flax.errors import EnvironmentFault, Loftr2FlaxError, UsageError

EXIT_BUG = 70
EXIT_INTERRUPTED = 130
EXIT_PIPE = 141  # what a shell says of a program whose reader went away before its end
EXIT_TERMINATED = 143

VERBS = ("fetch", "inspect", "convert", "verify", "diff", "mapping", "match", "train", "demo")
"""Each verb is a module here: with an ``app`` of its own if it has sub-commands, else with a function of its name."""


def build_app(verbs: Sequence[str] = VERBS) -> typer.Typer:
    """The program with these verbs; to build one takes a fraction of the time that all of them take."""
    app = typer.Typer(
        name="loftr2flax",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Turns PyTorch checkpoints into Flax checkpoints by declarative mappings, and back, bit for bit.",
        epilog="Exit codes: 0 yes · 1 no · 2 usage · 3 input refused · 4 environment · 5 nothing compared · 70 our bug",
    )
    app.callback(invoke_without_command=True)(_root)
    for verb in verbs:
        module = import_module(f"loftr2flax.cli.{verb}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=verb)
        else:
            app.command(verb)(getattr(module, verb))
    return app


def _root(version: bool = typer.Option(False, "--version", help="Print the version and stop.", is_eager=True)) -> None:
    if version:
        from loftr2flax.version import VERSION

        output.emit(f"loftr2flax {VERSION}")
        raise typer.Exit


class _Bug(Loftr2FlaxError):
    """A mistake of our own."""

    exit_code = EXIT_BUG


class _Terminated(BaseException):
    """SIGTERM: unwinds the stack, so that temporaries go."""


class _Interrupted(SystemExit):
    """The end by a signal."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the program and ends the process.

    Args:
      arguments: the command line without the program's name; None for the process's own.
    """
    try:
        signal.signal(signal.SIGTERM, _terminate)
        if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # see __main__
            signal.signal(signal.SIGINT, signal.default_int_handler)
        code = _settled(_run(list(sys.argv[1:] if arguments is None else arguments)))
    except KeyboardInterrupt:
        raise _Interrupted(EXIT_INTERRUPTED) from None
    except _Terminated:
        raise _Interrupted(EXIT_TERMINATED) from None
    sys.exit(code)


def program() -> NoReturn:
    """What the console script runs: `main`, and then out at once.

    Taking the interpreter down takes an eighth of the time of a conversion, and there is nothing left to do: files are
    closed and streams flushed. Where torch or jax is loaded the end is the ordinary one, as they have threads to stop;
    but not after an error or a second signal, of which those threads would only complain.
    """
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else EXIT_BUG
        well = code in (0, EXIT_INTERRUPTED, EXIT_TERMINATED) and not isinstance(end, _Interrupted)
        if well and not {"torch", "jax"}.isdisjoint(sys.modules):
            raise
        os._exit(code)


# The interpreter keeps frames in pieces of 16 KB, and returns a piece to the system as soon as it is empty: imports as
# deep as numpy's cross the edge of one a thousand times, which is a tenth of the time of a conversion. A frame that
# asks for 72 KB gets a piece of 128 KB, and what it calls has the rest.
program.__code__ = program.__code__.replace(co_stacksize=9000)


def _run(arguments: list[str]) -> int:
    try:
        check_room()
        app = build_app(arguments[:1] if arguments[:1] and arguments[0] in VERBS else VERBS)
        return int(app(arguments, prog_name="loftr2flax", standalone_mode=False) or 0)
    except Loftr2FlaxError as error:
        return _tell(arguments, error)
    except typer.TyperException as error:
        return _tell(arguments, UsageError(_usage_message(error), f"`{_command(error)} --help` lists the options"))
    except typer.Abort:  # what typer makes of it
        raise KeyboardInterrupt from None
    except output.ReaderGone:
        return EXIT_PIPE
    except OSError as error:
        hint = "check the path, its permissions and the space on its disk"
        return _tell(arguments, EnvironmentFault(_system_message(error), hint))
    except MemoryError:
        hint = "close other programs, or convert on a larger machine"
        return _tell(arguments, EnvironmentFault("out of memory", hint))
    except Exception as error:  # the outermost edge: whatever arrives here is our own mistake, or a lack of threads
        if str(error) == NO_THREAD:
            hint = "raise the limit on processes (`ulimit -u`, or that of the container)"
            return _tell(arguments, EnvironmentFault("the system starts no more threads", hint))
        import traceback

        traceback.print_exc()
        message = f"a bug in loftr2flax: {type(error).__name__}: {error}"
        return _tell(arguments, _Bug(message, "please report it, with the lines above"))


def _settled(code: int) -> int:
    """The exit code once all output is out."""
    try:
        with output.blaming_stdout():
            _flush(sys.stdout)
    except output.ReaderGone:
        pass  # all was said, and the answer stands
    except Loftr2FlaxError as error:
        output.complain(error.message, error.hint)
        code = code or error.exit_code
    with contextlib.suppress(OSError):
        _flush(sys.stderr)
    return code


def _flush(stream: TextIO | None) -> None:
    if stream is None:
        return
    try:
        stream.flush()
    except OSError:  # turned away for good, or Python would try again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise


def _tell(arguments: Sequence[str], error: Loftr2FlaxError) -> int:
    """Says what is wrong, to people and, where a document was asked for, to programs; the exit code."""
    if not error.message:  # a verb without arguments: its help has been shown
        return error.exit_code
    output.complain(error.message, error.hint)
    with contextlib.suppress(output.ReaderGone, Loftr2FlaxError):  # nobody listens, or stdout itself is the trouble
        if "--json" in takewhile("--".__ne__, arguments):
            output.emit_json("error", output.error_values(error))
        elif form := machine.asked(arguments):
            from loftr2flax.findings import of_error

            machine.show(of_error(error, machine.verb(arguments)), form)
    return error.exit_code


def _usage_message(error: typer.TyperException) -> str:
    text: str = error.format_message() if hasattr(error, "format_message") else str(error)
    return text[:1].lower() + text[1:].rstrip(".")


def _system_message(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename is not None else str(error)


def _command(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    return str(context.command_path) if context is not None else "loftr2flax"


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise _Terminated
