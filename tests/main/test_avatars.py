"""Uploading avatars: accepted formats, invalid files, limits, and the files on disk."""

import io
import re
import signal
import struct
import subprocess
import threading
import time
import zlib
from functools import cache

import pillow_heif
import psutil
import pytest
from PIL import Image

from noxchat.exceptions import InvalidInput
from noxchat.extensions import db
from noxchat.main import avatar_decode, avatar_formats, avatar_utils
from noxchat.models import Profile
from tests.conftest import Browser, make_person, run_in_threads, wait_until

pillow_heif.register_heif_opener()
FIELDS = {"username": "Alice", "public_id": "alice", "bio": ""}
RED, BLUE = (200, 30, 30), (30, 30, 200)
PIXELS = 50_000_000


@cache
def contents(kind):
    """Return the bytes of a file in VALID_FILES, INVALID_FILES or COSTLY_FILES."""
    return (VALID_FILES | INVALID_FILES | COSTLY_FILES)[kind]()


def encode(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def two_colour_image(size=(400, 300), mode="RGB"):
    """Return an image that is red at the top and blue at the bottom."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (0, size[1] // 2, *size))
    return image.convert(mode)


def rotations():
    """Return a two-coloured image as cameras store it, by the orientation that turns it upright."""
    upright, ways = two_colour_image(), Image.Transpose
    stored = {
        2: ways.FLIP_LEFT_RIGHT,
        3: ways.ROTATE_180,
        4: ways.FLIP_TOP_BOTTOM,
        5: ways.TRANSPOSE,
        6: ways.ROTATE_90,
        7: ways.TRANSVERSE,
        8: ways.ROTATE_270,
    }
    return {1: upright} | {orientation: upright.transpose(way) for orientation, way in stored.items()}


def square(data):
    """Convert a picture in this process."""
    return avatar_decode.square(data, avatar_formats.recognise(data), PIXELS)


def upload(browser, data, name="photo.jpg", htmx=False, **fields):
    files = {**FIELDS, **fields, "avatar": (io.BytesIO(data), name)}
    return browser.post("/settings/profile", files, htmx=htmx, content_type="multipart/form-data")


def stored_files(app):
    root = app.config["AVATAR_DIR"]
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.name != ".lock")


def fetch_avatar(app, browser):
    """Return the picture that a browser's own profile shows now."""
    with app.app_context():
        profile = db.session.get(Profile, browser.user_id)
        path = f"/avatars/{profile.public_id}/{profile.avatar}"
    answer = browser.get(path)
    assert answer.status_code == 200, path
    assert answer.mimetype == "image/webp" and "immutable" in answer.headers["Cache-Control"]
    return Image.open(io.BytesIO(answer.data))


def is_close(pixel, colour):
    return all(abs(one - other) < 24 for one, other in zip(pixel, colour, strict=False))


def is_upright(image):
    return is_close(image.getpixel((128, 20)), RED) and is_close(image.getpixel((128, 236)), BLUE)


VALID_FILES = {
    "jpeg": lambda: encode(two_colour_image(), "JPEG"),
    "progressive jpeg": lambda: encode(two_colour_image((1200, 900)), "JPEG", progressive=True),
    "grey jpeg": lambda: encode(two_colour_image(mode="L"), "JPEG"),
    "cmyk jpeg": lambda: encode(two_colour_image(mode="CMYK"), "JPEG"),
    "png": lambda: encode(two_colour_image(), "PNG"),
    "palette png": lambda: encode(two_colour_image(mode="P"), "PNG"),
    "1-bit png": lambda: encode(two_colour_image(mode="1"), "PNG"),
    "16-bit png": lambda: encode(Image.new("I;16", (300, 300), 40000), "PNG"),
    "alpha png": lambda: encode(two_colour_image(mode="RGBA"), "PNG"),
    "grey alpha png": lambda: encode(two_colour_image(mode="LA"), "PNG"),
    "transparent palette png": lambda: encode(two_colour_image(mode="P"), "PNG", transparency=0),
    "webp": lambda: encode(two_colour_image(), "WEBP"),
    "lossless alpha webp": lambda: encode(two_colour_image(mode="RGBA"), "WEBP", lossless=True),
    "gif": lambda: encode(two_colour_image(mode="P"), "GIF"),
    "animated gif": lambda: encode(
        two_colour_image(), "GIF", save_all=True, append_images=[Image.new("RGB", (400, 300))] * 5
    ),
    "animated webp": lambda: encode(
        two_colour_image(), "WEBP", save_all=True, append_images=[Image.new("RGB", (400, 300))]
    ),
    "heic": lambda: encode(two_colour_image(), "HEIF"),
    "avif": lambda: encode(two_colour_image(), "AVIF"),
    "avif sequence": lambda: encode(
        two_colour_image(), "AVIF", save_all=True, append_images=[Image.new("RGB", (400, 300))]
    ),
    "one pixel": lambda: encode(Image.new("RGB", (1, 1), RED), "PNG"),
    "very wide": lambda: encode(two_colour_image((3000, 20)), "PNG"),
    "trailing data": lambda: encode(two_colour_image(), "JPEG") + b"PK\x03\x04 secret tail",
}


def test_every_format_is_stored_as_webp(app, alice, alice_browser):
    """What becomes of the pixels and the metadata is tested in test_avatar_decode.py, without a process for each."""
    app.config["AVATARS_PER_HOUR"] = 100
    for kind in VALID_FILES:
        name = {"png": "../../../etc/passwd.png", "jpeg": "page.html", "gif": "a\0b.gif"}.get(kind, "photo")
        answer = upload(alice_browser, contents(kind), name)
        assert answer.status_code == 303, (kind, answer.text)
        avatar = fetch_avatar(app, alice_browser)
        assert (avatar.size, avatar.format, avatar.mode) == ((256, 256), "WEBP", "RGB"), kind
        (file,) = stored_files(app)
        assert re.fullmatch(r"alice/[0-9a-f]{32}\.webp", file), kind


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*chunks, size=(10, 10)):
    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + b"".join(chunks) + png_chunk(b"IEND", b"")


