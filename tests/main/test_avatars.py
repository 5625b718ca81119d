"""Avatars: every kind of picture, every kind of attack, and what is on disk afterwards."""

import io
import struct
import threading
import zlib

import pillow_heif
import psutil
import pytest
from PIL import Image

from noxchat.exceptions import InvalidInput
from noxchat.extensions import db
from noxchat.main import avatar_utils
from noxchat.models import Profile
from tests.conftest import Browser, make_person

pillow_heif.register_heif_opener()
FIELDS = {"username": "Alice", "public_id": "alice", "bio": ""}
RED, BLUE = (200, 30, 30), (30, 30, 200)


def encoded(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def halves(size=(400, 300), mode="RGB"):
    """A picture that is red at the top and blue at the bottom."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (0, size[1] // 2, *size))
    return image.convert(mode)


def upload(browser, data, name="photo.jpg", htmx=False, **fields):
    files = {**FIELDS, **fields, "avatar": (io.BytesIO(data), name)}
    return browser.post("/settings/profile", files, htmx=htmx, content_type="multipart/form-data")


def on_disk(app):
    root = app.config["AVATAR_DIR"]
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.name != ".lock")


def picture(app, browser):
    """The picture that a profile shows now."""
    with app.app_context():
        profile = db.session.get(Profile, browser.user_id)
        path = f"/avatars/{profile.public_id}/{profile.avatar}"
    answer = browser.get(path)
    assert answer.status_code == 200, path
    assert answer.mimetype == "image/webp" and "immutable" in answer.headers["Cache-Control"]
    return Image.open(io.BytesIO(answer.data))


def near(pixel, colour):
    return all(abs(one - other) < 24 for one, other in zip(pixel, colour, strict=False))


KINDS = {
    "jpeg": lambda: encoded(halves(), "JPEG"),
    "progressive jpeg": lambda: encoded(halves((1200, 900)), "JPEG", progressive=True),
    "grey jpeg": lambda: encoded(halves(mode="L"), "JPEG"),
    "cmyk jpeg": lambda: encoded(halves(mode="CMYK"), "JPEG"),
    "png": lambda: encoded(halves(), "PNG"),
    "palette png": lambda: encoded(halves(mode="P"), "PNG"),
    "1-bit png": lambda: encoded(halves(mode="1"), "PNG"),
    "16-bit png": lambda: encoded(Image.new("I;16", (300, 300), 40000), "PNG"),
    "alpha png": lambda: encoded(halves(mode="RGBA"), "PNG"),
    "grey alpha png": lambda: encoded(halves(mode="LA"), "PNG"),
    "transparent palette png": lambda: encoded(halves(mode="P"), "PNG", transparency=0),
    "webp": lambda: encoded(halves(), "WEBP"),
    "lossless alpha webp": lambda: encoded(halves(mode="RGBA"), "WEBP", lossless=True),
    "gif": lambda: encoded(halves(mode="P"), "GIF"),
    "animated gif": lambda: encoded(halves(), "GIF", save_all=True, append_images=[Image.new("RGB", (400, 300))] * 5),
    "animated webp": lambda: encoded(halves(), "WEBP", save_all=True, append_images=[Image.new("RGB", (400, 300))]),
    "heic": lambda: encoded(halves(), "HEIF"),
    "one pixel": lambda: encoded(Image.new("RGB", (1, 1), RED), "PNG"),
    "very wide": lambda: encoded(halves((3000, 20)), "PNG"),
    "with the tail of another file": lambda: encoded(halves(), "JPEG") + b"PK\x03\x04 secret tail",
    "named html": lambda: encoded(halves(), "PNG"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_comes_out_square_and_plain(app, alice, at_alice, kind):
    name = "page.html" if kind == "named html" else "../../../etc/passwd\0.png" if kind == "png" else "photo"
    if kind == "png":
        name = "../../../etc/passwd.png"
    answer = upload(at_alice, KINDS[kind](), name)
    assert answer.status_code == 303, answer.text
    shown = picture(app, at_alice)
    assert (shown.size, shown.format, shown.mode) == ((256, 256), "WEBP", "RGB")
    assert not shown.getexif() and "icc_profile" not in shown.info and "xmp" not in shown.info
    assert b"secret tail" not in at_alice.get(f"/avatars/{on_disk(app)[0]}").data
    assert len(on_disk(app)) == 1 and "passwd" not in on_disk(app)[0]
    if (
        "1-bit" not in kind
        and "16" not in kind
        and "grey" not in kind
        and kind not in {"one pixel", "transparent palette png"}
    ):
        assert near(shown.getpixel((128, 20)), RED) and near(shown.getpixel((128, 236)), BLUE)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_every_orientation_comes_out_upright(app, alice, at_alice, orientation, kind):
    upright = halves()
    turned = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x8825] = {1: "N", 2: (52.0, 31.0, 0.0)}  # GPS
    assert upload(at_alice, encoded(turned, kind, exif=exif)).status_code == 303
    shown = picture(app, at_alice)
    assert near(shown.getpixel((128, 20)), RED) and near(shown.getpixel((128, 236)), BLUE)
    assert not shown.getexif()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*chunks, size=(10, 10)):
    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


HOSTILE = {
    "empty": lambda: b"",
    "html": lambda: b"<html><script>alert(1)</script>",
    "svg": lambda: b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
    "text": lambda: b"not a picture at all",
    "truncated jpeg": lambda: encoded(halves((900, 900)), "JPEG")[:-900],
    "truncated png": lambda: encoded(Image.effect_noise((600, 600), 90), "PNG")[:-5000],
    "truncated large png": lambda: encoded(Image.new("RGB", (4000, 3000)), "PNG")[:-9000],
    "only a header": lambda: encoded(halves(), "PNG")[:40],
    "corrupt": lambda: encoded(halves(), "PNG").replace(b"IDAT", b"IDAT\xff\xff", 1),
    "tiff": lambda: encoded(halves(), "TIFF"),
    "bmp": lambda: encoded(halves(), "BMP"),
    "ico": lambda: encoded(halves((64, 64)), "ICO"),
    "pdf": lambda: b"%PDF-1.7\n",
    "postscript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run",
    "60 megapixels": lambda: encoded(Image.new("1", (10000, 6000)), "PNG"),
    "a billion pixels": lambda: png(chunk(b"IDAT", zlib.compress(b"")), size=(40000, 40000)),
    "negative size": lambda: png(chunk(b"IDAT", zlib.compress(b"")), size=(2**31 - 1, 2**31 - 1)),
    "no size": lambda: png(chunk(b"IDAT", zlib.compress(b"")), size=(0, 0)),
    "huge webp": lambda: encoded(Image.new("RGB", (16000, 4000)), "WEBP"),
    "zip": lambda: b"PK\x03\x04" + bytes(2000),
    "text bomb": lambda: png(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(200_000_000), 9))),
    "broken heic": lambda: encoded(halves(), "HEIF")[:300],
}


@pytest.mark.parametrize("htmx", [False, True])
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_and_the_old_picture_stays(app, alice, at_alice, kind, htmx):
    upload(at_alice, KINDS["jpeg"]())
    before = on_disk(app)
    answer = upload(at_alice, HOSTILE[kind](), "photo.png", htmx=htmx, bio="typed before")
    assert answer.status_code == 422, answer.status_code
    assert 'id="avatar-error"' in answer.text and "typed before" in answer.text
    assert on_disk(app) == before
    picture(app, at_alice)


HARMLESS_BOMBS = {
    "profile chunk": lambda: encoded(halves(), "PNG", icc_profile=bytes(3_000_000)),
    "20,000 frames": lambda: gif_of(20_000),
}


def gif_of(frames):
    head = b"GIF89a" + struct.pack("<HH", 16, 16) + b"\x80\0\0" + bytes(RED) + bytes(BLUE)
    one = b"\x21\xf9\x04\0\1\0\0\0" + b"\x2c" + struct.pack("<HHHH", 0, 0, 16, 16) + b"\0\x02"
    body = Image.new("P", (16, 16))
    raw = encoded(body, "GIF")
    pixels = raw[raw.index(b"\x2c") + 11 : -1]
    return head + (one + pixels) * frames + b"\x3b"


@pytest.mark.parametrize("kind", HARMLESS_BOMBS)
def test_bombs_of_frames_and_profiles_cost_nothing(app, alice, at_alice, kind):
    assert upload(at_alice, HARMLESS_BOMBS[kind]()).status_code in {303, 422}


def test_fifty_megapixels_are_taken_in_time_and_in_memory(app, alice, at_alice):
    """The largest PNG of each layout, six at a time: the whole tree of processes is watched meanwhile."""
    import time

    token = at_alice.token()
    me, most, done = psutil.Process(), 0, threading.Event()
    base = me.memory_info().rss

    def watch():
        nonlocal most
        while not done.wait(0.005):
            total = 0
            for process in [me, *me.children()]:
                try:
                    if process is me or any("avatar_decode" in part for part in process.cmdline()):
                        total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            most = max(most, total - base)

    data = {
        "rgb": encoded(Image.new("RGB", (7000, 7000), RED), "PNG"),
        "rgba": encoded(Image.new("RGBA", (7000, 7000), (*RED, 255)), "PNG"),
        "palette": encoded(Image.new("P", (7000, 7000), 3), "PNG"),
        "jpeg": encoded(Image.new("RGB", (7000, 7000), RED), "JPEG"),
        "gif": encoded(Image.new("P", (7000, 7000), 3), "GIF"),
        "heic": encoded(Image.new("RGB", (5712, 4284), RED), "HEIF"),
    }
    base = me.memory_info().rss
    watcher = threading.Thread(target=watch)
    watcher.start()
    times = {}
    for kind, file in data.items():
        began = time.perf_counter()
        answer = at_alice.post(
            "/settings/profile",
            {**FIELDS, "avatar": (io.BytesIO(file), "x")},
            token=token,
            content_type="multipart/form-data",
        )
        times[kind] = time.perf_counter() - began
        assert answer.status_code == 303, kind
    threads = [threading.Thread(target=lambda: in_app(app, data["rgb"])) for _upload in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    done.set()
    watcher.join()
    print(f"peak {most / 1e6:.0f} MB, " + ", ".join(f"{kind} {seconds:.2f} s" for kind, seconds in times.items()))
    assert most < 150_000_000
    assert max(times.values()) < 8  # 2 s on an idle machine; the tests run beside a browser and other tests


def in_app(app, data):
    """One of six at a time: read, or told to come back when the queue is too long."""
    with app.test_request_context():
        try:
            assert avatar_utils.redraw(data)
        except InvalidInput as busy:
            assert "Many pictures" in str(busy)


def test_sixteen_bit_and_odd_sizes_survive_the_reading_in_strips():
    from noxchat.main.avatar_decode import PngStrips, join_bands

    noise = Image.merge("RGB", [Image.effect_noise((3001, 2999), 120) for _band in "rgb"])
    file = encoded(noise, "PNG")
    whole = noise.reduce(5)
    parts = join_bands(PngStrips.from_png(file).bands(5), noise.size, 5)
    assert parts.size == whole.size and parts.tobytes() == whole.tobytes()


def test_too_large_is_413_and_one_is_still_signed_in(app, alice, at_alice):
    for htmx in (False, True):
        answer = upload(at_alice, bytes(5_000_001), htmx=htmx)
        assert answer.status_code == 413 and "5 MB" in answer.text
        answer = upload(at_alice, bytes(7_000_000), htmx=htmx)
        assert answer.status_code == 413
    assert at_alice.get("/settings").status_code == 200
    assert upload(at_alice, KINDS["jpeg"]()).status_code == 303


def test_the_old_file_goes_and_the_same_picture_twice_is_one_file(app, alice, at_alice):
    upload(at_alice, KINDS["jpeg"]())
    first = on_disk(app)
    upload(at_alice, KINDS["jpeg"]())
    assert on_disk(app) == first
    upload(at_alice, encoded(Image.new("RGB", (300, 300), BLUE), "PNG"))
    assert len(on_disk(app)) == 1 and on_disk(app) != first


@pytest.mark.parametrize("htmx", [False, True])
def test_removing_it_brings_the_initials_back(app, alice, at_alice, htmx):
    upload(at_alice, KINDS["jpeg"]())
    answer = at_alice.post("/settings/avatar/remove", htmx=htmx)
    assert answer.status_code == (200 if htmx else 303)
    if htmx:
        assert 'id="picture"' in answer.text and 'id="nav-picture" hx-swap-oob="true"' in answer.text
    assert on_disk(app) == []
    assert ">AL</span>" in at_alice.get("/u/alice").text.replace("\n", "").replace(" ", "")
    again = at_alice.post("/settings/avatar/remove", htmx=True)
    assert again.status_code == 200 and "data-kind" not in again.text


def test_a_rename_moves_the_folder_and_a_freed_id_shows_nobody(app, alice, at_alice):
    upload(at_alice, KINDS["jpeg"]())
    old = on_disk(app)[0]
    assert at_alice.post("/settings/profile", {**FIELDS, "public_id": "wonder"}).status_code == 303
    assert on_disk(app) == [old.replace("alice/", "wonder/")]
    assert at_alice.get(f"/avatars/{old}").status_code == 404
    picture(app, at_alice)
    at_alice.post("/settings/profile", {**FIELDS, "public_id": "Wonder"})
    assert len(on_disk(app)) == 1
    picture(app, at_alice)


def test_rename_and_upload_in_one_go(app, alice, at_alice):
    upload(at_alice, KINDS["jpeg"]())
    upload(at_alice, encoded(Image.new("RGB", (300, 300), BLUE), "PNG"), public_id="wonder")
    assert len(on_disk(app)) == 1 and on_disk(app)[0].startswith("wonder/")
    assert near(picture(app, at_alice).getpixel((9, 9)), BLUE)


def test_a_failed_commit_changes_nothing_on_disk(app, alice, at_alice, monkeypatch):
    upload(at_alice, KINDS["jpeg"]())
    before = on_disk(app)
    token = at_alice.token()
    real = db.session.commit
    calls = []

    def fail():
        calls.append(1)
        if len(calls) > 1:  # the first one only ends the reading
            raise RuntimeError("the database went away")
        real()

    monkeypatch.setattr(db.session, "commit", fail)
    files = {**FIELDS, "public_id": "wonder", "avatar": (io.BytesIO(encoded(halves((90, 90)), "PNG")), "x")}
    assert at_alice.post("/settings/profile", files, token=token, content_type="multipart/form-data").status_code == 500
    monkeypatch.undo()
    assert on_disk(app) == before
    picture(app, at_alice)


def test_a_full_disk_is_a_sentence_and_the_old_file_stays(app, alice, at_alice, monkeypatch):
    upload(at_alice, KINDS["jpeg"]())
    before = on_disk(app)

    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    answer = upload(at_alice, encoded(halves((90, 90)), "PNG"))
    monkeypatch.undo()
    assert answer.status_code == 422 and "the disk is full" in answer.text
    assert on_disk(app) == before
    picture(app, at_alice)


def test_rename_and_upload_at_once_keep_a_picture_showing(any_app):
    alice = make_person(any_app, "Alice", public_id="alice")
    browsers = [Browser(any_app, alice) for _browser in range(4)]
    upload(browsers[0], KINDS["jpeg"]())
    jobs = [
        lambda: upload(browsers[0], encoded(Image.new("RGB", (99, 99), BLUE), "PNG"), public_id="wonder"),
        lambda: browsers[1].post("/settings/profile", {**FIELDS, "public_id": "rabbit"}),
        lambda: upload(browsers[2], encoded(Image.new("RGB", (99, 99), RED), "PNG")),
        lambda: browsers[3].post("/settings/profile", {**FIELDS, "public_id": "alice"}),
    ]
    codes = []
    for _round in range(3):
        threads = [threading.Thread(target=lambda job=job: codes.append(job().status_code)) for job in jobs]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        picture(any_app, browsers[0])
        assert len(on_disk(any_app)) == 1
    assert set(codes) <= {303, 429}


def test_a_deleted_account_leaves_no_picture(app, alice, at_alice):
    from tests.conftest import PASSWORD

    upload(at_alice, KINDS["jpeg"]())
    at_alice.post("/settings/delete", {"password": PASSWORD})
    assert on_disk(app) == []
    assert not (app.config["AVATAR_DIR"] / "alice").exists()


@pytest.mark.parametrize(
    "path",
    ["../alice/x.webp", "alice/..%2f..%2fnoxchat.db", "alice/.lock", ".lock/x", "alice/" + "0" * 32 + ".webp", "%00/x"],
)
def test_nothing_else_is_served(app, guest, path):
    assert guest.get(f"/avatars/{path}").status_code in {400, 404}


def test_no_symlink_is_followed(app, alice, at_alice, tmp_path):
    upload(at_alice, KINDS["jpeg"]())
    real = app.config["AVATAR_DIR"] / on_disk(app)[0]
    link = real.with_name("1" * 32 + ".webp")
    link.symlink_to(real)
    assert at_alice.get(f"/avatars/alice/{link.name}").status_code == 404
