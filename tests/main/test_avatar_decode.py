"""The picture converter, called in the tests' own process: its results and exit codes."""

import io
import sys

import pytest
from PIL import Image

from noxchat.main import avatar_decode, avatar_formats
from tests.main.test_avatars import (
    INVALID_FILES,
    PIXELS,
    TOO_LARGE,
    VALID_FILES,
    contents,
    encode,
    is_close,
    is_upright,
    rotations,
    square,
    two_colour_image,
)


@pytest.fixture(autouse=True)
def without_resource_limits(monkeypatch):
    """Resource limits would apply to the tests' own process."""
    monkeypatch.setattr(avatar_decode, "limit", lambda *_: None)


NOT_COLOURED = {"grey jpeg", "1-bit png", "16-bit png", "grey alpha png", "one pixel", "transparent palette png"}


def converted(data):
    return Image.open(io.BytesIO(square(data)))


@pytest.mark.parametrize("kind", VALID_FILES)
def test_every_format_becomes_a_square_webp_without_metadata(kind):
    data = square(contents(kind))
    image = Image.open(io.BytesIO(data))
    assert (image.size, image.format, image.mode) == ((256, 256), "WEBP", "RGB")
    assert not image.getexif() and "icc_profile" not in image.info and "xmp" not in image.info
    assert b"secret tail" not in data
    assert is_upright(image) or kind in NOT_COLOURED


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied_and_removed(kind):
    for orientation, image in rotations().items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        exif[0x8825] = {1: "N", 2: (52.0, 31.0, 0.0)}  # GPS
        avatar = converted(encode(image, kind, exif=exif))
        assert is_upright(avatar), orientation
        assert not avatar.getexif(), orientation


@pytest.mark.parametrize("kind", INVALID_FILES)
def test_invalid_file_ends_with_an_exit_code(kind, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(contents(kind))))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO()))
    code = avatar_decode.main(avatar_formats.recognise(contents(kind)) or "JPEG", PIXELS)
    assert code in {avatar_decode.NOT_A_PICTURE, avatar_decode.TOO_MANY_PIXELS, avatar_decode.OUT_OF_MEMORY}
    assert (code == avatar_decode.TOO_MANY_PIXELS) == (kind in TOO_LARGE)


def test_webp_is_written_to_standard_output(monkeypatch):
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(encode(two_colour_image(), "PNG"))))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, write_through=True))
    assert avatar_decode.main("PNG", PIXELS) == 0
    assert Image.open(io.BytesIO(out.getvalue())).size == (256, 256)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_large_png_is_read_in_strips_and_rotated(mode, orientation):
    image = two_colour_image((3600, 2400)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    if orientation == 6:
        image = image.transpose(Image.Transpose.ROTATE_90)
    avatar = converted(encode(image, "PNG", exif=exif, compress_level=1))
    top, bottom = avatar.getpixel((128, 10)), avatar.getpixel((128, 245))
    if mode == "LA":
        assert is_close(top, (81, 81, 81)) and is_close(bottom, (49, 49, 49)) and top[0] - bottom[0] > 20
    else:
        assert top[0] > 150 and bottom[2] > 150


def test_16_bit_png_is_read_in_strips():
    image = Image.new("I;16", (3600, 2400), 0x8000)
    assert abs(converted(encode(image, "PNG")).getpixel((128, 128))[0] - 128) < 4
