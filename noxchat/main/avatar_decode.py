"""Converts any picture to a small square one. Runs as a process of its own, with resource limits: see avatar_utils.

Picture decoders are the code that anybody can feed with anything. Here they can use only limited memory and time, and
if one crashes, only this process does.

Reads the file from standard input, and writes the WebP to standard output or exits with one of the codes below.

Metadata is read here, and never by the decoders: they would refuse a whole picture because of it. What is broken in it
is ignored.
"""

import ctypes
import io
import re
import resource
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from PIL import GifImagePlugin, Image, ImageOps, JpegImagePlugin, PngImagePlugin, WebPImagePlugin, _webp

SIDE = 256
NOT_A_PICTURE, TOO_MANY_PIXELS, OUT_OF_MEMORY, LARGE_METADATA = 3, 4, 5, 6

MEMORY = 135_000_000  # bytes, in addition to what the interpreter and the libraries take
PIXEL_MEMORY = 112_000_000  # of these, what a decoder may need for the pixels; the rest is for the file and its bands
CPU_SECONDS = 4
BAND_PIXELS = 1_000_000
LARGE = 8_000_000  # pixels, above which a PNG is read in strips
MAX_CHUNK = 1_000_000  # bytes to which a compressed chunk of metadata may grow
TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class TooManyPixels(Exception):
    pass


class LargeMetadata(Exception):
    pass


class TooMuchMemory(Exception):
    """kind: as of avatar_utils._too_much_memory; limit, pixels: how many it may have, and has."""

    def __init__(self, kind: str, limit: int, pixels: int):
        super().__init__(kind, limit, pixels)


@dataclass
class Source:
    """A picture of which only the headers are read.

    decode: returns the size of the decoded picture, which may be smaller, and its bands: see `plain`.
    bytes_per_pixel: the memory that decoding takes, when it is not done in bands. kind: names such pictures.
    orientation: of Exif. profile: ICC; None for sRGB.
    """

    size: tuple[int, int]
    decode: Callable[[], tuple[tuple[int, int], Iterator[Image.Image]]]
    kind: str
    bytes_per_pixel: float = 0
    orientation: int = 1
    profile: bytes | None = None


def main(pixels: int) -> int:
    """Convert standard input to standard output. Returns the exit code.

    pixels: how many a picture may have; one with more is not decoded.
    With OUT_OF_MEMORY, standard output has the lines that avatar_utils explains to people: kind, limit, pixels.
    """
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_CPU, CPU_SECONDS, CPU_SECONDS + 1)  # SIGXCPU at the first, SIGKILL at the second
    data = sys.stdin.buffer.read()
    try:
        sys.stdout.buffer.write(square(data, pixels))
    except TooManyPixels:
        return TOO_MANY_PIXELS
    except TooMuchMemory as error:
        sys.stdout.buffer.write("\n".join(map(str, error.args)).encode())
        return OUT_OF_MEMORY
    except LargeMetadata:
        return LARGE_METADATA
    except MemoryError:
        return OUT_OF_MEMORY
    except Exception as error:  # noqa: BLE001  decoders raise anything on what is not a picture
        if re.search("memory|alloc", str(error), re.I):
            return OUT_OF_MEMORY
        print(type(error).__name__, file=sys.stderr)
        return NOT_A_PICTURE
    return 0


def limit(what: int, amount: int, hard: int | None = None):
    resource.setrlimit(what, (amount, hard or amount))


