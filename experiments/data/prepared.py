"""Data sets that TensorFlow Datasets (TFDS) has prepared, read without TensorFlow.

Images are decoded once: the arrays are kept in `$XDG_CACHE_HOME/jaxprune` (`~/.cache/jaxprune` by
default), under a name that changes with the prepared files. Delete them at will.
"""

import hashlib
import importlib.util
import logging
import os
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.progress import track

FORMAT = "array_record"

Decode = Callable[[Any, str], tuple[np.ndarray, np.ndarray]]
"""(builder, split) -> images and labels of all examples."""


def builder(name: str, data_dir: Path | None = None) -> Any:
    """Returns the TFDS builder of a data set that is prepared for random access.

    Args:
      name: that of TFDS.
      data_dir: where it is prepared; `TFDS_DATA_DIR` or `~/tensorflow_datasets` by default.

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
    raise ValueError(f"{name} is {what}.\n{_fix(name, source.data_dir_root, path)}")


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
    try:
        cache = _cache_path(builder, split, form)
        arrays = _load(cache)
        if arrays is None:
            arrays = (decode or _decode)(builder, split)
            _save(cache, *arrays)
    except (OSError, RuntimeError, LookupError, ValueError) as error:  # of TFDS and array_record
        raise ValueError(
            f"cannot read the split {split} of {builder.name} in {builder.data_path}: {error}.\n"
            f"{_fix(builder.name, builder.data_dir_root, builder.data_path)}"
        ) from error
    return arrays


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


def _cache_path(builder: Any, split: str, form: str) -> Path:
    """Returns where the decoded split is kept; raises OSError where a prepared file is missing."""
    files = [f for part in split.split("+") for f in builder.info.splits[part].filepaths]
    stats = [(file.name, Path(file).stat()) for file in files]
    identity = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    digest = hashlib.sha256(repr((str(builder.version), identity)).encode()).hexdigest()[:16]
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "jaxprune" / f"{builder.name}{form}-{split}-{digest}.npz"


def _load(cache: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the cached arrays, or none if there are none or the checksums of the file differ."""
    try:
        with cache.open("rb") as file, np.load(file) as arrays:
            return arrays["images"], arrays["labels"]
    except Exception:  # a damaged archive raises almost anything
        return None


def _save(cache: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Writes the arrays whole or not at all; where that is not possible, it says so and goes on."""
    file = None
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache.parent, delete=False) as file:
            np.savez(file, images=images, labels=labels)
        os.replace(file.name, cache)
    except OSError as error:
        logging.getLogger(__name__).warning("cannot keep the decoded images: %s", error)
        if file is not None:
            Path(file.name).unlink(missing_ok=True)


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
