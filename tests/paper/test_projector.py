import json

import numpy as np
import pytest
from PIL import Image
from werkzeug.test import Client

from keras_alexnet.data.decoding import decode_center
from keras_alexnet.errors import RunError
from keras_alexnet.paper import features, projector


@pytest.fixture(scope="module")
def index(small_pictures):
    source = features.list_pictures(str(small_pictures), "train")
    return features.make(features.small_pictures(4), "m", source)


@pytest.fixture(scope="module")
def folder(index, tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs") / "projector"
    assert projector.write(index, str(folder)) == 18
    return folder


def test_tensorboard_answers_with_it(index, folder):
    """TensorBoard's own server, asked as its page asks."""
    from tensorboard import default, program

    board = program.TensorBoard(plugins=default.get_plugins())
    board.configure(logdir=str(folder), load_fast="false")
    from tensorboard.backend import application
    from tensorboard.backend.event_processing import data_ingester

    ingester = data_ingester.LocalDataIngester(board.flags)
    ingester.start()
    client = Client(
        application.TensorBoardWSGIApp(
            board.flags,
            board.plugin_loaders,
            ingester.data_provider,
            board.assets_zip_provider,
            ingester.deprecated_multiplexer,
        )
    )
    route = "/data/plugin/projector"
    assert client.get(f"{route}/runs").get_json() == ["."]
    (embedding,) = client.get(f"{route}/info?run=.").get_json()["embeddings"]
    assert embedding["tensorName"] == projector.TENSOR and embedding["tensorShape"] == [18, 48]
    assert embedding["sprite"]["singleImageDim"] == [64, 64]
    of = f"run=.&name={projector.TENSOR}"
    tensor = np.frombuffer(client.get(f"{route}/tensor?{of}").data, np.float32)
    np.testing.assert_array_equal(tensor.reshape(18, 48), index.features)
    lines = client.get(f"{route}/metadata?{of}").get_data(as_text=True).splitlines()
    assert lines[0] == "class\tfile" and len(lines) == 19
    assert lines[7] == "red_square\tred_square/0.jpg"
    sprite = client.get(f"{route}/sprite_image?{of}")
    assert sprite.data == (folder / "sprite.png").read_bytes()


def test_thumbnails_stand_row_by_row(index, folder):
    picture = np.asarray(Image.open(folder / "sprite.png"))
    assert picture.shape == (5 * 64, 5 * 64, 3)
    for place in (0, 4, 5, 17):
        row, column = divmod(place, 5)
        found = picture[64 * row : 64 * row + 64, 64 * column : 64 * column + 64]
        with open(index.paths()[place], "rb") as file:
            whole = decode_center(file.read()).numpy().astype(np.float64)
        np.testing.assert_allclose(found, whole.reshape(64, 4, 64, 4, 3).mean(axis=(1, 3)), atol=0.51)
    assert not picture[64 * 3 :, 64 * 3 :].any()  # 18 of 25


@pytest.mark.parametrize(
    "count,side", [(1, 64), (128**2, 64), (128**2 + 1, 63), (10_000, 64), (20_000, 57), (10**6, 8)]
)
def test_the_sprite_stays_within_what_browsers_take(count, side):
    assert projector.thumbnail(count) == side
    assert int(np.ceil(np.sqrt(count))) * side <= 8192


def test_many_pictures_are_thinned_out(index, tmp_path, monkeypatch):
    monkeypatch.setattr(projector, "MOST", 4)
    assert projector.write(index, str(tmp_path)) == 4
    files = [line.split("\t")[1] for line in (tmp_path / "metadata.tsv").read_text().splitlines()[1:]]
    assert files == [index.files[place] for place in (0, 6, 11, 17)]


def test_another_index_takes_its_place(index, tmp_path):
    projector.write(index, str(tmp_path))
    few = features.Index(
        index.features[:2], ("a\tb\n.jpg", index.files[1]), index.labels[:2] * 0 - 1, (), index.root, "m", "f"
    )
    assert projector.write(few, str(tmp_path)) == 2
    assert (tmp_path / "metadata.tsv").read_text() == f"class\tfile\n-\ta?b?.jpg\n-\t{index.files[1]}\n"
    assert Image.open(tmp_path / "sprite.png").size == (128, 128)
    assert len(list(tmp_path.glob("features-*.index"))) == 1
    assert json.dumps(projector.TENSOR) in (tmp_path / "projector_config.pbtxt").read_text()
    gone = features.Index(index.features[:1], ("gone.jpg",), index.labels[:1], index.class_names, index.root, "m", "f")
    with pytest.raises(RunError, match="no picture"):
        projector.write(gone, str(tmp_path))
    assert not (tmp_path / "projector_config.pbtxt").exists()
