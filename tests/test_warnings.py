"""Where a warning points."""

import warnings

import pytest

from captum_sig._warnings import warn


def test_code_without_a_module_name_is_warned():
    with pytest.warns(UserWarning, match="too long"):
        exec("warn('too long')", {"warn": warn})


def test_a_warning_points_at_the_caller():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn("too long")
    assert caught[0].filename == __file__
