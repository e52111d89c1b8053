"""The laws of pruning on random programs of raw `jax.numpy` and `lax`."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import jaxprune as jp
import raw_laws
import raw_programs

COUNT = raw_programs.TURN
CLASSES = {
    "einsum": "einsum",
    "convolution": "conv_",
    "grouped convolution": "conv_grouped conv_depthwise conv_multiplied",
    "transposed convolution": "conv_transpose conv_lhs_dilated",
    "batch groups": "conv_batch_groups",
    "reshape": "reshape_ flattened",
    "transpose": "transposes flattened_transposed einsum_permuted",
    "uneven concat": "concatenated dense_connections",
    "uneven split": "split_unevenly lax_split",
    "negative or interior pad": "padded_negative padded_interior conv_uneven_pads",
    "pad": "padded_",
    "gather": "embedding dynamic_ permuted_ repeated_channels row_per_example integer_order",
    "scatter": "set_ added_ multiplied_at scattered_ segment_sum dynamic_update",
    "cumulative": "cumulated_ products running_maximum",
    "index": "argmax argmin top_ one_hot searched digitized routed sorted argsorted places_",
    "scan": "recurrent gated_recurrent stacked_layers nested_scans scan_ dropout_in_scan",
    "branch": "branch_ switch",
    "loop": "for_loop while_loop stacked_layers_elsewhere",
    "custom derivative": "custom_",
    "call": "remat nested_jit nested_calls",
    "vmap": "vmapped_ nested_vmaps synced",
    "collective": "collective_ synced_batch_norm nested_vmaps",
    "random draw": "dropout noise random_ bernoulli categorical gumbel shuffled truncated uniform",
    "root": "root norm_of angle weight_norm reciprocal_root log_and_exp",
    "follows a size": "divided_by_size scaled_ mean_of_channels variance layer_norm rms_norm",
    "shared parameter": "tied_ used_twice shared_bias conv_same_kernel embedding_tied matrix_power",
    "integer leaf": "integer_ boolean_leaf",
    "complex": "complex_",
    "bfloat16": "bfloat16_",
    "updated variable": "batch_norm running_average",
}
"""What raw code is made of: the beginnings of the names of the blocks that have it."""


def names_of(index: int) -> set[str]:
    return set(raw_programs.dealt(index).names)


def has(names: set[str], beginnings: str) -> bool:
    return any(name.startswith(tuple(beginnings.split())) for name in names)


@pytest.mark.parametrize("index", range(COUNT))
def test_laws_hold_on_raw_programs(index):
    raw_laws.check_laws(raw_laws.program(index))


@pytest.mark.slow
@pytest.mark.parametrize("index", range(COUNT, COUNT + 2000))
def test_laws_hold_on_many_raw_programs(index):
    raw_laws.check_laws(raw_laws.program(index))


def test_each_block_is_in_a_program_and_each_class_in_a_few_percent():
    programs = [names_of(index) for index in range(COUNT)]
    assert set().union(*programs) == set(raw_programs.BLOCKS)
    shares = {
        key: np.mean([has(names, text) for names in programs]) for key, text in CLASSES.items()
    }
    assert min(shares.values()) >= 0.03, shares
    for beginnings in CLASSES.values():
        for one in beginnings.split():
            assert has(set(raw_programs.BLOCKS), one), one


def test_most_programs_have_exact_groups_and_many_can_be_resized():
    counts, resized = [], []
    for index in range(0, COUNT, 2):
        made = raw_laws.program(index)
        with raw_laws.world():
            graph = raw_laws.traced(made)
            keep = raw_laws.keeps(graph, index)["free"]
            counts.append(len(graph.groups.keys() - raw_laws.inexact(graph)))
            resized.append(raw_laws.resized(made, graph, keep) is not None)
    assert np.mean(np.array(counts) > 0) >= 0.9, counts
    assert np.mean(counts) >= 2, counts
    assert np.mean(resized) >= 0.5, resized


def test_a_program_is_the_same_each_time():
    first, second = raw_laws.program(7), raw_laws.program(7)
    assert str(first) == str(second)
    jax.tree.map(np.testing.assert_array_equal, first.variables, second.variables)


def other_channels(cut):
    """Takes the neighbors of what is kept."""
    return lambda first, second, keep: cut(
        first, second, {name: np.roll(kept, 1, axis=-1) for name, kept in keep.items()}
    )


def one_more(cost):
    return lambda graph, keep=None: cost(graph, keep) + (keep is not None)


def other_function(resize):
    return lambda fn, graph, keep: Scaled(resize(fn, graph, keep))


class Scaled:
    """A resized function that computes something else."""

    def __init__(self, inner):
        self.inner, self.follows = inner, inner.follows

    def __call__(self, *args):
        return jax.tree.map(lambda y: 2 * y, self.inner(*args))


def all_exact(trace):
    """Says of no group that it is inexact."""

    def lenient(*args, **options):
        graph = trace(*args, **options)
        groups = {name: replace(group, inexact=None) for name, group in graph.groups.items()}
        return replace(graph, groups=groups)

    return lenient


BROKEN = {
    "narrow": (other_channels, "narrow, masked", ("counted_channels",)),
    "mask": (other_channels, "poison in what is masked", ("dense",)),
    "slice": (other_channels, "poison in what is sliced", ("dense",)),
    "resize": (other_function, "resized, narrow", ("dense",)),
    "cost.macs": (one_more, "macs", ("dense",)),
    "trace": (all_exact, "narrow, masked", ("dense", "layer_norm")),
}
"""What is broken: how, which law says so, and on which blocks."""
SEED = 6
"""With free constants, so that `narrow` cuts what is counted."""


@pytest.mark.parametrize("path", BROKEN)
def test_each_law_refuses_what_is_broken(path, monkeypatch):
    wrong, law, names = BROKEN[path]
    assert raw_laws.failure(names, SEED) is None
    owner = jp.cost if path.startswith("cost.") else jp
    name = path.removeprefix("cost.")
    monkeypatch.setattr(owner, name, wrong(getattr(owner, name)))
    assert law in raw_laws.failure(names, SEED)


@pytest.mark.parametrize("root", ["root_of_square", "cube_root", "angle", "norm_of_places"])
def test_a_gradient_that_is_lost_to_the_mask_is_found(root, monkeypatch):
    """The mask makes an infinite derivative times zero of kept weights: narrow has none."""
    monkeypatch.setattr(jp, "trace", all_exact(jp.trace))
    assert "nan location mismatch" in raw_laws.failure(("einsum_ellipsis", root), seed=0)
