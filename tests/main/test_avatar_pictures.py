"""What becomes of a picture's colours, orientation and transparency, and which files can be read; without a process."""

import io
import re
import struct
import zlib

import pytest
from PIL import Image, ImageCms, ImageDraw

from noxchat.main import avatar_decode, avatar_formats
from noxchat.main.avatar_decode import ADOBE_RGB, BT2020, DISPLAY_P3, SRGB, from_srgb, rgb_profile
from tests.main.test_avatars import BLUE, RED, encode, is_close, png_chunk, two_colour_image

PIXELS = 50_000_000
P3_GREEN = (0, 200, 0)  # as numbers of Display P3; as sRGB, green is more and red is none
SRGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
P3_PROFILE = rgb_profile(DISPLAY_P3, from_srgb)


@pytest.fixture(autouse=True)
def without_resource_limits(monkeypatch):
    """Resource limits would apply to the tests' own process."""
    monkeypatch.setattr(avatar_decode, "limit", lambda *_: None)


def converted(data):
    return Image.open(io.BytesIO(avatar_decode.square(data, PIXELS))).convert("RGB")


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


def test_tests_own_profiles_are_valid():
    for profile, space in ((grey_profile(1), "GRAY"), (cmyk_profile(), "CMYK"), (P3_PROFILE, "RGB ")):
        assert ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space == space


# Colour profiles


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "HEIF", "AVIF"])
def test_display_p3_becomes_srgb(kind):
    options = {"quality": 95} if kind != "PNG" else {}
    red, green, blue = colour_of(encode(plain_image(), kind, icc_profile=P3_PROFILE, **options))
    assert green >= 203 and red < 20 and blue < 30, (red, green, blue)
    # A colour that exists in both: brown by its numbers in P3 has more red in sRGB.
    brown = (180, 120, 80)
    assert is_close(colour_of(encode(plain_image(brown), kind, **options)), brown)
    red, green, blue = colour_of(encode(plain_image(brown), kind, icc_profile=P3_PROFILE, **options))
    assert red >= 184 and blue <= 77, (red, green, blue)


@pytest.mark.parametrize("mode", ["P", "RGBA", "L", "LA", "1"])
def test_profile_is_applied_to_every_mode_of_png(mode):
    image = plain_image((180, 120, 80)).convert(mode) if mode != "1" else Image.new("1", (300, 300), 1)
    expected = image.convert("RGBA").convert("RGB").getpixel((128, 128))
    result = colour_of(encode(image, "PNG", icc_profile=P3_PROFILE))
    if mode in ("P", "RGBA"):
        assert result[0] >= expected[0] + 3
    else:
        assert is_close(result, expected)  # a grey is the same grey


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
    data = encode(plain_image((180, 120, 80)), "JPEG", quality=95, icc_profile=long_profile)
    assert data.count(b"ICC_PROFILE\0") == 3
    assert colour_of(data)[0] >= 184


def test_coded_colours_of_png_are_converted():
    """Chunks cICP and gAMA with cHRM; cICP has precedence over iCCP, and sRGB over gAMA."""
    brown = (180, 120, 80)
    data = encode(plain_image(brown), "PNG")
    p3 = (b"cICP", bytes((12, 13, 0, 1)))
    assert colour_of(insert_chunks(data, p3))[0] >= 184
    assert is_close(colour_of(insert_chunks(data, (b"cICP", bytes((1, 13, 0, 1))))), brown)
    profile = encode(plain_image(brown), "PNG", icc_profile=SRGB_PROFILE)
    assert colour_of(insert_chunks(profile, p3))[0] >= 184
    linear = (b"gAMA", (100_000).to_bytes(4))
    assert colour_of(insert_chunks(data, linear))[1] > 170
    assert is_close(colour_of(insert_chunks(data, linear, (b"sRGB", b"\0"))), brown)
    chromaticities = struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)
    adobe = ((b"gAMA", (45455).to_bytes(4)), (b"cHRM", chromaticities))
    green = insert_chunks(encode(plain_image((120, 200, 120)), "PNG"), *adobe)
    assert colour_of(green)[0] < 100  # Adobe RGB's greens are further from red


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_coded_colours_of_heic_and_avif_are_converted(kind):
    brown = (180, 120, 80)
    data = encode(plain_image(brown), kind, quality=95)
    assert is_close(colour_of(data), brown)
    codes = re.search(rb"colrnclx..", data, re.S)
    if not codes:
        pytest.skip("the encoder wrote no codes")
    changed = data.replace(codes[0], b"colrnclx\0\x0c")
    assert colour_of(changed)[0] >= 184
    # PQ: what SDR takes for a middle grey is darker than that by far, and 58 % is white.
    start = data.index(b"colrnclx")
    pq = data[: start + 8] + b"\0\x09\0\x10" + data[start + 12 :]
    assert max(colour_of(pq)) == 255 and min(colour_of(pq)) < 75


