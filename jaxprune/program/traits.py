"""What primitives are to those that follow values through a program: traits of a rule."""

from enum import Enum, Flag, auto


class Trait(Flag):
    """What a primitive does with the values of its operands; a rule without traits says nothing."""

    AS_IS = auto()
    """Every result is an operand as it is, up to its type, its precision or its device."""
    MOVES = auto()
    """The entries of the one operand in other places, none changed."""
    ORDERED = auto()
    """What it moves stays in its order, in the memory of an array."""
    BROADCASTS = auto()
    """It repeats the operand along new or single axes."""
    PARTS = auto()
    """It joins arrays along an axis, or cuts one along an axis."""
    LINEAR = auto()
    """f(a + b) = f(a) + f(b), in all operands together."""
    HOMOGENEOUS = auto()
    """f(c a) = c f(a) for c > 0, in its first operand; the others only say which entries."""
    TOGETHER = auto()
    """f(c a, c b, ...) = c f(a, b, ...) for c > 0, in all operands that have values."""
    MULTIPLIES = auto()
    """Linear in each of two operands."""
    DIVIDES = auto()
    """Linear in the first operand, over the second."""
    BOUNDS = auto()
    """An operand within bounds, or a part of its numbers; a mean stays a mean of something."""
    MAXIMUM = auto()
    """The largest of entries along axes or in windows."""
    SUMS = auto()
    """The sum of entries along `axes`, of every operand."""
    COMPARES = auto()
    """Truths, of which equal factors of the operands change nothing."""
    CHOOSES = auto()
    """Entry by entry one of several operands."""
    CONTRACTS = auto()
    """A sum of products over axes in which two operands meet."""
    LOOKS_UP = auto()
    """Rows of a table, by their indices."""
    WRITES = auto()
    """The first operand, into which others are written or added by index."""
    STARTS = auto()
    """Its operands without values are where a slice starts, one for each axis of the first."""
    COUNTS = auto()
    """Positions along the axis `dimension`."""
    UNCOUNTED = auto()
    """It multiplies, and no cost counts how often."""
    RANDOM = auto()
    """Random keys, and what is drawn from them."""
    DRAWS = auto()
    """It draws, so that at another size it gives other numbers."""
    MARKS = auto()
    """It marks what a reader keeps of a stream."""
    ENTRYWISE = auto()
    """Every entry of the results is made of the same entries of the operands."""
    APART = auto()
    """Along an axis that goes through, every row of the results is made of that row alone."""


NOTHING = Trait(0)


class Form(Enum):
    """How a primitive runs the programs that it holds."""

    CALL = auto()
    REMAT = auto()
    CUSTOM_JVP = auto()
    CUSTOM_VJP = auto()
    SHARD_MAP = auto()
    SCAN = auto()
    WHILE = auto()
    COND = auto()

    @property
    def calls(self) -> bool:
        """True if it is its program, at the same shapes."""
        return self in _CALLS

    @property
    def custom(self) -> bool:
        """True if its program comes with a derivative of its own."""
        return self in (Form.CUSTOM_JVP, Form.CUSTOM_VJP)


_CALLS = (Form.CALL, Form.REMAT, Form.CUSTOM_JVP, Form.CUSTOM_VJP)
