"""What becomes of a picture's colours, orientation and transparency, and which files can be read; without a process."""

import io
import struct
import zlib

import pytest
from PIL import Image, ImageCms, ImageDraw
from PIL.JpegImagePlugin import JpegImageFile

from noxchat.main import avatar_decode, avatar_formats
from tests.main.test_avatars import (
    BLUE,
    RED,
    encode,
    interlaced_png,
    is_close,
    is_upright,
    png_chunk,
    rotations,
    square,
    two_colour_image,
)

P3_GREEN = (0, 200, 0)  # as numbers of Display P3; as sRGB, green is more and red is none
BROWN = (180, 120, 80)  # exists in both: by its numbers in P3 it has more red in sRGB
DAY, NIGHT = (ground for ground, _first, _last in avatar_decode.GROUNDS[:2])
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's about broken Exif
KINDS = ["JPEG", "PNG", "WEBP", "HEIF", "AVIF"]


@pytest.fixture(autouse=True)
def without_resource_limits(monkeypatch):
    """Resource limits would apply to the tests' own process."""
    monkeypatch.setattr(avatar_decode, "limit", lambda *_: None)


def converted(data):
    return Image.open(io.BytesIO(square(data))).convert("RGB")


def colour_of(data):
    return converted(data).getpixel((128, 128))


def plain_image(colour=P3_GREEN, mode="RGB", size=(300, 300)):
    return Image.new(mode, size, colour)


def insert_chunks(data, *chunks):
    """Return a PNG with more chunks before its pixels."""
    start = data.index(b"IDAT") - 4
    return data[:start] + b"".join(png_chunk(*chunk) for chunk in chunks) + data[start:]


def icc_profile(space, *tags):
    """Return an ICC profile with tags of (signature, body)."""
    position, table, bodies = 132 + 12 * len(tags), b"", b""
    for signature, body in tags:
        table += signature + struct.pack(">II", position + len(bodies), len(body))
        bodies += body + bytes(-len(body) % 4)
    content = struct.pack(">I", len(tags)) + table + bodies
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    connection = b"Lab " if space == b"CMYK" else b"XYZ "
    head = struct.pack(">I4sI4s4s4s12x4s28x", 128 + len(content), b"", 0x02400000, kind, space, connection, b"acsp")
    return head + struct.pack(">3i48x", 63190, 65536, 54061) + content


def gamma_curve(gamma):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def grey_profile(gamma):
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    return icc_profile(b"GRAY", (b"wtpt", white), (b"kTRC", gamma_curve(gamma)))


def p3_profile():
    """Return a profile with the primaries of Display P3."""
    axes = ((0.9642, 1, 0.8249), (0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
    bodies = [b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(65536 * value) for value in xyz)) for xyz in axes]
    curves = [(kind, gamma_curve(2.2)) for kind in (b"rTRC", b"gTRC", b"bTRC")]
    return icc_profile(b"RGB ", *zip((b"wtpt", b"rXYZ", b"gXYZ", b"bXYZ"), bodies, strict=True), *curves)


def cmyk_profile():
    """Return a CMYK profile (lut8, two points a side) on which full cyan is a dark red: so that its use shows."""
    clut = b""
    for number in range(16):
        cyan, magenta, yellow, black = (number >> shift & 1 for shift in (3, 2, 1, 0))
        light = 0 if black else 255 - 60 * (cyan + magenta + yellow)
        clut += bytes((light, 128 + 60 * (cyan and not black), 128))
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    lut = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + identity + bytes(range(256)) * 4 + clut + bytes(range(256)) * 3
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    return icc_profile(b"CMYK", (b"wtpt", white), (b"A2B0", lut), (b"A2B1", lut))


P3_PROFILE = p3_profile()


def test_tests_own_profiles_are_valid():
    for profile, space in ((grey_profile(1), "GRAY"), (cmyk_profile(), "CMYK"), (P3_PROFILE, "RGB ")):
        assert ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space == space


# Colour profiles


@pytest.mark.parametrize("kind", KINDS)
def test_display_p3_becomes_srgb(kind):
    options = {"quality": 95} if kind != "PNG" else {}
    red, green, blue = colour_of(encode(plain_image(), kind, icc_profile=P3_PROFILE, **options))
    assert green >= 203 and red < 20 and blue < 30, (red, green, blue)
    assert is_close(colour_of(encode(plain_image(BROWN), kind, **options)), BROWN)
    red, green, blue = colour_of(encode(plain_image(BROWN), kind, icc_profile=P3_PROFILE, **options))
    assert red >= 184 and blue <= 77, (red, green, blue)


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA"])
def test_profile_is_applied_to_every_mode_of_png(mode):
    image = plain_image(BROWN).convert(mode)
    expected = image.convert("RGBA").convert("RGB").getpixel((128, 128))
    result = colour_of(encode(image, "PNG", icc_profile=P3_PROFILE))
    assert result[0] >= expected[0] + 3 if mode != "LA" else is_close(result, expected)  # a grey is the same grey


