"""Converts any picture to a small square one. Runs as a process of its own, with resource limits: see avatar_utils.

Picture decoders are the code that anybody can feed with anything. Here they can use only limited memory and time, and
if one crashes, only this process does.

Reads the file from standard input, and writes the WebP to standard output or exits with one of the codes below.
"""

import io
import re
import resource
import sys
import zlib
from collections.abc import Iterator
from typing import Any

from PIL import AvifImagePlugin, Image, ImageOps, JpegImagePlugin
from PIL.GifImagePlugin import GifImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

SIDE = 256
NOT_A_PICTURE, TOO_MANY_PIXELS, OUT_OF_MEMORY = 3, 4, 5

MEMORY = 135_000_000  # bytes, in addition to what the interpreter and the libraries take
PIXEL_MEMORY = 112_000_000  # of these, what a decoder may need for the pixels; the rest is for the file and its bands
CPU_SECONDS = 4
BAND_PIXELS = 1_000_000
LARGE = 8_000_000  # pixels, above which a PNG is read in strips
ORIENTATION = 0x0112  # Exif 2.3, 4.6.4
WEBP_BYTES = 16  # a pixel: libwebp's canvas, the one before, and two copies


class TooManyPixels(Exception):
    pass


class TooMuchMemory(Exception):
    """`megapixels`: how many a picture of this kind may have."""

    def __init__(self, bytes_per_pixel: float):
        super().__init__()
        self.megapixels = int(PIXEL_MEMORY / bytes_per_pixel / 1_000_000)


def main(name: str, pixels: int) -> int:
    """Convert standard input to standard output. Returns the exit code.

    name: the format, as of avatar_formats. pixels: how many a picture may have; one with more is not decoded.
    With OUT_OF_MEMORY, standard output has the megapixels that a picture of this kind may have, if that is known.
    """
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_CPU, CPU_SECONDS, CPU_SECONDS + 1)  # SIGXCPU at the first, SIGKILL at the second
    data = sys.stdin.buffer.read()
    try:
        sys.stdout.buffer.write(square(data, name, pixels))
    except TooManyPixels:
        return TOO_MANY_PIXELS
    except TooMuchMemory as error:
        sys.stdout.buffer.write(b"%d" % error.megapixels)
        return OUT_OF_MEMORY
    except Exception as error:  # noqa: BLE001  decoders raise anything on what is not a picture
        if isinstance(error, MemoryError) or re.search("memory|alloc", str(error), re.I):
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


def square(data: bytes, name: str, pixels: int) -> bytes:
    """Return the picture in `data` as WebP: upright, cropped to the centre, SIDE by SIDE pixels, without metadata.

    Its colours are sRGB, and where it was transparent there is a ground.
    Raises TooManyPixels, TooMuchMemory, MemoryError, and what decoders raise on what is not a picture.
    """
    if name == "HEIC":
        import pillow_heif  # noqa: F401  slow, so only for these files, and before the address space is limited
    if address_space():
        limit(resource.RLIMIT_AS, address_space() + MEMORY)
    image = open_picture(data, name)
    count = image.size[0] * image.size[1]
    if count > pixels:
        raise TooManyPixels
    if count * bytes_per_pixel(image, name) > PIXEL_MEMORY:
        raise TooMuchMemory(bytes_per_pixel(image, name))
    bands = bands_of(image, data, name)
    small = to_srgb(reduced_square(bands, image.size), image.info.get("icc_profile"))
    if name != "HEIC":  # libheif has rotated it
        small.getexif()[ORIENTATION] = orientation_of(image)
    return encode(ImageOps.exif_transpose(small))


# Opening


def open_picture(data: bytes, name: str) -> Any:
    """Return a Pillow image, or a HeifFile, of which only the headers are read."""
    if name == "HEIC":
        import pillow_heif

        pillow_heif.options.DECODE_THREADS = 0  # each would take address space for its stack
        return pillow_heif.open_heif(without_exif(data))  # its Pillow plugin would copy the pixels twice
    if name == "AVIF":
        AvifImagePlugin.DEFAULT_MAX_THREADS = 1
        return AvifImagePlugin.AvifImageFile(io.BytesIO(without_exif(data)))
    if name == "WebP":
        return open_webp(data)
    if name == "JPEG":
        return open_jpeg(data)
    return PngImageFile(io.BytesIO(data)) if name == "PNG" else GifImageFile(io.BytesIO(data))


def open_jpeg(data: bytes) -> Image.Image:
    try:
        return JpegImagePlugin.JpegImageFile(io.BytesIO(data))
    except SyntaxError:  # Pillow reads the resolution in Exif, and not all that can be wrong there is foreseen
        return JpegImagePlugin.JpegImageFile(io.BytesIO(data.replace(b"Exif\0\0", b"none\0\0")))


def open_webp(data: bytes) -> Image.Image:
    """Return a WebP. Pillow takes the memory for its pixels at once, so the limit is checked by Pillow before that."""
    Image.MAX_IMAGE_PIXELS = int(PIXEL_MEMORY / WEBP_BYTES / 2)  # it raises the error at twice as many
    try:
        return WebPImageFile(io.BytesIO(data))
    except Image.DecompressionBombError:
        raise TooMuchMemory(WEBP_BYTES) from None
    finally:
        Image.MAX_IMAGE_PIXELS = None


