"""Who trains which cell of a grid: a lock file beside the cell, made with O_EXCL.

It names its runner and trainer, and its time is set anew as long as the cell trains. A claim is over when both of these
processes are gone from this machine; of those of other machines only the time can be seen.
"""

import contextlib
import dataclasses
import datetime
import fcntl
import json
import os
import socket
import time
import uuid

from keras_alexnet.files import written_aside

BEAT = 20.0  # seconds between two signs of life
SILENCE = 600.0  # seconds after which a claim is over whose processes cannot be looked at, though the host is this one


class LostError(Exception):
    """The claim is somebody else's by now."""


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim of this process. `path`: str, the lock file. `about`: dict, what stands in it."""

    path: str
    about: dict


def take(path, steal_after=None):
    """Claims what a lock file stands for.

    Args:
        path: str, the lock file; its folder exists.
        steal_after: None, or hours without a sign of life after which a claim of another host is taken over.

    Returns:
        Claim, or None where somebody has it.
    """
    about = {
        "token": uuid.uuid4().hex,
        "host": socket.gethostname(),
        "place": _place(),
        "runner": _process(os.getpid()),
        "trainer": None,
        "since": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return _take_over(path, about, steal_after)
    with open(handle, "w", encoding="utf-8") as file:
        json.dump(about, file)
    return Claim(path, about)


def beat(claim, trainer=None):
    """Gives a sign of life.

    Args:
        claim: Claim.
        trainer: int, the process that works for it, if another than this; it may outlive this one.

    Raises:
        LostError: the lock file is gone or another's.
    """
    if _read(claim.path).get("token") != claim.about["token"]:
        raise LostError
    if trainer and not claim.about["trainer"]:
        claim.about["trainer"] = _process(trainer)
        with written_aside(claim.path) as file:
            json.dump(claim.about, file)
    os.utime(claim.path)


def release(claim):
    """Ends a claim, if it is still this process's."""
    if _read(claim.path).get("token") == claim.about["token"]:
        os.unlink(claim.path)


def said_of(path):
    """Who has a claim and since when, str; empty where there is none."""
    if not os.path.exists(path):
        return ""
    about, minutes = _read(path), _silent(path) / 60
    who = f"{about['host']}, process {about['runner']['pid']}, since {about['since']}" if about else "somebody"
    return f"{who}, last sign of life {minutes:.0f} min ago"


def _take_over(path, about, steal_after):
    """Puts another claim in the place of one that is over. One at a time, or the second would replace the first's."""
    with open(os.path.join(os.path.dirname(path), ".claims"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(path) or not _is_over(path, steal_after):
            return None
        with written_aside(path) as file:
            json.dump(about, file)
    return Claim(path, about)


def _is_over(path, steal_after):
    about, silent = _read(path), _silent(path)
    if steal_after is not None and silent > 3600 * steal_after and about.get("host") != socket.gethostname():
        return True
    if not about:  # being written this moment, or never finished
        return silent > SILENCE
    if about["host"] != socket.gethostname():
        return False
    if about["place"] != _place():  # this machine before it was started anew, or a container of its name
        return silent > SILENCE
    return not any(_is_alive(about[each]) for each in ("runner", "trainer") if about[each])


def _read(path):
    """What stands in a lock file: dict, empty where that is nothing whole."""
    with contextlib.suppress(OSError, ValueError), open(path, encoding="utf-8") as file:
        about = json.load(file)
        if isinstance(about, dict) and {"token", "host", "place", "runner", "trainer", "since"} <= about.keys():
            return about
    return {}


def _silent(path):
    """Seconds since the last sign of life, float."""
    try:
        return time.time() - os.path.getmtime(path)
    except FileNotFoundError:
        return 0.0


def _process(pid):
    return {"pid": pid, "born": _born(pid)}


def _is_alive(process):
    try:
        os.kill(process["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return _born(process["pid"]) in ("", process["born"])  # numbers of processes are given again


def _born(pid):
    """When a process started, str, in the kernel's own count; "dead" of one that has ended, empty where not known."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "dead" if fields[0] in "ZX" else fields[19]


def _place():
    """What numbers of processes are numbers of: this start of the machine, and its container. str"""
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    return ""
