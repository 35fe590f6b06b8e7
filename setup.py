"""Installation; docs/development.md says what each dependency is for."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "keras_alexnet" / "__init__.py").read_text(encoding="utf-8"))[1]

setup(
    name="keras-alexnet",
    version=VERSION,
    description="AlexNet (Krizhevsky, Sutskever and Hinton, 2012) in Keras: train it, look at it, serve it",
    license="Apache-2.0",
    license_files=["LICENSE"],
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    packages=find_packages(include=["keras_alexnet", "keras_alexnet.*"]),
    package_data={
        "keras_alexnet": ["card.md", "explain.html", "explore.html", "imagenette/*", "imagenette/checkpoints/*"],
        "keras_alexnet.data": ["imagenet_classes.csv"],
        "keras_alexnet.paper": ["report.html"],
    },
    python_requires=">=3.10,<3.14",
    # The lower bounds were tried together, and so were the newest versions below the upper ones: see BUILD.md. A lower
    # bound has a wheel for each Python above. An upper bound is the next minor version where such a step changes
    # interfaces (TensorFlow and what belongs to it, Keras) or style (ruff), elsewhere the next major one.
    install_requires=[
        "tensorflow>=2.21,<2.22",
        # Keras 3.13 and later need Python 3.11; on 3.10 its last minor version is what TensorFlow 2.21 runs with.
        'keras>=3.13.2,<3.16; python_version >= "3.11"',
        'keras>=3.12.1,<3.13; python_version < "3.11"',
        "tensorflow-datasets>=4.9.9,<5",
        "absl-py>=2.1,<3",
        "numpy>=2.1,<3",
        "pillow>=12.1.1,<14",
        "tensorboard>=2.21,<2.22",
        "tqdm>=4.66.3,<5",
        "requests>=2.32.4,<3",
        "wrapt>=1.17,<3",
        "markdown>=3.6,<4",
        # Imported by tensorflow-datasets 4.9.10 to prepare a set, and missing from its own requirements.
        "importlib_resources>=6.4,<8",
    ],
    extras_require={
        "cuda": ["tensorflow[and-cuda]>=2.21,<2.22"],
        "figures": ["matplotlib>=3.9.2,<4", "scipy>=1.14.1,<2"],
        "benchmark": ["torch>=2.6,<3"],
        "parity": [
            "torch>=2.6,<3",
            "torchvision>=0.21,<1",
            "pytorchcv>=0.0.70,<0.1",
            "onnx>=1.17,<2",
            "onnxruntime>=1.20,<2",
        ],
        "onnx": ["tf2onnx>=1.17,<2", "onnxruntime>=1.20,<2"],
        "litert": ["ai-edge-litert>=2.3,<3"],
        "beam": ["apache-beam>=2.73,<3"],
        "imagenet": ["scipy>=1.14.1,<2"],
        "serving": ["tensorflow-serving-api>=2.21,<2.22"],
        "test": [
            "pytest>=8.3,<10",
            "pytest-xdist>=3.8,<4",
            "hypothesis>=6.150,<7",
            "ruff>=0.17,<0.18",
            "packaging>=24,<27",
            "scipy>=1.14.1,<2",
            "apache-beam>=2.73,<3",
            "tensorflow-serving-api>=2.21,<2.22",
            "matplotlib>=3.9.2,<4",
        ],
    },
)
