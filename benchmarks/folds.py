"""All digits as test images, each once: folds, log-likelihoods, and paired differences."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np

import jaxprune as jp
from experiments import data
from experiments.data import Dataset, Split
from experiments.data.augment import Augment, normalized
from experiments.runner.task import Network, Task

TRAIN = 1400
"""Images of a fold that train; those left over are looked at while it trains, and not used."""


Rows = Sequence[Mapping[str, Any]]
"""Each of a method on a fold: what it gave for `places`, under the names of what it is."""


def fold(number: int, folds: int) -> tuple[Dataset, np.ndarray]:
    """Returns the digits with one fold as test images, and the places of these among all.

    Mean and deviation are those of all images, so that the folds share their programs.
    """
    whole = data.load("digits")
    parts: Any = (whole.train, whole.validation, whole.test)
    images, labels = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    places = np.array_split(np.random.default_rng(0).permutation(len(labels)), folds)
    test = places[number]
    rest = np.concatenate([places[n] for n in range(folds) if n != number])

    def split(rows: np.ndarray) -> Split:
        return Split(images[rows], labels[rows])

    found = replace(
        whole,
        train=split(rest[:TRAIN]),
        validation=split(rest[TRAIN : TRAIN + 32]),
        test=split(test),
        mean=(float(images.mean()),),
        std=(float(images.std()),),
        augment=Augment(),
    )
    return found, test


def log_likelihoods(task: Task, network: Network) -> tuple[np.ndarray, np.ndarray]:
    """Returns for every test image the log-probability of its label, and whether it is right."""
    test: Any = task.dataset.test
    images = normalized(task.dataset.mean, task.dataset.std, test.images)
    logits = jax.jit(partial(network.model.apply, train=False))(network.variables, images)
    scores = np.asarray(jax.nn.log_softmax(logits), np.float64)
    return scores[np.arange(test.size), test.labels], scores.argmax(-1) == test.labels


def row(name: str, task: Task, network: Network, macs: float, places: np.ndarray) -> dict:
    """Returns what a method gave on a fold, a JSON value; `macs` is the share that is left."""
    found, right = log_likelihoods(task, network)
    return {
        "method": name,
        "seed": task.config.seed,
        "places": places.tolist(),
        "log_likelihood": found.tolist(),
        "right": right.tolist(),
        "macs": macs,
        "widths": jp.widths(task.graph, network.keep),
    }


def by_image(rows: Rows, method: str, what: str) -> np.ndarray:
    """Returns the mean over seeds of a number of every image; NaN where it was not tested on."""
    total, count = np.zeros(1797), np.zeros(1797)
    for row in rows:
        if row["method"] == method:
            total[row["places"]] += row[what]
            count[row["places"]] += 1
    with np.errstate(invalid="ignore"):
        return total / count


def interval(differences: np.ndarray, draws: int) -> tuple[float, float, float]:
    """Returns the mean, and the ends of the 95 % interval of a bootstrap over the images."""
    random, n = np.random.default_rng(0), differences.size
    means = [differences[random.integers(0, n, n)].mean() for _ in range(draws)]
    low, high = np.percentile(means, (2.5, 97.5))
    return float(differences.mean()), float(low), float(high)


def tables(rows: Rows, claims: Sequence[tuple[str, str]], draws: int) -> Iterator[str]:
    """Yields the lines of the Markdown report."""
    names = list(dict.fromkeys(row["method"] for row in rows))
    yield "| method | log-likelihood, nats | accuracy, % | MACs kept, % | widths |"
    yield "|---|---|---|---|---|"
    for name in names:
        likelihood, right = (by_image(rows, name, what) for what in ("log_likelihood", "right"))
        mine = [row for row in rows if row["method"] == name]
        macs = np.mean([row["macs"] for row in mine])
        widths = [[*row["widths"].values()] for row in mine]
        cells = (
            f"{np.nanmean(likelihood):.4f}",
            f"{100 * np.nanmean(right):.2f}",
            f"{100 * macs:.2f}",
            "-".join(f"{width:.0f}" for width in np.mean(widths, axis=0)),
        )
        yield f"| {name} | {' | '.join(cells)} |"
    yield ""
    yield from differences(rows, claims, draws)


def differences(rows: Rows, claims: Sequence[tuple[str, str]], draws: int) -> Iterator[str]:
    """Yields the lines of a Markdown table: which methods are as good as which, by likelihood."""
    names = {row["method"] for row in rows}
    yield "| at least as good (paper or control) | as | difference, nats | 95 % interval | holds |"
    yield "|---|---|---|---|---|"
    for better, worse in claims:
        if {better, worse} <= names:
            pair = (by_image(rows, name, "log_likelihood") for name in (better, worse))
            difference = np.subtract(*pair)
            mean, low, high = interval(difference[np.isfinite(difference)], draws)
            verdict = "yes" if low > 0 else "no" if high < 0 else "open"
            yield f"| {better} | {worse} | {mean:+.4f} | {low:+.4f} to {high:+.4f} | {verdict} |"
