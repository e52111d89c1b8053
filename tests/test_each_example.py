"""Losses of single test examples, against the network run on all of them at once."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra [experiments]")

import jax

from experiments import data, models
from experiments.data.augment import normalized
from experiments.report.each_example import BATCH, each_example


def test_every_example_counts_once() -> None:
    dataset = data.load("digits")
    test: Any = dataset.test
    rows = np.resize(np.arange(test.size), BATCH + 7)
    dataset = replace(dataset, test=type(test)(test.images[rows], test.labels[rows]))
    model = models.build("mlp", classes=10, widths=(8,))
    images = normalized(dataset.mean, dataset.std, dataset.test.images)
    variables = model.init(jax.random.key(0), images[:1], train=False)
    logs = np.asarray(jax.nn.log_softmax(model.apply(variables, images, train=False)))
    losses, right = each_example(model, variables, dataset)
    labels = np.asarray(test.labels)[rows]
    np.testing.assert_allclose(losses, -logs[np.arange(len(rows)), labels], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(right, logs.argmax(-1) == labels)
