"""The run folder: one process at a time, never over what a person made, and a record of what the run was."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from foveate.cohort.plan import Plan
from foveate.config import Config, dump_config, load_config
from foveate.engine.checkpoint import Checkpoints
from foveate.engine.lock import Lock
from foveate.engine.provenance import command_line, data_differences, plain, setting_differences, versions
from foveate.engine.signals import Stopped, StopSignals, stop_signals
from foveate.errors import InputError, refuse
from foveate.files import sweep_temporary, unwritten, write_atomic

__all__ = ["Hashes", "RunFolder", "StopSignals", "Stopped", "stop_signals"]

# SHA-256 per part of each case, e.g. {"case_1": {"image": "ab12..", "label": None}}
Hashes = Mapping[str, Mapping[str, str | None]]

# A folder with no more than these may be started: a plan prepared by hand, file managers' notes ...
_HARMLESS = frozenset({"plan.json", ".DS_Store", "Thumbs.db", "desktop.ini"})
# ... or, with a lock beside them, what a start that was killed at once has left.
_UNFINISHED = frozenset({"lock", "config.yaml", "log.jsonl"})


class RunFolder:
    """A run's folder, locked while in use as a context manager.

    ``config.yaml``, ``plan.json``, ``provenance.json``, ``log.jsonl`` and ``checkpoints/`` are written by this
    class. ``resume=True`` continues the run that is there, and starts one where the folder is absent or empty, so
    that one command line can be repeated until the run is done.

    resumed: whether there was a run to continue (known once entered).
    """

    def __init__(self, path: str | Path, resume: bool = False) -> None:
        self.path = Path(path)
        self.checkpoints = Checkpoints(self.path / "checkpoints")
        self.resumed = False
        self._resume = resume
        self._created = False
        self._lock: Lock | None = None
        self._log: IO[str] | None = None

    def __enter__(self) -> RunFolder:
        """Raises InputError when the folder is not ours to use, or is in use by another process."""
        self._refuse_foreign()
        self._created = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            fix = "Name a folder that can be written."
            raise refuse(self.path, "run folder", error.strerror, "a folder that can be made", fix) from None
        self._lock = Lock(self.path / "lock")
        try:
            self.resumed = (self.path / "provenance.json").exists()
            if self.resumed and not self._resume:
                fix = "Give --resume to continue that run, or name another folder."
                raise refuse(self.path, "run folder", "a run that is already there", "an empty or absent folder", fix)
            sweep_temporary(self.path)
            if not self.resumed:
                (self.path / "log.jsonl").unlink(missing_ok=True)
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_log()
        if self._lock is not None:
            unused = not any((self.path / name).exists() for name in ("provenance.json", "config.yaml", "log.jsonl"))
            self._lock.release(remove=unused)
            self._lock = None
            if self._created and unused:  # a start that was refused leaves nothing behind
                with contextlib.suppress(OSError):
                    self.path.rmdir()

    # What the run is

    def begin(self, config: Config, plan: Plan, data: Hashes, **more: Any) -> None:
        """Write config.yaml, plan.json and provenance.json of a new run; ``more`` is added to the provenance."""
        write_atomic(self.path / "config.yaml", dump_config(config))
        plan.write(self.path / "plan.json")
        settings = {"config": config.model_dump(mode="json"), "plan": plan.model_dump(mode="json")}
        # Last, because it is what makes the folder a run.
        self.write_provenance({"seed": config.seed, **settings, "data": data, **more})

    def write_provenance(self, record: Mapping[str, Any]) -> None:
        """Write provenance.json: ``record`` with the command line and the versions of what runs here."""
        whole = {"command": command_line(), "versions": versions(), **record}
        write_atomic(self.path / "provenance.json", json.dumps(plain(whole), indent=2) + "\n")

    def config(self) -> Config:
        """The configuration in config.yaml; give it to load_config as ``base`` when a run is continued."""
        return load_config(self.path / "config.yaml")

    def plan(self) -> Plan:
        """The plan in plan.json."""
        return Plan.read(self.path / "plan.json")

    def provenance(self) -> dict[str, Any]:
        """What provenance.json holds. Raises InputError when it cannot be read."""
        path = self.path / "provenance.json"
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            fix = "Restore it from a backup, or train in another folder."
            raise refuse(path, "file", str(error), "the record of the run", fix) from None

    def verify(
        self,
        config: Config | None = None,
        plan: Plan | None = None,
        classes: Mapping[str, int | tuple[int, ...]] | None = None,
        data: Hashes | None = None,
    ) -> None:
        """Compare a continuation with the run that it continues; what is not given is not compared.

        classes: those that the dataset declares now. Raises InputError that lists every difference: keys of the
        configuration (other than device, checkpoint_seconds and cache), keys of the plan, classes, and cases that
        were added, removed or changed.
        """
        before = self.provenance()
        problems = []
        for name, now in (("config.yaml", config), ("plan.json", plan)):
            if now is not None:
                recorded = before.get(name.partition(".")[0], {})
                problems += setting_differences(self.path / name, recorded, now.model_dump(mode="json"))
        if classes is not None:
            recorded = {"classes": before.get("plan", {}).get("classes", {})}
            problems += setting_differences(self.path / "plan.json", recorded, {"classes": classes})
        if data is not None:
            problems += data_differences(self.path / "provenance.json", before.get("data", {}), data)
        if problems:
            raise InputError(problems)

    # What happened

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one JSON line to log.jsonl; numbers that are not finite become null. Raises Unwritable."""
        path, line = self.path / "log.jsonl", json.dumps(plain(record)) + "\n"
        try:
            if self._log is None:
                self._log = path.open("a", encoding="utf-8")
            self._log.write(line)
            self._log.flush()
        except OSError as error:
            raise unwritten(path, error, len(line)) from error

    def save(self, step: int, tree: Any) -> Path:
        """Save a checkpoint; the log up to here is on disk before it."""
        if self._log is not None:
            os.fsync(self._log.fileno())
        return self.checkpoints.save(step, tree)

    def restore(self) -> tuple[int, Any] | None:
        """The newest good checkpoint as (step, tree); None when there is none yet.

        Lines of the log past that step are dropped, so that what is done again is not written twice.
        """
        found = self.checkpoints.latest()
        self._cut_log(found[0] if found else 0)
        return found

    def _cut_log(self, step: int) -> None:
        path = self.path / "log.jsonl"
        self._close_log()
        if not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
            try:
                record = json.loads(line)
            except ValueError:  # the line that a kill cut short
                continue
            if isinstance(record, dict) and record.get("step", 0) <= step:
                kept.append(line)
        write_atomic(path, "".join(kept))

    def _close_log(self) -> None:
        log, self._log = self._log, None
        if log is not None:
            with contextlib.suppress(OSError):  # of a disk that is full: it was said when the line was written
                log.close()

    def _refuse_foreign(self) -> None:
        """Raise InputError, before anything is written, for a file or a folder that holds something else."""
        expected = "an empty or absent folder, or one that holds a run"
        if not self.path.is_dir():
            if self.path.exists() or self.path.is_symlink():
                raise refuse(self.path, "run folder", "a file", expected, "Name another folder.")
            return
        names = {entry.name for entry in self.path.iterdir()}
        harmless = _HARMLESS | _UNFINISHED if "lock" in names else _HARMLESS
        others = sorted(name for name in names - harmless if not (name[0] == "." and name.endswith(".tmp")))
        if others and "provenance.json" not in names:
            found = ", ".join(others[:3]) + (" ..." if len(others) > 3 else "") + ", and no provenance.json of a run"
            raise refuse(self.path, "run folder", found, expected, "Name another folder: nothing here is overwritten.")
