"""Bad input: a row for every public function, with the values that it must refuse in words."""

from importlib.util import find_spec

from refused import (
    core,
    depth,
    learned_gates,
    measured,
    mixtures,
    networks,
    penalties,
    planned,
    planners,
    recovered,
    schedules,
    selection,
    slimming,
)

if find_spec("keras"):
    from refused import keras_models
if find_spec("safetensors"):
    from refused import stored

ROWS = {
    **core.ROWS,
    **networks.ROWS,
    **measured.ROWS,
    **mixtures.ROWS,
    **(keras_models.ROWS if find_spec("keras") else {}),
    **selection.ROWS,
    **penalties.ROWS,
    **planned.ROWS,
    **planners.ROWS,
    **recovered.ROWS,
    **schedules.ROWS,
    **slimming.ROWS,
    **depth.ROWS,
    **(stored.ROWS if find_spec("safetensors") else {}),
    **learned_gates.ROWS,
}
