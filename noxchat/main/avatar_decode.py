"""Converts any picture to a small square one. Runs as a process of its own, with resource limits: see avatar_utils.

Picture decoders are the code that anybody can feed with anything. Here they can use only limited memory and time, and
if one crashes, only this process does.

Reads the file from standard input, and writes the WebP to standard output or exits with one of the codes below.
"""

import io
import resource
import sys
import zlib

from PIL import Image, ImageOps

SIDE = 256
FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
NOT_A_PICTURE, TOO_MANY_PIXELS, OUT_OF_MEMORY = 3, 4, 5

MEMORY = 135_000_000  # bytes, in addition to what the interpreter and the libraries take
CPU_SECONDS = 4
BAND_PIXELS = 1_000_000
LARGE = 8_000_000  # pixels, above which a PNG is read in strips
ORIENTATION = 0x0112  # Exif 2.3, 4.6.4
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


def main(pixels: int) -> int:
    """Convert standard input to standard output. Returns the exit code.

    pixels: how many a picture may have; one with more is not decoded.
    """
    limit(resource.RLIMIT_CPU, CPU_SECONDS)
    data = sys.stdin.buffer.read()
    try:
        sys.stdout.buffer.write(square(data, pixels))
    except TooManyPixels:
        return TOO_MANY_PIXELS
    except MemoryError:
        return OUT_OF_MEMORY
    except Exception as error:  # noqa: BLE001  decoders raise anything on what is not a picture
        print(type(error).__name__, file=sys.stderr)
        return NOT_A_PICTURE
    return 0


def limit(what: int, amount: int):
    resource.setrlimit(what, (amount, amount))


def address_space() -> int:
    """Return the bytes of address space in use (Linux), or 0 where that is unknown."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def square(data: bytes, pixels: int) -> bytes:
    """Return the picture in `data` as WebP: upright, cropped to the centre, SIDE by SIDE pixels, without metadata.

    Raises TooManyPixels, MemoryError, and whatever Pillow raises on what is not a picture.
    """
    Image.MAX_IMAGE_PIXELS = None  # our own limit has an exit code of its own
    heif = data[4:8] == b"ftyp"
    if heif:
        import pillow_heif  # slow to import, so only for these files

    if address_space():
        limit(resource.RLIMIT_AS, address_space() + MEMORY)
    # pillow-heif's own reader does not copy the pixels; its Pillow plugin would copy them twice.
    image = pillow_heif.open_heif(data) if heif else Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = image.size
    if width * height > pixels:
        raise TooManyPixels
    factor = max(1, min(width, height) // (2 * SIDE))
    try:
        if not isinstance(image, Image.Image):
            return encode(join_bands(heif_bands(image, factor), image.size, factor), 1)
        orientation = image.getexif().get(ORIENTATION, 1) if image.format != "PNG" else png_orientation(image)
        if image.format == "PNG" and width * height > LARGE and (strips := PngStrips.from_png(data)):
            return encode(join_bands(strips.bands(factor), image.size, factor), orientation)
        if image.draft("RGB", (2 * SIDE, 2 * SIDE)):  # JPEG only: decodes at a half, a quarter, an eighth
            factor = max(1, min(image.size) // (2 * SIDE))
        return encode(join_bands(bands(image, factor), image.size, factor), orientation)
    except (OSError, RuntimeError, SyntaxError, ValueError) as error:
        if width * height > LARGE:  # decoders report in many ways that they ran out of memory
            raise MemoryError from error
        raise


def png_orientation(image: Image.Image) -> int:
    """Return a PNG's orientation if it comes before the pixels; Pillow's getexif would load all of them first."""
    exif = Image.Exif()
    if "exif" in image.info:
        exif.load(image.info["exif"])
    return exif.get(ORIENTATION, 1)


def band_height(width: int, factor: int) -> int:
    """Return how many rows make a band: a multiple of the factor, so that no block is split."""
    return max(1, BAND_PIXELS // width // factor) * factor


def bands(image: Image.Image, factor: int):
    """Yield an image as RGB or RGBA bands, each reduced by `factor`: the whole would take 4 bytes a pixel."""
    image.load()
    rows = band_height(image.width, factor)
    has_alpha = "A" in image.getbands() or "a" in image.mode or "transparency" in image.info
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        if band.mode.startswith("I"):  # 16-bit greyscale, of which only the high byte is kept
            band = band.point(lambda value: value / 256)
        elif "transparency" in image.info:
            band.info["transparency"] = image.info["transparency"]
        yield band.convert("RGBA" if has_alpha else "RGB").reduce(factor)


def heif_bands(image, factor: int):
    """Yield the bands of a HEIF image, which libheif has already rotated."""
    rows = band_height(image.size[0], factor)
    width, height = image.size
    mode = image.mode.partition(";")[0]
    for top in range(0, height, rows):
        count = min(rows, height - top)
        pixels = image.data[top * image.stride : (top + count) * image.stride]
        yield Image.frombuffer(mode, (width, count), bytes(pixels), "raw", mode, image.stride, 1).reduce(factor)


def join_bands(parts, size: tuple[int, int], factor: int) -> Image.Image:
    """Return one image made of bands from top to bottom. Raises ValueError when some are missing."""
    whole, top = None, 0
    for part in parts:
        if whole is None:
            whole = Image.new(part.mode, (part.width, -(-size[1] // factor)))
        whole.paste(part, (0, top))
        top += part.height
    if whole is None or top < whole.height:
        raise ValueError("truncated")
    return whole


def encode(image: Image.Image, orientation: int) -> bytes:
    """Return a small image as `square` describes it, transposed by its EXIF orientation."""
    if orientation in TRANSPOSITIONS:
        image = image.transpose(TRANSPOSITIONS[orientation])
    if image.mode != "RGB":
        # White behind transparency: otherwise dark drawings vanish in the dark theme, and light ones in the light.
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    plain = Image.new("RGB", (SIDE, SIDE))
    plain.paste(ImageOps.fit(image, (SIDE, SIDE), Image.Resampling.LANCZOS))
    out = io.BytesIO()
    plain.save(out, "WEBP", quality=86, method=4)
    return out.getvalue()


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

    def bands(self, factor: int):
        """Yield the picture in bands, each reduced by `factor`."""
        above = b""
        for raw in self.strips(band_height(self.width, factor)):
            count = len(raw) // (1 + self.width * self.CHANNELS[self.colour])
            strip = self.decoded(above + raw, count + bool(above))
            skipped = bool(above)
            above = b"\0" + strip.crop((0, strip.height - 1, self.width, strip.height)).tobytes()
            if skipped:
                strip = strip.crop((0, 1, self.width, strip.height))
            yield strip.convert("RGBA" if "A" in strip.getbands() else "RGB").reduce(factor)

    def strips(self, rows: int):
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
        image = Image.open(io.BytesIO(file), formats=["PNG"])
        image.load()
        return image


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
