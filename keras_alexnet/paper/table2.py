"""Table 2: errors on ILSVRC-2012 of one network, of five, and of two more that were trained on more classes first.

    python -m keras_alexnet.paper.table2 --cnn=RUN [up to five] [--pretrained_cnn=RUN, up to two] [--split=SPLIT]

"1 CNN" is the first --cnn. Without any network it prints the table and what to run.
"""

import sys

from keras_alexnet.paper import experiment
from keras_alexnet.paper.ilsvrc_tables import TABLE_2 as EXPERIMENT

if __name__ == "__main__":
    sys.exit(experiment.main(EXPERIMENT))
