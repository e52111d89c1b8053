"""ImageNet on a set of the same form, made here without TensorFlow: pipeline and whole runs."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets", reason="needs the extra [experiments]")
pytest.importorskip("grain", reason="needs the extra [experiments]")

import cv2
import tensorflow_datasets as tfds

import jaxprune as jp
from experiments import data, evaluate, models
from experiments.data import imagenet
from experiments.methods import autoslim, network_slimming, slimmable, us_slimmable
from experiments.methods.network_slimming import stages
from experiments.runner import checkpoints, directory, fit, presets, training
from experiments.runner import task as networks
from experiments.tasks import classification
from jaxprune.schedule import Training, constant

SIZE = 32
COUNT = 21
SHAPES = [(40, 60, 3), (60, 40, 3), (33, 33, 3), (20, 90, 3), (48, 64)]  # the last is gray


def picture(i: int) -> np.ndarray:
    """Returns a smooth image in OpenCV's order of colors."""
    shape = SHAPES[i % len(SHAPES)]
    noise = np.random.default_rng(i).integers(0, 256, (4, 4, *shape[2:]), np.uint8)
    return cv2.resize(noise, shape[1::-1], interpolation=cv2.INTER_LINEAR)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    with tfds.core.registered.skip_registration():

        class Imagenet2012(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("5.1.0")

            def _info(self):
                image = tfds.features.Image(encoding_format="jpeg")
                label = tfds.features.ClassLabel(num_classes=1000)
                features = tfds.features.FeaturesDict({"image": image, "label": label})
                return tfds.core.DatasetInfo(builder=self, features=features)

            def _split_generators(self, dl_manager):
                del dl_manager
                return {name: self._generate_examples() for name in ("train", "validation")}

            def _generate_examples(self):
                for i in range(COUNT):
                    yield i, {"image": cv2.imencode(".jpg", picture(i))[1].tobytes(), "label": i}

    path = tmp_path_factory.mktemp("imagenet")
    Imagenet2012(data_dir=path, file_format="array_record").download_and_prepare()
    return path


@pytest.fixture(scope="module")
def images(data_dir):
    return imagenet.source("train", data_dir=data_dir)


def collected(images, **options):
    return list(imagenet.batches(images, batch_size=4, size=SIZE, **options))


def labels(batches) -> list[int]:
    return [int(label) for _, part in batches for label in part]


def test_evaluation_reads_everything_in_order(images):
    batches = collected(images, train=False)
    assert [pixels.shape for pixels, _ in batches] == [(4, SIZE, SIZE, 3)] * 5 + [
        (1, SIZE, SIZE, 3)
    ]
    assert {pixels.dtype for pixels, _ in batches} == {np.dtype(np.uint8)}
    assert {part.dtype for _, part in batches} == {np.dtype(np.int32)}
    assert labels(batches) == [int(images[i]["label"]) for i in range(COUNT)]
    assert sorted(labels(batches)) == list(range(COUNT))


def test_evaluation_takes_the_center_in_rgb(images):
    for pixels, part in collected(images, train=False):
        for image, label in zip(pixels, part, strict=True):
            original = picture(int(label))
            if original.ndim == 3 and original.shape[0] <= original.shape[1]:
                height, width = original.shape[:2]
                expected = original[height // 2, width // 2, ::-1].astype(int)
                assert abs(image[SIZE // 2, SIZE // 2].astype(int) - expected).max() < 40
            elif original.ndim == 2:
                assert (image == image[..., :1]).all()


def test_every_epoch_is_new_and_full(images):
    batches = collected(images, train=True, epochs=2)
    assert [pixels.shape for pixels, _ in batches] == [(4, SIZE, SIZE, 3)] * 10
    first, second = labels(batches[:5]), labels(batches[5:])
    assert len(set(first)) == len(set(second)) == 20
    assert first != second
    label = (set(first) & set(second)).pop()
    one, other = (
        next(x for pixels, part in epoch for x, y in zip(pixels, part, strict=True) if y == label)
        for epoch in (batches[:5], batches[5:])
    )
    assert (one != other).any()


def equal(one, other) -> bool:
    return len(one) == len(other) and all(
        np.array_equal(pixels, others) and np.array_equal(part, other_part)
        for (pixels, part), (others, other_part) in zip(one, other, strict=True)
    )


def test_the_seed_decides(images):
    one, again, other = (collected(images, train=True, seed=seed) for seed in (0, 0, 1))
    assert equal(one, again)
    assert not equal(one, other)


def test_worker_processes_change_nothing_and_it_goes_on_where_it_stopped(images):
    expected = collected(images, train=True, epochs=2)
    options = {"train": True, "batch_size": 4, "size": SIZE, "epochs": 2}
    alone = iter(imagenet.batches(images, **options))
    assert equal([next(alone) for _ in range(3)], expected[:3])
    state = alone.get_state()
    resumed = iter(imagenet.batches(images, **options))
    resumed.set_state(state)
    assert equal(list(resumed), expected[3:])
    workers = iter(imagenet.batches(images, worker_count=2, **options))
    try:
        assert equal(list(workers), expected)
    finally:
        workers.close()


@pytest.mark.parametrize("train", [True, False])
def test_processes_share_every_batch(images, train):
    whole = collected(images, train=train, epochs=2)
    for rows in (np.arange(2), np.array([2, 3]), np.array([1])):
        part = collected(images, train=train, epochs=2, rows=rows)
        expected = [[each[rows[rows < len(each)]] for each in batch] for batch in whole]
        assert equal(part, [batch for batch in expected if len(batch[1])])


@pytest.mark.parametrize("shape", [(100, 80), (10, 400), (400, 10), (1, 1)])
def test_random_boxes_are_inside_and_of_the_right_form(shape):
    rng = np.random.default_rng(0)
    for _ in range(200):
        rows, columns = imagenet.random_box(*shape, rng)
        assert 0 <= rows.start < rows.stop <= shape[0]
        assert 0 <= columns.start < columns.stop <= shape[1]
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if min(shape) > 50:
            assert 0.07 < height * width / (shape[0] * shape[1]) <= 1
            assert 0.7 < width / height < 1.4


def test_too_few_images_to_train_on_are_an_error(images):
    with pytest.raises(ValueError, match=r"^21 training images .* a batch of 22.\nFix: a smaller"):
        imagenet.batches(images, train=True, batch_size=22)


def test_bytes_that_are_no_image_are_an_error():
    images = [{"image": b"GIF", "label": 0}]
    with pytest.raises(ValueError, match=r"3 bytes are not an image"):
        collected(images, train=False)


def test_an_image_set_that_is_not_prepared_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"imagenet2012 is not prepared in .*\nFix: python -m"):
        imagenet.source("train", data_dir=tmp_path)


@pytest.fixture
def small(monkeypatch):
    """Small images, few of them held out, and a small network of the same form."""
    monkeypatch.setattr(imagenet, "SIZE", SIZE)
    monkeypatch.setattr(imagenet, "HELD_OUT", 5)
    model = partial(models.Vgg, layers=(1,), widths=(3,), hidden=(5,))
    monkeypatch.setattr(models, "MODELS", {"vgga": model})
    monkeypatch.setattr(network_slimming.report, "draw", lambda *_: None)


def load(data_dir: Path, **options) -> data.Dataset:
    return data.load("imagenet2012", data_dir=data_dir, **options)


def read(part: data.Split | data.Stream, seed: int | None = None) -> list[data.Split]:
    assert isinstance(part, data.Stream)
    return list(part.batches(4, seed))


@pytest.mark.usefixtures("small")
def test_the_parts_are_disjoint_and_a_limit_takes_the_first(data_dir):
    dataset = load(data_dir)
    assert (dataset.classes, dataset.image_shape) == (1000, (SIZE, SIZE, 3))
    train, validation = labels(read(dataset.train)), labels(read(dataset.validation))
    assert sorted(train + validation) == list(range(COUNT))
    assert (dataset.train.size, dataset.validation.size) == (len(train), len(validation)) == (16, 5)
    assert sorted(labels(read(dataset.test))) == list(range(COUNT))
    for limit in (7, 16, 1000):
        assert labels(read(load(data_dir, limit=limit).train)) == train[:limit]


@pytest.mark.usefixtures("small")
def test_a_stream_follows_from_the_seed_and_not_from_the_workers(data_dir):
    one, again, other = (read(load(data_dir).train, seed) for seed in (2**32 - 1, 2**32 - 1, 0))
    assert equal(one, again)
    assert not equal(one, other)
    stream = load(data_dir, workers=1).train.batches(4, 2**32 - 1)
    assert equal([next(stream), next(stream)], one[:2])
    stream.close()


class Interrupted(BaseException):
    """Stands for the end of the process."""


@pytest.mark.usefixtures("small")
def test_a_run_on_streams_compiles_one_step_and_goes_on_where_it_stopped(
    data_dir, tmp_path, monkeypatch, capsys
):
    steps = []
    train_step, append = training.train_step, directory.append_metrics

    def kept(*args):
        steps.append(train_step(*args))
        return steps[-1]

    def stopped(run, record):
        append(run, record)
        if record["epoch"] == 2:
            raise Interrupted

    monkeypatch.setattr(training, "train_step", kept)
    preset = presets.config("vgga-imagenet", network_slimming.PRESETS, network_slimming.Config())
    config = replace(
        preset, data_dir=data_dir, root=tmp_path, batch_size=8, epochs=2, finetune_epochs=1
    )
    task = classification.task(config)
    dense, *_ = stages.steps(task)
    expected = dense.run(networks.initial(task), fit.QUIET).variables
    with monkeypatch.context() as patch:
        patch.setattr(directory, "append_metrics", stopped)
        with pytest.raises(Interrupted):
            network_slimming.main(config)
    run = network_slimming.main(replace(config, resume=True))
    found = jp.restore(run / "checkpoints" / "dense").variables
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, found, expected)))
    assert directory.read_json(run / "summary.json")["channels"] == {"dense": 8, "pruned": 4}
    assert [step._cache_size() for step in steps] == [1] * 4
    assert evaluate.main(run)
    assert f"on {COUNT} test images of imagenet2012" in capsys.readouterr().out