INVALID_FILES = {
    "empty": lambda: b"",
    "html": lambda: b"<html><script>alert(1)</script>",
    "svg": lambda: b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
    "text": lambda: b"not a picture at all",
    "truncated jpeg": lambda: encode(two_colour_image((900, 900)), "JPEG")[:-900],
    "truncated png": lambda: encode(Image.effect_noise((600, 600), 90), "PNG")[:-5000],
    "truncated large png": lambda: encode(Image.new("RGB", (4000, 3000)), "PNG")[:-9000],
    "header only": lambda: encode(two_colour_image(), "PNG")[:40],
    "corrupt": lambda: encode(two_colour_image(), "PNG").replace(b"IDAT", b"IDAT\xff\xff", 1),
    "tiff": lambda: encode(two_colour_image(), "TIFF"),
    "bmp": lambda: encode(two_colour_image(), "BMP"),
    "ico": lambda: encode(two_colour_image((64, 64)), "ICO"),
    "pdf": lambda: b"%PDF-1.7\n",
    "60 megapixels": lambda: encode(Image.new("1", (10000, 6000)), "PNG"),
    "1.6 gigapixels": lambda: png(png_chunk(b"IDAT", zlib.compress(b"")), size=(40000, 40000)),
    "negative size": lambda: png(png_chunk(b"IDAT", zlib.compress(b"")), size=(2**31 - 1, 2**31 - 1)),
    "zero size": lambda: png(png_chunk(b"IDAT", zlib.compress(b"")), size=(0, 0)),
    "huge webp": lambda: encode(Image.new("RGB", (16000, 4000)), "WEBP", lossless=True, quality=0, method=0),
    "zip": lambda: b"PK\x03\x04" + bytes(2000),
    "compressed text bomb": lambda: png(png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(200_000_000), 9))),
    "broken heic": lambda: encode(two_colour_image(), "HEIF")[:300],
}


def test_invalid_file_is_refused_and_the_old_avatar_kept(app, alice, alice_browser):
    app.config["AVATARS_PER_HOUR"] = 100
    assert upload(alice_browser, contents("jpeg")).status_code == 303
    before = stored_files(app)
    for kind in INVALID_FILES:
        for htmx in (False, True) if kind == "html" else (False,):
            answer = upload(alice_browser, contents(kind), "photo.png", htmx=htmx, bio="typed before")
            assert answer.status_code == 422, kind
            assert 'id="avatar-error"' in answer.text and "typed before" in answer.text, kind
            assert ("<html" in answer.text) is not htmx
            assert REFUSALS.get(kind, "is damaged") in answer.text, kind
            assert stored_files(app) == before, kind
    fetch_avatar(app, alice_browser)


