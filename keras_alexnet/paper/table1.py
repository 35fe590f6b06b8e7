"""Table 1: errors on the test set of ILSVRC-2010.

    python -m keras_alexnet.paper.table1 --cnn=RUN [--dataset=folder --data_dir=ILSVRC2010] [--split=test]

Without --cnn it prints the table and what to run.
"""

import sys

from keras_alexnet.paper import experiment
from keras_alexnet.paper.ilsvrc_tables import TABLE_1 as EXPERIMENT

if __name__ == "__main__":
    sys.exit(experiment.main(EXPERIMENT))
