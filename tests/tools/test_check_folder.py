from PIL import Image

from keras_alexnet.cli import run_command
from tests.data.conftest import encoded, photo, write_folder
from tests.tools.conftest import load_tool


def test_the_report(tmp_path, capsys):
    tag = Image.Exif()
    tag[0x0112] = 6
    one, turned, other = encoded(photo(300, 280)), encoded(photo(300, 280), exif=tag), photo(290, 290)
    files = {f"train/{name}.jpg": one for name in ("cat/1", "cat/more/copy", "dog/wrong")}
    files |= {"train/dog/2.jpg": turned, "val/cat/2.jpg": turned, "val/dog/small.png": encoded(photo(200, 100), "PNG")}
    files |= {"train/dog/g.jpg": encoded(other, "GIF"), "train/dog/w.webp": encoded(other, "WEBP")}
    files |= {"val/dog/cut.jpg": encoded(other)[:2000]}
    write_folder(tmp_path, files)
    tool = load_tool("check_folder")
    assert run_command("check_folder", tool.main, [str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = ["class train val", "cat 2 1", "dog 3 2", "all 5 3"]
    assert [" ".join(line.split()) for line in lines[:4]] == table
    sizes = sorted(len(content) for name, content in files.items() if not name.endswith("webp"))
    pixels = "shorter side 100 to 290 pixels, median 280; 1 below 256, which are enlarged"
    assert lines[5:7] == [
        f"size: {sizes[0] / 1000:.1f} to {sizes[-1] / 1000:.1f} kB; {pixels}",
        "EXIF orientation: 2 images are not stored upright (2 of 6)",
    ]
    copies = [
        "    train/cat/1.jpg = train/cat/more/copy.jpg = train/dog/wrong.jpg",
        "    train/dog/2.jpg = val/cat/2.jpg",
    ]
    convert = "only JPEG and PNG are read: convert it with `mogrify -format jpg"
    assert lines[7:] == [
        "copies of one image: 2",
        *copies,
        "copies in both splits, which make the validation error too low: 1",
        copies[1],
        "copies in several classes, of which one at most is right: 2",
        *copies,
        "files that are not read: 3",
        f"    train/dog/w.webp (a WebP image; {convert} {tmp_path}/train/dog/w.webp`)",
        f"    train/dog/g.jpg (a GIF image; {convert} {tmp_path}/train/dog/g.jpg`)",
        "    val/dog/cut.jpg (not an image)",
    ]
    images = {f"{name}/{number}.jpg": encoded(photo(64, 64, number)) for name in "ab" for number in range(20)}
    write_folder(tmp_path / "unsplit", images)
    assert run_command("check_folder", tool.main, [str(tmp_path / "unsplit")]) == 0
    assert "    a/1.jpg = b/1.jpg" in capsys.readouterr().out  # as it lies there, without the name of a split
    assert run_command("check_folder", tool.main, []) == 2
    assert capsys.readouterr().err == "check_folder: name one folder of images\n"