TOO_LARGE = {"60 megapixels", "1.6 gigapixels", "negative size"}
NOT_A_PICTURE = "This file is not a picture. Choose a JPEG, PNG, WebP, GIF, HEIC or AVIF."
REFUSALS = {
    **dict.fromkeys(TOO_LARGE, "more than 50 megapixels"),
    **dict.fromkeys(("empty", "html", "text"), NOT_A_PICTURE),
    "zip": NOT_A_PICTURE,
    "svg": "SVG files do not work here. Choose a JPEG, PNG, WebP, GIF, HEIC or AVIF.",
    "tiff": "TIFF files do not work here.",
    "bmp": "BMP files do not work here.",
    "ico": "ICO files do not work here.",
    "pdf": "PDF files do not work here.",
    "huge webp": "WebP files like this can have up to 7 megapixels. Make the picture smaller, or save it as an ordinary JPEG",
    "truncated jpeg": "This JPEG file is damaged.",
    "truncated png": "This PNG file is damaged.",
    "truncated large png": "This PNG file is damaged.",
    "broken heic": "This HEIC file is damaged.",
}
COSTLY_FILES = {
    "large ICC profile": lambda: encode(two_colour_image(), "PNG", icc_profile=bytes(3_000_000)),
    "20,000 frames": lambda: encode(
        *(Image.new("P", (16, 16)), "GIF"),
        save_all=True,
        append_images=(Image.new("P", (16, 16), number % 2) for number in range(1, 20_000)),
    ),
}