def test_curves_of_high_dynamic_range_have_their_white():
    assert abs(avatar_decode.from_pq(0.5807) - 1) < 0.01  # BT.2408: 203 cd/m² is 58 % PQ, 75 % HLG
    assert abs(avatar_decode.from_hlg(0.75) - 1) < 0.01
    assert avatar_decode.from_pq(0) == 0 and avatar_decode.from_hlg(0) == 0


def test_primaries_add_up_to_white():
    for code in (SRGB, ADOBE_RGB, BT2020, DISPLAY_P3):
        sums = [sum(colour[axis] for colour in avatar_decode.PRIMARIES[code]) for axis in range(3)]
        assert all(abs(one - other) < 0.001 for one, other in zip(sums, (0.9642, 1, 0.8249), strict=True)), code


def black_profile():
    """Return a valid profile on which everything is black."""
    return P3_PROFILE[:-2048] + bytes(2048)


BROKEN_PROFILES = {
    "empty": b"\0",
    "text": b"not a profile " * 9,
    "zeros": bytes(5000),
    "cut": P3_PROFILE[:300],
    "cut within the header": P3_PROFILE[:90],
    "wrong offsets": P3_PROFILE[:136] + b"\xff" * 76 + P3_PROFILE[212:],
    "many tags": P3_PROFILE[:128] + b"\xff" * 4 + P3_PROFILE[132:],
    "no tags": P3_PROFILE[:128] + bytes(4) + P3_PROFILE[132:],
    "of another space": P3_PROFILE[:16] + b"Lab " + P3_PROFILE[20:],
    "of an unknown space": P3_PROFILE[:16] + b"ZZZZ" + P3_PROFILE[20:],
    "for paper": cmyk_profile(),
    "for grey": grey_profile(1),
    "black": black_profile(),
    "device link": P3_PROFILE[:12] + b"link" + P3_PROFILE[16:],
}


@pytest.mark.parametrize("name", BROKEN_PROFILES)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "HEIF", "AVIF"])
def test_picture_with_a_broken_profile_is_taken_as_srgb(kind, name):
    data = encode(plain_image((180, 120, 80)), kind, icc_profile=BROKEN_PROFILES[name])
    assert is_close(colour_of(data), (180, 120, 80))


def test_compressed_profile_that_is_broken_does_not_lose_the_png():
    data = encode(plain_image((180, 120, 80)), "PNG")
    for body in (
        b"",
        b"name",
        b"name\0",
        b"name\0\0",
        b"name\0\0not zlib",
        b"name\0\0" + zlib.compress(P3_PROFILE)[:99],
    ):
        assert is_close(colour_of(insert_chunks(data, (b"iCCP", body))), (180, 120, 80)), body
    wrong_crc = insert_chunks(data, (b"iCCP", b"name\0\0x")).replace(png_chunk(b"iCCP", b"name\0\0x")[-4:], b"oops")
    assert is_close(colour_of(wrong_crc), (180, 120, 80))
    for chunk in ((b"cICP", b"\x0c"), (b"cICP", bytes((255, 255, 255, 255))), (b"gAMA", b""), (b"gAMA", bytes(4))):
        assert is_close(colour_of(insert_chunks(data, chunk)), (180, 120, 80)), chunk
    assert is_close(
        colour_of(insert_chunks(data, (b"gAMA", (45455).to_bytes(4)), (b"cHRM", b"\xff" * 32))), (180, 120, 80)
    )


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
    "only its name": b"Exif\0\0",
    "cut": b"Exif\0\0" + tiff()[:7],
    "cut within the entry": b"Exif\0\0" + tiff()[:-9],
    "offset beyond the end": b"Exif\0\0MM\0*\xff\xff\xff\xf0",
    "65,535 entries": b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\1\1\0\3" * 30,
    "endless loop": b"Exif\0\0" + tiff(tag=0x8769, kind=4, next_ifd=8),
    "loop to itself": b"Exif\0\0" + tiff(orientation=99, next_ifd=8),
    "text": b"Exif\0\0this is not Exif at all, but text",
    "orientation as text": b"Exif\0\0" + tiff(kind=2, count=4),
    "orientation 0": b"Exif\0\0" + tiff(orientation=0),
    "orientation 9": b"Exif\0\0" + tiff(orientation=9),
    "huge count": b"Exif\0\0" + tiff(tag=0x010F, kind=2, count=0xFFFFFFFF),
    "unknown byte order": b"Exif\0\0XX" + tiff()[2:],
}


