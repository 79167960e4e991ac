"""The settings file of a folder: how it is read, and when a run cannot be resumed."""

import json

import pytest

from captum_sig.data.settings import check_same_settings, read_settings


def test_settings_are_read_as_written(tmp_path):
    settings = {"model": "naïve", "methods": ["sig"], "limit": None}
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(settings), encoding="utf-8")
    assert read_settings(path) == settings
    check_same_settings(tmp_path, settings, {"model": "naïve", "methods": ("sig",)})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path} has no plan.json.*: use another folder"):
        read_settings(tmp_path / "plan.json")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b"\xff"])
def test_a_corrupt_file_is_named(tmp_path, content):
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(ValueError, match="plan.json is corrupt"):
        read_settings(tmp_path / "plan.json")


@pytest.mark.parametrize("before", [{"seed": 0}, {"seed": 0, "limit": 3}])
def test_the_first_difference_is_named_with_both_values(tmp_path, before):
    with pytest.raises(ValueError, match=f"was made with limit {before.get('limit')}, not 7"):
        check_same_settings(tmp_path, before, {"seed": 0, "limit": 7, "level": "word"})
