"""Which kind of file somebody chose, by its content: so that a refusal can name it."""

import re

ACCEPTED = ("JPEG", "PNG", "WebP", "GIF", "HEIC", "AVIF")

SIGNATURES = (
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"\x89PNG\r\n\x1a\n", "PNG"),
    (rb"GIF8[79]a", "GIF"),
    (rb"RIFF....WEBP", "WebP"),
    (rb"RIFF....AVI ", "AVI"),
    (rb"BM.{4}\0\0\0\0", "BMP"),
    (rb"\0\0\x01\0[\x01-\xff]\0", "ICO"),
    (rb"II\*\0|MM\0\*", "TIFF"),  # and most cameras' RAW
    (rb"8BPS", "PSD"),
    (rb"%PDF-", "PDF"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL"),
    (rb"\x1a\x45\xdf\xa3", "WebM"),
    (rb"(\xef\xbb\xbf)?\s*<(\?xml|!--|!DOCTYPE svg|svg)[^\0]{,4000}?xmlns[:\w]*=.http://www\.w3\.org/2000/svg", "SVG"),
)
# The brands of ISO base media files, in the order in which they decide: HEIC files may also name mif1, as AVIF do.
BRANDS = (
    ("AVIF", {b"avif", b"avis"}),
    ("HEIC", {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}),
    ("QuickTime", {b"qt  "}),
    ("HEIC", {b"mif1", b"msf1"}),
)


def recognise(data: bytes) -> str | None:
    """Return the name of a file's format, such as JPEG or TIFF; None if it is not among those known here."""
    if data[4:8] == b"ftyp":
        box = data[8 : min(int.from_bytes(data[:4]), 200)]  # ISO/IEC 14496-12, 4.3
        brands = {box[start : start + 4] for start in range(0, len(box), 4)}
        return next((name for name, known in BRANDS if brands & known), "MP4")
    return next((name for signature, name in SIGNATURES if re.match(signature, data, re.S)), None)
