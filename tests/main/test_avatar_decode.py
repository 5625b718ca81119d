"""The picture converter, called in the tests' own process: its results and exit codes."""

import io
import sys

import pytest
from PIL import Image

from noxchat.main import avatar_decode
from tests.main.test_avatars import INVALID_FILES, VALID_FILES, encode, two_colour_image

PIXELS = 50_000_000


@pytest.fixture(autouse=True)
def without_resource_limits(monkeypatch):
    """Resource limits would apply to the tests' own process."""
    monkeypatch.setattr(avatar_decode, "limit", lambda *_: None)


@pytest.mark.parametrize("kind", VALID_FILES)
def test_every_format_becomes_a_square_webp(kind):
    converted = Image.open(io.BytesIO(avatar_decode.square(VALID_FILES[kind](), PIXELS)))
    assert (converted.size, converted.format, converted.mode) == ((256, 256), "WEBP", "RGB")


SMALL_FILES = [kind for kind in INVALID_FILES if kind not in {"huge webp", "compressed text bomb"}]


@pytest.mark.parametrize("kind", SMALL_FILES)
def test_invalid_file_ends_with_an_exit_code(kind, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(INVALID_FILES[kind]())))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO()))
    code = avatar_decode.main(PIXELS)
    assert code in {avatar_decode.NOT_A_PICTURE, avatar_decode.TOO_MANY_PIXELS, avatar_decode.OUT_OF_MEMORY}
    assert (code == avatar_decode.TOO_MANY_PIXELS) == (kind in {"60 megapixels", "1.6 gigapixels", "negative size"})


def test_webp_is_written_to_standard_output(monkeypatch):
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(encode(two_colour_image(), "PNG"))))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, write_through=True))
    assert avatar_decode.main(PIXELS) == 0
    assert Image.open(io.BytesIO(out.getvalue())).size == (256, 256)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_large_png_is_read_in_strips_and_rotated(mode, orientation):
    image = two_colour_image((3600, 2400)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    if orientation == 6:
        image = image.transpose(Image.Transpose.ROTATE_90)
    converted = Image.open(io.BytesIO(avatar_decode.square(encode(image, "PNG", exif=exif), PIXELS)))
    if mode != "LA":
        assert converted.getpixel((128, 10))[0] > 150 and converted.getpixel((128, 245))[2] > 150


def test_16_bit_png_is_read_in_strips():
    image = Image.new("I;16", (3600, 2400), 0x8000)
    converted = Image.open(io.BytesIO(avatar_decode.square(encode(image, "PNG"), PIXELS)))
    assert abs(converted.getpixel((128, 128))[0] - 128) < 4


def test_huge_webp_has_too_many_pixels():
    with pytest.raises(avatar_decode.TooManyPixels):
        avatar_decode.square(INVALID_FILES["huge webp"](), PIXELS)
