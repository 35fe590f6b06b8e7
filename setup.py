"""Installation; what each dependency is for stands in BUILD.md."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "keras_alexnet" / "__init__.py").read_text(encoding="utf-8"))[1]

setup(
    name="keras-alexnet",
    version=VERSION,
    description="AlexNet (Krizhevsky, Sutskever and Hinton, 2012) in Keras: train it, look at it, serve it",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    packages=find_packages(include=["keras_alexnet", "keras_alexnet.*"]),
    package_data={"keras_alexnet.data": ["imagenet_classes.csv"]},
    python_requires=">=3.10,<3.14",
    install_requires=[
        "tensorflow>=2.21",
        # Keras 3.13 and later need Python 3.11; on 3.10 its last release there is what TensorFlow 2.21 runs with.
        'keras>=3.13; python_version >= "3.11"',
        'keras>=3.12; python_version < "3.11"',
        "tensorflow-datasets>=4.9.9",
        "absl-py>=2.1",
        "numpy>=1.26",
        "pillow>=10",
        "tensorboard>=2.20",
        "tqdm>=4.65",
        "requests>=2.28",
        # Imported by tensorflow-datasets 4.9.10 to prepare a set, and missing from its own requirements.
        "importlib_resources>=5",
    ],
    extras_require={
        "cuda": ["tensorflow[and-cuda]>=2.21"],
        "figures": ["matplotlib>=3.8", "scipy>=1.11"],
        "benchmark": ["torch>=2.6"],
        "beam": ["apache-beam>=2.70"],
        "imagenet": ["scipy>=1.11"],
        "retrieval": ["faiss-cpu>=1.10"],
        "serving": ["tensorflow-serving-api>=2.21"],
        "test": [
            "pytest>=8",
            "ruff>=0.6",
            "scipy>=1.11",
            "apache-beam>=2.70",
            "tensorflow-serving-api>=2.21",
            "faiss-cpu>=1.10",
            "matplotlib>=3.8",
        ],
    },
)