def test_grey_profile_is_applied():
    image = plain_image(64, "L")
    for kind in ("PNG", "JPEG"):
        assert is_close(colour_of(encode(image, kind)), (64, 64, 64))
        linear = colour_of(encode(image, kind, icc_profile=grey_profile(1)))
        assert all(abs(value - 137) < 6 for value in linear), linear
    alpha = Image.merge("LA", (image, plain_image(255, "L")))
    assert colour_of(encode(alpha, "PNG", icc_profile=grey_profile(1)))[0] > 120


def test_cmyk_jpeg_is_converted_by_its_own_profile():
    image = plain_image((255, 0, 0, 0), "CMYK")
    plain = colour_of(encode(image, "JPEG", quality=95))
    assert is_close(plain, (0, 255, 255))
    red, green, blue = colour_of(encode(image, "JPEG", quality=95, icc_profile=cmyk_profile()))
    assert red > green + 60 and red > 200, (red, green, blue)


def test_profile_in_several_segments_of_a_jpeg():
    long_profile = P3_PROFILE + bytes(150_000)
    long_profile = struct.pack(">I", len(long_profile)) + long_profile[4:]
    data = encode(plain_image(BROWN), "JPEG", quality=95, icc_profile=long_profile)
    assert data.count(b"ICC_PROFILE\0") == 3
    assert colour_of(data)[0] >= 184


def black_profile():
    """Return a valid profile on which everything is black."""
    white = P3_PROFILE.index(b"XYZ \0\0\0\0") + 20
    return P3_PROFILE[:white] + (b"XYZ " + bytes(16)) * 3 + P3_PROFILE[white + 60 :]


BROKEN_PROFILES = {
    "empty": b"\0",
    "text": b"not a profile " * 9,
    "cut": P3_PROFILE[:300],
    "wrong offsets": P3_PROFILE[:136] + b"\xff" * 76 + P3_PROFILE[212:],
    "many tags": P3_PROFILE[:128] + b"\xff" * 4 + P3_PROFILE[132:],
    "of another space": P3_PROFILE[:16] + b"Lab " + P3_PROFILE[20:],
    "for paper": cmyk_profile(),
    "black": black_profile(),
}


@pytest.mark.parametrize("name", BROKEN_PROFILES)
@pytest.mark.parametrize("kind", KINDS)
def test_picture_with_a_broken_profile_is_taken_as_srgb(kind, name):
    data = encode(plain_image(BROWN), kind, icc_profile=BROKEN_PROFILES[name])
    assert is_close(colour_of(data), BROWN)


def test_compressed_profile_that_is_broken_does_not_lose_the_png():
    data = encode(plain_image(BROWN), "PNG")
    for body in (b"name\0\0not zlib", b"name\0\0" + zlib.compress(P3_PROFILE)[:99]):
        assert is_close(colour_of(insert_chunks(data, (b"iCCP", body))), BROWN), body


def test_cmyk_jpeg_with_a_broken_profile_is_kept():
    image = plain_image((0, 255, 255, 0), "CMYK")
    for profile in (bytes(5000), cmyk_profile()[:200], P3_PROFILE):
        assert is_close(colour_of(encode(image, "JPEG", quality=95, icc_profile=profile)), (255, 0, 0))


# Broken metadata


def tiff(orientation=6, order=">", next_ifd=0, tag=0x0112, kind=3, count=1):
    start = b"MM\0*" if order == ">" else b"II*\0"
    return start + struct.pack(order + "IHHHIHHI", 8, 1, tag, kind, count, orientation, 0, next_ifd)


BROKEN_EXIF = {
    "empty": b"",
    "cut": b"Exif\0\0" + tiff()[:7],
    "offset beyond the end": b"Exif\0\0MM\0*\xff\xff\xff\xf0",
    "65,535 entries": b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\1\1\0\3" * 30,
    "endless loop": b"Exif\0\0" + tiff(tag=0x8769, kind=4, next_ifd=8),
    "loop to itself": b"Exif\0\0" + tiff(orientation=99, next_ifd=8),
    "text": b"Exif\0\0this is not Exif at all, but text",
    "orientation as text": b"Exif\0\0" + tiff(kind=2, count=4),
    "unknown byte order": b"Exif\0\0XX" + tiff()[2:],
}


