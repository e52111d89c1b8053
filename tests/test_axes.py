"""Axis spaces against sets of index tuples.

A space is read as a list of labels, one for each index of the axis: what must stay equal for every
keep. Random spaces are built by random operations and checked by brute force.
"""

import itertools
from collections.abc import Callable

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from jaxprune.program import reasons
from jaxprune.program import spaces as ax
from jaxprune.program.reasons import Why
from jaxprune.program.spaces import Atom, Prod, Reason, Space, Sum

BY_THE_TEST = Reason(Why("by the test"))

SIZES = st.sampled_from([2, 3, 4, 6, 8, 12])


def name_atoms(*spaces: Space) -> dict[str, int]:
    """Names every free atom, as `trace` does; returns their sizes."""
    names: dict[str, int] = {}
    for atom in dict.fromkeys(itertools.chain.from_iterable(map(ax.atoms, spaces))):
        if atom.reason is None:
            atom.name = f"g{len(names)}"
            names[atom.name] = atom.size
    return names


def random_keep(names: dict[str, int], seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: random.random(size) < 0.6 for name, size in names.items()}


def labels(space: Space) -> list[tuple]:
    """What each index of an axis is: the (atom, index) pairs that it belongs to."""
    space = ax.find(space)
    if isinstance(space, Atom):
        return [((id(space), i),) for i in range(space.size)]
    if isinstance(space, Sum):
        return [label for part in space.parts for label in labels(part)]
    found: list[tuple] = [()]
    for item in space.factors:
        found = [a + b for a in found for b in labels(item)]
    return found


def mask_of(space: Space, keep: dict[str, np.ndarray]) -> np.ndarray:
    """The mask by brute force, index by index."""
    kept = {}
    for atom in ax.atoms(space):
        for i in range(atom.size):
            kept[id(atom), i] = atom.name is None or bool(keep[atom.name][i])
    return np.array([all(kept[pair] for pair in label) for label in labels(space)], bool)