def address_space() -> int:
    """Return the bytes of address space in use (Linux), or 0 where that is unknown."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def square(data: bytes, pixels: int) -> bytes:
    """Return the picture in `data` as WebP: upright, cropped to the centre, SIDE by SIDE pixels, without metadata.

    Its colours are sRGB, and where it was transparent there is a ground.
    Raises TooManyPixels, TooMuchMemory, LargeMetadata, MemoryError, and what decoders raise on what is not a picture.
    """
    read = reader(data)
    if address_space():
        limit(resource.RLIMIT_AS, address_space() + MEMORY)
    source = read(data)
    count = source.size[0] * source.size[1]
    if count > pixels:
        raise TooManyPixels
    if count * source.bytes_per_pixel > PIXEL_MEMORY:
        raise TooMuchMemory(source.kind, int(PIXEL_MEMORY / source.bytes_per_pixel), count)
    size, bands = source.decode()
    image = to_srgb(reduced_square(bands, size), source.profile)
    if source.orientation in TRANSPOSITIONS:
        image = image.transpose(TRANSPOSITIONS[source.orientation])
    return encode(image)


def reader(data: bytes) -> Callable[[bytes], Source]:
    """Return the function that reads the headers of such a file. Raises ValueError."""
    if data[4:8] == b"ftyp":
        # Slow to import, so only for these files, and before the address space is limited.
        if {b"avif", b"avis"} & brands(data):
            import PIL._avif  # noqa: F401

            return read_avif
        import pillow_heif

        pillow_heif.options.DECODE_THREADS = 0  # each would take address space for its stack
        return read_heic
    for start, read in (
        (b"\xff\xd8\xff", read_jpeg),
        (b"\x89PNG\r\n\x1a\n", read_png),
        (b"GIF8", read_gif),
        (b"RIFF", read_webp),
    ):
        if data.startswith(start):
            return read
    raise ValueError("unknown format")


def brands(data: bytes) -> set[bytes]:
    """Return the brands of an ISO base media file (ISO/IEC 14496-12, 4.3), which say what is in it."""
    box = data[8 : min(int.from_bytes(data[:4]), 200)]
    return {box[:4], *(box[start : start + 4] for start in range(8, len(box), 4))}


# Reducing and writing


def reduction(size: tuple[int, int]) -> int:
    """Return by which factor a picture is reduced: so that at least 2 * SIDE pixels are left for good resampling."""
    return max(1, min(size) // (2 * SIDE))


def band_height(size: tuple[int, int]) -> int:
    """Return how many rows make a band: a multiple of the reduction, so that no block of pixels is split."""
    factor = reduction(size)
    return max(1, BAND_PIXELS // size[0] // factor) * factor


def reduced_square(bands: Iterator[Image.Image], size: tuple[int, int]) -> Image.Image:
    """Return the square in the centre of a picture, made of its bands from top to bottom, reduced.

    Raises ValueError when bands are missing.
    """
    factor, side = reduction(size), min(size)
    left, top = ((length - side) // 2 // factor * factor for length in size)
    whole, row = None, 0
    for band in bands:
        if whole is None:
            whole = Image.new(band.mode, (-(-side // factor),) * 2)
        first, last = max(row, top), min(row + band.height, top + side)
        if first < last:
            part = band.reduce(factor, (left, first - row, left + side, last - row))
            whole.paste(part, (0, (first - top) // factor))
        row += band.height
    if whole is None or row < size[1]:
        raise ValueError("truncated")
    return whole


def plain(band: Image.Image, transparency: Any = None) -> Image.Image:
    """Return a band as L, LA, RGB, RGBA or CMYK.

    transparency: the transparent grey value or RGB, or the alpha of each colour of a palette.
    """
    if band.mode.startswith("I"):  # 16-bit greyscale, of which only the high byte is kept
        band = band.point(lambda value: value / 256).convert("L")
    if transparency not in (None, b""):
        band = band.convert("L") if band.mode == "1" else band
        band.info["transparency"] = transparency
        return band.convert("RGBA")
    mode = {"1": "L", "P": "RGB", "RGBa": "RGBA", "La": "LA", "RGBX": "RGB"}.get(band.mode, band.mode)
    return band if mode == band.mode else band.convert(mode)


def pillow_bands(image: Image.Image, transparency: Any = None) -> Iterator[Image.Image]:
    """Yield the bands of an image that Pillow has opened: the whole would take 4 bytes a pixel."""
    image.load()
    rows = band_height(image.size)
    for top in range(0, image.height, rows):
        yield plain(image.crop((0, top, image.width, min(top + rows, image.height))), transparency)


def raw_bands(pixels, mode: str, size: tuple[int, int], stride: int) -> Iterator[Image.Image]:
    """Yield the bands of decoded pixels. stride: the bytes of a row."""
    rows = band_height(size)
    for top in range(0, size[1], rows):
        count = min(rows, size[1] - top)
        part = bytes(pixels[top * stride : (top + count) * stride])
        yield plain(Image.frombuffer(mode, (size[0], count), part, "raw", mode, stride, 1))


def encode(image: Image.Image) -> bytes:
    """Return a small RGB or RGBA image as `square` describes it."""
    image = ImageOps.fit(image, (SIDE, SIDE), Image.Resampling.LANCZOS)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, ground(image)), image)
    bare = Image.new("RGB", (SIDE, SIDE))
    bare.paste(image)
    out = io.BytesIO()
    bare.save(out, "WEBP", quality=86, method=4)
    return out.getvalue()


# The grounds behind transparency: of the day, the night, and between. See static/css/tokens.css: raised, edge.
GROUNDS = ((0xEE, 0xF1, 0xF9), (0x1A, 0x21, 0x34), (0x6F, 0x79, 0x98))
ENOUGH_CONTRAST = 3  # WCAG 2.2, 1.4.11


def ground(image: Image.Image) -> tuple[int, int, int]:
    """Return the ground on which most of an RGBA image stands out.

    One file is shown in both themes, on whichever ground the page has, and cached for a year. So the ground belongs to
    the picture: on a page's, and on any single one, either black or white drawings would vanish. The ground between
    is for those that have both.
    """
    is_visible = image.getchannel("A").point(lambda value: 255 * (value >= 96))
    counts = image.convert("RGB").convert("L").histogram(is_visible)

    def contrast(colour):
        back = from_srgb(sum(share * part for share, part in zip((0.299, 0.587, 0.114), colour, strict=True)) / 255)
        return sum(
            count * min(ENOUGH_CONTRAST, ratio(from_srgb(value / 255), back)) for value, count in enumerate(counts)
        )

    return max(GROUNDS, key=contrast)  # the first of equals


def ratio(one: float, other: float) -> float:
    """Return the contrast of two luminances, 1 to 21 (WCAG 2.2)."""
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


# Colours


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return a plain image as RGB or RGBA in sRGB. A profile that is broken, or for another mode, is ignored."""
    has_alpha = image.mode in ("LA", "RGBA")
    colours = image.convert(image.mode[:-1]) if has_alpha else image
    converted = None
    if profile:
        try:
            converted = apply_profile(colours, profile)
        except Exception as error:  # noqa: BLE001  a picture is worth more than its exact colours
            print("profile ignored:", type(error).__name__, file=sys.stderr)
    converted = converted or colours.convert("RGB")
    if has_alpha:
        converted.putalpha(image.getchannel("A"))
    return converted


