"""Files that are complete or absent."""

import os

import pytest

from captum_sig._files import creating, make_folder, replacing, replacing_text


def no_hard_links(*paths):
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False])
def test_a_file_is_made_once_and_never_replaced(links, tmp_path, monkeypatch):
    if not links:
        monkeypatch.setattr(os, "link", no_hard_links)
    for text in ("first", "second"):
        try:
            with creating(tmp_path / "x") as temporary:
                temporary.write_text(text)
                assert not (tmp_path / "x").exists() or text == "second"
        except FileExistsError:
            assert text == "second"
    assert (tmp_path / "x").read_text() == "first"
    (tmp_path / "link").symlink_to("nothing")
    with pytest.raises(FileExistsError), creating(tmp_path / "link") as temporary:
        temporary.write_text("third")
    assert sorted(os.listdir(tmp_path)) == ["link", "x"]


@pytest.mark.parametrize("write", [creating, replacing, replacing_text])
def test_an_error_names_the_file_and_leaves_nothing(write, tmp_path):
    with (
        pytest.raises(OSError, match=r"/x cannot be written: No space left$"),
        write(tmp_path / "x"),
    ):
        raise OSError(28, "No space left")
    with (
        pytest.raises(OSError, match=r"no/x cannot be written: No such file or directory$"),
        write(tmp_path / "no" / "x"),
    ):
        pass
    assert os.listdir(tmp_path) == []


def test_a_folder_is_made_and_tried(tmp_path, monkeypatch):
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert os.listdir(tmp_path / "a" / "b") == []
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"/file/x cannot be written to: Not a directory$"):
        make_folder(tmp_path / "file" / "x")

    def read_only(dir):
        raise OSError(30, "Read-only file system", f"{dir}/tmp123")

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    with pytest.raises(OSError, match=r"/a cannot be written to: Read-only file system$"):
        make_folder(tmp_path / "a")
