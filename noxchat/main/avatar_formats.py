"""Which kind of file somebody chose, by its content: so that a refusal can name it."""

import re
import struct

ACCEPTED = ("JPEG", "PNG", "WebP", "GIF", "HEIC", "AVIF")

SIGNATURES = (
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"\x89PNG\r\n\x1a\n", "PNG"),
    (rb"GIF8[79]a", "GIF"),
    (rb"RIFF....WEBP", "WebP"),
    (rb"RIFF....AVI ", "AVI"),
    (rb"BM.{4}\0\0\0\0", "BMP"),
    (rb"\0\0[\x01\x02]\0[\x01-\xff]\0", "ICO"),
    (rb"8BP[SB]", "PSD"),
    (rb"%PDF-", "PDF"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "EPS"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL"),
    (rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  ", "JPEG 2000"),
    (rb"II\xbc\x01", "JPEG XR"),
    (rb"II\*\0.{4}CR|IIU\0|IIRO|IIRS|MMOR|FUJIFILMCCD-RAW", "camera RAW"),
    (rb"II[*+]\0|MM\0[*+]", "TIFF"),
    (rb"\x1a\x45\xdf\xa3", "WebM or Matroska"),
    (rb"\0\0\x01[\xb3\xba]", "MPEG"),
    (rb"gimp xcf", "XCF"),
    (rb"v/1\x01", "OpenEXR"),
    (rb"qoif", "QOI"),
    (rb"PK\x03\x04", "ZIP"),
)
# The brands of ISO base media files, in the order in which they decide: HEIC files may also name mif1, videos isom.
BRANDS = (
    ("AVIF", {b"avif", b"avis"}),
    ("HEIC", {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}),
    ("camera RAW", {b"crx "}),
    ("QuickTime", {b"qt  "}),
    ("HEIC", {b"mif1", b"msf1"}),
)
FIRST_ELEMENT = re.compile(rb"<([A-Za-z][\w:]*)")
DNG_VERSION, SUB_IFDS, MAKE = 50706, 330, 271  # TIFF tags; cameras keep the RAW pixels in a sub-IFD


def recognise(data: bytes) -> str | None:
    """Return the name of a file's format, such as JPEG or TIFF; None if it is not among those known here."""
    if data[4:8] == b"ftyp":
        return _recognise_brand(data)
    for signature, name in SIGNATURES:
        if re.match(signature, data, re.S):
            return _recognise_tiff(data) if name == "TIFF" else name
    return "SVG" if _first_element(data[:4096]) in (b"svg", b"svg:svg") else None


def _first_element(start: bytes) -> bytes | None:
    """Return the name of the first element of an XML file; None if it is not XML."""
    found = FIRST_ELEMENT.search(start) if start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<") else None
    return found[1].lower() if found else None


def _recognise_brand(data: bytes) -> str:
    end = min(int.from_bytes(data[:4]), 200)
    found = {data[8:12], *(data[start : start + 4] for start in range(16, end, 4))}
    return next((name for name, brands in BRANDS if found & brands), "MP4")


def _recognise_tiff(data: bytes) -> str:
    """Return which of the formats it is that begin as TIFF does (TIFF 6.0, section 2)."""
    order = "<" if data.startswith(b"II") else ">"
    try:
        (start,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, start)
        tags = {struct.unpack_from(order + "H", data, start + 2 + 12 * number)[0] for number in range(count)}
    except struct.error:
        return "TIFF"
    if DNG_VERSION in tags:
        return "DNG"
    return "camera RAW" if {SUB_IFDS, MAKE} <= tags else "TIFF"
