"""`zopde correct`, `compare`, `classify`, `defend`, `prompt`: one factory makes the commands."""

# Annotations are not postponed here: those of a command are made of the factory's arguments.
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from importlib.resources import files
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any

from typer import Exit, Option

from zopde.cli.console import prints_to_stderr, say, say_json, show, table_of
from zopde.cli.options import (
    CUT_HEADS,
    AsJson,
    Changes,
    ConfigFile,
    Device,
    ImageFile,
    Overwrite,
    Resume,
    Seeds,
    SolverSpec,
    tables_of,
)
from zopde.progress import Watcher


def study_command(name: str, about: str, presets: str, **own: Any) -> Callable[..., None]:  # noqa: ANN401
    """Make the command that runs a study: it reads settings, makes one call, prints the table.

    The study is loaded when the command runs, for help must be quick. `own` holds the types of the
    options that not every study has; each stands for a setting, and only the solver must be given.
    """
    solver = "solver" in own
    subject = f"<solver>{'' if name == 'correct' else f'-{name}'}" if solver else name
    presets_of = "correct" if solver else name

    def command(
        *,
        preset: Annotated[
            str,
            Option(
                help=f"Start from the settings of this preset: {presets}.",
                autocompletion=lambda incomplete: preset_names(presets_of, incomplete),
            ),
        ] = "quick",
        config_file: ConfigFile = None,
        changes: Changes = None,
        seeds: Seeds = None,
        out: Annotated[
            Path | None, Option(help=f"Write to this run folder. Default: runs/{subject}-<preset>.")
        ] = None,
        resume: Resume = False,
        overwrite: Overwrite = False,
        dry_run: Annotated[
            bool,
            Option("--dry-run", help="Measure a sample, print what a run would cost, and stop."),
        ] = False,
        as_json: AsJson = False,
        **given: Any,  # noqa: ANN401 - of `own`
    ) -> None:
        from zopde.studies.run import run_study, study_named

        study = study_named(name)
        assert study.load is not None
        tables = tables_of(**given)
        if seeds is not None:
            tables.setdefault("run", {})["seeds"] = list(range(seeds))
        settings = study.load(preset, config_file, changes or (), tables)
        stem = Path(given.get("solver", "").replace(":", "-")).name
        folder = out or Path("runs") / f"{subject.replace('<solver>', stem)}-{preset}"
        if dry_run:
            _dry_run(study, settings, folder, as_json)
            return
        with prints_to_stderr():
            metrics = run_study(study, settings, folder, resume, overwrite, Watcher())
        if as_json:
            say_json(metrics)
        else:
            show(study.table(metrics))
            say(f"pictures: {', '.join(map(str, sorted(folder.glob('**/*.png'))))}")
            say(f"everything else: {folder}; one page of it: zopde report {folder}")
        if _none_ended(metrics):
            raise Exit(1)

    parameters = [p for p in inspect.signature(command).parameters.values() if p.name != "given"]
    for option, kind in own.items():
        default = Parameter.empty if option == "solver" else None
        only = Parameter.KEYWORD_ONLY
        parameters.append(Parameter(option, only, default=default, annotation=kind))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__name__, command.__doc__ = name, about
    return command


def _none_ended(metrics: Mapping[str, Any]) -> bool:
    """Whether of every label that was trained a training was given up."""
    given_up = {label for label, why in metrics["stopped_early"].items() if why}
    trained = {label for label, count in metrics["iterations"].items() if count} | given_up
    return bool(trained) and trained == given_up


def _dry_run(study: Any, settings: Any, folder: Path, as_json: bool) -> None:  # noqa: ANN401
    """Print what every label will cost and, of a study that has cuts, one gradient of each."""
    from zopde.studies.run import price_study

    with prints_to_stderr():
        opened = (study.sample or study.open)(settings, folder, Watcher())
        prices = [asdict(price) for price in price_study(study, opened, Watcher())]
        more = study.more_prices(opened, Watcher()) if study.more_prices else ()
    cuts = [asdict(cut) for cut in more]
    if as_json:
        say_json({"labels": prices, "cuts": cuts} if study.more_prices else prices)
        return
    title = f"dry run: nothing was trained or written; figures of {study.price_of}"
    rows = [{**price, "hours": price["seconds"] / 3600} for price in prices]
    table_of(rows, title, blank=0)
    table_of(cuts, "what one gradient costs, by cut", CUT_HEADS)


def preset_names(study: str, incomplete: str = "") -> Iterator[str]:
    """Names of a study's presets, also of those that one solver has; the study is not loaded."""
    folder = Path(str(files("zopde") / "studies" / study / "presets"))
    names = sorted({file.stem for file in folder.rglob("*.toml")})
    return (name for name in names if name.startswith(incomplete))


def _option(kind: Any, text: str) -> Any:  # noqa: ANN401 - types as typer reads them
    """An option of one study; where it is not given, the preset or a file decides."""
    return Annotated[kind | None, Option(help=text)]


_OF_SOLVERS = {
    "solver": SolverSpec,
    "data": _option(
        Path,
        "Read reference data from this file, or from those of a pattern in quotes, or make it. "
        "Default: a file beside --out.",
    ),
    "device": Device,
    "chunk": _option(
        int,
        "Evaluate this many probes in a pass; 0: measure the best. Default: as in the settings.",
    ),
    "executor": _option(
        str,
        "Let dask (a local cluster of run.workers) or dask://host:port evaluate the probes of "
        "weights. Default: run.workers processes.",
    ),
    "failures": _option(
        str,
        "If a solver step fails: raise ends the run, retry repeats the step run.retries times "
        "and then ends the run, drop repeats it and then leaves it out. Default: as in the "
        "settings.",
    ),
    "store": _option(
        Path,
        "Keep the results of the solver in this file, so that a resumed run makes no step "
        "twice; for slow solvers. Default: no file.",
    ),
}
correct = study_command(
    "correct",
    "Train a network that corrects a solver, in several ways, and compare them on unseen runs.",
    "quick (minutes) or paper (days)",
    **_OF_SOLVERS,
)
compare = study_command(
    "compare",
    "Train a corrector in every way that applies, with the same number of solver steps.",
    "those of zopde correct",
    **_OF_SOLVERS,
    budget=_option(
        int,
        "Let each training take so many solver steps, without those that tune its learning rate. "
        "Default: 100,000.",
    ),
)
classify = study_command(
    "classify",
    "Train an image classifier from scratch by queries, and by back-propagation to compare.",
    "quick (digits), cnn-730 ... cnn-12610, resnet20-80/90/95/99 (CIFAR-10)",
    data=ImageFile,
    device=Device,
)
defend = study_command(
    "defend",
    "Train a denoiser in front of a black-box classifier by queries, and certify the two.",
    "quick (digits), fashion (28 x 28) or cifar10 (as published)",
    data=ImageFile,
    device=Device,
    classifier=_option(
        str,
        "Defend this classifier: model.safetensors, package.module:name, file.py:name or a URL. "
        "Default: train one on the clean images first.",
    ),
)
prompt = study_command(
    "prompt",
    "Adapt a frozen model that grounds sentences in videos, by prompts found by queries.",
    "quick (digits)",
    device=Device,
)
