"""A run -> a versioned SavedModel, as TF Serving takes it.

python -m keras_alexnet.export --model_dir=RUN        # RUN/export/1, or the next free number
"""

import os
import shutil
import sys
import tempfile

from keras_alexnet import recipe as recipes
from keras_alexnet.errors import RunError, UsageError, run_verb, start_tensorflow


def main(argv):
    """Exports the newest checkpoint of a run; prints where to."""
    model_dir = recipes.parse_export(argv, __doc__)
    if not os.path.isfile(os.path.join(model_dir, "flags.cfg")):
        raise UsageError(f"--model_dir={model_dir}: holds no run (there is no flags.cfg in it)")
    start_tensorflow()
    print(f"exported to {export_run(model_dir)}")


def export_run(model_dir):
    """Writes the newest checkpoint of a run as a SavedModel.

    Args:
        model_dir: str, a run's folder.

    Returns:
        str, the new folder, MODEL_DIR/export/VERSION.

    Raises:
        RunError: the run has no checkpoint or lacks one of its files.
    """
    from keras_alexnet.data import pipeline, statistics

    model, class_names = load_model(model_dir)
    path = _file_of(model_dir, "statistics.npz")
    mean = pipeline.center_of_mean(statistics.load(path), model.input_shape[1])
    return save(model, class_names, mean, os.path.join(model_dir, "export"))


def load_model(model_dir):
    """The network of a run's newest checkpoint.

    Args:
        model_dir: str, a run's folder.

    Returns:
        (keras.Model, list of str): images -> logits, without devices; the class names.

    Raises:
        RunError: the run has no checkpoint or lacks one of its files.
    """
    import tensorflow as tf

    from keras_alexnet.train import build_model

    with open(_file_of(model_dir, "flags.cfg"), encoding="utf-8") as file:
        recipe = recipes.read_run(file.read())
    with open(_file_of(model_dir, "class_names.txt"), encoding="utf-8") as file:
        class_names = file.read().splitlines()
    checkpoint = tf.train.latest_checkpoint(os.path.join(model_dir, "checkpoints"))
    if checkpoint is None:
        raise RunError(f"{model_dir}: the run has no checkpoint yet; let it finish an epoch first")
    model = build_model(recipe.network, len(class_names), recipe.run.seed, devices=())
    try:
        tf.train.Checkpoint(model=model).restore(checkpoint).expect_partial().assert_existing_objects_matched()
    except (tf.errors.OpError, AssertionError, ValueError) as error:
        raise RunError(f"{checkpoint}: cannot be read ({str(error).splitlines()[0]})") from None
    return model, class_names


def _file_of(model_dir, name):
    path = os.path.join(model_dir, name)
    if not os.path.isfile(path):
        raise RunError(f"{model_dir}: the run lacks its {name}; train again to write it")
    return path


def save(model, class_names, mean, export_dir):
    """Writes a model that gives logits as the next version in `export_dir`, aside and then renamed.

    Args:
        model: keras.Model without devices, images -> logits.
        class_names: list of str.
        mean: float32 (size, size, 3).
        export_dir: str.

    Returns:
        str, EXPORT_DIR/VERSION; versions are numbers from 1 on.
    """
    import tensorflow as tf

    from keras_alexnet.serving.signatures import ServedModel

    os.makedirs(export_dir, exist_ok=True)
    versions = [int(name) for name in os.listdir(export_dir) if name.isdigit()]
    target = os.path.join(export_dir, str(max(versions, default=0) + 1))
    # TF Serving looks at numbers only; a folder that begins with a dot is nothing to it.
    aside = tempfile.mkdtemp(dir=export_dir, prefix=".writing-")
    try:
        served = ServedModel(model, class_names, mean)
        tf.saved_model.save(served, aside, signatures=served.signatures())
        os.chmod(aside, 0o755)  # mkdtemp makes it private; a server is another user
        os.rename(aside, target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return target


if __name__ == "__main__":
    sys.exit(run_verb("export", main, sys.argv[1:]))
