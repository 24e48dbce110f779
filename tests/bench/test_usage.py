"""What a command took is measured, added up over its parts, and known when its benchmark was killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from foveate.bench import usage as module
from foveate.bench.usage import Usage, measure, read_usage


def test_peak_memory_and_exit_code_are_those_of_the_command(tmp_path: Path) -> None:
    code, small = measure([sys.executable, "-c", "print('hello')"], tmp_path / "log")
    size = int(small.peak_rss_mb) + 200  # what the parent holds is counted too
    script = f"x = b'1' * ({size} << 20); raise SystemExit(3)"
    other_code, large = measure([sys.executable, "-c", script], tmp_path / "log")
    assert (code, other_code) == (0, 3)
    assert size < large.peak_rss_mb < size + 100
    assert "hello" in (tmp_path / "log").read_text()


def test_parts_add_up(tmp_path: Path) -> None:
    note, command = tmp_path / "a" / "usage.json", [sys.executable, "-c", "sum(range(10**6))"]
    _, first = measure(command, tmp_path / "log", note=note)
    _, both = measure(command, tmp_path / "log", note=note)
    assert read_usage(note) == both
    assert both.seconds > first.seconds > 0
    assert both.cpu_seconds > first.cpu_seconds > 0
    assert Usage(1, 2, 30) + Usage(4, 5, 20) == Usage(5, 7, 30)


def test_usage_is_noted_while_the_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NOTED_EVERY", 0.2)
    noted: list[Usage] = []
    monkeypatch.setattr(module, "_note", lambda path, usage: noted.append(usage))
    measure([sys.executable, "-c", "import time; x = b'1' * (50 << 20); time.sleep(1.5)"], tmp_path / "log")
    assert len(noted) >= 2
    assert noted[0].seconds < noted[-1].seconds
    assert noted[-2].peak_rss_mb > 50


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a command that its parent died")
@pytest.mark.parametrize("by_adapter", [False, True])
def test_a_command_does_not_outlive_a_killed_benchmark(tmp_path: Path, by_adapter: bool) -> None:
    pid = tmp_path / "pid"
    command = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(100)"
    if by_adapter:  # whose own command it is
        peers = str(Path(__file__).resolve().parents[2] / "benchmarks" / "peers")
        command = (
            f"import sys; sys.path.insert(0, {peers!r}); from adapter import run; "
            f"run([sys.executable, '-c', {command!r}], {{}})"
        )
    script = (
        "import sys; from pathlib import Path; from foveate.bench.usage import measure\n"
        f"measure([sys.executable, '-c', {command!r}], Path({str(tmp_path / 'log')!r}))"
    )
    benchmark = subprocess.Popen([sys.executable, "-c", script])
    while not (pid.exists() and pid.read_text()):
        assert benchmark.poll() is None
        time.sleep(0.02)
    os.kill(benchmark.pid, signal.SIGKILL)
    benchmark.wait()
    number = int(pid.read_text())
    while psutil.pid_exists(number) and psutil.Process(number).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.02)  # the suite's own time limit ends this where it fails