def is_upright(image):
    return is_close(image.getpixel((128, 20)), RED) and is_close(image.getpixel((128, 236)), BLUE)


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
        return data[:start] + chunk
    # HEIC and AVIF know Exif by its place in the file, so it keeps its length.
    filler = b"Exif\0\0" + tiff(tag=0x010F) + b"filler" * 60
    data = encode(image, kind, quality=95, exif=filler)
    start = data.index(filler[6:])
    body = body.removeprefix(b"Exif\0\0")
    return data[:start] + body.ljust(len(filler) - 6, b"\0") + data[start + len(filler) - 6 :]


@pytest.mark.parametrize("name", BROKEN_EXIF)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "HEIF", "AVIF"])
def test_broken_exif_does_not_lose_the_picture(kind, name):
    assert is_upright(converted(with_exif(kind, BROKEN_EXIF[name])))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_of_either_byte_order_is_read(kind, order):
    assert not is_upright(converted(with_exif(kind, b"Exif\0\0" + tiff(6, order))))
    assert is_upright(converted(with_exif(kind, b"Exif\0\0" + tiff(1, order))))


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_heic_and_avif_is_applied(kind, orientation):
    upright = two_colour_image()
    image = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    assert is_upright(converted(encode(image, kind, exif=b"Exif\0\0" + tiff(orientation))))


def test_exif_after_the_pixels_of_a_png_is_read():
    data = encode(two_colour_image((300, 300)), "PNG")
    end = data.index(b"IEND") - 4
    assert not is_upright(converted(data[:end] + png_chunk(b"eXIf", tiff()) + data[end:]))


def test_wrong_checksum_of_metadata_does_not_lose_the_png():
    data = with_exif("PNG", b"Exif\0\0" + tiff(1))
    chunk = png_chunk(b"eXIf", tiff(1))
    assert is_upright(converted(data.replace(chunk, chunk[:-4] + b"oops")))


@pytest.mark.parametrize(
    "segment",
    [
        b"MPF\0II*\0\xff\xff\xff\xff",
        b"MPF\0",
        b"Photoshop 3.0\0" + b"8BIM\xff",
        b"http://ns.adobe.com/xap/1.0/\0<x",
        b"ICC_PROFILE\0",
        b"",
    ],
)
def test_other_broken_metadata_do_not_lose_the_jpeg(segment):
    data = encode(two_colour_image((300, 300)), "JPEG", quality=95)
    for marker in (0xE1, 0xE2, 0xED, 0xEB, 0xFE):
        body = bytes((0xFF, marker)) + struct.pack(">H", len(segment) + 2) + segment
        assert is_upright(converted(data[:2] + body + data[2:])), marker


def test_bytes_between_segments_do_not_lose_the_jpeg():
    """As after Exif whose length is too small."""
    data = encode(two_colour_image((300, 300)), "JPEG", quality=95)
    assert is_upright(converted(data[:2] + b"\xff\xe1\0\x08Exif\0\0" + b"left over" + b"\xff\xff" + data[2:]))


def test_metadata_cut_at_the_end_do_not_lose_the_webp():
    data = encode(two_colour_image((300, 300)), "WEBP", quality=95, exif=b"Exif\0\0" + tiff(1) + bytes(500))
    assert is_upright(converted(data[:-300]))


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
    lights = [
        0.2126 * from_srgb(red / 255) + 0.7152 * from_srgb(green / 255) + 0.0722 * from_srgb(blue / 255)
        for red, green, blue in (one, other)
    ]
    return avatar_decode.ratio(*lights)


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


