"""What a defence run found: its figures, its pictures, its table, its page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from statistics import fmean
from typing import Any

import torch

from zopde.numerals import count, measured, number
from zopde.report.classifiers import ImageRow, draw_certified, draw_images
from zopde.report.page import Drawn, Section, table, text
from zopde.report.panels import save
from zopde.seeding import generator
from zopde.smoothing import votes
from zopde.studies.certificates import FILE, RADII, Row, read_rows
from zopde.studies.defend.open import Opened
from zopde.studies.defend.train import Trained
from zopde.studies.report.found import FoundRun
from zopde.studies.report.sections import (
    failures_section,
    kept_picture,
    losses_drawn,
    page_of_run,
    ratios_section,
    result_table,
)
from zopde.studies.run import Metrics, Page, Place, Table, over_seeds, stopped_early

PICTURES = ("certified_accuracy.png", "images.png")
RANKING = 1  # of RADII, by which labels are compared: the first that is not 0
Certified = dict[str, list[list[Row]]]
_SHOWN = 8  # test images


def metrics_of(opened: Opened, results: Mapping[str, list[Trained]]) -> Metrics:
    """The figures of a finished run; costs are of one seed, the mean over the seeds."""
    sampling, images = opened.sampling, len(opened.judged)
    metrics: Metrics = {
        "methods": list(results),
        "seeds": list(opened.seeds),
        "data": opened.images.data.name,
        "sigma": opened.images.sigma,
        "pixels": f"[0, 1], file divided by {opened.images.scale:g}",
        "certified_images": images,
        "n": sampling.n,
        "alpha": sampling.alpha,
        "radii": list(RADII),
        "clean_accuracy": opened.clean_accuracy,
        "queries_of_certification": images * (sampling.n0 + sampling.n),
    }
    for label, trained in results.items():
        queries = fmean(result.cost.queries for result in trained)
        seeds = [result.rows for result in trained]
        row: Metrics = {
            "certified": [
                over_seeds([_percent(rows, radius) for rows in seeds]) for radius in RADII
            ],
            "abstained": fmean(sum(row.prediction < 0 for row in rows) for rows in seeds),
            "iterations": fmean(result.cost.iterations for result in trained),
            "best_iteration": [result.best for result in trained],
            "queries": queries,
            "price": opened.box.ledger.price * queries,
            "seconds": round(fmean(result.cost.seconds for result in trained), 3),
        }
        for key, value in row.items():
            metrics.setdefault(key, {})[label] = value
    metrics["stopped_early"] = stopped_early(results)
    return metrics


def _percent(rows: Sequence[Row], radius: float) -> float:
    return 100 * sum(row.correct and row.radius >= radius for row in rows) / len(rows)


@torch.no_grad()
def draw(opened: Opened, results: Mapping[str, list[Trained]], place: Place) -> None:
    """Certified accuracy over the radius, and what each defence makes of some noisy images."""
    images, judged, seed = opened.images, opened.judged, opened.seeds[0]
    certified = {label: [result.rows for result in of] for label, of in results.items()}
    save(draw_certified(_curves(certified), images.sigma), place.folder.root / PICTURES[0])
    clean = images.inputs(judged.pixels[:_SHOWN])
    noise = torch.randn(clean.shape, generator=generator(seed, "smoothing", 2**31)).to(clean)
    shown = {"clean": clean, "noisy": clean + images.sigma * noise}
    for label, trained in results.items():
        if trained[0].defence is not None:
            shown[label] = trained[0].defence(shown["noisy"])
    rows = []
    for name, pixels in shown.items():
        answers = votes(opened.classifier(seed)(pixels), len(pixels), opened.box.classes)
        names = [images.data.classes[int(answer)] for answer in answers]
        right = (answers == judged.labels[: len(pixels)]).tolist()
        rows.append(ImageRow(name, pixels.cpu().numpy(), names, right))
    save(draw_images(rows), place.folder.root / PICTURES[1])


def _curves(certified: Certified) -> dict[str, list[tuple[list[float], list[bool]]]]:
    return {
        label: [([row.radius for row in rows], [row.correct for row in rows]) for rows in seeds]
        for label, seeds in certified.items()
    }


def table_of(metrics: Mapping[str, Any]) -> Table:
    """The table of results, one row per label."""
    rows = []
    for label in metrics["methods"]:
        certified = metrics["certified"][label]
        spread = certified[RANKING]["std"]
        rows.append(
            [
                label,
                *(measured(at["mean"], at["std"])[0] for at in certified),
                measured(certified[RANKING]["mean"], spread)[1],
                *(count(metrics[cost][label]) for cost in ("iterations", "queries")),
                *measured(metrics["price"][label], decimals=2),
                number(metrics["seconds"][label]),
            ]
        )
    first, *others = (f"{radius:g}" for radius in RADII)
    spread_of = f"± seeds at {RADII[RANKING]:g}"
    stopped = metrics["stopped_early"].items()
    return Table(
        f"{metrics['data']}: certified accuracy [%] of {metrics['certified_images']} test images, "
        f"n = {metrics['n']:,}, sigma = {metrics['sigma']:g} of pixels in [0, 1], "
        f"seeds {', '.join(map(str, metrics['seeds']))}",
        ("method", f"r = {first}", *others, spread_of, "iterations", "queries", "price", "seconds"),
        rows,
        [
            f"without noise the classifier is right on {measured(metrics['clean_accuracy'])[0]} %; "
            "a query is an image that it sees; certificates take "
            f"{metrics['queries_of_certification']:,} more",
            *(f"{label}: stopped early, {why}" for label, why in stopped if why),
        ],
    )


def reached(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """The certified accuracy by which labels are compared."""
    return {label: radii[RANKING]["mean"] for label, radii in metrics["certified"].items()}


def page_of(run: FoundRun) -> Page:
    """The page of one run, finished or not."""
    # Histories count from the first query on, so nothing came before them.
    queries = "queries are images that the classifier sees."
    losses = losses_drawn(run, queries, lambda *_: (0, 0.0))
    caption = "Above each what the classifier takes it for, red where that is wrong."
    title = "Some test images: clean, noisy, and as each defence restores them"
    images = kept_picture(run, PICTURES[1], title, caption)
    sections = [
        Section("Result", _result(run)),
        Section("Certified accuracy", figures=_certified_drawn(run)),
        Section("Images", images if run.metrics else ""),
        Section("Learning", figures=losses),
        ratios_section(run),
        failures_section(run),
    ]
    return page_of_run(run, _lead, sections)


def glimpse(run: FoundRun) -> str:
    """Certified accuracy of every label over the radius, as far as images are certified."""
    return "".join(drawn.html for drawn in _certified_drawn(run).values())


def _certified_drawn(run: FoundRun) -> dict[str, Drawn]:
    certified: Certified = {}
    for label, _, rows in _certificates(run):
        certified.setdefault(label, []).append(rows)
    if not certified:
        return {}
    sigma = float(run.settings["defence"]["sigma"])
    drawn = Drawn(
        draw_certified(_curves(certified), sigma),
        "Certified accuracy of every method over the radius",
        "Mean over the seeds, as far as they are certified.",
    )
    return {"certified_accuracy": drawn}


def _certificates(run: FoundRun) -> Iterator[tuple[str, int, list[Row]]]:
    """(label, seed, the images that were certified so far), where there are some."""
    for label, seed in product(run.labels, run.seeds):
        path = run.of(label, seed) / FILE
        if path.exists() and (rows := read_rows(path)):
            yield label, seed, rows


def _lead(metrics: Metrics) -> str:
    shares = reached(metrics)
    best = max(shares, key=lambda label: shares[label] or 0.0)
    return (
        f"{metrics['data']}: {metrics['certified_images']} test images, n = {metrics['n']:,}, "
        f"noise of {metrics['sigma']:g} of pixels in [0, 1], seeds "
        f"{', '.join(map(str, metrics['seeds']))}; without noise the classifier is right on "
        f"{measured(metrics['clean_accuracy'])[0]} %. "
        f"Within radius {metrics['radii'][RANKING]:g} {best} certifies most: "
        f"{measured(shares[best] or 0.0)[0]} %."
    )


def _result(run: FoundRun) -> str:
    if run.metrics is not None:
        caption = (
            "Certified accuracy [%] within radius r; costs of one seed, the mean over the seeds. A "
            "query is an image that the classifier sees in training; certificates take "
            f"{run.metrics['queries_of_certification']:,} more."
        )
        return result_table(run, caption)
    so_far = [
        [label, f"{seed}", f"{len(rows)}", *measured(_percent(rows, 0))]
        for label, seed, rows in _certificates(run)
    ]
    columns = ("method", "seed", "images so far", "certified at r = 0 [%]")
    return table(columns, so_far) if so_far else text("No image is certified yet.")
