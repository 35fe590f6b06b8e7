"""Stands for `python -m keras_alexnet.train`: leaves what a run leaves, but for the network.

The validation error is 30 + the seed's last digit, 2 more without dropout. --learning_rate=666 fails; --momentum=0.5
takes a minute; --batch_size=7 ends one epoch early. Every start adds a line to starts.txt beside the run, where pid.txt
has the number of the process.
"""

import json
import os
import sys
import time
import types

import numpy as np

from keras_alexnet import config as configs
from keras_alexnet import rundir
from keras_alexnet.paper import grid

FINGERPRINTS = "training", "validation"


def main(argv):
    config = configs.parse_train(argv, "")
    folder, training = config.run.model_dir, config.training
    beside = os.path.dirname(folder)
    with open(os.path.join(beside, "pid.txt"), "w") as file:
        file.write(str(os.getpid()))
    with open(os.path.join(beside, "starts.txt"), "a") as file:
        file.write(f"{os.path.basename(folder)} after {grid.epochs_done(folder)}\n")
    print(f"training {folder}", flush=True)
    write(config, 1)
    if training.momentum == 0.5:
        time.sleep(60)
    if training.learning_rate == 666:
        sys.exit("the loss is nan at step 3\n\n")
    time.sleep(0.05)
    write(config, training.epochs - (training.batch_size == 7))


def write(config, epochs, error=None, images=20):
    """A run of so many epochs."""
    folder = config.run.model_dir
    checkpoints = os.path.join(folder, rundir.CHECKPOINTS)
    os.makedirs(checkpoints, exist_ok=True)
    if error is None:
        error = 30 + config.run.seed % 10 + 2 * (config.network.dropout == 0)
    with open(os.path.join(folder, "history.csv"), "w") as file:
        file.write("epoch,loss,top1_error,top5_error,val_loss,val_top1_error\n")
        file.writelines(f"{each},1.5,25,1,0.75,{error + epochs - each}\n" for each in range(1, epochs + 1))
    with open(os.path.join(folder, rundir.VALIDATION), "w") as file:
        json.dump({"label_counts": [images // 2] * 2, "skipped": [], "fingerprint": FINGERPRINTS[1]}, file)
    np.savez(
        os.path.join(folder, rundir.STATISTICS),
        mean_image=np.zeros((256, 256, 3), np.float32),
        rgb_mean=np.zeros(3),
        rgb_covariance=np.eye(3),
        count=100,
        fingerprint=FINGERPRINTS[0],
    )
    rundir.write_flags(types.SimpleNamespace(run=config.run, resolved=config.resolved))
    open(os.path.join(checkpoints, f"epoch-{epochs}.index"), "w").close()


if __name__ == "__main__":
    main(sys.argv[1:])
