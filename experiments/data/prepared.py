"""Data sets that TensorFlow Datasets (TFDS) has prepared, read without TensorFlow.

Images are decoded once: see `experiments.data.cache`.
"""

import importlib.util
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.progress import track

from experiments.data import cache

FORMAT = "array_record"

Decode = Callable[[Any, str], tuple[np.ndarray, np.ndarray]]
"""(builder, split) -> images and labels of all examples."""


def builder(name: str, data_dir: Path | None = None, *, published: str = "") -> Any:
    """Returns the TFDS builder of a data set that is prepared for random access.

    Args:
      name: that of TFDS.
      data_dir: where it is prepared; `TFDS_DATA_DIR` or `~/tensorflow_datasets` by default.
      published: the folder of the set as its authors publish it, if that is read too.

    Raises:
      ValueError: it is not prepared there, or not as `array_record`.
    """
    source = _builder(name, data_dir)
    path = Path(source.data_path)
    formats = sorted(kind.value for kind in source.info.available_file_formats())
    if not path.is_dir():
        others = ", ".join(sorted(other.name for other in path.parent.glob("[0-9]*")))
        what = f"not prepared in {path}" + (f" (only version {others} is there)" if others else "")
    elif not source.is_prepared():
        what = f"incomplete in {path}"
    elif FORMAT not in formats:
        what = f"prepared in {path} as {', '.join(formats)}; expected {FORMAT}"
    else:
        return source
    other = f"; or lay {published} there, as it is published" if published else ""
    raise ValueError(f"{name} is {what}.\n{_fix(name, source.data_dir_root, path)}{other}")


def read(
    builder: Any, split: str, *, decode: Decode | None = None, form: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Returns images u8[n, height, width, channels] and labels i32[n] of a prepared data set.

    Args:
      builder: what `builder` returns.
      split: whole splits in the words of TFDS, such as `train+extra`.
      decode: makes the arrays, if they are not the features `image` and `label` as they are.
      form: names what `decode` makes, in the name of the cache.

    Raises:
      ValueError: a file of it is missing or damaged.
    """
    with reading(builder, split):
        name = f"{builder.name}{form}-{split}-{cache.digest(identity(builder, split))}.npz"
        arrays = _load(cache.folder() / name)
        if arrays is None:
            images, labels = arrays = (decode or _decode)(builder, split)
            cache.save(
                cache.folder() / name, lambda file: np.savez(file, images=images, labels=labels)
            )
    return arrays


@contextmanager
def reading(builder: Any, split: str) -> Iterator[None]:
    """Raises ValueError, with the command that mends it, for a file that is missing or damaged."""
    try:
        yield
    except (OSError, RuntimeError, LookupError, ValueError) as error:  # of TFDS and array_record
        name, config = builder.name, builder.builder_config
        name = f"{name}/{config.name}" if config else name
        raise ValueError(
            f"cannot read the split {split} of {name} in {builder.data_path}: {error}.\n"
            f"{_fix(name, builder.data_dir_root, builder.data_path)}"
        ) from error


def identity(builder: Any, split: str) -> object:
    """Returns what whole splits are made of; raises OSError where a prepared file is missing."""
    files = [f for part in split.split("+") for f in builder.info.splits[part].filepaths]
    stats = [(file.name, Path(file).stat()) for file in files]
    return str(builder.version), [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def prepare(name: tyro.conf.Positional[str], /, data_dir: Path | None = None) -> None:
    """Downloads a data set of TFDS and writes it in the form that experiments read.

    Args:
      name: that of TFDS.
      data_dir: where to write it; `TFDS_DATA_DIR` or `~/tensorflow_datasets` by default.

    Raises:
      ValueError: TensorFlow is missing, with which TFDS encodes images, or there is other data.
    """
    source = _builder(name, data_dir)
    if not Path(source.data_path).exists():
        if importlib.util.find_spec("tensorflow") is None:
            raise ValueError(
                "TFDS needs TensorFlow to prepare images (not to read them), and it is not "
                'installed.\nFix: pip install -e ".[prepare]"'
            )
        source.download_and_prepare(file_format=FORMAT)
    print(f"{name} is prepared in {builder(name, data_dir).data_path}")


def _builder(name: str, data_dir: Path | None) -> Any:
    import tensorflow_datasets as tfds
    from google.protobuf import json_format
    from tensorflow_datasets.core import constants

    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(f"TFDS has no data set {name!r}.\nFix: a name of its catalog.") from error
    except (json_format.Error, OSError, ValueError) as error:  # of a damaged dataset_info.json
        root = Path(data_dir or constants.DATA_DIR)
        raise ValueError(
            f"cannot read {name} in {root}: {error}.\n{_fix(name, root, root / name)}"
        ) from error


def _fix(name: str, root: Path, path: Path) -> str:
    """Returns the line with the one command that prepares a data set at `path`."""
    command = f"python -m experiments.data prepare {name} --data-dir {shlex.quote(str(root))}"
    return f"Fix: remove {path}, then {command}" if Path(path).exists() else f"Fix: {command}"


def _load(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the cached arrays, or none if there are none or the checksums of the file differ."""
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            return arrays["images"], arrays["labels"]
    except Exception:  # a damaged archive raises almost anything
        return None


def _decode(builder: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
    source = builder.as_data_source(split=split)
    images = np.empty((len(source), *builder.info.features["image"].shape), np.uint8)
    labels = np.empty(len(source), np.int32)
    starts = range(0, len(source), 1000)
    what = f"Decoding {builder.name} {split}"
    for start in track(starts, what, transient=True, disable=not sys.stdout.isatty()):
        rows = range(start, min(start + 1000, len(source)))
        for row, example in zip(rows, source.__getitems__(rows), strict=True):
            images[row], labels[row] = example["image"], example["label"]
    return images, labels