def apply_profile(image: Image.Image, profile: bytes) -> Image.Image:
    """Return an L, RGB or CMYK image as sRGB. Raises anything if the profile cannot be used."""
    from PIL import ImageCms

    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    mode = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}[source.profile.xcolor_space.strip()]
    if image.mode == "L" and mode == "RGB":
        image = image.convert("RGB")
    transform = ImageCms.buildTransform(
        source,
        ImageCms.createProfile("sRGB"),
        image.mode if image.mode == mode else "",
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    # A profile may be valid and yet make everything black: white, grey and black have to stay recognisable.
    white, grey, black = ((0, 0, 0, 255 - value) if mode == "CMYK" else (value,) * 3 for value in (255, 128, 0))
    for colour, darkest, lightest in ((white, 150, 255), (grey, 40, 225), (black, 0, 100)):
        sample = transform.apply(Image.new(mode, (1, 1), colour if mode != "L" else colour[0])).tobytes()
        if not darkest <= min(sample) <= max(sample) <= lightest:
            raise ValueError("absurd profile")
    return transform.apply(image)


def from_srgb(value: float) -> float:
    """Return the linear light, 0 to 1, of an sRGB value, 0 to 1."""
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def from_pq(value: float) -> float:
    """SMPTE ST 2084, with white at 203 cd/m² (ITU-R BT.2408); what is brighter is cut."""
    root = value ** (1 / 78.84375)
    return 10000 / 203 * (max(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125)


def from_hlg(value: float) -> float:
    """ITU-R BT.2100 for a display of 1,000 cd/m², with white at 203; what is brighter is cut."""
    scene = (
        value * value / 3 if value <= 0.5 else (2.718281828 ** ((value - 0.55991073) / 0.17883277) + 0.28466892) / 12
    )
    return 1000 / 203 * scene**1.2


# Red, green and blue as XYZ of D50, by their codes in ITU-T H.273 (0: Adobe RGB, which has none).
SRGB, ADOBE_RGB, BT2020, DISPLAY_P3 = 1, 0, 9, 12
PRIMARIES = {
    SRGB: ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)),
    ADOBE_RGB: ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)),
    BT2020: ((0.67348, 0.27904, -0.00193), (0.16566, 0.67534, 0.02998), (0.12505, 0.04561, 0.79686)),
    DISPLAY_P3: ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)),
}
# Chromaticities of red and green in PNG's cHRM, in hundred-thousandths.
CHROMATICITIES = {
    (64000, 33000, 30000, 60000): SRGB,
    (64000, 33000, 21000, 71000): ADOBE_RGB,
    (70800, 29200, 17000, 79700): BT2020,
    (68000, 32000, 26500, 69000): DISPLAY_P3,
}
# Transfer functions by their codes in H.273. Those for video (1, 6, 14, 15) are shown as sRGB, as by browsers.
CURVES: dict[int, Callable[[float], float]] = {
    4: lambda value: value**2.2,
    5: lambda value: value**2.8,
    8: lambda value: value,
    16: from_pq,
    18: from_hlg,
}