ONCE = Training(epochs=1, rates=constant(0.01))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("experiment", "changes", "names"),
    [
        (
            slimmable,
            {"multipliers": (1.0, 0.5), "alone": False},
            ["slimmable-1.0", "slimmable-0.5"],
        ),
        (
            us_slimmable,
            {"evaluated": (1.0, 0.6), "calibration_batches": 2, "calibration_size": 8},
            ["us-1.0", "us-0.6"],
        ),
        (
            autoslim,
            {"keep_macs": (0.6,), "held_out": 5, "supernet": ONCE},
            ["greedy-0.6"],
        ),
    ],
    ids=["slimmable", "us_slimmable", "autoslim"],
)
def test_slimmable_networks_train_on_streams(data_dir, tmp_path, experiment, changes, names):
    preset = presets.config("mobilenet_v1-imagenet", experiment.PRESETS, experiment.Config())
    common = {"data_dir": data_dir, "root": tmp_path, "model": "vgga", "batch_size": 8}
    config = replace(preset, **common, **changes, divisor=1, training=ONCE)
    run = experiment.main(config)
    summary = directory.read_json(run / "summary.json")
    assert list(summary["accuracy"]) == names
    for name in names:
        found = checkpoints.load(run, classification.task(config), name)
        moments = jax.tree.leaves(found.variables["batch_stats"])
        assert all(np.isfinite(each).all() and each.any() for each in moments)
