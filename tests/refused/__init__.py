"""Bad input: a row for every public function, with the values that it must refuse in words."""

from refused import core, networks, penalties, schedules, selection, slimming

ROWS = {
    **core.ROWS,
    **networks.ROWS,
    **selection.ROWS,
    **penalties.ROWS,
    **schedules.ROWS,
    **slimming.ROWS,
}
