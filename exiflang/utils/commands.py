"""Shared handling in command lines: errors, Ctrl-C, notebook parameters and tables."""

import errno
import io
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand
from typer.exceptions import TyperException

from exiflang.utils.files import printable

#: Plain-text help and tracebacks.
PLAIN: dict[str, Any] = {"rich_markup_mode": None, "pretty_exceptions_enable": False}

_PAIR = "NAME VALUE"
_PAIR_HELP = "Set a parameter; may be repeated. Used verbatim if the default is text, else parsed as YAML."
#: Parameters as typed, [(name, text)]; requires `PairsCommand`.
Pairs = Annotated[list[Any] | None, typer.Option("-p", metavar=_PAIR, help=_PAIR_HELP)]


_ELSEWHERE = "choose a writable location, or change its permissions"
#: errno → what to do.
_ADVICE = {
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a file exists where a folder is needed: choose another location",
    errno.EEXIST: "choose another location, or move the existing file away",
    errno.EACCES: _ELSEWHERE,
    errno.EPERM: _ELSEWHERE,
    errno.EROFS: _ELSEWHERE,
    errno.ENOSPC: "free some space, and run it again",
    errno.EDQUOT: "free some space, and run it again",
}


class PairsCommand(TyperCommand):
    """A command with `Pairs` options: typer supports options with two values and repeated options, but not both."""

    def get_params(self, ctx: Any) -> list[Any]:
        params = super().get_params(ctx)
        for param in params:
            if param.metavar == _PAIR:
                param.nargs = 2
        return params


class RunError(RuntimeError):
    """A failed run; the message says where it failed and what to do."""

    exit_code = 1


def run_command(
    command: typer.Typer | Callable[..., None], arguments: list[str] | None = None, name: str | None = None
) -> int:
    """Run a command line with one or several commands, and return its exit code.

    0: done; 1: the run failed; 2: bad usage; 130: Ctrl-C. An error is one line on stderr. Exceptions other than
    `RunError`, `ValueError`, `OSError` and `ImportError` are bugs and propagate.

    Args:
        command: the application, or the function of its only command.
        arguments: command-line arguments after the program name; None: `sys.argv`.
        name: program name in the help; None: the name it was started by.
    """
    if not isinstance(command, typer.Typer):
        function, command = command, typer.Typer(add_completion=False, **PLAIN)
        command.command(cls=PairsCommand)(function)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a path that is not UTF-8 is printed unchanged
    try:
        return command(arguments, prog_name=name, standalone_mode=False) or 0
    except TyperException as error:
        context = getattr(error, "ctx", None)
        message = f"{error.format_message().rstrip('.')}; see {context.command_path if context else name or ''} --help"
        code = error.exit_code
    except OSError as error:
        message, code = _said(error), 1
    except (RunError, ValueError, ImportError) as error:
        message, code = str(error), getattr(error, "exit_code", 1)
    # A single write keeps simultaneous messages of several processes from mixing within a line.
    sys.stderr.write(f"error: {' '.join(printable(message).splitlines())}\n")
    return code


def _said(error: OSError) -> str:
    what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
    advice = _ADVICE.get(error.errno or 0)
    return f"{what}; {advice}" if advice else what


def print_table(rows: Any) -> None:
    """Print anything that `pandas.DataFrame` accepts, with three decimals."""
    import pandas as pd

    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.3f}".format, na_rep="-"))
