"""The `zopde` command: its sub-commands, and how it ends."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from zopde import __version__
from zopde.cli.certify import attack, certify
from zopde.cli.check import check
from zopde.cli.console import complain, say
from zopde.cli.study import classify, correct, defend
from zopde.cli.tools import data, doctor, report, serve, simulate, solvers
from zopde.errors import InputError, SolverError, check_system

app = typer.Typer(
    name="zopde",
    help="Train neural networks that correct PDE solvers, without a derivative of the solver.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
studies = (correct, classify, defend, certify, attack)
for command in (*studies, report, serve, simulate, solvers, doctor):
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
    """Run the command line: 0 done, 1 the solver's fault, 2 the caller's, 130 interrupted."""
    if "--debug" in sys.argv:
        app()
    sys.exit(_run())


def _run() -> int:
    try:
        check_system()
        code = app(standalone_mode=False)
    except InputError as error:
        complain(str(error))
        return 2
    except SolverError as error:
        complain(f"{error.whose} failed: {error}")
        return 1
    except _UsageProblem as error:
        said: str = error.format_message()  # type: ignore[attr-defined]
        if said:  # a bare `zopde` has printed its help and says nothing more
            complain(said)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except (Exception, SystemExit) as error:  # a user's solver may raise anything
        complain(f"unexpected {type(error).__name__}: {error}; --debug shows where")
        return 1
    # Typer turns Ctrl-C inside a command into this exit code.
    return _interrupted() if code == 130 else int(code or 0)


def _interrupted() -> int:
    where = dict.fromkeys(("correct", "classify", "defend"), "the last checkpoint")
    where["certify"] = "the last image"
    place = next((where[word] for word in sys.argv if word in where), "")
    remedy = f"; the same command with --resume goes on from {place}" if place else ""
    complain(f"interrupted{remedy}")
    return 130


if __name__ == "__main__":
    main()