def with_exif(kind, body):
    """Return a picture with these bytes as its Exif, whatever they are."""
    image = two_colour_image((300, 300))
    if kind == "JPEG":
        data = encode(image, kind, quality=95)
        return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]
    if kind == "PNG":
        return insert_chunks(encode(image, kind), (b"eXIf", body.removeprefix(b"Exif\0\0")))
    if kind == "WEBP":
        filler = b"Exif\0\0" + tiff(tag=0x010F)
        data = encode(image, kind, quality=95, exif=filler)
        start = data.index(b"EXIF")
        chunk = b"EXIF" + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
        return b"RIFF" + struct.pack("<I", start + len(chunk) - 8) + data[8:start] + chunk
    # HEIC and AVIF know Exif by its place in the file, so it keeps its length.
    filler = b"Exif\0\0" + tiff(tag=0x010F) + b"filler" * 60
    data = encode(image, kind, quality=95, exif=filler)
    start = data.index(filler[6:])
    body = body.removeprefix(b"Exif\0\0")
    return data[:start] + body.ljust(len(filler) - 6, b"\0") + data[start + len(filler) - 6 :]


@pytest.mark.parametrize("name", BROKEN_EXIF)
@pytest.mark.parametrize("kind", KINDS)
def test_broken_exif_does_not_lose_the_picture(kind, name):
    assert is_upright(converted(with_exif(kind, BROKEN_EXIF[name])))


def test_jpeg_whose_exif_makes_pillow_fail_is_kept():
    """An empty text as the resolution: Pillow raises IndexError when it opens the file."""
    image = two_colour_image((300, 300))
    body = b"Exif\0\0II*\0" + struct.pack("<IHHHIIHHIII", 8, 2, 0x011A, 2, 1, 0, 0x0128, 3, 1, 2, 0)
    data = encode(image, "JPEG", quality=95).replace(b"JFIF", b"none")
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]
    with pytest.raises(SyntaxError):
        JpegImageFile(io.BytesIO(data))
    assert is_upright(converted(data))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_of_either_byte_order_is_read(kind, order):
    assert not is_upright(converted(with_exif(kind, b"Exif\0\0" + tiff(6, order))))
    assert is_upright(converted(with_exif(kind, b"Exif\0\0" + tiff(1, order))))


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_heic_and_avif_is_applied(kind, orientation):
    data = encode(rotations()[orientation], kind, exif=b"Exif\0\0" + tiff(orientation))
    assert is_upright(converted(data))


def test_exif_after_the_pixels_of_a_png_is_read():
    data = encode(two_colour_image((300, 300)), "PNG")
    end = data.index(b"IEND") - 4
    assert not is_upright(converted(data[:end] + png_chunk(b"eXIf", tiff()) + data[end:]))


# Transparency


