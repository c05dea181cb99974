import io
import os
import shutil
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from bench.data.decode import CorruptImageError, decode, inside
from bench.data.images import ArrayImages, FileImages, pack
from bench.errors import BenchError

RED, GREEN, BLUE, WHITE = (230, 30, 20), (20, 200, 60), (30, 40, 220), (255, 255, 255)


def quarters(size=32):
    """Red, green, blue and white quarters: upside down or mirrored, it is another picture."""
    pixels = np.empty((size, size, 3), np.uint8)
    half = size // 2
    pixels[:half, :half], pixels[:half, half:] = RED, GREEN
    pixels[half:, :half], pixels[half:, half:] = BLUE, WHITE
    return Image.fromarray(pixels)


def corners(pixels):
    """Colours of the four corners, in reading order."""
    return [tuple(int(value) for value in pixels[:, y, x]) for y in (0, -1) for x in (0, -1)]


def assert_upright(pixels, tolerance=12):
    np.testing.assert_allclose(corners(pixels), [RED, GREEN, BLUE, WHITE], atol=tolerance)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif", "ppm"])
def test_formats_come_out_alike(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    quarters().save(path)
    pixels = decode(path, 8)
    assert pixels.shape == (3, 8, 8)
    assert pixels.dtype == np.uint8
    assert_upright(pixels)


def test_grey_palette_and_cmyk_become_rgb(tmp_path):
    quarters().convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "palette.png")
    assert_upright(decode(tmp_path / "palette.png", 8))
    quarters().convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    assert_upright(decode(tmp_path / "cmyk.jpg", 8))
    Image.new("L", (9, 5), 77).save(tmp_path / "grey.png")
    assert (decode(tmp_path / "grey.png", 4) == 77).all()
    Image.new("1", (9, 5), 1).save(tmp_path / "bit.png")
    assert (decode(tmp_path / "bit.png", 4) == 255).all()


@pytest.mark.parametrize(("level", "expected"), [(0, 0), (32896, 128), (65535, 255)])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_become_eight(tmp_path, level, expected, suffix):
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(np.full((6, 6), level, np.uint16)).save(path)
    assert (decode(path, 3) == expected).all()


def test_pixels_without_a_known_range_are_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(CorruptImageError, match="pixels of mode F have no known range"):
        decode(tmp_path / "float.tif", 4)


def test_what_is_transparent_becomes_white(tmp_path):
    clear = quarters().convert("RGBA")
    clear.putalpha(Image.new("L", clear.size, 0))
    clear.save(tmp_path / "clear.png")
    assert (decode(tmp_path / "clear.png", 4) == 255).all()
    paletted = Image.new("P", (4, 4), 0)
    paletted.putpalette([9, 9, 9])
    paletted.save(tmp_path / "palette.png", transparency=0)
    assert (decode(tmp_path / "palette.png", 4) == 255).all()


