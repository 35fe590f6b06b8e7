"""The figures and tables of the paper, each from one command: `python -m keras_alexnet.paper.NAME`."""