@st.composite
def spaces(draw: st.DrawFn, size: int | None = None, depth: int = 3) -> Space:
    """A random space of `size`; now and then an atom that was given before, or a frozen one."""
    size = draw(SIZES) if size is None else size
    if size == 1:
        return ax.ONE
    known = draw(st.shared(st.builds(dict), key="atoms"))
    kind = draw(st.sampled_from(["atom", "again", "frozen", "sum", "sum", "product", "product"]))
    if kind == "sum" and depth:
        cut = draw(st.integers(1, size - 1))
        return ax.concat([draw(spaces(cut, depth - 1)), draw(spaces(size - cut, depth - 1))])
    divisors = [k for k in range(2, size) if size % k == 0]
    if kind == "product" and depth and divisors:
        k = draw(st.sampled_from(divisors))
        return ax.product([draw(spaces(size // k, depth - 1)), draw(spaces(k, depth - 1))])
    if kind == "frozen":
        return ax.frozen(size, BY_THE_TEST)
    if kind == "again" and size in known:
        return known[size]
    return known.setdefault(size, Atom(size)) if kind == "again" else Atom(size)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Space, Space]:
    """Two random spaces of one size."""
    size = draw(SIZES)
    return draw(spaces(size)), draw(spaces(size))


@hypothesis.given(spaces(), st.integers(0, 99))
def test_select_count_and_positions_agree_with_brute_force(space: Space, seed: int) -> None:
    names = name_atoms(space)
    keep = random_keep(names, seed)
    expected = mask_of(space, keep)
    np.testing.assert_array_equal(ax.select(space, keep), expected)
    pairs_of = labels(space)
    for atom in set(ax.atoms(space)):
        found = ax.positions(space, atom)
        for i, row in enumerate(found):
            expected_row = [p for p, label in enumerate(pairs_of) if (id(atom), i) in label]
            assert sorted(row) == expected_row
    if is_separable(space):
        widths = {name: int(value.sum()) for name, value in keep.items()}
        assert ax.count(space, widths) == expected.sum()


def is_separable(space: Space) -> bool:
    """True if no atom is on two sides of a product: only then do sizes multiply."""
    space = ax.find(space)
    if isinstance(space, Atom):
        return True
    items = space.parts if isinstance(space, Sum) else space.factors
    if isinstance(space, Prod):
        for a, b in itertools.combinations(items, 2):
            if set(named(a)) & set(named(b)):
                return False
    return all(map(is_separable, items))


def named(space: Space) -> list[Atom]:
    return [atom for atom in ax.atoms(space) if atom.name is not None]


@hypothesis.given(pairs(), st.integers(0, 99))
def test_unified_axes_have_equal_masks(pair: tuple[Space, Space], seed: int) -> None:
    a, b = pair
    ax.unify(a, b)
    keep = random_keep(name_atoms(a, b), seed)
    np.testing.assert_array_equal(mask_of(a, keep), mask_of(b, keep))
    np.testing.assert_array_equal(ax.select(ax.resolve(a), keep), ax.select(b, keep))
    assert ax.resolve(a).size == ax.resolve(b).size == a.size


@hypothesis.given(st.lists(pairs(), min_size=2, max_size=5), st.integers(0, 99))
def test_later_ties_keep_earlier_ones(ties: list[tuple[Space, Space]], seed: int) -> None:
    for a, b in ties:
        ax.unify(a, b)
    keep = random_keep(name_atoms(*itertools.chain.from_iterable(ties)), seed)
    for a, b in ties:
        np.testing.assert_array_equal(ax.select(a, keep), ax.select(b, keep))


@hypothesis.given(spaces(), st.data(), st.integers(0, 99))
def test_split_is_the_inverse_of_concatenation(
    space: Space, data: st.DataObject, seed: int
) -> None:
    k = data.draw(st.integers(0, space.size))
    head, tail = ax.split(space, k)
    assert (head.size, tail.size) == (k, space.size - k)
    keep = random_keep(name_atoms(space, head, tail), seed)
    whole = np.concatenate([ax.select(head, keep), ax.select(tail, keep)])
    np.testing.assert_array_equal(ax.select(space, keep), whole)


@hypothesis.given(spaces(), st.data(), st.integers(0, 99))
def test_factor_is_the_inverse_of_the_product(space: Space, data: st.DataObject, seed: int) -> None:
    k = data.draw(st.sampled_from([k for k in range(1, space.size + 1) if space.size % k == 0]))
    outer, inner = ax.factor(space, k)
    assert (outer.size, inner.size) == (space.size // k, k)
    keep = random_keep(name_atoms(space, outer, inner), seed)
    whole = np.logical_and.outer(ax.select(outer, keep), ax.select(inner, keep)).ravel()
    np.testing.assert_array_equal(ax.select(space, keep), whole)


@hypothesis.given(spaces(), st.data(), st.integers(0, 99))
def test_pieces_of_pieces_stay_consistent(space: Space, data: st.DataObject, seed: int) -> None:
    """A random chain of splits and factors, then the whole is tied to itself in other pieces."""
    cut = data.draw(st.integers(0, space.size))
    head, tail = ax.split(space, cut)
    twin = ax.concat([head, tail])
    divisors = [k for k in range(1, space.size + 1) if space.size % k == 0]
    outer, inner = ax.factor(twin, data.draw(st.sampled_from(divisors)))
    ax.unify(space, ax.product([outer, inner]))
    keep = random_keep(name_atoms(space, head, tail, outer, inner), seed)
    mask = ax.select(space, keep)
    np.testing.assert_array_equal(mask, ax.select(ax.concat([head, tail]), keep))
    np.testing.assert_array_equal(mask, ax.select(ax.product([outer, inner]), keep))


@hypothesis.given(spaces())
def test_freeze_keeps_every_index(space: Space) -> None:
    ax.freeze(space, BY_THE_TEST)
    assert not name_atoms(space)
    assert ax.select(space, {}).all()
    assert ax.count(space, {}) == space.size


@hypothesis.given(spaces())
def test_resolve_is_flat_and_equal(space: Space) -> None:
    found = ax.resolve(space)
    assert labels(found) == labels(space)
    for item in walk(found):
        if isinstance(item, Atom):
            assert item.link is None
        else:
            inner = item.parts if isinstance(item, Sum) else item.factors
            assert not any(type(child) is type(item) for child in inner)


def walk(space: Space) -> list[Space]:
    if isinstance(space, Atom):
        return [space]
    items = space.parts if isinstance(space, Sum) else space.factors
    return [space, *itertools.chain.from_iterable(map(walk, items))]


def test_what_can_be_aligned_stays_free() -> None:
    """One line for each way in which two spaces meet; the sizes are the atoms that remain."""
    c = Atom(12)
    ax.unify(c, ax.product([Atom(3), Atom(4)]))
    assert show(c) == "(3 * 4)"
    ax.unify(c, ax.product([Atom(6), Atom(2)]))
    assert show(c) == "(3 * 2 * 2)"
    c = Atom(12)
    ax.unify(ax.concat([c, Atom(4)]), ax.concat([Atom(4), Atom(12)]))
    assert show(c) == "(4 + 8)"
    channels, inner = Sum((Atom(4), Atom(8))), Atom(2)
    ax.unify(channels, ax.product([Atom(6), inner]))
    assert show(channels) == "((2 * 2) + (4 * 2))"
    assert {id(atom) for atom in ax.atoms(channels) if atom.size == 2} >= {id(ax.find(inner))}


def show(space: Space) -> str:
    for atom in ax.atoms(space):
        assert atom.reason is None, atom.reason
    return repr(ax.resolve(space)).replace("?:", "")


def test_a_channel_shuffle_is_free_where_the_groups_divide() -> None:
    c = Atom(12)
    groups, inner = ax.factor(c, 4)  # 3 groups of 4
    shuffled = ax.product([inner, groups])
    ax.unify(shuffled, ax.product([Atom(6), Atom(2)]))
    assert any(atom.reason for atom in ax.atoms(c))  # 3 and 2 have no common factor
    c = Atom(16)
    groups, inner = ax.factor(c, 8)  # 2 groups of 8
    ax.unify(c, ax.product([inner, groups]))
    assert not any(atom.reason for atom in ax.atoms(c))


def twos_of_threes() -> Space:
    return ax.product([Atom(2), Atom(3)])


def threes_of_twos() -> Space:
    return ax.product([Atom(3), Atom(2)])


def four_of_nines() -> Space:
    return ax.product([Atom(4), Atom(9)])


def nine_of_fours() -> Space:
    return ax.product([Atom(9), Atom(4)])


@pytest.mark.parametrize(
    ("left", "right", "text"),
    [
        (twos_of_threes, threes_of_twos, "cannot align (2 * 3) with (3 * 2)"),
        (four_of_nines, nine_of_fours, "cannot align (4 * 9) with (9 * 4)"),
    ],
)
def test_what_cannot_align_is_frozen_on_both_sides(
    left: Callable[[], Space], right: Callable[[], Space], text: str
) -> None:
    a, b = left(), right()
    ax.unify(a, b)
    reasons = [atom.reason for atom in itertools.chain(ax.atoms(a), ax.atoms(b))]
    assert {reason and reason.text.replace("?:", "") for reason in reasons} == {text}


def test_what_two_products_share_innermost_stays_free() -> None:
    a, b = ax.product([Atom(3), Atom(4)]), ax.product([Atom(2), Atom(6)])
    ax.unify(a, b)
    assert [(atom.size, atom.reason is None) for atom in ax.atoms(a)] == [
        (3, False),
        (2, False),
        (2, True),
    ]
    assert list(ax.atoms(a))[-1] is list(ax.atoms(b))[-1]


def test_a_cut_inside_a_product_keeps_the_index_it_goes_through() -> None:
    outer, inner = Atom(5), Atom(4)
    head, tail = ax.split(ax.product([outer, inner]), 10)
    assert show(head) == "((2 * (2 + 2)) + 2)"
    assert show(tail) == "(2 + (2 * (2 + 2)))"
    assert show(outer) == "(2 + 1 + 2)"
    assert show(inner) == "(2 + 2)"


def test_parts_that_a_factor_does_not_divide_are_one_period() -> None:
    """As the first grouped convolution of a ShuffleNet reads a stem of 3 beside 27 channels."""
    stem, body = Atom(24), ax.product([Atom(3), Atom(72)])
    outer, inner = ax.factor(Sum((stem, body)), 80)
    assert show(inner) == "(8 + 8 + 8 + 8 + 8 + 8 + 8 + 8 + 8 + 8)"
    assert len(set(ax.atoms(inner))) == 1  # the greatest common divisor of 24, 72 and 80
    assert show(stem) == "(8 + 8 + 8)"
    assert list(ax.atoms(outer)) == []
    space = Sum((Atom(3), Atom(5)))
    outer, inner = ax.factor(space, 4)
    assert (show(outer), show(inner)) == ("(1 + 1)", "(3 + 1)")
    assert show(space) == "(3 + 1 + 3 + 1)"


def test_an_axis_that_meets_a_rearrangement_of_itself_freezes() -> None:
    atom = Atom(4)
    wrapped = Sum((atom, ax.fresh(4)))
    ax.unify(atom, ax.split(wrapped, 4)[0])
    assert atom.reason is None
    halves = ax.split(Atom(8), 4)
    ax.unify(ax.concat(halves), ax.concat(halves[::-1]))
    assert ax.find(halves[0]) is ax.find(halves[1])  # equal halves become one


def test_freezing_spreads_through_ties_in_any_order() -> None:
    for frozen_first in (True, False):
        a, b, c = Atom(4), Atom(4), Atom(4)
        if frozen_first:
            ax.freeze(a, Reason(Why("spatial")))
        ax.unify(a, b)
        ax.unify(b, c)
        if not frozen_first:
            ax.freeze(c, Reason(Why("spatial")))
        assert all(r.reason.text == "spatial" for s in (a, b, c) for r in ax.atoms(s))


def test_the_first_reason_stays_and_names_its_place() -> None:
    class Somewhere:
        place = "Block_0/Conv_1"

    atom = Atom(3)
    ax.freeze(atom, Reason(Why("spatial"), at=Somewhere()))
    ax.freeze(atom, Reason(reasons.OUTPUT))
    assert atom.reason is not None
    assert (atom.reason.text, atom.reason.place) == ("spatial", "Block_0/Conv_1")
    assert Reason(reasons.OUTPUT).place == ""


def test_sizes_that_differ_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"\?:3 and \?:4 differ in size, at somewhere"):
        ax.unify(Atom(3), Atom(4), "somewhere")


def test_long_chains_of_ties_are_flat() -> None:
    """No recursion over the length of a chain, and each look-up shortens it."""
    chain = [Atom(2) for _ in range(5000)]
    for a, b in itertools.pairwise(chain):
        ax.unify(a, b)
    assert len({id(ax.find(atom)) for atom in chain}) == 1


@pytest.mark.parametrize("size", [64, 96])
def test_adversarial_mixes_end(size: int) -> None:
    """Sums of products against products of sums, all over the same few atoms."""
    random = np.random.default_rng(size)
    pool = [Atom(k) for k in (2, 4, 8, 16, 32, 3, 6) for _ in range(2)]

    def build(n: int) -> Space:
        same = [atom for atom in pool if atom.size == n]
        if same and random.random() < 0.5:
            return same[random.integers(len(same))]
        divisors = [k for k in range(2, n) if n % k == 0]
        if divisors and random.random() < 0.5:
            k = int(random.choice(divisors))
            return ax.product([build(n // k), build(k)])
        if n > 2:
            cut = int(random.integers(1, n))
            return ax.concat([build(cut), build(n - cut)])
        return ax.fresh(n)

    made = [build(size) for _ in range(12)]
    for a, b in itertools.combinations(made, 2):
        ax.unify(a, b)
    keep = random_keep(name_atoms(*made), 0)
    masks = [ax.select(space, keep) for space in made]
    for mask in masks[1:]:
        np.testing.assert_array_equal(mask, masks[0])


def test_selecting_with_traced_masks_gives_traced_masks() -> None:
    import jax
    import jax.numpy as jnp

    space = Sum((Atom(2), Prod((Atom(2), Atom(3)))))
    names = name_atoms(space)
    keep = random_keep(names, 3)
    traced = jax.jit(lambda masks: ax.select(space, masks))(keep)
    assert isinstance(traced, jax.Array)
    np.testing.assert_array_equal(traced, ax.select(space, keep))
    assert isinstance(ax.select(space, keep), np.ndarray)
    jnp.asarray(traced)
