"""The `zopde` command: its sub-commands, and how it ends."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from zopde import __version__
from zopde.cli.certify import attack, certify
from zopde.cli.check import check
from zopde.cli.console import complain, complain_of_usage, say
from zopde.cli.study import classify, compare, correct, defend, prompt
from zopde.cli.tools import data, doctor, export, report, serve, simulate, solvers
from zopde.errors import InputError, PausedError, SolverError, check_system, refusal

app = typer.Typer(
    name="zopde",
    help="Train neural networks that correct PDE solvers, without a derivative of the solver.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
studies = (correct, compare, classify, defend, certify, attack, prompt)
for command in (*studies, report, export, serve, simulate, solvers, doctor):
    app.command()(command)
app.add_typer(check, name="check")
app.add_typer(data, name="data")

# The common base of typer's usage errors, which typer itself does not export.
_UsageProblem: type[Exception] = typer.BadParameter.__mro__[2]


def _say_version(asked: bool) -> None:
    if asked:
        say(f"zopde {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the Python traceback of an error.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_say_version, is_eager=True),
    ] = False,
) -> None:
    """Train neural networks that correct PDE solvers, without a derivative of the solver."""
    # `main` looks for --debug itself: it must also work where parsing fails.


def main() -> None:
    """Run the command line: 0 done, 1 the solver's fault, 2 the caller's, 3 paused, 130 Ctrl-C."""
    if "--debug" in sys.argv:
        app()
    sys.exit(_run())


def _run() -> int:
    try:
        check_system()
        for word in sys.argv:
            if "\0" in word:  # a program that calls `main` may pass one; typer stumbles over it
                raise InputError("arguments", got=repr(word), expected="no null character")
        code = app(standalone_mode=False)
    except _UsageProblem as error:
        said: str = error.format_message()  # type: ignore[attr-defined]
        if said:  # a bare `zopde` has printed its help and says nothing more
            complain_of_usage(said, getattr(getattr(error, "ctx", None), "command_path", "zopde"))
        return 2
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except (Exception, SystemExit) as error:  # a user's solver may raise anything
        said, code = _told(error)
        complain(said)
        return code
    # Typer turns Ctrl-C inside a command into this exit code.
    return _interrupted() if code == 130 else int(code or 0)


def _told(error: BaseException) -> tuple[str, int]:
    """What to say of an error, and the exit code."""
    if isinstance(error, InputError):
        said, code = str(error), 2
    elif isinstance(error, PausedError):
        said, code = f"paused: {error}; the same command with --resume goes on", 3
    elif isinstance(error, SolverError):
        said, code = f"{error.whose} failed: {error}", 1
    elif refused := refusal(error):
        said, code = str(refused), 2
    elif isinstance(error, OSError):
        got = f"{error.strerror or error}: {error.filename or 'it has no name'}"
        said, code = str(InputError("file", got=got, expected="one that can be used")), 2
    elif isinstance(error, MemoryError | RecursionError) or "t allocate memory" in str(error):
        said = "memory: got a request for more, expected what this machine has; take smaller sizes"
        code = 2
    else:
        said = f"unexpected {type(error).__name__}: {error}; --debug shows where"
        code = 1
    return said, code


def _interrupted() -> int:
    trained = ("correct", "compare", "classify", "defend", "prompt")
    where = dict.fromkeys(trained, "the last checkpoint")
    where["certify"] = "the last image"
    place = next((where[word] for word in sys.argv if word in where), "")
    remedy = f"; the same command with --resume goes on from {place}" if place else ""
    complain(f"interrupted{remedy}")
    return 130


if __name__ == "__main__":
    main()