def raw_png(depth, colour, rows, *chunks, interlaced=0, size=None):
    size = size or (len(rows), len(rows))
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, interlaced)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = (png_chunk(b"IHDR", header), *chunks, png_chunk(b"IDAT", body), png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def keyed_png(depth, channels, key, light):
    """Return a PNG whose upper half has the transparent colour, and whose lower half is grey."""
    pack = {16: ">H", 8: ">B"}.get(depth)
    rows = []
    for row in range(200):
        value = key if row < 100 else light
        rows.append(
            struct.pack(pack, value) * channels * 200
            if pack
            else bytes([value * 0x55 if depth == 2 else value * 0x11]) * (25 * depth)
        )
    return raw_png(depth, {1: 0, 3: 2}[channels], rows, png_chunk(b"tRNS", struct.pack(">H", key) * channels))


TRANSPARENT_FILES = {
    "palette png": lambda: encode(indexed((255, 255, 255)), "PNG", transparency=0),
    "palette png with alpha": lambda: encode(indexed((255, 255, 255)), "PNG", transparency=bytes((0, 255, 0))),
    "grey alpha png": lambda: encode(line_art("white", "LA"), "PNG"),
    "large png": lambda: encode(line_art("white", size=(3000, 3000)), "PNG", compress_level=1),
    "large grey alpha png": lambda: encode(line_art("white", "LA", size=(3000, 3000)), "PNG", compress_level=1),
    "gif": lambda: encode(indexed((255, 255, 255)), "GIF", transparency=0),
    "animated gif": lambda: encode(
        indexed((255, 255, 255)), "GIF", transparency=0, save_all=True, append_images=[indexed((0, 0, 0))], disposal=2
    ),
    "webp": lambda: encode(line_art("white"), "WEBP"),
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


@pytest.mark.parametrize(
    ("depth", "channels", "key", "light"),
    [(16, 1, 0xFFFF, 0x2000), (16, 3, 0xFFFF, 0x2000), (8, 1, 255, 32), (8, 3, 255, 32), (2, 1, 3, 0), (4, 1, 15, 2)],
)
def test_transparent_colour_of_png_is_transparent(depth, channels, key, light):
    """White is transparent here, and the drawing dark: only a ground that is not white shows that."""
    image = converted(keyed_png(depth, channels, key, light))
    assert is_close(image.getpixel((128, 20)), avatar_decode.GROUNDS[0]) and image.getpixel((128, 20))[2] > 245 > 242
    assert image.getpixel((128, 20))[0] < 248
    assert max(image.getpixel((128, 236))) < 60


def test_transparent_colour_of_a_large_png_is_transparent():
    """Which is read in strips."""
    image = Image.new("RGB", (3000, 3000), (255, 0, 255))
    image.paste((255, 255, 255), (0, 1500, 3000, 3000))
    avatar = converted(encode(image, "PNG", transparency=(255, 0, 255), compress_level=1))
    assert is_close(avatar.getpixel((128, 236)), (255, 255, 255))
    assert is_close(avatar.getpixel((128, 20)), avatar_decode.GROUNDS[1])


@pytest.mark.parametrize("body", [b"", b"\xff", b"\xff" * 300])
def test_alpha_of_more_or_fewer_colours_than_a_palette_has_does_not_lose_the_png(body):
    data = encode(indexed(RED), "PNG")
    assert is_close(converted(insert_chunks(data, (b"tRNS", body))).getpixel((66, 128)), RED)


def test_16_bit_alpha_of_png_is_kept():
    rows = [struct.pack(">4H", 0xFFFF, 0xFFFF, 0xFFFF, 0 if row < 100 else 0xFFFF) * 200 for row in range(200)]
    image = converted(raw_png(16, 6, rows))
    assert is_close(image.getpixel((128, 20)), avatar_decode.GROUNDS[1])
    assert is_close(image.getpixel((128, 236)), (255, 255, 255))


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
        assert is_close(colour_of(encode(Image.new(mode, (300, 300)), "PNG")), avatar_decode.GROUNDS[0])


# Formats


def test_first_frame_of_an_animation_is_shown():
    frames = [Image.new("RGB", (300, 300), colour) for colour in (RED, BLUE, BLUE)]
    for kind in ("GIF", "WEBP", "AVIF", "PNG"):
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)
        assert is_close(colour_of(data), RED), kind


def test_first_frame_that_does_not_fill_an_animated_webp():
    """Encoders store only what differs from transparency."""
    first = Image.new("RGBA", (600, 600), (0, 0, 0, 0))
    first.paste((*RED, 255), (300, 300, 600, 600))
    data = encode(
        first, "WEBP", save_all=True, append_images=[Image.new("RGBA", (600, 600), (*BLUE, 255))], lossless=True
    )
    frame = data.index(b"ANMF") + 8
    assert data[frame : frame + 3] != bytes(3), "the encoder wrote a frame of the whole size"
    image = converted(data)
    assert is_close(image.getpixel((200, 200)), RED) and is_close(image.getpixel((40, 40)), avatar_decode.GROUNDS[0])


@pytest.mark.parametrize("size", [(9000, 1030), (1030, 9000), (49000, 1000), (4000, 7), (7, 4000)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_long_pictures_are_cut_to_their_middle(kind, size):
    if kind == "WEBP" and max(size) > 16383:
        pytest.skip("larger than a WebP may be")
    image = Image.new("RGB", size, BLUE)
    width, height = size
    side = min(size)
    left, top = (width - side) // 2, (height - side) // 2
    image.paste(RED, (left, top, left + side, top + side))
    avatar = converted(encode(image, kind))
    middle, corner = avatar.getpixel((128, 128)), avatar.getpixel((12, 12))
    assert is_close(middle, RED) or side < 10
    assert is_close(corner, RED) or side < 10


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "4:0:0"])
def test_samples_of_avif_are_counted(subsampling):
    image = two_colour_image(mode="L" if subsampling == "4:0:0" else "RGB")
    data = encode(image, "AVIF", subsampling=subsampling, quality=95)
    assert avatar_decode.av1_samples(data) == {"4:4:4": 3, "4:2:2": 2, "4:2:0": 1.5, "4:0:0": 1}[subsampling]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "HEIF", "AVIF"])