def line_art(colour, mode="RGBA", size=(300, 300), second=None):
    """Return a frame drawn on transparency."""
    image = Image.new("RGBA", size, (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    side = min(size)
    draw.rectangle((side // 5, side // 5, 4 * side // 5, 4 * side // 5), outline=colour, width=side // 8)
    if second:
        draw.rectangle((side // 3, side // 3, 2 * side // 3, 2 * side // 3), outline=second, width=side // 8)
    return image.convert(mode) if mode != "RGBA" else image


def contrast(one, other):
    """As of WCAG 2.2."""

    def luminance(colour):
        linear = [value / 3294.6 if value <= 10 else ((value / 255 + 0.055) / 1.055) ** 2.4 for value in colour]
        return sum(share * value for share, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    lights = luminance(one), luminance(other)
    return (max(lights) + 0.05) / (min(lights) + 0.05)


def drawing_and_ground(data):
    image = converted(data)
    return image.getpixel((66, 128)), image.getpixel((8, 8))


@pytest.mark.parametrize(
    "colour", [(0, 0, 0), (255, 255, 255), (220, 30, 30), (250, 220, 60), (20, 60, 200), (127, 127, 127)]
)
def test_drawing_on_transparency_stands_out_from_its_ground(colour):
    drawing, ground = drawing_and_ground(encode(line_art((*colour, 255)), "PNG"))
    assert is_close(drawing, colour)
    assert contrast(drawing, ground) > 3
    assert ground != (255, 255, 255) or colour != (255, 255, 255)


def test_drawing_in_black_and_white_stands_out_with_both():
    image = converted(encode(line_art("black", second="white"), "PNG"))
    ground = image.getpixel((8, 8))
    assert contrast(image.getpixel((66, 128)), ground) > 3 and contrast(image.getpixel((100, 128)), ground) > 3


def indexed(colour):
    """Return line art with a palette: transparent at 0, a colour at 1, and a transparent one at 2."""
    image = Image.new("P", (300, 300), 0)
    image.putpalette([255, 0, 255, *colour, 0, 255, 0])
    ImageDraw.Draw(image).rectangle((60, 60, 240, 240), outline=1, width=36)
    return image


TRANSPARENT_FILES = {
    "palette png": lambda: encode(indexed((255, 255, 255)), "PNG", transparency=0),
    "palette png with alpha": lambda: encode(indexed((255, 255, 255)), "PNG", transparency=bytes((0, 255, 0))),
    "large png": lambda: encode(line_art("white", size=(3000, 3000)), "PNG", compress_level=1),
    "gif": lambda: encode(indexed((255, 255, 255)), "GIF", transparency=0),
    "animated gif": lambda: encode(
        indexed((255, 255, 255)), "GIF", transparency=0, save_all=True, append_images=[indexed((0, 0, 0))], disposal=2
    ),
    "lossless webp": lambda: encode(line_art("white"), "WEBP", lossless=True),
    "animated webp": lambda: encode(line_art("white"), "WEBP", save_all=True, append_images=[line_art("black")]),
    "heic": lambda: encode(line_art("white"), "HEIF", quality=95),
    "avif": lambda: encode(line_art("white"), "AVIF", quality=95),
    "animated avif": lambda: encode(line_art("white"), "AVIF", save_all=True, append_images=[line_art("black")]),
}


@pytest.mark.parametrize("name", TRANSPARENT_FILES)
def test_white_drawing_stands_out_in_every_transparent_format(name):
    drawing, ground = drawing_and_ground(TRANSPARENT_FILES[name]())
    assert is_close(drawing, (255, 255, 255)) and contrast(drawing, ground) > 3, (drawing, ground)


@pytest.mark.parametrize("large", [100, 1_000_000])
def test_transparent_colour_of_png_is_transparent(large, monkeypatch):
    """Whether or not it is read in strips."""
    monkeypatch.setattr(avatar_decode, "LARGE", large)
    image = Image.new("RGB", (600, 600), (255, 0, 255))
    image.paste((255, 255, 255), (0, 300, 600, 600))
    avatar = converted(encode(image, "PNG", transparency=(255, 0, 255)))
    assert is_close(avatar.getpixel((128, 236)), (255, 255, 255))
    assert is_close(avatar.getpixel((128, 20)), NIGHT)


def test_colours_under_transparency_do_not_bleed():
    image = Image.new("RGBA", (1200, 1200), (255, 0, 0, 0))
    image.paste((255, 255, 255, 255), (601, 0, 1200, 1200))
    avatar = converted(encode(image, "PNG"))
    for column in range(256):
        red, green, _blue = avatar.getpixel((column, 128))
        assert red - green < 16, column


def test_opaque_picture_with_alpha_is_unchanged():
    assert is_close(colour_of(encode(Image.new("RGBA", (300, 300), (*RED, 255)), "PNG")), RED)


def test_picture_that_is_nothing_but_transparent_gets_a_ground():
    for mode in ("RGBA", "LA"):
        assert is_close(colour_of(encode(Image.new(mode, (300, 300)), "PNG")), DAY)


# Formats


def test_first_frame_of_an_animation_is_shown():
    frames = [Image.new("RGB", (300, 300), colour) for colour in (RED, BLUE, BLUE)]
    for kind in ("GIF", "WEBP", "AVIF", "PNG"):
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)
        assert is_close(colour_of(data), RED), kind


@pytest.mark.parametrize("size", [(9000, 600), (600, 9000), (49000, 1000), (4000, 7)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_long_pictures_are_cut_to_their_middle(kind, size):
    image = Image.new("RGB", size, BLUE)
    width, height = size
    side = min(size)
    left, top = (width - side) // 2, (height - side) // 2
    image.paste(RED, (left, top, left + side, top + side))
    avatar = converted(encode(image, kind))
    middle, corner = avatar.getpixel((128, 128)), avatar.getpixel((12, 12))
    assert is_close(middle, RED) or side < 10
    assert is_close(corner, RED) or side < 10


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "HEIF", "AVIF"])
def test_truncated_files_are_refused(kind):
    noise = Image.merge("RGB", [Image.effect_noise((400, 400), 90) for _band in "rgb"])
    data = encode(noise, kind)
    for length in (30, len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(Exception):  # noqa: B017  decoders raise anything
            square(data[:length])


OTHER_FORMATS = {
    "TIFF": lambda: encode(two_colour_image(), "TIFF"),
    "BMP": lambda: encode(two_colour_image(), "BMP"),
    "ICO": lambda: encode(two_colour_image((64, 64)), "ICO"),
    "PSD": lambda: b"8BPS\0\1" + bytes(20),
    "PDF": lambda: encode(two_colour_image(), "PDF"),
    "SVG": lambda: b'<?xml version="1.0"?>\n<!-- a > b --><!DOCTYPE svg>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "JPEG XL": lambda: b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(20),
    "MP4": lambda: b"\0\0\0\x18ftypisom\0\0\2\0isommp41" + bytes(30),
    "QuickTime": lambda: b"\0\0\0\x14ftypqt  \0\0\2\0qt  " + bytes(30),
    "WebM": lambda: b"\x1a\x45\xdf\xa3" + bytes(30),
    "AVI": lambda: b"RIFF\0\0\0\0AVI LIST" + bytes(30),
}


@pytest.mark.parametrize("name", OTHER_FORMATS)
def test_other_formats_are_recognised_by_content(name):
    assert avatar_formats.recognise(OTHER_FORMATS[name]()) == name


def test_accepted_formats_are_recognised_by_content():
    for kind, name in zip(("JPEG", "PNG", "WEBP", "GIF", "HEIF", "AVIF"), avatar_formats.ACCEPTED, strict=True):
        assert avatar_formats.recognise(encode(two_colour_image(), kind)) == name


def test_what_is_not_a_picture_is_not_named():
    for data in (b"", b"\0", b"text", b"<html><svg></svg>", b"BM and more text", b"<", b"<!--" * 1000, bytes(5000)):
        assert avatar_formats.recognise(data) is None, data[:20]


# Memory


def transparent(size):
    return Image.new("RGBA", size, (*RED, 99))


MEMORY_LIMITS = {  # a picture of 1,200 by 1,000 pixels, and the bytes that each of them takes
    "progressive jpeg": (lambda: encode(plain_image(RED, size=(1200, 1000)), "JPEG", progressive=True), 3),
    "progressive jpeg, not subsampled": (
        lambda: encode(plain_image(RED, size=(1200, 1000)), "JPEG", progressive=True, subsampling=0),
        6,
    ),
    "progressive cmyk jpeg": (
        lambda: encode(plain_image((0, 0, 0, 0), "CMYK", (1200, 1000)), "JPEG", progressive=True),
        8,
    ),
    "interlaced png": (lambda: interlaced_png((1200, 1000)), 4),
    "webp": (lambda: encode(plain_image(RED, size=(1200, 1000)), "WEBP"), 16),
    "heic": (lambda: encode(plain_image(RED, size=(1200, 1000)), "HEIF"), 4.55),
    "transparent heic": (lambda: encode(transparent((1200, 1000)), "HEIF"), 6.65),
    "avif": (lambda: encode(plain_image(RED, size=(1200, 1000)), "AVIF"), 9.1),
    "transparent avif": (lambda: encode(transparent((1200, 1000)), "AVIF"), 12),
}


@pytest.mark.parametrize("name", MEMORY_LIMITS)
def test_picture_that_needs_too_much_memory_is_refused_with_its_limit(name, monkeypatch):
    encoded, bytes_per_pixel = MEMORY_LIMITS[name]
    data = encoded()
    monkeypatch.setattr(avatar_decode, "PIXEL_MEMORY", 1_190_000 * bytes_per_pixel)
    with pytest.raises(avatar_decode.TooMuchMemory) as refusal:
        square(data)
    assert refusal.value.megapixels == 1
    monkeypatch.setattr(avatar_decode, "PIXEL_MEMORY", 1_200_001 * bytes_per_pixel)
    assert square(data)


def test_kinds_that_are_read_in_bands_have_no_limit_of_their_own(monkeypatch):
    monkeypatch.setattr(avatar_decode, "PIXEL_MEMORY", 1000)
    for kind in ("JPEG", "PNG", "GIF"):
        assert square(encode(plain_image(RED), kind)), kind
