"""A manifest that someone forged, SHA-256 included, is refused; nothing outside is read."""

import json
import os
import shutil
import sys

import numpy as np
import pytest

from checkpoints import SPEC, assert_identical, data, rewrite_manifest
from jaxprune.checkpoint import restore, save
from jaxprune.errors import CheckpointError

VARIABLES = {"a": np.arange(3.0), "b": [np.ones((2, 1), np.int8), (), np.zeros((0, 2)), 3]}
STATE = (np.ones(2), None)
GROUPS = {"g": {"size": 4, "kept": [0, 2]}, "h": {"size": 2, "kept": [[0]]}}
METADATA = {"m": [1]}
OTHERS = [
    *(None, True, -1, 0, 7, 2**70, 10**3000, 0.5, [], [0], [[]], [None], {}, {"x": 1}),
    *("", "x", "/etc/passwd", "../x", "python int", "float64", "jaxprune-data-0", "remove"),
    *({"other": "State"}, [2**62], [2**40], ["a", 0], {"list": [0]}, {"dict": [["a", 0]] * 2}),
]
DEEP = json.loads("[" * 450 + "]" * 450)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "pruned"
    save(path, VARIABLES, SPEC | {"groups": GROUPS}, opt_state=STATE, metadata=METADATA)
    return path


@pytest.fixture
def checkpoint(written, tmp_path):
    return shutil.copytree(written, tmp_path / "pruned")


def places(value, place=()):
    """Every place in a JSON value but the whole."""
    if isinstance(value, dict | list):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*place, key)
            yield from places(child, (*place, key))


def put(content, place, other):
    for key in place[:-1]:
        content = content[key]
    if other == "remove":
        del content[place[-1]]
    else:
        content[place[-1]] = other


def read(path):
    """What a checkpoint holds; None if it is refused."""
    try:
        restored = restore(path)
        return restored.variables, restored.opt_state, restored.spec, restored.metadata
    except CheckpointError as error:
        return print(error)


def may_differ(place):
    """What a forger may say in the form of what a save says: the files do not contradict it."""
    empty = place[:4] == ("trees", "variables", "leaves", 2)
    return empty or {"spec", "metadata", "structure", "opt_state", "path", "dtype"} & set(place)


@pytest.mark.parametrize("first", range(4))
def test_every_node_of_a_manifest_in_turn_becomes_every_other_value(first, checkpoint, capsys):
    content = json.loads((checkpoint / "jaxprune.json").read_text())["content"]
    everywhere = list(places(content))[first::4]
    refused = 0
    original = (checkpoint / "jaxprune.json").read_bytes()
    for place in everywhere:
        for other in OTHERS:
            (checkpoint / "jaxprune.json").write_bytes(original)
            rewrite_manifest(checkpoint, lambda found, p=place, o=other: put(found, p, o))
            found = read(checkpoint)
            if found is None:
                refused += 1
                assert "Fix: " in capsys.readouterr().out
            elif not may_differ(place):
                assert_identical(found[:2], (VARIABLES, STATE))
                assert found[2:] == (SPEC | {"groups": GROUPS}, METADATA)
    assert refused > 20 * len(everywhere) > 250


@pytest.mark.parametrize(
    ("place", "value", "why"),
    [
        (("data",), "/etc", "the data '/etc' is not a directory that jaxprune writes"),
        (("data",), "../jaxprune-data-0", "the data '../jaxprune-data-0' is not"),
        (("data",), "jaxprune-data-0/..", "is not a directory that jaxprune writes"),
        (("data",), "jaxprune-data-0\n", "is not a directory that jaxprune writes"),
        (("files", "../x"), "0" * 64, "the file '../x' with SHA-256"),
        (("files", "/etc/passwd"), "0" * 64, "the file '/etc/passwd' with SHA-256"),
        (("files", "variables/../../x"), "0" * 64, "cannot be one of the checkpoint"),
        (("files", "C:\\x"), "0" * 64, "cannot be one of the checkpoint"),
        (("files", "a//b"), "0" * 64, "cannot be one of the checkpoint"),
        (("files", "a\0b"), "0" * 64, "cannot be one of the checkpoint"),
        (("files", "absent"), "0" * 64, "absent: No such file"),
        (("metadata",), DEEP, "is more than 400 levels deep, or holds itself"),
        (("metadata",), float("nan"), "nan, which JSON does not have"),
        (("spec", "groups", "g", "kept"), [0, 2**70], "increasing indices from 0 to 3"),
        (("trees", "more"), {}, "it holds the trees ['variables', 'opt_state', 'more']"),
        (("trees", "variables", "leaves", 0, "shape"), [2**62], "leaf 0 of the variables"),
        (("trees", "variables", "leaves", 0, "shape"), [2**40], "Orbax cannot read the variables"),
        (("trees", "variables", "leaves", 0, "shape"), [2], "Orbax cannot read the variables"),
        (("trees", "variables", "leaves", 0, "dtype"), "object", "leaf 0 of the variables"),
        (("trees", "variables", "structure"), {"list": [0, 0, 1, 2]}, "not a tree of its leaves"),
        (("trees", "opt_state", "structure"), [[0]], "not a tree of its leaves"),
    ],
)
def test_a_forged_manifest_says_why_it_is_refused(checkpoint, capsys, place, value, why):
    rewrite_manifest(checkpoint, lambda content: put(content, place, value))
    assert read(checkpoint) is None
    assert why in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "[" * 100_000, "{", '"x"', "NaN", "\ud800", '{"format": []}'])
def test_a_manifest_that_is_not_one(checkpoint, text):
    (checkpoint / "jaxprune.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(CheckpointError, match=r"is damaged: jaxprune\.json"):
        restore(checkpoint)


opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)


def in_place_of_the_data(path):
    outside = data(path).rename(path.parent / "outside")
    (path / json.loads((path / "jaxprune.json").read_text())["content"]["data"]).symlink_to(outside)
    return outside


def in_place_of_a_tree(path):
    outside = (data(path) / "variables").rename(path.parent / "outside")
    (data(path) / "variables").symlink_to(outside)
    return outside


def in_place_of_a_file(path):
    outside = (data(path) / "variables" / "manifest.ocdbt").rename(path.parent / "outside")
    (data(path) / "variables" / "manifest.ocdbt").symlink_to(outside)
    return outside


def in_place_of_the_manifest(path):
    outside = (path / "jaxprune.json").rename(path.parent / "outside")
    (path / "jaxprune.json").symlink_to(outside)
    return outside


def beside_the_files(path):
    (path.parent / "outside").mkdir()
    (data(path) / "more").symlink_to(path.parent / "outside")
    return path.parent / "outside"


def a_pipe(path):
    os.mkfifo(data(path) / "more")
    return path.parent / "outside"


@pytest.mark.parametrize(
    "link",
    [
        in_place_of_the_data,
        in_place_of_a_tree,
        in_place_of_a_file,
        in_place_of_the_manifest,
        beside_the_files,
        a_pipe,
    ],
)
def test_a_link_out_of_the_checkpoint_is_not_followed(checkpoint, link):
    """What it leads to is even what the manifest says."""
    outside = link(checkpoint)
    opened.clear()
    with pytest.raises(CheckpointError, match="link"):
        restore(checkpoint)
    assert [path for path in opened if str(outside) in path] == []


def test_the_directory_itself_may_be_a_link(checkpoint, tmp_path):
    (tmp_path / "latest").symlink_to(checkpoint)
    assert_identical(restore(tmp_path / "latest").variables, VARIABLES)
    save(tmp_path / "latest", {}, SPEC, overwrite=True)
    assert restore(checkpoint).variables == {}
