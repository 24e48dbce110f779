"""Files appear whole or not at all, whoever else writes them."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from foveate.files import LONG, sweep_temporary, write_atomic


def test_two_that_write_one_file_do_not_meet(tmp_path: Path) -> None:
    """Two runs with one cache, in containers whose processes have one number: threads have it, too."""
    path, content = tmp_path / "scan.npy", bytes(2**21)

    def write(_: int) -> None:
        write_atomic(path, content)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, range(30)))  # raises what any of them raised
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_swept_and_nothing_else(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("pathlib.Path.unlink", lambda *_, **__: None)
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: None)
    for name in ("step-1.safetensors", "n" * LONG):
        write_atomic(tmp_path / name, b"half")
    left = list(tmp_path.iterdir())
    monkeypatch.undo()
    assert len(left) == 2
    (tmp_path / ".profile").write_text("mine")
    sweep_temporary(tmp_path, "step-*")
    assert len(list(tmp_path.iterdir())) == 2
    sweep_temporary(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".profile"]