def interlaced_png(size, colour=(*RED, 255)):
    """Return an interlaced RGBA PNG of one colour: Pillow does not write any."""
    rows = zlib.compressobj(1)
    body = b""
    for left, top, across, down in (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):
        width, height = -(-(size[0] - left) // across), -(-(size[1] - top) // down)
        for _row in range(height if width > 0 else 0):
            body += rows.compress(b"\0" + bytes(colour) * width)
    header = struct.pack(">IIBBBBB", *size, 8, 6, 0, 0, 1)
    chunks = ((b"IHDR", header), (b"IDAT", body + rows.flush()), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def resized(data, pattern, size):
    """Return a file of 400 by 300 pixels that says in its header that it has more; only headers are read before that.

    pattern: how the size is stored there, for struct.
    """
    width, height = size
    order = (height, width) if pattern == ">HH" else size
    old = struct.pack(pattern, *((300, 400) if pattern == ">HH" else (400, 300)))
    assert old in data
    return data.replace(old, struct.pack(pattern, *order))


def progressive_jpeg(size, **options):
    return resized(encode(two_colour_image(), "JPEG", progressive=True, **options), ">HH", size)


TOO_MUCH_MEMORY = {
    "progressive jpeg": (lambda: progressive_jpeg((7744, 5810)), "JPEG files like this can have up to 37 megapixels."),
    "heic": (
        lambda: resized(encode(two_colour_image(), "HEIF"), ">II", (8064, 6048)),
        "HEIC files like this can have up to 24 megapixels.",
    ),
}


def test_picture_that_takes_too_much_memory_is_refused_with_the_limit_of_its_kind(app, alice, alice_browser):
    """The limits of other kinds: test_avatar_pictures.py."""
    for kind, (file, message) in TOO_MUCH_MEMORY.items():
        answer = upload(alice_browser, file())
        assert answer.status_code == 422 and message in answer.text, (kind, answer.text)
    assert stored_files(app) == []


def test_decoder_that_uses_up_its_time_is_not_called_damage(app, monkeypatch):
    monkeypatch.setattr(avatar_utils, "_decode", lambda *_: subprocess.CompletedProcess([], -signal.SIGXCPU, b"", b""))
    with app.app_context(), pytest.raises(InvalidInput, match="takes too long"):
        avatar_utils.redraw(contents("jpeg"))


@pytest.mark.parametrize("output", [b"", b"<b>", b"-1", b"9" * 5000, b"\xff", b"7\n"])
def test_words_of_the_decoder_are_not_trusted(app, monkeypatch, output):
    """Whoever takes it over could write anything."""
    done = subprocess.CompletedProcess([], avatar_decode.OUT_OF_MEMORY, output, b"")
    monkeypatch.setattr(avatar_utils, "_decode", lambda *_: done)
    with app.app_context(), pytest.raises(InvalidInput, match="takes too much memory to read"):
        avatar_utils.redraw(contents("jpeg"))


def test_costly_files_stay_within_time_and_memory(app, alice, alice_browser):
    """The largest picture of each kind is read; then three at a time, while the memory of all processes is sampled."""
    token = alice_browser.token()
    this_process, peak, done = psutil.Process(), 0, threading.Event()
    base = this_process.memory_info().rss

    def watch():
        nonlocal peak
        while not done.wait(0.005):
            total = 0
            for process in [this_process, *this_process.children()]:
                try:
                    if process is this_process or avatar_utils.DECODER in process.cmdline():
                        total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            peak = max(peak, total - base)

    data = {
        "rgb": encode(Image.new("RGB", (7000, 7000), RED), "PNG", compress_level=1),
        "jpeg": encode(Image.new("RGB", (7000, 7000), RED), "JPEG"),
        "gif": encode(Image.new("P", (7000, 7000), 3), "GIF"),
        "heic": encode(  # as phones save 24 megapixels
            two_colour_image((5712, 4284)), "HEIF", tile_size=512, quality=10, enc_params={"preset": "ultrafast"}
        ),
        "avif": encode(two_colour_image((4032, 3024)), "AVIF", speed=10),
        "transparent avif": encode(Image.new("RGBA", (3300, 2800), (*RED, 99)), "AVIF", speed=10),
        "webp": encode(Image.new("RGB", (3450, 2000), RED), "WEBP", method=0),
        "lossless webp": encode(two_colour_image((3450, 2000)), "WEBP", lossless=True, method=0),
        "progressive jpeg": encode(Image.new("RGB", (7000, 5200), RED), "JPEG", progressive=True),
        "interlaced png": interlaced_png((6000, 4500)),
        **{kind: contents(kind) for kind in COSTLY_FILES},
    }
    base = this_process.memory_info().rss
    watcher = threading.Thread(target=watch)
    watcher.start()
    times = {}
    try:
        for kind, file in data.items():
            fields = {**FIELDS, "avatar": (io.BytesIO(file), "x")}
            began = time.perf_counter()
            answer = alice_browser.post("/settings/profile", fields, token=token, content_type="multipart/form-data")
            times[kind] = time.perf_counter() - began
            assert answer.status_code == (422 if kind == "large ICC profile" else 303), kind
        assert run_in_threads(app, 3, lambda _number: redraw_or_wait(data["rgb"])).count(True) >= 2
    finally:
        done.set()
        watcher.join()
    print(f"peak {peak / 1e6:.0f} MB, " + ", ".join(f"{kind} {seconds:.2f} s" for kind, seconds in times.items()))
    assert peak < 150_000_000
    assert max(times.values()) < 10  # 2 s on an idle machine; other tests run at the same time


def redraw_or_wait(data):
    """Redraw a picture, or be refused because too many are waiting."""
    try:
        return bool(avatar_utils.redraw(data))
    except InvalidInput as error:
        return "Many pictures" not in str(error)


def test_uploads_of_one_person_at_once_delay_another_by_one_picture(app, alice):
    bob = make_person(app, "Bob", public_id="bobby")
    slow = encode(Image.new("RGB", (7000, 7000), RED), "PNG", compress_level=1)
    answers = {"alice": [], "bobby": []}

    def start_upload(person, public_id, data):
        browser, fields = Browser(app, person), {"username": person.username, "public_id": public_id}
        files = {**FIELDS, **fields, "csrf_token": browser.token(), "avatar": (io.BytesIO(data), "x")}

        def send():
            answer = browser.post("/settings/profile", files, token=None, content_type="multipart/form-data")
            answers[public_id].append(answer)

        threads.append(threading.Thread(target=send))
        threads[-1].start()

    threads = []
    with avatar_utils._slot:  # so that the first picture waits
        for _number in range(8):
            start_upload(alice, "alice", slow)
        wait_until(lambda: len(answers["alice"]) == 7, avatar_utils.QUEUE_TIMEOUT_SECONDS - 2)
        start_upload(bob, "bobby", contents("jpeg"))
    [thread.join() for thread in threads]
    assert [answer.status_code for answer in answers["bobby"]] == [303]
    assert [answer.status_code for answer in answers["alice"]] == [422] * 7 + [303]
    for answer in answers["alice"][:7]:
        assert "Your other picture is still being processed" in answer.text and 'id="avatar-error"' in answer.text
    assert not avatar_utils._uploaders


def test_waiting_upload_holds_no_database_connection(any_app, monkeypatch):
    alice = Browser(any_app, make_person(any_app, "Alice", public_id="alice"))
    held = []

    def redraw(data):
        held.append(db.engine.pool.checkedout())
        raise InvalidInput("no", "avatar")

    monkeypatch.setattr(avatar_utils, "redraw", redraw)
    assert upload(alice, contents("jpeg")).status_code == 422
    assert held == [0]


@pytest.mark.parametrize("htmx", [False, True])
def test_uploads_in_an_hour_are_limited_for_each_person(app, alice, alice_browser, htmx):
    bob = Browser(app, make_person(app, "Bob", public_id="bobby"))
    for number in range(20):
        file = contents("jpeg" if number % 2 else "html")
        assert upload(alice_browser, file).status_code == (303 if number % 2 else 422)
    before = stored_files(app)
    answer = upload(alice_browser, contents("png"), htmx=htmx, bio="changed", public_id="wonder")
    assert answer.status_code == 429 and 0 < int(answer.headers["Retry-After"]) <= 3600
    assert ("<html" in answer.text) is not htmx and "Too many tries in a row" in answer.text
    assert stored_files(app) == before
    with app.app_context():
        profile = db.session.get(Profile, alice.id)
        assert (profile.public_id, profile.bio) == ("alice", "")
    assert alice_browser.post("/settings/profile", {**FIELDS, "bio": "changed"}, htmx=htmx).status_code != 429
    assert upload(bob, contents("jpeg"), username="Bob", public_id="bobby").status_code == 303
    assert not avatar_utils._uploaders


def test_saving_without_a_picture_is_not_counted(make_app):
    app = make_app(AVATARS_PER_HOUR=1)
    browser = Browser(app, make_person(app, "Alice", public_id="alice"))
    for number in range(3):
        assert browser.post("/settings/profile", {**FIELDS, "bio": str(number)}).status_code == 303
        assert upload(browser, b"", name="").status_code == 303  # as browsers send a field in which no file was chosen
        assert upload(browser, bytes(5_000_001)).status_code == 413
    assert upload(browser, contents("jpeg")).status_code == 303
    assert upload(browser, contents("jpeg")).status_code == 429


def test_strips_reduce_to_the_same_pixels_as_the_whole_image(monkeypatch):
    monkeypatch.setattr(avatar_decode, "BAND_PIXELS", 200_000)
    noise = Image.merge("RGB", [Image.effect_noise((1300, 1100), 120) for _band in "rgb"])
    strips = avatar_decode.PngStrips.from_png(encode(noise, "PNG", compress_level=1))
    parts = avatar_decode.reduced_square(strips.bands(), noise.size)
    whole = noise.reduce(2, (100, 0, 1200, 1100))
    assert parts.size == whole.size and parts.tobytes() == whole.tobytes()


def test_oversized_upload_is_413_and_does_not_log_out(app, alice, alice_browser):
    for htmx in (False, True):
        answer = upload(alice_browser, bytes(5_000_001), htmx=htmx)
        assert answer.status_code == 413 and "5 MB" in answer.text
        answer = upload(alice_browser, bytes(7_000_000), htmx=htmx)
        assert answer.status_code == 413
    assert alice_browser.get("/settings").status_code == 200
    assert upload(alice_browser, contents("jpeg")).status_code == 303


def test_old_file_is_deleted_and_the_same_picture_stored_once(app, alice, alice_browser):
    assert upload(alice_browser, contents("jpeg")).status_code == 303
    first = stored_files(app)
    assert upload(alice_browser, contents("jpeg")).status_code == 303
    assert stored_files(app) == first
    upload(alice_browser, encode(Image.new("RGB", (300, 300), BLUE), "PNG"))
    assert len(stored_files(app)) == 1 and stored_files(app) != first


@pytest.mark.parametrize("htmx", [False, True])
def test_removing_the_avatar_shows_initials_again(app, alice, alice_browser, htmx):
    assert upload(alice_browser, contents("jpeg")).status_code == 303
    answer = alice_browser.post("/settings/avatar/remove", htmx=htmx)
    assert answer.status_code == (200 if htmx else 303)
    if htmx:
        assert 'id="picture"' in answer.text and 'id="nav-picture" hx-swap-oob="true"' in answer.text
    assert stored_files(app) == []
    assert ">AL</span>" in alice_browser.get("/u/alice").text.replace("\n", "").replace(" ", "")
    second = alice_browser.post("/settings/avatar/remove", htmx=True)
    assert second.status_code == 200 and "data-kind" not in second.text


def test_public_id_change_moves_the_avatar(app, alice, alice_browser):
    assert upload(alice_browser, contents("jpeg")).status_code == 303
    old = stored_files(app)[0]
    assert alice_browser.post("/settings/profile", {**FIELDS, "public_id": "wonder"}).status_code == 303
    assert stored_files(app) == [old.replace("alice/", "wonder/")]
    assert alice_browser.get(f"/avatars/{old}").status_code == 404
    fetch_avatar(app, alice_browser)
    alice_browser.post("/settings/profile", {**FIELDS, "public_id": "Wonder"})
    assert len(stored_files(app)) == 1
    fetch_avatar(app, alice_browser)


def test_public_id_change_and_upload_in_one_request(app, alice, alice_browser):
    assert upload(alice_browser, contents("jpeg")).status_code == 303
    upload(alice_browser, encode(Image.new("RGB", (300, 300), BLUE), "PNG"), public_id="wonder")
    assert len(stored_files(app)) == 1 and stored_files(app)[0].startswith("wonder/")
    assert is_close(fetch_avatar(app, alice_browser).getpixel((9, 9)), BLUE)


def test_failed_commit_changes_no_files(app, alice, alice_browser, monkeypatch):
    assert upload(alice_browser, contents("jpeg")).status_code == 303
    before = stored_files(app)
    token = alice_browser.token()
    commit = db.session.commit
    calls = []

    def fail_second_commit():
        calls.append(1)
        if len(calls) > 1:  # the first only ends the read transaction
            raise RuntimeError("the database went away")
        commit()

    monkeypatch.setattr(db.session, "commit", fail_second_commit)
    files = {**FIELDS, "public_id": "wonder", "avatar": (io.BytesIO(encode(two_colour_image((90, 90)), "PNG")), "x")}
    assert (
        alice_browser.post("/settings/profile", files, token=token, content_type="multipart/form-data").status_code
        == 500
    )
    monkeypatch.undo()
    assert stored_files(app) == before
    fetch_avatar(app, alice_browser)


def test_full_disk_shows_an_error_and_keeps_the_old_file(app, alice, alice_browser, monkeypatch):
    assert upload(alice_browser, contents("jpeg")).status_code == 303
    before = stored_files(app)

    def raise_disk_full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", raise_disk_full)
    answer = upload(alice_browser, encode(two_colour_image((90, 90)), "PNG"))
    monkeypatch.undo()
    assert answer.status_code == 422 and "the disk is full" in answer.text
    assert stored_files(app) == before
    fetch_avatar(app, alice_browser)


def test_concurrent_public_id_changes_and_uploads_keep_one_avatar(any_app):
    any_app.config["RENAMES_PER_DAY"] = 1000
    alice = make_person(any_app, "Alice", public_id="alice")
    browsers = [Browser(any_app, alice) for _browser in range(4)]
    upload(browsers[0], contents("jpeg"))
    jobs = [
        lambda: upload(browsers[0], encode(Image.new("RGB", (99, 99), BLUE), "PNG"), public_id="wonder"),
        lambda: browsers[1].post("/settings/profile", {**FIELDS, "public_id": "rabbit"}),
        lambda: upload(browsers[2], encode(Image.new("RGB", (99, 99), RED), "PNG")),
        lambda: browsers[3].post("/settings/profile", {**FIELDS, "public_id": "alice"}),
    ]
    codes = []
    for _round in range(3):
        threads = [threading.Thread(target=lambda job=job: codes.append(job().status_code)) for job in jobs]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        fetch_avatar(any_app, browsers[0])
        assert len(stored_files(any_app)) == 1
    # Two uploads at once are one too many, unless the first is done before the second arrives.
    assert set(codes) <= {303, 422} and codes.count(303) >= 9


def test_account_deletion_deletes_the_avatar(app, alice, alice_browser):
    from tests.conftest import PASSWORD

    assert upload(alice_browser, contents("jpeg")).status_code == 303
    assert alice_browser.post("/settings/delete", {"password": PASSWORD}).status_code == 303
    assert stored_files(app) == []
    assert not (app.config["AVATAR_DIR"] / "alice").exists()


def test_other_paths_are_not_served(app, anonymous):
    for path in ("../alice/x.webp", "alice/..%2f..%2fnoxchat.db", "alice/.lock", ".lock/x", f"alice/{'0' * 32}.webp"):
        assert anonymous.get(f"/avatars/{path}").status_code == 404, path


def test_symlinks_are_not_followed(app, alice, alice_browser, tmp_path):
    assert upload(alice_browser, contents("jpeg")).status_code == 303
    real = app.config["AVATAR_DIR"] / stored_files(app)[0]
    link = real.with_name("1" * 32 + ".webp")
    link.symlink_to(real)
    assert alice_browser.get(f"/avatars/alice/{link.name}").status_code == 404
