"""What all tests share: quiet TensorFlow, fixed seeds, pictures without files of others."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# The references multiply small matrices: threads would only wait for each other on busy cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import keras
import pytest


@pytest.fixture(autouse=True)
def fixed_seed():
    keras.utils.set_random_seed(2012)