# How a picture must be stored so that its orientation tag turns it upright again.
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", [1, *STORED])
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_rotated_photographs_are_turned_upright(tmp_path, orientation, suffix):
    image = quarters()
    if orientation in STORED:
        image = image.transpose(STORED[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo.{suffix}"
    image.save(path, exif=exif)
    assert_upright(decode(path, 8))


def test_broken_metadata_does_not_spoil_an_image(tmp_path):
    quarters().save(tmp_path / "photo.jpg", exif=b"Exif\0\0nonsense")
    assert_upright(decode(tmp_path / "photo.jpg", 8))


def test_a_large_photograph_is_resized_as_a_small_one(tmp_path):
    quarters(2048).save(tmp_path / "large.jpg", quality=95)
    assert_upright(decode(tmp_path / "large.jpg", 8))


def test_stretch_shows_all_and_crop_the_central_square(tmp_path):
    wide = Image.new("RGB", (30, 10), RED)
    wide.paste(GREEN, (10, 0, 20, 10))
    wide.save(tmp_path / "wide.png")
    assert corners(decode(tmp_path / "wide.png", 6, "stretch")) == [RED] * 4
    assert corners(decode(tmp_path / "wide.png", 6, "crop")) == [GREEN] * 4


def test_a_box_is_cut_out_in_the_file_s_own_pixels(tmp_path):
    quarters().save(tmp_path / "image.png")
    assert corners(decode(tmp_path / "image.png", 4, box=(16.3, -2, 40, 15.6))) == [GREEN] * 4
    with pytest.raises(CorruptImageError, match="is not inside the image of 32 × 32 pixels"):
        decode(tmp_path / "image.png", 4, box=(32, 0, 40, 10))


def bomb(path, width, height):
    """A small PNG that says it has very many pixels."""

    def chunk(kind, content):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(b"\0" * 10_000)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", body), chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_001, 50_000])
def test_a_decompression_bomb_is_refused(tmp_path, side):
    bomb(tmp_path / "bomb.png", side, side)
    with pytest.raises(CorruptImageError, match=r"bomb\.png cannot be decoded .*pixels"):
        decode(tmp_path / "bomb.png", 8)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_truncated_image_is_refused(tmp_path, suffix):
    stream = io.BytesIO()
    quarters(64).save(stream, {"jpg": "jpeg"}.get(suffix, suffix))
    (tmp_path / f"cut.{suffix}").write_bytes(stream.getvalue()[: len(stream.getvalue()) // 2])
    with pytest.raises(CorruptImageError, match=f"cut.{suffix} cannot be decoded"):
        decode(tmp_path / f"cut.{suffix}", 8)


def test_a_format_that_runs_an_interpreter_is_not_opened(tmp_path):
    quarters().save(tmp_path / "script.eps")
    (tmp_path / "script.eps").rename(tmp_path / "script.png")
    with pytest.raises(CorruptImageError, match="cannot identify image file"):
        decode(tmp_path / "script.png", 8)


# --------------------------------------------------------------------------- where files may lie


@pytest.fixture
def root(tmp_path):
    inner = tmp_path / "data" / "images"
    inner.mkdir(parents=True)
    quarters().save(inner / "here.png")
    quarters().save(tmp_path / "outside.png")
    os.symlink(inner / "here.png", inner / "again.png")
    os.symlink(tmp_path / "outside.png", inner / "stolen.png")
    os.symlink(tmp_path, inner / "up")
    return tmp_path / "data"


def test_files_and_links_below_the_root_are_found(root):
    assert inside(root, "images/here.png") == root / "images/here.png"
    assert inside(root, "images/again.png").is_file()
    assert inside(root, "images/../images/here.png").is_file()


@pytest.mark.parametrize(
    "path", ["../outside.png", "images/stolen.png", "images/up/outside.png", "/etc/hostname"]
)
def test_what_leads_out_of_the_root_is_refused(root, path):
    with pytest.raises(BenchError, match="leads out of"):
        inside(root, path)


@pytest.mark.parametrize("path", ["images/stolen.png", "images/up/outside.png"])
def test_links_out_of_the_root_are_followed_when_allowed(root, path):
    assert inside(root, path, follow_links=True).is_file()


@pytest.mark.parametrize("path", ["../outside.png", "images/../../outside.png", "/etc/hostname"])
def test_a_list_that_climbs_out_of_the_root_is_refused_also_where_links_are_allowed(root, path):
    with pytest.raises(BenchError, match="leads out of"):
        inside(root, path, follow_links=True)


@pytest.mark.parametrize("path", ["images/gone.png", "images", "images/\0.png"])
def test_what_is_no_file_is_refused(root, path):
    with pytest.raises(BenchError, match=r"expected an image file"):
        inside(root, path)


def test_a_link_at_the_root_itself_is_the_user_s_choice(root, tmp_path):
    os.symlink(root, tmp_path / "linked")
    assert inside(tmp_path / "linked", "images/here.png").is_file()


# ------------------------------------------------------------------------------- images of a split


@pytest.fixture
def files(tmp_path):
    for number in range(5):
        Image.new("RGB", (6, 6), (number, 2 * number, 3 * number)).save(tmp_path / f"{number}.png")
    return FileImages(tmp_path, [f"{number}.png" for number in range(5)], 4)


def test_rows_come_in_the_order_asked_for_on_any_number_of_threads(files):
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            read = files.read([3, 0, 3])
            assert read[:, :, 0, 0].tolist() == [[3, 6, 9], [0, 0, 0], [3, 6, 9]]
    finally:
        torch.set_num_threads(threads)


def test_an_error_says_where_the_file_was_listed(tmp_path):
    images = FileImages(tmp_path, ["gone.png"], 4, origin=lambda row: f" (line {row + 2})")
    with pytest.raises(BenchError, match=r"gone\.png is not there.*\(line 2\)"):
        images.read([0])


def test_packed_images_equal_decoded_ones_and_are_not_decoded_again(files, tmp_path, monkeypatch):
    expected = files.read(range(5))
    folder = tmp_path / "cache" / "packed"
    assert torch.equal(pack(files, 4, folder).read(range(5)), expected)
    monkeypatch.setattr(FileImages, "decode", lambda *_: pytest.fail("decoded again"))
    assert torch.equal(pack(files, 4, folder).read([4, 1]), expected[[4, 1]])


@pytest.mark.parametrize("file", ["pixels", "checksums"])
def test_a_damaged_packed_image_is_told_of_and_mended(files, tmp_path, caplog, monkeypatch, file):
    expected, folder = files.read(range(5)), tmp_path / "cache" / "packed"
    pack(files, 4, folder)
    content = np.load(folder / f"{file}.npy", mmap_mode="r+")
    content.reshape(5, -1)[2, 0] ^= 1
    content.flush()
    packed = pack(files, 4, folder)
    assert torch.equal(packed.read([0, 1, 3, 4]), expected[[0, 1, 3, 4]])
    assert not caplog.messages
    assert torch.equal(packed.read([1, 2]), expected[[1, 2]])
    assert caplog.messages == [f"image 2 of {folder} is damaged; decoded anew"]
    monkeypatch.setattr(FileImages, "decode", lambda *_: pytest.fail("decoded again"))
    for mended in (packed, pack(files, 4, folder)):
        assert torch.equal(mended.read(range(5)), expected)


def test_packed_images_of_another_folder_are_never_used(files, tmp_path, caplog):
    expected, folder = files.read(range(5)), tmp_path / "cache" / "packed"
    others = ArrayImages(np.zeros((5, 3, 4, 4), np.uint8))
    pack(others, 4, tmp_path / "cache" / "other").folder.rename(folder)
    assert torch.equal(pack(files, 4, folder).read(range(5)), expected)
    assert f"image 0 of {folder} is damaged" in caplog.text


def test_exchanged_packed_images_are_never_used(files, tmp_path, caplog):
    expected, folder = files.read(range(5)), tmp_path / "cache" / "packed"
    pack(files, 4, folder)
    for name in ("pixels.npy", "checksums.npy"):
        np.save(folder / name, np.load(folder / name)[[1, 0, 2, 3, 4]])
    assert torch.equal(pack(files, 4, folder).read(range(5)), expected)
    assert f"image 0 of {folder} is damaged" in caplog.text


def cut(folder):
    content = (folder / "pixels.npy").read_bytes()
    (folder / "pixels.npy").write_bytes(content[:-20])


def empty(folder):
    (folder / "checksums.npy").write_bytes(b"")


def lose(folder):
    (folder / "pixels.npy").unlink()


def resize(folder):
    np.save(folder / "pixels.npy", np.zeros((5, 3, 8, 8), np.uint8))


def replace_by_file(folder):
    shutil.rmtree(folder)
    folder.write_text("I am a file")


@pytest.mark.parametrize("harm", [cut, empty, lose, resize, replace_by_file])
def test_packed_files_that_cannot_be_used_are_set_aside_and_made_anew(
    files, tmp_path, caplog, harm
):
    folder = tmp_path / "cache" / "packed"
    pack(files, 4, folder)
    harm(folder)
    assert torch.equal(pack(files, 4, folder).read(range(5)), files.read(range(5)))
    (message,) = caplog.messages
    (aside,) = folder.parent.glob("packed.*.damaged")
    assert message.startswith(f"{folder}: ")
    assert message.endswith(f"set aside in {aside} and made anew")


def test_packing_that_fails_leaves_nothing(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(CorruptImageError):
        pack(FileImages(tmp_path, ["broken.png"], 4), 4, tmp_path / "cache" / "packed")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
