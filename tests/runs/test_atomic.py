"""Files are there whole or not at all."""

from pathlib import Path

import pytest

from astseg.errors import UserError
from astseg.runs.atomic import atomic_path, write_whole, writing_errors


def test_a_file_has_its_name_only_once_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "a.txt"
    with atomic_path(file) as part:
        part.write_text("new")
        assert not file.exists()
    assert [path.name for path in file.parent.iterdir()] == ["a.txt"]
    assert file.read_text() == "new"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_after_an_exception_what_lay_there_is_untouched(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "a.txt").write_text("old")
    for file in (tmp_path / "a.txt", tmp_path / "deep" / "a.txt"):
        with pytest.raises(type(error)), atomic_path(file) as part:
            part.write_text("half")
            raise error
    assert list(tmp_path.iterdir()) == [tmp_path / "a.txt"]  # nor is the folder that was made for it
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(UserError, match=r"'.*a/b' cannot be written \((Not a directory|File exists)\): choose another"):
        write_whole(tmp_path / "a" / "b", lambda part: part.touch())


def test_errors_of_writing_are_the_user_s_and_others_are_not(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"'.*x' cannot be written \(no luck\): choose another"),
        writing_errors(tmp_path / "x"),
    ):
        raise OSError("no luck")
    with pytest.raises(KeyError), writing_errors(tmp_path / "x"):
        raise KeyError
