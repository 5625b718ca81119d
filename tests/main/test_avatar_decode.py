"""The converter by itself, without the process around it: what it makes of each file, and what it says of bad ones."""

import io
import sys

import pytest
from PIL import Image

from noxchat.main import avatar_decode
from tests.main.test_avatars import HOSTILE, KINDS, encoded, halves

PIXELS = 50_000_000


@pytest.fixture(autouse=True)
def unlimited(monkeypatch):
    """The limits would bind the tests themselves."""
    monkeypatch.setattr(avatar_decode, "limit", lambda *_: None)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind(kind):
    made = Image.open(io.BytesIO(avatar_decode.square(KINDS[kind](), PIXELS)))
    assert (made.size, made.format, made.mode) == ((256, 256), "WEBP", "RGB")


SMALL = [kind for kind in HOSTILE if kind not in {"huge webp", "text bomb"}]


@pytest.mark.parametrize("kind", SMALL)
def test_each_bad_file_ends_with_a_code(kind, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(HOSTILE[kind]())))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO()))
    code = avatar_decode.main(PIXELS)
    assert code in {avatar_decode.NOT_A_PICTURE, avatar_decode.TOO_MANY_PIXELS, avatar_decode.OUT_OF_MEMORY}
    assert (code == avatar_decode.TOO_MANY_PIXELS) == (kind in {"60 megapixels", "a billion pixels", "negative size"})


def test_a_good_file_is_written_out(monkeypatch):
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(encoded(halves(), "PNG"))))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, write_through=True))
    assert avatar_decode.main(PIXELS) == 0
    assert Image.open(io.BytesIO(out.getvalue())).size == (256, 256)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_a_large_png_is_read_in_strips_and_turned(mode, orientation):
    image = halves((3600, 2400)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    if orientation == 6:
        image = image.transpose(Image.Transpose.ROTATE_90)
    made = Image.open(io.BytesIO(avatar_decode.square(encoded(image, "PNG", exif=exif), PIXELS)))
    if mode != "LA":
        assert made.getpixel((128, 10))[0] > 150 and made.getpixel((128, 245))[2] > 150


def test_sixteen_bits_in_strips():
    image = Image.new("I;16", (3600, 2400), 0x8000)
    made = Image.open(io.BytesIO(avatar_decode.square(encoded(image, "PNG"), PIXELS)))
    assert abs(made.getpixel((128, 128))[0] - 128) < 4


def test_the_largest_of_bad_files_are_refused_by_what_they_would_take():
    with pytest.raises(avatar_decode.TooManyPixels):
        avatar_decode.square(HOSTILE["huge webp"](), PIXELS)