def without_exif(data: bytes) -> bytes:
    """Return a HEIC or AVIF file whose Exif has no known type: decoders would refuse the picture if it is broken.

    It does not tell the orientation (ISO/IEC 23008-12, 6.5.10): that is a property of the picture.
    """
    return re.sub(rb"(infe(?:\x02.{7}|\x03.{9}))Exif", rb"\1none", data, flags=re.S)


def bytes_per_pixel(image: Any, name: str) -> float:
    """Return the memory that decoding takes, as measured; 0 where it fits for any number of pixels allowed."""
    if name == "JPEG" and image.info.get("progressive"):  # libjpeg keeps all coefficients, two bytes each
        return {0: 6, 1: 4, 2: 3}.get(JpegImagePlugin.get_sampling(image), 2 * len(image.getbands()))
    if name == "PNG" and image.info.get("interlace"):
        return 4
    if name == "AVIF":
        return 12 if image.mode == "RGBA" else 9.1
    if name == "HEIC":
        samples = 4.55 if image.info.get("chroma") == 420 else 9.2
        return samples + 2.1 * image.has_alpha + 3.1 * (image.info["bit_depth"] > 8)
    return 0


def orientation_of(image: Image.Image) -> Any:
    """Return the orientation in Exif, or else in XMP: 1 to 8, or anything if it is broken."""
    try:
        return Image.Image.getexif(image).get(ORIENTATION)  # that of PngImageFile would load the pixels
    except Exception:  # noqa: BLE001  a picture is worth more than its metadata
        return None


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


def bands_of(image: Any, data: bytes, name: str) -> Iterator[Image.Image]:
    """Return the bands of what `open_picture` has returned, from top to bottom. May change the image's size."""
    if name == "JPEG":
        image.draft("RGB", (2 * SIDE, 2 * SIDE))  # decodes at a half, a quarter, an eighth
    if name == "HEIC":
        return heic_bands(image.data, image)
    if name == "PNG" and image.width * image.height > LARGE and (strips := PngStrips.from_png(data)):
        return strips.bands(image.info.get("transparency"))
    return pillow_bands(image)


def plain(band: Image.Image, transparency: Any = None) -> Image.Image:
    """Return a band as L, LA, RGB, RGBA or CMYK. transparency: of the whole image, as in Pillow's `info`."""
    if band.mode.startswith("I"):  # 16-bit greyscale, of which only the high byte is kept
        return band.point(lambda value: value / 256).convert("L")
    if transparency not in (None, b""):
        band.info["transparency"] = transparency
        return band.convert("RGBA")
    mode = {"1": "L", "P": "RGB", "RGBa": "RGBA", "La": "LA", "RGBX": "RGB"}.get(band.mode, band.mode)
    return band if mode == band.mode else band.convert(mode)


def pillow_bands(image: Image.Image) -> Iterator[Image.Image]:
    """Yield the bands of an image that Pillow has opened: the whole would take 4 bytes a pixel."""
    image.load()
    rows = band_height(image.size)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        yield plain(band, image.info.get("transparency"))


def heic_bands(pixels: bytes, image: Any) -> Iterator[Image.Image]:
    """Yield the bands of a HeifFile whose pixels have been decoded, which may have changed its size."""
    mode, stride, (width, height) = image.mode.partition(";")[0], image.stride, image.size
    rows = band_height(image.size)
    for top in range(0, height, rows):
        count = min(rows, height - top)
        part = bytes(pixels[top * stride : (top + count) * stride])
        yield plain(Image.frombuffer(mode, (width, count), part, "raw", mode, stride, 1))


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


# The grounds behind transparency: of the day, the night, and between (static/css/tokens.css: raised, edge). Each with
# the first and last grey value that has a contrast of less than 3 with it (WCAG 2.2, 1.4.11).
GROUNDS = (((0xEE, 0xF1, 0xF9), 140, 255), ((0x1A, 0x21, 0x34), 0, 106), ((0x6F, 0x79, 0x98), 50, 214))


def ground(image: Image.Image) -> tuple[int, int, int]:
    """Return the ground on which most of an RGBA image stands out.

    One file is shown in both themes, on whichever ground the page has, and cached for a year. So the ground belongs to
    the picture: on a page's, and on any single one, either black or white drawings would vanish. The ground between
    is for those that have both.
    """
    is_visible = image.getchannel("A").point(lambda value: 255 * (value >= 96))
    counts = image.convert("RGB").convert("L").histogram(is_visible)
    return min(GROUNDS, key=lambda ground: sum(counts[ground[1] : ground[2] + 1]))[0]  # the first of equals


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


# Large PNGs


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
        chunks, offset = [], 8
        while offset + 8 <= len(data):
            length, kind = int.from_bytes(data[offset : offset + 4]), data[offset + 4 : offset + 8]
            if kind == b"IDAT":
                chunks.append(data[offset + 8 : offset + 8 + length])
            offset += length + 12
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
        image = PngImageFile(io.BytesIO(file))
        image.load()
        return image


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
