"""Images, and the notes beside them."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from csvd.vm.errors import ImageFileError
from csvd.vm.files import GuestFiles, LocalState, Note, available_memory_bytes
from csvd.vm.spec import GuestSpec

SPEC = GuestSpec(1 << 20)
SHARED = GuestSpec(1 << 20, backing="shm")


@pytest.fixture
def files(tmp_path: Path) -> GuestFiles:
    (tmp_path / "shm").mkdir()
    files = GuestFiles(tmp_path / "state" / "guests", tmp_path / "shm")
    files.make_directory()
    return files


def note(name: str = "g", **changes: object) -> Note:
    values: dict[str, object] = {
        "name": name,
        "epoch": 3,
        "state": LocalState.RUNNING,
        "reason": "",
        "image": f"/x/{name}.ram",
        "spec": SPEC.to_json(),
        **changes,
    }
    return Note(**values)  # type: ignore[arg-type]


def test_the_directory_is_its_owners_alone(files: GuestFiles, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "state" / "guests").stat().st_mode) == 0o700
    files.make_directory()


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(ImageFileError, match="Not a directory"):
        GuestFiles(tmp_path / "state" / "guests").make_directory()


def test_an_image_is_zero_private_and_where_its_backing_says(files: GuestFiles, tmp_path: Path) -> None:
    plain, shared = files.create_image("g", SPEC), files.create_image("g", SHARED)
    assert plain == tmp_path / "state" / "guests" / "g.ram"
    assert shared.parent == tmp_path / "shm"
    for path in (plain, shared):
        assert path.stat().st_size == 1 << 20
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_daemons_with_one_shared_memory_keep_apart(tmp_path: Path) -> None:
    one, two = (GuestFiles(tmp_path / name, tmp_path).image_path("g", SHARED) for name in ("node1", "node2"))
    assert one != two


def test_a_new_image_takes_the_place_of_a_stale_one(files: GuestFiles) -> None:
    files.create_image("g", SPEC).write_bytes(b"old")
    assert not any(files.create_image("g", SPEC).read_bytes())


def test_notes_are_read_as_they_were_written(files: GuestFiles, tmp_path: Path) -> None:
    files.write_note(note("b"))
    files.write_note(note("a"))
    files.write_note(note("b", epoch=4))
    assert files.read_notes() == [note("a"), note("b", epoch=4)]
    paths = list((tmp_path / "state" / "guests").iterdir())
    assert sorted(path.name for path in paths) == ["a.json", "b.json"]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in paths)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "\x00" * 10,
        json.dumps({"name": "other", "epoch": 1, "state": "paused", "reason": "", "image": "", "spec": SPEC.to_json()}),
        json.dumps({"name": "bad", "epoch": 1, "state": "odd", "reason": "", "image": "", "spec": SPEC.to_json()}),
        json.dumps(
            {"name": "bad", "epoch": 1, "state": "paused", "reason": "", "image": "", "spec": {"memory_bytes": 1}}
        ),
    ],
)
def test_a_damaged_note_does_not_hide_the_others(files: GuestFiles, tmp_path: Path, text: str) -> None:
    files.write_note(note("good"))
    (tmp_path / "state" / "guests" / "bad.json").write_text(text)
    assert files.read_notes() == [note("good")]


def test_what_is_removed_is_gone_and_removing_it_again_is_harmless(files: GuestFiles, tmp_path: Path) -> None:
    image = files.create_image("g", SPEC)
    files.write_note(note())
    for _ in range(2):
        files.remove("g", image)
        assert list((tmp_path / "state" / "guests").iterdir()) == []


def test_what_cannot_be_removed_is_an_error(files: GuestFiles, tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(ImageFileError, match="cannot be removed"):
        files.remove("g", tmp_path / "directory")


def test_too_little_space_is_told_before_anything_is_made(files: GuestFiles) -> None:
    files.check_room(SPEC)
    with pytest.raises(ImageFileError, match="not enough space"):
        files.check_room(GuestSpec(1 << 44))


def test_too_little_memory_is_told_for_shared_memory(files: GuestFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    files.check_room(SHARED)
    monkeypatch.setattr("csvd.vm.files.available_memory_bytes", lambda: 1000)
    files.check_room(SPEC)
    with pytest.raises(ImageFileError, match="1000 bytes are available, 1048576 are needed"):
        files.check_room(SHARED)


def test_the_kernel_says_how_much_memory_is_available() -> None:
    assert available_memory_bytes() > 1 << 20


def test_a_missing_directory_is_an_error_of_its_own(tmp_path: Path) -> None:
    files = GuestFiles(tmp_path / "nowhere", tmp_path / "no-shm")
    for spec in (SPEC, SHARED):
        with pytest.raises(ImageFileError, match="No such file"):
            files.check_room(spec)
        with pytest.raises(ImageFileError, match="No such file"):
            files.create_image("g", spec)
    with pytest.raises(ImageFileError, match="No such file"):
        files.write_note(note())
    assert files.read_notes() == []
