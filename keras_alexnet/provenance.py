"""Where figures come from: code, packages, machine."""

import functools
import importlib.metadata
import os
import platform
import subprocess

from keras_alexnet import __version__

# What a run's numbers depend on.
PACKAGES = ("tensorflow", "keras", "numpy", "tensorflow-datasets", "absl-py", "pillow", "tensorboard")


def of_this():
    """Code, packages and machine of this process: dict of str -> str or dict, as JSON takes it. Needs TensorFlow."""
    return {
        "keras_alexnet": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "packages": packages(),
        "platform": platform.platform(),
        "device": device(),
    }


def packages():
    """Installed versions of PACKAGES: dict of name -> str."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"  # as tensorflow-cpu has another name than tensorflow
    return found


@functools.cache
def commit():
    """The commit that the package is of when it is first asked, str, with a + where files differ from it.

    Outside a checkout "unknown".
    """
    here = os.path.dirname(os.path.abspath(__file__))
    try:
        _git(here, "ls-files", "--error-unmatch", __file__)  # an installed copy is of no commit, wherever it lies
        found = _git(here, "rev-parse", "--short=7", "HEAD")
        changed = _git(here, "status", "--porcelain", "--", here)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found[:7] + "+" * bool(changed)


def device():
    """What computes here, str."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    where = ", ".join(names) or f"{cores} CPU core{'s' * (cores > 1)} ({platform.machine()}{_processor()})"
    return f"{where}, TensorFlow {tf.__version__}"


def _processor():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        return ""
    return f", {names[0]}" if names else ""


def _git(folder, *arguments):
    run = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=True, timeout=10)
    return run.stdout.strip()
