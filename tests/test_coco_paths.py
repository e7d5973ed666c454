from __future__ import annotations

import pytest

from pipeline.coco.paths import file_name_problem, resolve_image_path
from pipeline.errors import ImageError


@pytest.mark.parametrize(
    "file_name",
    ["a.png", "sub/a.png", "a b/ü.png", "..a/b..png", "a...png", "./a.png", "ab:c.png", "日本.png", "'; rm -rf.png"],
)
def test_names_inside_the_folder(tmp_path, file_name):
    assert file_name_problem(file_name) is None
    assert resolve_image_path(tmp_path, file_name).resolve().is_relative_to(tmp_path.resolve())


@pytest.mark.parametrize(
    ("file_name", "reason"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("/etc/passwd", "is absolute"),
        ("//host/share/a.png", "is absolute"),
        ("C:/a.png", "is absolute"),
        ("c:a.png", "is absolute"),
        ("C:\\a.png", "backslash"),
        ("..", "leaves the image folder"),
        ("../a.png", "leaves the image folder"),
        ("sub/../../a.png", "leaves the image folder"),
        ("..\\a.png", "backslash"),
        ("sub\\a.png", "backslash"),
        ("\\\\host\\a.png", "backslash"),
        ("a.png\0.jpg", "control character"),
        ("a\n.png", "control character"),
        ("\x1b[31m.png", "control character"),
        ("\ud800.png", "not valid Unicode"),
    ],
)
def test_names_that_could_leave_the_folder(tmp_path, file_name, reason):
    with pytest.raises(ImageError, match=reason):
        resolve_image_path(tmp_path, file_name)


def test_links_inside_the_folder_are_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.png").write_text("here")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/linked").symlink_to(tmp_path / "elsewhere")
    assert resolve_image_path(tmp_path / "root", "linked/a.png").read_text() == "here"
