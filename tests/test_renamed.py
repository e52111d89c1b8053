"""Old names say the new ones."""

import operator

import pytest

import jaxprune as jp

OLD = {
    "axes": "jp.spaces",
    "linen.select_inputs": "mark_readers",
    "linen.Plan": "Resizing",
    "select.exact": "exact_count",
    "select.Rule": "Ties",
    "select.share_of_left": "of_remaining",
    "schedule.held": "masked_updates",
    "schedule.trained": "trainable",
    "slimmable.export": "extract",
    "slimmable.outside": "outside_trained_range",
    "slimmable.descent": "greedy_path",
}


@pytest.mark.parametrize("name", OLD)
def test_an_old_name_says_the_new_one(name):
    with pytest.raises(AttributeError, match=OLD[name]) as caught:
        operator.attrgetter(name)(jp)
    assert "Fix: " in str(caught.value)
    with pytest.raises(AttributeError, match="has no attribute"):
        operator.attrgetter(f"{name}_")(jp)
