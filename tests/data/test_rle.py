"""Run lengths against COCO's own program."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as oracle

from astseg.data.formats.rle import label_runs, mask_from_runs, runs_from_text, runs_to_text


@given(arrays(np.int32, st.tuples(st.integers(1, 9), st.integers(1, 13)), elements=st.integers(0, 3)))
@settings(max_examples=100, deadline=None)
def test_label_maps_become_the_runs_of_coco(labels: np.ndarray) -> None:
    ids = [int(label) for label in np.unique(labels)]
    for each, counts in zip(ids, label_runs(labels, ids), strict=True):
        mask = labels == each
        expected = oracle.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        assert runs_to_text(counts) == expected
        assert runs_from_text(expected) == counts
        np.testing.assert_array_equal(mask_from_runs(counts, *labels.shape), mask)


def test_long_runs_take_several_letters() -> None:
    mask = np.zeros((300, 700), np.uint8, order="F")
    mask[17:280, 3:650] = 1
    mask[::7] = 0
    (counts,) = label_runs(mask, [1])
    assert runs_to_text(counts) == oracle.encode(mask)["counts"].decode()


def test_runs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="cover 5 pixels of 6"):
        mask_from_runs([2, 3], 2, 3)
    with pytest.raises(ValueError, match="no letter"):
        runs_from_text("1~3")
