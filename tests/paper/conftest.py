"""What tests of retrieval and of Figure 4 share."""

import numpy as np
import pytest

from keras_alexnet.data.decoding import decode_center
from keras_alexnet.paper import features


@pytest.fixture(scope="session")
def described(tiny_run, small_images):
    """Every small image by its path: class, probabilities of the tiny run, its features, pixels; one at a time."""
    kinds, found = {"features": features.feature_extractor(str(tiny_run)), "pixels": features.pixel_extractor()}, {}
    model = kinds["features"].model
    for path in sorted(small_images.glob("*/*/*.jpg")):
        contents = path.read_bytes()
        row = {name: extractor.extract([contents])[0].astype(np.float64) for name, extractor in kinds.items()}
        probabilities = model.served.center_view(decode_center(contents, 224)[None]).numpy()[0]
        best = dict(zip(model.class_names, probabilities, strict=True))
        found[str(path)] = {**row, "path": str(path), "class_name": path.parent.name, "probabilities": best}
    return found
