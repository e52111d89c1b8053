"""The methods of a comparison: one entry for each row of the taxonomy, and those since.

A method is what makes a pruned network of the dense one; the recovery behind it is the same for
all. `METHODS` is the table: name -> row, needs, source, procedure with its settings.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from experiments.comparing import gated, informed, planned, trained
from experiments.comparing.bench import Prune


class Need(StrEnum):
    """What a method needs beside the dense network, before the recovery."""

    NOTHING = "nothing"
    DATA = "images"
    LABELS = "labels"
    TRAINING = "training"


class Method(NamedTuple):
    """A method with its own defaults.

    Attributes:
      row: of the taxonomy of 28 methods; empty for those beside it.
      needs: before the recovery.
      source: name and year of what it follows.
      prune: its procedure.
    """

    row: str
    needs: Need
    source: str
    prune: Prune

    @property
    def settings(self) -> dict[str, Any]:
        """Returns the name of the procedure and its settings, a JSON value."""
        found = self.prune
        if isinstance(found, partial):
            return {"procedure": found.func.__name__, **found.keywords}
        return {"procedure": found.__name__}  # pyright: ignore[reportFunctionMemberAccess]


_NOTHING, _DATA, _LABELS, _TRAINING = Need


def _of(row: str, needs: Need, source: str, make: Callable[..., Any], **settings: Any) -> Method:
    return Method(row, needs, source, partial(make, **settings) if settings else make)


def _score(
    row: str, needs: Need, source: str, name: str, scope: informed.Scope = "layer", **more: Any
) -> Method:
    return _of(row, needs, source, informed.scored, score=name, scope=scope, **more)


def _sparse(row: str, source: str, name: str, **more: Any) -> Method:
    return _of(row, _TRAINING, source, trained.sparse, method=name, **more)


_ALONE: Mapping[str, Method] = {
    "random": _score("", _NOTHING, "baseline", "random"),
    "l1": _score("7", _NOTHING, "PFEC 2017", "l1"),
    "l2": _score("", _NOTHING, "baseline", "l2"),
    "fpgm": _score("8", _NOTHING, "FPGM 2019", "fpgm"),
    "bn_scale": _score("", _NOTHING, "Network Slimming 2017, untrained", "bn_scale", "global"),
    "energy": _score("", _NOTHING, "OICSR 2019, untrained", "channel_energy"),
    "similarity": _score("", _NOTHING, "clusters of like filters", "redundancy"),
}
_MEASURED: Mapping[str, Method] = {
    "apoz": _score("16", _DATA, "APoZ 2016", "apoz"),
    "entropy": _score("17", _DATA, "Entropy 2017", "entropy"),
    "thinet": _of(
        "18", _DATA, "ThiNet 2017", informed.layer_by_layer, score="thinet", recover="scale"
    ),
    "lasso": _of("19", _DATA, "Channel Pruning 2017", informed.chosen, recover="lasso"),
    "nisp": _score("20", _DATA, "NISP 2018", "nisp"),
    "block_obs": _of("11", _DATA, "OBS 1993, ZipLM 2023", informed.chosen, recover="obs"),
    "mean_activation": _score("", _DATA, "mean activation, NNI", "mean_activation"),
    "minitron": _score("", _DATA, "Minitron 2024", "activation_norm"),
    "wanda_sp": _score("", _DATA, "Wanda 2024, of channels", "wanda"),
    "flap": _score("", _DATA, "FLAP 2024", "fluctuation", "global", recover="bias"),
    "fitted_l2": _score("", _DATA, "least squares", "l2", recover="least_squares"),
    "puzzle": _of("", _DATA, "Puzzle 2024, widths", planned.integer_program),
    "puzzle_blocks": _of("", _DATA, "Puzzle 2024, branches too", planned.blocks_and_widths),
    "evopress": _of("", _DATA, "EvoPress 2024", planned.evolution),
}
_LABELLED: Mapping[str, Method] = {
    "energy_aware": _of("1", _LABELS, "Energy-Aware Pruning 2017", planned.energy_aware),
    "amc": _of("5", _LABELS, "AMC 2018", planned.amc),
    "sensitivity": _of("7", _LABELS, "PFEC 2017, sensitivity", planned.equal_damage),
    "random_search": _of("", _LABELS, "baseline", planned.arbitrary),
    "obd": _score("10", _LABELS, "OBD 1990", "obd_gates", "global"),
    "taylor_activation": _score("12", _LABELS, "Molchanov 2017", "taylor_activation", "global"),
    "taylor_gate": _score("13", _LABELS, "Molchanov 2019", "taylor_squared", "global"),
    "taylor_second": _score("13", _LABELS, "Molchanov 2019", "taylor_second_order", "global"),
    "taylor_members": _score("", _LABELS, "LLM-Pruner 2023", "taylor_members", "global"),
    "fisher": _score("14", _LABELS, "Fisher 2018", "fisher", "global"),
    "dcp": _of("21", _LABELS, "DCP 2018", informed.chosen, recover="dcp"),
    "blocks": _of("", _LABELS, "SLEB 2024", informed.without_branches),
}
_TRAINED: Mapping[str, Method] = {
    "trained_on": _of(
        "", _TRAINING, "baseline: the epochs alone", trained.trained_on, score="l1", scope="layer"
    ),
    "netadapt": _of("2", _TRAINING, "NetAdapt 2018", planned.netadapt),
    "sfp": _sparse("3", "SFP 2018", "sfp"),
    "fpgm_soft": _sparse("8", "FPGM 2019", "fpgm"),
    "asfp": _sparse("", "ASFP 2020", "asfp"),
    "play_and_prune": _of("4", _TRAINING, "Play and Prune 2019", trained.feedback),
    "lc": _sparse("6", "LC 2018", "lc"),
    "slimming": _sparse("9", "Network Slimming 2017", "slimming"),
    "taylor_rounds": _of(
        "12",
        _TRAINING,
        "Molchanov 2017, in rounds",
        trained.in_rounds,
        score="taylor_activation",
        scope="global",
        power=1.0,
    ),
    "apoz_rounds": _of(
        "16", _TRAINING, "APoZ 2016, in rounds", trained.in_rounds, score="apoz", scope="layer"
    ),
    "snip": _of(
        "15", _TRAINING, "SNIP 2019", informed.before_training, score="snip", scope="global"
    ),
    "ssl": _sparse("22", "SSL 2016", "ssl"),
    "sparse_kernels": _sparse("23", "Sparse CNN 2015", "sparse_kernels"),
    "sss": _of("24", _TRAINING, "SSS 2018, channels", gated.structure_selection),
    "admm": _sparse("25", "ADMM 2018", "admm"),
    "ista": _sparse("26", "ISTA 2018", "ista", rescale=0.1),
    "morphnet": _sparse("27", "MorphNet 2018, one shrinking", "morphnet"),
    "scratch_e": _of("28", _TRAINING, "Rethinking 2019", informed.anew, retrain="scratch-e"),
    "scratch_b": _of("28", _TRAINING, "Rethinking 2019", informed.anew, retrain="scratch-b"),
    "rewind": _of("", _TRAINING, "Lottery Ticket 2019", informed.anew, retrain="rewind"),
    "growl": _sparse("", "GrOWL 2018", "growl"),
    "oicsr": _sparse("", "OICSR 2019", "oicsr"),
    "greg1": _sparse("", "GReg-1 2021", "greg1"),
    "greg2": _sparse("", "GReg-2 2021", "greg2"),
    "gdp": _of("", _TRAINING, "GDP 2018", gated.dynamic),
    "gate_decorator": _of("", _TRAINING, "Gate Decorator 2019", trained.tick_tock),
    "agp": _of("", _TRAINING, "AGP 2017", trained.in_rounds, score="l2", scope="layer"),
    "hard_concrete": _of(
        "", _TRAINING, "L0 2018, CoFi 2022", gated.lagrangian, law="hard_concrete"
    ),
    "gaussian": _of("", _TRAINING, "variational dropout 2017", gated.lagrangian, law="gaussian"),
}

METHODS: Mapping[str, Method] = MappingProxyType({**_ALONE, **_MEASURED, **_LABELLED, **_TRAINED})
"""Name -> the method, those that need least first."""


def unknown(names: tuple[str, ...]) -> list[str]:
    """Returns what is wrong with names on the command line, if anything is."""
    wrong = [name for name in names if name not in METHODS]
    return [f"methods: {wrong} are not among {', '.join(METHODS)}"] if wrong else []
