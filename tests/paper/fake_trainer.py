"""Stands for `python -m keras_alexnet.train`: leaves what a run leaves, without a network.

The validation error is 30 + the seed's last digit, 2 more without dropout. --learning_rate=666 fails; --momentum=0.5
takes a minute; --batch_size=7 ends one epoch early. Every start adds a line to starts.txt beside the run, where pid.txt
has the number of the process.
"""

import json
import os
import sys
import time

import numpy as np

from keras_alexnet import config as configs, rundir
from keras_alexnet.paper import grid


def main(argv):
    config = configs.parse_train(argv, "")
    folder, training = config.run.model_dir, config.training
    beside = os.path.dirname(folder)
    with open(os.path.join(beside, "pid.txt"), "w") as file:
        file.write(str(os.getpid()))
    with open(os.path.join(beside, "starts.txt"), "a") as file:
        file.write(f"{os.path.basename(folder)} after {grid.Cell('', 0, folder, (), config).epochs}\n")
    print(f"training {folder}", flush=True)
    write(config, 1)
    if training.momentum == 0.5:
        time.sleep(60)
    if training.learning_rate == 666:
        sys.exit("the loss is nan at step 3\n\n")
    write(config, training.epochs - (training.batch_size == 7))


def write(config, epochs, error=None):
    """A run of so many epochs on 100 images, validated on 20 of two classes."""
    folder = config.run.model_dir
    checkpoints = os.path.join(folder, rundir.CHECKPOINTS)
    os.makedirs(checkpoints, exist_ok=True)
    if error is None:
        error = 30 + config.run.seed % 10 + 2 * (config.network.dropout == 0)
    with open(os.path.join(folder, "history.csv"), "w") as file:
        file.write("epoch,loss,top1_error,top5_error,val_loss,val_top1_error,images_per_second\n")
        file.writelines(f"{each},1.5,25,1,0.75,{error + epochs - each},50\n" for each in range(1, epochs + 1))
    with open(os.path.join(folder, rundir.PROVENANCE), "w") as file:
        json.dump([{"training_set": {"images": 100}, "commit": "0123456", "device": "a device"}], file)
    with open(os.path.join(folder, rundir.VALIDATION), "w") as file:
        json.dump({"label_counts": [10, 10], "skipped": [], "fingerprint": "validation"}, file)
    zeros = {"mean_image": np.zeros((256, 256, 3), np.float32), "rgb_mean": np.zeros(3), "rgb_covariance": np.eye(3)}
    np.savez(os.path.join(folder, rundir.STATISTICS), **zeros, count=100, fingerprint="training")
    rundir.write_settings(config, ("a", "b"))
    open(os.path.join(checkpoints, f"epoch-{epochs}.index"), "w").close()


if __name__ == "__main__":
    main(sys.argv[1:])
