"""Checkpoints: exact round trips, and a good one left after every fault."""

import errno
import math
import os
import pickle
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foveate.engine.checkpoint import Checkpoints, DamagedFile, load_tree, save_tree
from foveate.files import DiskFull, Unwritable, write_atomic

DTYPES = [
    torch.float32,
    torch.float64,
    torch.bfloat16,
    torch.float16,
    torch.uint8,
    torch.int64,
    torch.bool,
    torch.complex64,
]


def same(a: object, b: object) -> bool:
    """Equal in value and in type, bit for bit; nan equals nan."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        bits = [x.contiguous().reshape(-1).view(torch.uint8) for x in (a, b)]
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*bits)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return a.hex() == b.hex()
    return a == b


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    seed = draw(st.integers(0, 2**16))
    dtype = draw(st.sampled_from(DTYPES))
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 50
    tensor = (values.abs() if dtype == torch.uint8 else values).to(dtype)
    return tensor.transpose(0, -1) if draw(st.booleans()) and tensor.ndim > 1 else tensor


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | tensors()
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=6) | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=trees)
def test_any_tree_comes_back_exactly(tmp_path: Path, tree: object) -> None:
    save_tree(tmp_path / "tree.safetensors", tree)
    assert same(load_tree(tmp_path / "tree.safetensors"), tree)


def test_names_that_would_collide_stay_apart(tmp_path: Path) -> None:
    tree = {"a": {"b": torch.tensor(1)}, "a/b": torch.tensor(2), 1: torch.tensor(3), "1": torch.tensor(4)}
    tree["__metadata__"] = torch.tensor(5)
    save_tree(tmp_path / "t", tree)
    assert same(load_tree(tmp_path / "t"), tree)


def test_tensors_that_share_memory_come_back_each_with_its_value(tmp_path: Path) -> None:
    base = torch.arange(6.0)
    tree = {"whole": base, "view": base[2:4], "matrix": base.view(2, 3), "again": base}
    save_tree(tmp_path / "t", tree)
    assert same(load_tree(tmp_path / "t"), tree)


def test_a_resumed_optimiser_continues_bitwise(tmp_path: Path) -> None:
    def make() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 1, 3))
        return net, torch.optim.AdamW(net.parameters(), lr=1e-2)

    def train(net: torch.nn.Module, optimiser: torch.optim.Optimizer, steps: int) -> None:
        for _ in range(steps):
            optimiser.zero_grad()
            net(torch.randn(2, 1, 8, 8)).square().mean().backward()
            optimiser.step()

    straight, optimiser = make()
    train(straight, optimiser, 3)
    state = {"net": straight.state_dict(), "opt": optimiser.state_dict(), "rng": torch.get_rng_state()}
    save_tree(tmp_path / "t", state)
    train(straight, optimiser, 3)

    resumed, optimiser = make()
    state = load_tree(tmp_path / "t")
    resumed.load_state_dict(state["net"])
    optimiser.load_state_dict(state["opt"])
    torch.set_rng_state(state["rng"])
    train(resumed, optimiser, 3)
    assert same(dict(resumed.state_dict()), dict(straight.state_dict()))


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", {(1, 2): 3}, {True: 1}])
def test_other_types_are_refused_by_place(tmp_path: Path, value: object) -> None:
    with pytest.raises(TypeError, match="model/inner"):
        save_tree(tmp_path / "t", {"model": {"inner": value}})
    assert not list(tmp_path.iterdir())


@pytest.fixture
def two(tmp_path: Path) -> Checkpoints:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (10, 20, 30):
        checkpoints.save(step, {"weights": torch.full((1000,), float(step)), "rate": math.inf})
    return checkpoints


def test_the_newest_two_are_kept(two: Checkpoints) -> None:
    assert two.steps() == [20, 30]
    step, tree = two.latest() or (None, None)
    assert step == 30
    assert same(tree, {"weights": torch.full((1000,), 30.0), "rate": math.inf})
    assert Checkpoints(two.folder / "none").latest() is None


def damage(path: Path, kind: str) -> None:
    content = bytearray(path.read_bytes())
    if kind == "truncated":
        content = content[:-100]
    elif kind == "emptied":
        content = bytearray()
    elif kind == "flipped bit":
        content[-50] ^= 4
    elif kind == "altered header":
        place = content.index(b"F32")
        content[place : place + 3] = b"I32"
    elif kind == "other safetensors":
        from safetensors.torch import save

        content = bytearray(save({"weights": torch.zeros(3)}))
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["truncated", "emptied", "flipped bit", "altered header", "other safetensors"])
def test_a_damaged_newest_falls_back_with_a_warning(two: Checkpoints, kind: str) -> None:
    newest = two.folder / "step-000000030.safetensors"
    damage(newest, kind)
    with pytest.warns(UserWarning, match=r"step-000000030\.safetensors: .*Falling back to step-000000020"):
        found = two.latest()
    assert found is not None
    assert found[0] == 20
    two.save(25, {"weights": torch.zeros(1)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert two.latest()[0] == 25  # type: ignore[index]
    assert two.steps() == [20, 25]
    assert (two.folder / "step-000000030.damaged").exists()


def test_a_renamed_checkpoint_is_not_believed(two: Checkpoints) -> None:
    (two.folder / "step-000000020.safetensors").rename(two.folder / "step-000000099.safetensors")
    with pytest.warns(UserWarning, match="another step"):
        assert two.latest()[0] == 30  # type: ignore[index]


def test_all_damaged_is_an_error_that_names_each(two: Checkpoints) -> None:
    for path in two.folder.glob("*.safetensors"):
        damage(path, "truncated")
    with pytest.raises(DamagedFile, match=r"(?s)step-000000030.*step-000000020.*No checkpoint .* is whole"):
        two.latest()


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.target}'",)


def test_a_pickle_never_runs(two: Checkpoints, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    evil = pickle.dumps(Malicious(touched))
    pickle.loads(evil)
    assert touched.exists(), "the attack itself must work, or this test shows nothing"
    touched.unlink()

    (two.folder / "step-000000040.pt").write_bytes(evil)
    (two.folder / "step-000000050.safetensors").write_bytes(evil)
    torch.save({"x": Malicious(touched)}, two.folder / "step-000000060.safetensors")
    with pytest.warns(UserWarning, match="damaged, or not a checkpoint"):
        found = two.latest()
    assert found is not None
    assert found[0] == 30
    assert not touched.exists()


def check_full_disk(checkpoints: Checkpoints, big: int) -> None:
    """The decisive property: a save that fails for want of room changes nothing and says all that matters."""
    before = {path.name: path.read_bytes() for path in checkpoints.folder.iterdir()}
    with pytest.raises(DiskFull) as caught:
        checkpoints.save(40, {"weights": torch.zeros(big)})
    message = str(caught.value)
    assert "step-000000040.safetensors" in message
    assert "step-000000030.safetensors, is intact" in message
    assert "full" in message or "file size limit" in message
    assert {path.name: path.read_bytes() for path in checkpoints.folder.iterdir()} == before
    assert checkpoints.latest()[0] == 30  # type: ignore[index]


def test_file_size_limit_leaves_the_last_checkpoint(two: Checkpoints) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        check_full_disk(two, 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system can only be mounted by root")
    try:
        checkpoints = Checkpoints(small / "checkpoints")
        for step in (20, 30):
            checkpoints.save(step, {"weights": torch.full((1000,), float(step))})
        check_full_disk(checkpoints, 100_000)
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_no_room_for_the_first_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match="No checkpoint had been saved before"):
        Checkpoints(tmp_path).save(1, {})
    assert not list(tmp_path.iterdir())


def test_other_write_errors_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(Unwritable, match=r"absent/file: could not be written \(No such file"):
        write_atomic(tmp_path / "absent" / "file", b"x")


KILLS = 25
SAVER = textwrap.dedent(
    """
    import os, random, signal, sys, time, warnings
    from pathlib import Path
    import torch
    from foveate.engine.checkpoint import Checkpoints

    warnings.simplefilter("error")  # a half-written file under a checkpoint's name would warn
    torch.set_num_threads(1)
    checkpoints = Checkpoints(Path(sys.argv[1]))
    weights = torch.zeros(200_000)
    started = time.monotonic()
    checkpoints.save(1, {"weights": weights + 1, "step": 1})
    took = time.monotonic() - started  # so that the kills fall into saves however slow the machine is
    random.seed(0)
    died_inside = seen = unfinished = 0
    for _ in range(int(sys.argv[2])):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            found = checkpoints.latest()
            step = found[0] if found else 0
            while True:
                step += 1
                os.write(writer, b"<%d" % step)
                checkpoints.save(step, {"weights": weights + step, "step": step})
                os.write(writer, b">")
        os.close(writer)
        report = os.read(reader, 100)  # it has started to save
        time.sleep(random.uniform(0.0, 2 * took))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while more := os.read(reader, 65536):
            report += more
        os.close(reader)
        died_inside += not report.endswith(b">")
        finished = [int(part[:-1]) for part in report.split(b"<")[1:] if part.endswith(b">")]
        found = checkpoints.latest()
        assert found is not None or not finished
        if found:
            step, tree = found
            assert not finished or step >= finished[-1], (step, finished[-1])
            assert step >= seen, "it went backwards"
            seen = step
            assert tree["step"] == step and bool((tree["weights"] == step).all())
        # A kill between writing and dropping leaves one more, until the next save that is finished.
        unfinished = 1 if finished else unfinished + 1
        assert len(checkpoints.steps()) <= 2 + unfinished
    print(died_inside, checkpoints.steps()[-1])
    """
)


def test_killed_again_and_again_while_saving(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SAVER, str(tmp_path / "checkpoints"), str(KILLS)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    died_inside, last = map(int, result.stdout.split())
    assert died_inside >= KILLS // 2, "most kills must fall inside a save, or this test shows nothing"
    assert last > 0
    Checkpoints(tmp_path / "checkpoints").save(last + 1, {})
    assert not list((tmp_path / "checkpoints").glob(".*.tmp"))
