"""What a certification found: its figures, its picture, its table, its page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

import numpy as np

from zopde.files import reading
from zopde.numerals import measured, number
from zopde.report.classifiers import Certified, draw_certified_accuracy
from zopde.report.page import Drawn, Section, text
from zopde.report.panels import save
from zopde.smoothing import CertifiedShare, Verdict, certified_accuracy, largest_radius
from zopde.studies.certificates import FILE, Row, read_rows
from zopde.studies.certify.open import LABEL, Opened
from zopde.studies.certify.settings import CertifyConfig
from zopde.studies.folder import RECORD, read_record
from zopde.studies.report.found import FoundRun
from zopde.studies.report.sections import page_of_run, result_table
from zopde.studies.run import Metrics, Page, Place, Table, study_named

PICTURE = "certified_accuracy.png"
_POINTS = 400  # of a curve


def metrics_of(opened: Opened, results: Mapping[str, list[list[Row]]]) -> Metrics:
    """The figures of a finished certification, certified accuracy at some radii among them."""
    rows, sampling, sigma = results[LABEL][0], opened.sampling, opened.smooth.sigma
    return {
        "model": opened.model,
        "data": opened.name,
        "part": opened.part,
        "images": len(rows),
        "sigma": sigma,
        "n0": sampling.n0,
        "n": sampling.n,
        "alpha": sampling.alpha,
        # The units of sigma and of every radius.
        "input": f"pixels of the file over {opened.scale:g}",
        "certified_accuracy": [
            {
                "radius": share.radius,
                "percent": 100 * share.share,
                "band": [100 * share.low, 100 * share.high],
            }
            for share in _shares(rows, opened.at)
        ],
        "abstained": sum(row.prediction < 0 for row in rows),
        "mean_radius": fmean(row.radius * row.correct for row in rows),
        "largest_radius": max(
            sampling.decide, default=largest_radius(sigma, sampling.n, sampling.alpha)
        ),
        **(_decided(rows, sampling.decide) if sampling.decide else {}),
        "seconds": round(sum(row.seconds for row in rows), 3),
    }


def _decided(rows: Sequence[Row], radii: Sequence[float]) -> Metrics:
    """How often each verdict was given, and what it took."""
    verdicts = zip(*(row.verdicts for row in rows), strict=True)
    counts = [Counter(of_radius) for of_radius in verdicts]
    asked = np.array([row.answers for row in rows])
    return {
        "verdicts": [
            {"radius": radius, **{said: count[said] for said in get_args(Verdict)}}
            for radius, count in zip(radii, counts, strict=True)
        ],
        "answers": {
            "mean": float(asked.mean()),
            "median": float(np.median(asked)),
            "90 %": float(np.quantile(asked, 0.9, method="higher")),
            "all": int(asked.sum()),
        },
    }


def draw(_opened: Opened, _rows: object, place: Place, beside: Sequence[Certified] = ()) -> None:
    """Certified accuracy over the radius, beside that of other runs."""
    root = place.folder.root
    save(draw_certified_accuracy([read_curve(root), *beside]), root / PICTURE)


def read_certification(path: Path) -> tuple[CertifyConfig, list[Row]]:
    """Settings and certificates of a run, of its folder or of the table in it."""
    root = path.parent if path.is_file() else path
    rows = read_rows(root / FILE)
    return read_record(study_named("certify"), root / RECORD), rows


def read_curve(path: Path) -> Certified:
    """Certified accuracy over the radius of a run, of its folder or of the table in it."""
    plan, rows = read_certification(path)
    root = path.parent if path.is_file() else path
    most = largest_radius(plan.sigma, plan.n, plan.alpha)
    radii = np.linspace(0, 1.001 * most or plan.sigma, _POINTS)
    shares = _shares(rows, radii.tolist())
    return Certified(
        f"{root.resolve().name}, sigma {plan.sigma:g}",
        radii,
        np.array([share.share for share in shares]),
        np.array([share.low for share in shares]),
        np.array([share.high for share in shares]),
    )


def _shares(rows: Sequence[Row], at: Sequence[float]) -> list[CertifiedShare]:
    return certified_accuracy([row.radius for row in rows], [row.correct for row in rows], at)


def table_of(metrics: Mapping[str, Any]) -> Table:
    """The table of results, one row per radius."""
    verdicts = {at["radius"]: at for at in metrics.get("verdicts", ())}
    said = get_args(Verdict) if verdicts else ()
    most = "at most " if verdicts else ""
    return Table(
        f"{metrics['data']}, {metrics['images']:,} {metrics['part']} images, sigma "
        f"{metrics['sigma']:g}, n {most}{metrics['n']:,}",
        ("radius", "certified accuracy", "95 % band", *said),
        [
            [
                f"{at['radius']:g}",
                f"{measured(at['percent'])[0]} %",
                "{} ... {} %".format(*(measured(end)[0] for end in at["band"])),
                *(f"{verdicts[at['radius']][each]:,}" for each in said),
            ]
            for at in metrics["certified_accuracy"]
        ],
        [
            f"radii and sigma are in units of the model's input, {metrics['input']}",
            _reach(metrics),
            f"abstained: {metrics['abstained']:,}; {number(metrics['seconds'])} s",
        ],
    )


def _reach(metrics: Mapping[str, Any]) -> str:
    """How far certificates may go, or what deciding about some radii took."""
    if "answers" not in metrics:
        return f"largest radius that n and alpha allow: {metrics['largest_radius']:.4g}"
    asked, fixed = metrics["answers"], metrics["n0"] + metrics["n"]
    return (
        f"answers per image: {asked['mean']:,.0f} on average, {asked['median']:,.0f} for half of "
        f"the images, {asked['90 %']:,.0f} for 90 %; {fixed:,} at most"
    )


def page_of(run: FoundRun) -> Page:
    """The page of one run, finished or not."""
    sections = [
        Section("Result", _result(run)),
        Section("Certified accuracy", figures=_curves_drawn([run])),
        Section("Attack", _attack(run)),
    ]
    return page_of_run(run, _lead, sections)


def curves_picture(runs: Sequence[FoundRun]) -> str:
    """Certified accuracy of some runs over the radius, as far as they are."""
    return "".join(drawn.html for drawn in _curves_drawn(runs).values())


def _curves_drawn(runs: Sequence[FoundRun]) -> dict[str, Drawn]:
    curves = [read_curve(run.root) for run in runs if _count(run)]
    if not curves:
        return {}
    drawn = Drawn(
        draw_certified_accuracy(curves),
        "Certified accuracy over the radius",
        "Share of the images that are answered rightly with a certificate of that radius or more.",
    )
    return {"certified_accuracy": drawn}


def _count(run: FoundRun) -> int:
    path = run.root / FILE
    return len(read_rows(path)) if path.exists() else 0


def _lead(metrics: Metrics) -> str:
    return (
        f"{metrics['data']}: {metrics['images']:,} {metrics['part']} images, noise of "
        f"{metrics['sigma']:g}, in units of the model's input, {metrics['input']}; n = "
        f"{metrics['n']:,}, each certificate wrong with probability {metrics['alpha']:g} at most; "
        f"{_reach(metrics)}. The model abstained {metrics['abstained']:,} times."
    )


def _result(run: FoundRun) -> str:
    if run.metrics is None:
        return text(f"{_count(run):,} images are certified so far.")
    return result_table(run)


def _attack(run: FoundRun) -> str:
    path = run.root / "attack.json"
    if not path.exists():
        return ""
    with reading("file", path, "what `zopde attack` wrote", "attack again"):
        attack = json.loads(path.read_text(encoding="utf-8"))
        return text(
            f"{attack['points']:,} certified points, attacked within {attack['reach']:g} times "
            f"their radius by {attack['steps']} steps of projected gradient descent: "
            f"{attack['changed']:,} answers changed, where alpha allows {attack['expected']:.3g} "
            f"inside the radius on average; no answer at {attack['no_answer']:,}."
        )