def coded_profile(primaries: int, transfer: int) -> bytes | None:
    """Return an ICC profile for the codes of H.273; None for sRGB and what is unknown."""
    if primaries not in PRIMARIES or primaries == ADOBE_RGB:
        primaries = SRGB
    return rgb_profile(primaries, CURVES.get(transfer, from_srgb))


def rgb_profile(primaries: int, curve: Callable[[float], float]) -> bytes | None:
    """Return an ICC profile (ICC.1:2001-04) of a key of PRIMARIES and a function to linear light; None for sRGB."""
    if primaries == SRGB and curve is from_srgb:
        return None
    values = [round(65535 * min(1, max(0, curve(step / 1023)))) for step in range(1024)]
    colours = ((0.9642, 1, 0.8249), *PRIMARIES[primaries])
    bodies = [b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(65536 * value) for value in xyz)) for xyz in colours]
    bodies.append(b"curv\0\0\0\0" + struct.pack(">I1024H", 1024, *values))
    starts = [132 + 12 * 7 + 20 * number for number in range(5)]
    kinds = ((b"wtpt", 0), (b"rXYZ", 1), (b"gXYZ", 2), (b"bXYZ", 3), (b"rTRC", 4), (b"gTRC", 4), (b"bTRC", 4))
    table = b"".join(struct.pack(">4sII", kind, starts[body], len(bodies[body])) for kind, body in kinds)
    content = struct.pack(">I", len(kinds)) + table + b"".join(bodies)
    header = struct.pack(">I4sI4s4s4s12x4s28x", 128 + len(content), b"", 0x02400000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    return header + struct.pack(">3i48x", 63190, 65536, 54061) + content


def boxed_profile(data: bytes) -> bytes | None:
    """Return a profile for the first codes of H.273 in a HEIC or AVIF file (its `colr` box of the type nclx)."""
    start = data.find(b"colrnclx")
    if start < 0:
        return None
    return coded_profile(int.from_bytes(data[start + 8 : start + 10]), int.from_bytes(data[start + 10 : start + 12]))


# Metadata


def orientation_of(exif: bytes, xmp: bytes = b"") -> int:
    """Return the orientation, 1 to 8, in Exif (2.3, 4.6.4) or else in XMP; 1 if there is none that can be read."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    try:
        if order:
            (start,) = struct.unpack_from(order + "I", tiff, 4)
            (count,) = struct.unpack_from(order + "H", tiff, start)
            for number in range(count):
                tag, kind, _count, value = struct.unpack_from(order + "HHIH", tiff, start + 2 + 12 * number)
                if tag == 0x0112:
                    return value if kind == 3 and 1 <= value <= 8 else 1
    except struct.error:
        return 1
    found = re.search(rb'tiff:Orientation(?:="|>)([1-8])', xmp)
    return int(found[1]) if found else 1


# JPEG


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield the marker, position and body of each segment before the pixels. Skips what is between segments."""
    position = 2
    while (position := data.find(b"\xff", position)) >= 0 and position + 4 <= len(data):
        marker = data[position + 1]
        if marker in (0x00, 0x01, 0xD8) or 0xD0 <= marker <= 0xD7 or marker == 0xFF:
            position += 1 if marker == 0xFF else 2
            continue
        length = max(2, int.from_bytes(data[position + 2 : position + 4]))
        yield marker, position, data[position + 4 : position + 2 + length]
        if marker == 0xDA:
            return
        position += 2 + length


def read_jpeg(data: bytes) -> Source:
    exif = xmp = frame = scan = b""
    kept, profile, start, is_progressive = [data[:2]], {}, len(data), False
    for marker, position, body in jpeg_segments(data):
        if marker == 0xE1:
            exif = exif or (body if body.startswith(b"Exif\0\0") else b"")
            xmp = xmp or (body if body.startswith(b"http://ns.adobe.com/xap/1.0/") else b"")
        elif marker == 0xE2 and body.startswith(b"ICC_PROFILE\0"):
            profile[body[12:13]] = body[14:]  # the first byte is its number
        elif marker == 0xDA:
            start, scan = position, body
        elif marker in (0xE0, 0xEE) or not (0xE0 <= marker <= 0xEF or marker == 0xFE):  # JFIF and Adobe: how to decode
            kept.append(data[position : position + 4 + len(body)])
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
                frame, is_progressive = body, marker in (0xC2, 0xC6, 0xCA, 0xCE)
    image = JpegImagePlugin.JpegImageFile(io.BytesIO(b"".join((*kept, data[start:]))))
    # libjpeg keeps all coefficients, two bytes each, of a picture that comes in several scans.
    samplings = [(value >> 4) * (value & 15) for value in frame[7::3]]
    is_progressive = is_progressive or scan[0] < len(samplings)

    def decode():
        image.draft("RGB", (2 * SIDE, 2 * SIDE))  # decodes at a half, a quarter, an eighth
        return image.size, pillow_bands(image)

    return Source(
        image.size,
        decode,
        "progressive JPEG",
        2 * sum(samplings) / max(samplings) if is_progressive else 0,
        orientation_of(exif, xmp),
        b"".join(profile[number] for number in sorted(profile)) or None,
    )


# PNG


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """Yield the kind, position and body of each chunk."""
    position = 8
    while position + 8 <= len(data):
        length, kind = int.from_bytes(data[position : position + 4]), data[position + 4 : position + 8]
        yield kind, position, data[position + 8 : position + 8 + length]
        position += length + 12


COMPRESSED = {  # what stands before the compressed part of a chunk
    b"iCCP": rb"[^\0]*\0.",
    b"zTXt": rb"[^\0]*\0.",
    b"iTXt": rb"[^\0]*\0\1.[^\0]*\0[^\0]*\0",
}


def inflate(kind: bytes, body: bytes) -> bytes:
    """Return what is compressed in a chunk of metadata; empty if it is broken. Raises LargeMetadata."""
    start = re.match(COMPRESSED[kind], body, re.S)
    try:
        content = zlib.decompressobj().decompress(body[start.end() :], MAX_CHUNK + 1) if start else b""
    except zlib.error:
        return b""
    if len(content) > MAX_CHUNK:
        raise LargeMetadata
    return content


def read_png(data: bytes) -> Source:
    kept, profile = [data[:8]], b""
    found: dict[bytes, bytes] = {}
    for kind, position, body in png_chunks(data):
        if kind[:1].isupper():  # what is needed to decode
            kept.append(data[position : position + 12 + len(body)])
        else:
            found.setdefault(kind, body)
        if kind in COMPRESSED:
            content = inflate(kind, body)
            profile = profile or (content if kind == b"iCCP" else b"")
    image = PngImagePlugin.PngImageFile(io.BytesIO(b"".join(kept)))
    depth, colour, is_interlaced = data[24], data[25], data[28]
    transparency = png_transparency(depth, colour, found.get(b"tRNS"))
    bytes_per_pixel = 1 if colour == 3 or (colour == 0 and depth <= 8) else 2 if colour == 0 else 4

    def decode():
        if image.width * image.height > LARGE and (strips := PngStrips.from_png(data)):
            return image.size, strips.bands(transparency)
        return image.size, pillow_bands(image, transparency)

    return Source(
        image.size,
        decode,
        "interlaced PNG" if is_interlaced else "PNG",
        bytes_per_pixel if is_interlaced or bytes_per_pixel == 1 else 0,
        orientation_of(found.get(b"eXIf", b"")),
        png_profile(found, profile),
    )


def png_transparency(depth: int, colour: int, body: bytes | None) -> Any:
    """Return the chunk tRNS as `plain` takes it: for samples of 8 bits; None if there is none."""
    if body is None or colour == 3:
        return body and body[:256]
    values = [int.from_bytes(body[start : start + 2]) for start in range(0, len(body), 2)]
    samples = [value >> 8 if depth == 16 else value * 255 // (2**depth - 1) for value in values]
    return samples[0] if colour == 0 and samples else tuple(samples) if colour == 2 and len(samples) == 3 else None


def png_profile(found: dict[bytes, bytes], profile: bytes) -> bytes | None:
    """Return the ICC profile of the chunk that has precedence (PNG, third edition, 4.3). profile: in iCCP."""
    if len(found.get(b"cICP", b"")) == 4:
        return coded_profile(*found[b"cICP"][:2])
    if profile or b"sRGB" in found:
        return profile or None
    gamma, chromaticities = int.from_bytes(found.get(b"gAMA", b"")), found.get(b"cHRM", b"")
    if not 10_000 <= gamma <= 200_000:
        return None
    values = struct.unpack_from(">4I", chromaticities, 8) if len(chromaticities) == 32 else (64000, 33000, 30000, 60000)
    for known, primaries in CHROMATICITIES.items():
        if all(abs(one - other) < 500 for one, other in zip(known, values, strict=True)):
            is_srgb = 44_000 <= gamma <= 47_000  # written for sRGB, of which it is only an approximation
            return rgb_profile(primaries, from_srgb if is_srgb else lambda value: value ** (100_000 / gamma))
    return None


class PngStrips:
    """A large PNG, read a strip at a time: whole it takes four bytes a pixel, 200 MB at the 50 megapixels allowed.

    PNG (W3C, third edition) filters each row by the one above and compresses the rows in order. So the rows of a strip,
    preceded by the last row of the strip before, are a small PNG of their own, which Pillow decodes. Of 16-bit samples
    only the high byte is used: filters work on bytes, so the high ones do not depend on the low ones.
    """

    CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}

    def __init__(self, width, height, depth, colour, chunks):
        self.width, self.height, self.depth, self.colour, self.chunks = width, height, depth, colour, chunks

    @classmethod
    def from_png(cls, data: bytes):
        """Return the strips of a PNG file; None for kinds that are read whole: interlaced, or less than 8 bits."""
        width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
        depth, colour, interlaced = data[24], data[25], data[28]
        if interlaced or depth < 8 or colour not in cls.CHANNELS or (depth == 8 and colour == 0):
            return None
        chunks = [body for kind, _position, body in png_chunks(data) if kind == b"IDAT"]
        return cls(width, height, depth, colour, chunks)

    def bands(self, transparency: Any = None) -> Iterator[Image.Image]:
        """Yield the picture in bands."""
        above = b""
        for raw in self.strips(band_height((self.width, self.height))):
            count = len(raw) // (1 + self.width * self.CHANNELS[self.colour])
            strip = self.decoded(above + raw, count + bool(above))
            skipped = bool(above)
            above = b"\0" + strip.crop((0, strip.height - 1, self.width, strip.height)).tobytes()
            yield plain(strip.crop((0, int(skipped), self.width, strip.height)), transparency)

    def strips(self, rows: int) -> Iterator[bytes]:
        """Yield the filtered rows, `rows` at a time, with one byte a sample."""
        stride = 1 + self.width * self.CHANNELS[self.colour] * (self.depth // 8)
        inflate, buffer, left = zlib.decompressobj(), bytearray(), self.height
        for chunk in self.chunks:
            while chunk:
                buffer += inflate.decompress(chunk, max(1, rows * stride - len(buffer)))
                chunk = inflate.unconsumed_tail
                if len(buffer) >= rows * stride:
                    yield self.high_bytes(buffer, stride)
                    left -= rows
                    buffer.clear()
                if left <= 0:
                    return
        if len(buffer) >= min(left, rows) * stride:
            yield self.high_bytes(buffer[: left * stride], stride)

    def high_bytes(self, rows: bytearray, stride: int) -> bytes:
        if self.depth == 8:
            return bytes(rows)
        starts = range(0, len(rows), stride)
        return b"".join(rows[start : start + 1] + rows[start + 1 : start + stride : 2] for start in starts)

    def decoded(self, raw: bytes, count: int) -> Image.Image:
        header = self.width.to_bytes(4) + count.to_bytes(4) + bytes([8, self.colour, 0, 0, 0])
        parts = ((b"IHDR", header), (b"IDAT", zlib.compress(raw, 0)), (b"IEND", b""))
        file = b"\x89PNG\r\n\x1a\n" + b"".join(
            len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4) for kind, body in parts
        )
        image = PngImagePlugin.PngImageFile(io.BytesIO(file))
        image.load()
        return image


# GIF


def read_gif(data: bytes) -> Source:
    image = GifImagePlugin.GifImageFile(io.BytesIO(data))
    return Source(image.size, lambda: (image.size, pillow_bands(image, image.info.get("transparency"))), "GIF", 1)


# WebP


def webp_chunks(data: bytes, position: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind and body of each chunk."""
    while position + 8 <= len(data):
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        yield data[position : position + 4], data[position + 8 : position + 8 + length]
        position += 8 + length + length % 2


def webp_file(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """Return a WebP file of these chunks."""
    file = b"WEBP"
    for kind, body in chunks:
        file += kind + len(body).to_bytes(4, "little") + body + b"\0" * (len(body) % 2)
    return b"RIFF" + len(file).to_bytes(4, "little") + file


def webp_size(kind: bytes, body: bytes) -> tuple[int, int]:
    """Return the size in the header of the pixels (RFC 9649, 2.5 and 2.6; RFC 6386, 9.1)."""
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF


WEBP_LOSSLESS = 5.2  # bytes a pixel. Of lossy pictures this is how alpha is stored


def read_webp(data: bytes) -> Source:
    chunks: dict[bytes, bytes] = {}
    for kind, body in webp_chunks(data, 12):
        chunks.setdefault(kind, body)
    header, frame = chunks.get(b"VP8X"), chunks.get(b"ANMF")
    parts = dict(webp_chunks(frame, 16)) if frame else chunks
    kind = b"VP8L" if b"VP8L" in parts else b"VP8 "
    still, size = [(kind, parts[kind])], webp_size(kind, parts[kind])
    if b"ALPH" in parts and kind == b"VP8 ":
        sides = b"".join((side - 1).to_bytes(3, "little") for side in size)
        still = [(b"VP8X", b"\x10\0\0\0" + sides), (b"ALPH", parts[b"ALPH"]), *still]
    canvas, corner = size, (0, 0)
    if frame and header:
        canvas = (int.from_bytes(header[4:7], "little") + 1, int.from_bytes(header[7:10], "little") + 1)
        corner = (2 * int.from_bytes(frame[:3], "little"), 2 * int.from_bytes(frame[3:6], "little"))

    def scaled(width: int, height: int) -> tuple[int, int]:
        scale = min(1, 2 * SIDE / min(canvas))
        return round(width * scale), round(height * scale)

    def decode():
        image = scaled_webp(webp_file(still), scaled(*size))
        if canvas != size:  # the first frame of an animation need not fill it
            whole = Image.new("RGBA", scaled(*canvas))
            whole.paste(image, scaled(*corner))
            image = whole
        return image.size, pillow_bands(image)

    return Source(
        canvas,
        decode,
        "lossless WebP" if kind == b"VP8L" else "transparent WebP",
        WEBP_LOSSLESS if len(still) == 3 or kind == b"VP8L" else 0,
        orientation_of(chunks.get(b"EXIF", b""), chunks.get(b"XMP ", b"")),
        chunks.get(b"ICCP"),
    )


class WebPConfig(ctypes.Structure):
    """WebPDecoderConfig of libwebp's decode.h."""

    _fields_ = [
        ("features", ctypes.c_uint32 * 10),
        ("colour_space", ctypes.c_int),
        ("size", ctypes.c_int * 2),
        ("is_external_memory", ctypes.c_int),
        ("pixels", ctypes.c_void_p),
        ("stride", ctypes.c_int),
        ("length", ctypes.c_size_t),
        ("rest_of_union", ctypes.c_uint8 * 56),
        ("padding", ctypes.c_uint32 * 4),
        ("private_memory", ctypes.c_void_p),
        ("filtering", ctypes.c_int * 2),
        ("cropping", ctypes.c_int * 5),
        ("use_scaling", ctypes.c_int),
        ("scaled_size", ctypes.c_int * 2),
        ("options", ctypes.c_int * 4),
        ("more_padding", ctypes.c_uint32 * 5),
    ]


def scaled_webp(data: bytes, size: tuple[int, int]) -> Image.Image:
    """Return a still WebP, reduced to a size while it is decoded.

    Pillow would decode it as an animation, with 16 bytes a pixel; it does not offer libwebp's scaling, but has libwebp.
    """
    size = max(1, size[0]), max(1, size[1])
    library = ctypes.CDLL(_webp.__file__)
    if not hasattr(library, "WebPDecode"):  # linked statically
        return WebPImagePlugin.WebPImageFile(io.BytesIO(data)).convert("RGBA").resize(size)
    config, pixels = WebPConfig(), ctypes.create_string_buffer(4 * size[0] * size[1])
    if not library.WebPInitDecoderConfigInternal(ctypes.byref(config), 0x0200):
        raise OSError("another version of libwebp")
    config.colour_space, config.is_external_memory = 1, 1  # RGBA
    config.pixels, config.stride, config.length = ctypes.addressof(pixels), 4 * size[0], len(pixels)
    config.use_scaling, config.scaled_size[:] = 1, size
    library.WebPDecode.argtypes = ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p
    status = library.WebPDecode(data, len(data), ctypes.byref(config))
    if status:
        raise MemoryError if status == 1 else OSError("damaged")
    return Image.frombytes("RGBA", size, pixels.raw)


# HEIC and AVIF


def without_exif(data: bytes) -> bytes:
    """Return a HEIC or AVIF file whose Exif has no known type: decoders would refuse the picture if it is broken.

    It does not tell the orientation (ISO/IEC 23008-12, 6.5.10): that is a property of the picture.
    """
    return re.sub(rb"(infe(?:\x02.{7}|\x03.{9}))Exif", rb"\1none", data, flags=re.S)


def read_heic(data: bytes) -> Source:
    """The first picture of a HEIC file, which libheif rotates."""
    import pillow_heif

    image = pillow_heif.open_heif(without_exif(data))

    def decode():
        pixels, mode = image.data, image.mode.partition(";")[0]
        return image.size, raw_bands(pixels, mode, image.size, image.stride)

    info, is_cropped = image.info, any(kind[0] == "clap" for kind in image[0]._c_image.transformations)
    # As measured: the planes, the pixels, and their copies.
    bytes_per_pixel = {420: 4.55, 422: 6.9, None: 4.55}.get(info.get("chroma"), 9.2) + 2.1 * image.has_alpha
    bytes_per_pixel += 3.1 * (info["bit_depth"] > 8) + 1.6 * is_cropped
    profile = info.get("icc_profile") or boxed_profile(data)
    return Source(image.size, decode, "HEIC", bytes_per_pixel, 1, profile)


def read_avif(data: bytes) -> Source:
    """The first picture of an AVIF file."""
    from PIL import _avif

    # Pillow's AvifImageFile would copy the pixels.
    decoder = _avif.AvifDecoder(without_exif(data), "auto", 1)
    size, _frames, mode, profile, _exif, orientation, _xmp = decoder.get_info()

    def decode():
        return size, raw_bands(decoder.get_frame(0)[0], mode, size, size[0] * len(mode))

    # As measured: the pixels twice, and the planes with what dav1d adds.
    bytes_per_pixel = 2 * len(mode) + 1.45 * (av1_samples(data) + ("A" in mode))
    return Source(size, decode, "AVIF", bytes_per_pixel, orientation, profile or boxed_profile(data))


def av1_samples(data: bytes) -> float:
    """Return the bytes of a pixel's samples without alpha: by av1C, the decoder configuration (AV1-ISOBMFF, 2.3)."""
    flags = [match[1][0] for match in re.finditer(rb"av1C..(.)", data, re.S)]
    # Alpha has one of its own, which is the smaller.
    return max((samples_of(flag) for flag in flags), default=3)


def samples_of(flags: int) -> float:
    is_high, is_monochrome, x, y = (bool(flags & bit) for bit in (0x40, 0x10, 0x08, 0x04))
    return (1 if is_monochrome else 1 + 2 / ((1 + x) * (1 + y))) * (1 + is_high)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