def test_truncated_files_are_refused(kind):
    noise = Image.merge("RGB", [Image.effect_noise((900, 900), 90) for _band in "rgb"])
    data = encode(noise, kind)
    for length in (30, len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(Exception):  # noqa: B017  decoders raise anything
            avatar_decode.square(data[:length], PIXELS)


def tiff_with_tags(*tags):
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, 0) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


OTHER_FORMATS = {
    "TIFF": lambda: encode(two_colour_image(), "TIFF"),
    "BMP": lambda: encode(two_colour_image(), "BMP"),
    "ICO": lambda: encode(two_colour_image((64, 64)), "ICO"),
    "PSD": lambda: b"8BPS\0\1" + bytes(20),
    "PDF": lambda: encode(two_colour_image(), "PDF"),
    "EPS": lambda: encode(two_colour_image(), "EPS"),
    "SVG": lambda: b'<?xml version="1.0"?>\n<!-- a > b --><!DOCTYPE svg>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "JPEG 2000": lambda: encode(two_colour_image(), "JPEG2000"),
    "JPEG XL": lambda: b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(20),
    "DNG": lambda: tiff_with_tags(256, 50706),
    "camera RAW": lambda: tiff_with_tags(256, 271, 330),
    "MP4": lambda: b"\0\0\0\x18ftypisom\0\0\2\0isommp41" + bytes(30),
    "QuickTime": lambda: b"\0\0\0\x14ftypqt  \0\0\2\0qt  " + bytes(30),
    "WebM or Matroska": lambda: b"\x1a\x45\xdf\xa3" + bytes(30),
    "AVI": lambda: b"RIFF\0\0\0\0AVI LIST" + bytes(30),
    "ZIP": lambda: b"PK\3\4" + bytes(30),
}


@pytest.mark.parametrize("name", OTHER_FORMATS)
def test_other_formats_are_recognised_by_content(name):
    assert avatar_formats.recognise(OTHER_FORMATS[name]()) == name


def test_accepted_formats_are_recognised_by_content():
    for kind, name in zip(("JPEG", "PNG", "WEBP", "GIF", "HEIF", "AVIF"), avatar_formats.ACCEPTED, strict=True):
        assert avatar_formats.recognise(encode(two_colour_image(), kind)) == name


def test_what_is_not_a_picture_is_not_named():
    for data in (
        b"",
        b"\0",
        b"text",
        b"<html><svg></svg>",
        b"BM and more text",
        b"\xff\xfe",
        b"<",
        b"<!--" * 1000,
        bytes(5000),
    ):
        assert avatar_formats.recognise(data) is None, data[:20]


def test_camera_raw_of_several_makers():
    for start in (
        b"II*\0\x10\0\0\0CR\2\0",
        b"FUJIFILMCCD-RAW 0201",
        b"IIU\0\x18\0",
        b"IIRO\x08\0",
        b"\0\0\0\x18ftypcrx \0\0\0\1",
    ):
        assert avatar_formats.recognise(start + bytes(30)) == "camera RAW", start
    for cut in range(12):
        assert avatar_formats.recognise(tiff_with_tags(256, 50706)[:cut]) in (None, "TIFF")
