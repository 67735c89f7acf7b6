"""Picture files: every format as stored, or turned as tagged; whatever is wrong with one is a PictureError."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from raf_ray.data import encoded, headers, pictures
from raf_ray.data.encoded import decode_picture
from raf_ray.data.people import PictureError
from raf_ray.data.pictures import PictureFiles, read_picture, size_notes, sizes_given, stored_size

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def corners(width: int = 64, height: int = 48) -> Image.Image:
    """A picture whose four quarters differ, so that no two ways of turning it look the same."""
    pixels = np.zeros((height, width, 3), np.uint8)
    up, left = slice(0, height // 2), slice(0, width // 2)
    down, right = slice(height // 2, None), slice(width // 2, None)
    pixels[up, left], pixels[up, right], pixels[down, left], pixels[down, right] = RED, GREEN, BLUE, WHITE
    return Image.fromarray(pixels)


def tagged(picture: Image.Image, form: str, orientation: int, **more: object) -> bytes:
    file = io.BytesIO()
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = orientation
    picture.save(file, form, exif=tags, **more)
    return file.getvalue()


def saved(picture: Image.Image, form: str, **more: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **more)
    return file.getvalue()


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and np.abs(one.astype(int) - other.astype(int)).mean() < 12


# --- orientation ------------------------------------------------------------------------------------------

FORMS = {
    "jpeg": ("JPEG", {"quality": 95}),
    "png": ("PNG", {}),
    "tiff": ("TIFF", {}),
    "tiff-lzw": ("TIFF", {"compression": "tiff_lzw"}),
    "bigtiff": ("TIFF", {"big_tiff": True}),
    "webp": ("WEBP", {"lossless": True}),
    "avif": ("AVIF", {"quality": 95}),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", FORMS)
def test_a_picture_is_read_as_stored_or_turned_as_tagged(tmp_path, form, orientation):
    name, options = FORMS[form]
    path = tmp_path / f"picture.{name.lower()}"
    path.write_bytes(tagged(corners(), name, orientation, **options))
    assert same(read_picture(path), np.asarray(corners()))
    assert stored_size(str(path)) == (64, 48)
    upright = corners()
    upright.getexif()[ExifTags.Base.Orientation] = orientation
    assert same(read_picture(path, turned=True), np.asarray(ImageOps.exif_transpose(upright)))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_a_tiff_of_any_kind_is_read_as_stored(tmp_path, mode, orientation):
    picture = corners().convert("L").convert(mode) if mode == "I;16" else corners().convert(mode)
    plain, turned = (tagged(picture, "TIFF", which) for which in (1, orientation))
    assert np.array_equal(decode_picture(turned, "it"), decode_picture(plain, "it"))


def test_a_big_endian_tiff_is_read_as_stored():
    picture = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4) * 20)
    entries = [(256, 4), (257, 3), (258, 8), (259, 1), (262, 1), (273, 8), (274, 6), (277, 1), (278, 3), (279, 12)]
    directory = struct.pack(">H", len(entries)) + b"".join(struct.pack(">HHIHxx", t, 3, 1, v) for t, v in entries)
    data = b"MM\0*" + struct.pack(">I", 20) + picture.tobytes() + directory + bytes(4)
    assert np.array_equal(decode_picture(data, "it")[..., 0], np.asarray(picture))


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_that_means_nothing_is_none(tmp_path, orientation):
    path = tmp_path / "a.jpg"
    path.write_bytes(tagged(corners(), "JPEG", orientation))
    assert same(read_picture(path, turned=True), np.asarray(corners()))


def test_damaged_exif_does_not_stop_a_picture(tmp_path, recwarn):
    path = tmp_path / "a.jpg"
    path.write_bytes(saved(corners(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"x" * 40))
    assert same(read_picture(path, turned=True), np.asarray(corners()))


# --- kinds ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "mode"),
    [("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "1"), ("PNG", "P"), ("PNG", "LA"), ("PNG", "RGBA"), ("PNG", "I;16"),
     ("TIFF", "1"), ("TIFF", "I;16"), ("TIFF", "CMYK"), ("WEBP", "RGBA"), ("GIF", "P"), ("BMP", "1"), ("BMP", "RGB"),
     ("PPM", "L"), ("JPEG2000", "RGB"), ("AVIF", "RGB")],
)  # fmt: skip
def test_depths_palettes_and_transparency_come_as_eight_bit_rgb(form, mode):
    picture = corners().convert("L").convert(mode) if mode == "I;16" else corners().convert(mode)
    found = decode_picture(saved(picture, form), "it")
    assert found.shape == (48, 64, 3) and found.dtype == np.uint8


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP", "AVIF", "JPEG2000"])
def test_one_pixel_is_a_picture(form):
    assert decode_picture(saved(corners(1, 1), form), "it").shape == (1, 1, 3)


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_taken(form):
    frames = [Image.fromarray(np.full((20, 30, 3), value, np.uint8)) for value in (10, 90, 200)]
    data = saved(frames[0], form, save_all=True, append_images=frames[1:])
    assert decode_picture(data, "it").mean() == pytest.approx(10, abs=2)


# --- what is no picture -----------------------------------------------------------------------------------


def png(width: int, height: int, rows: int = 1) -> bytes:
    """A PNG whose header claims a size, with hardly any pixels behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def tiff(width: int, height: int) -> bytes:
    entries = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, height), (279, 1)]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", t, 4, 1, v) for t, v in entries)
    return b"II*\0" + struct.pack("<I", 8) + directory + bytes(4)


def bmp(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6)


@pytest.mark.parametrize("make", [png, tiff, bmp])
@pytest.mark.parametrize("side", [14_000, 30_000, 60_000])
def test_a_picture_that_claims_too_many_pixels_is_refused_before_one_is_decoded(monkeypatch, tmp_path, make, side):
    monkeypatch.setattr(encoded.cv2, "imdecode", None)
    path = tmp_path / "bomb"
    path.write_bytes(make(side, side))
    for read in (
        lambda: read_picture(path),
        lambda: stored_size(str(path)),
        lambda: decode_picture(make(side, side), "x"),
    ):
        with pytest.raises(PictureError, match="claims to have more than 179 million pixels"):
            read()


def test_the_bound_is_pillows_own():
    assert headers.MOST_PIXELS == 2 * Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"no picture at all", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0" + b"\xff" * 40,
     b"II+\0\x08\0\0\0", b"RIFF\0\0\0\0WEBPVP8 ", b"GIF89a", b"%PDF-1.4", b"<svg xmlns='http://www.w3.org/2000/svg'/>",
     png(0, 5), png(9, 9), png(2**21, 1), b"Pf\n4 3\n-1\n" + bytes(48)],
    ids=lambda data: repr(data[:12]),
)  # fmt: skip
def test_what_is_no_picture_is_named(tmp_path, data, capfd):
    path = tmp_path / "bad.jpg"
    path.write_bytes(data)
    with pytest.raises(PictureError, match=r"^picture .*bad\.jpg cannot be decoded"):
        read_picture(path)
    assert "[ERROR" not in capfd.readouterr().err  # OpenCV's own words


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF", "JPEG2000", "GIF", "BMP", "PPM"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_picture_that_is_cut_off_is_never_filled_up(form, share):
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    data = saved(Image.fromarray(noise), form)
    with pytest.raises(PictureError, match=r"^it cannot be decoded"):
        decode_picture(data[: int(share * len(data))], "it")


@pytest.mark.parametrize("error", [MemoryError(), encoded.cv2.error("insufficient memory")])
def test_a_decoders_own_exception_is_a_picture_error(monkeypatch, error):
    def fail(*_args: object) -> None:
        raise error

    monkeypatch.setattr(encoded.cv2, "imdecode", fail)
    with pytest.raises(PictureError, match=r"^it "):
        decode_picture(saved(corners(), "PNG"), "it")


@pytest.mark.parametrize("name", ["a\0b.jpg", "a\ud800b.jpg", "a\udcffb.jpg", "x" * 300 + ".jpg", "none.jpg", "."])
def test_a_name_that_no_file_can_have_is_told_in_words_that_can_be_printed(tmp_path, name):
    for read in (PictureFiles((f"{tmp_path}/{name}",)), lambda _row: stored_size(f"{tmp_path}/{name}")):
        with pytest.raises(PictureError, match=r"^picture ") as caught:
            read(0)
        assert str(caught.value).isprintable() and str(caught.value).encode()


def test_a_folder_a_pipe_and_a_device_are_no_pictures(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(PictureError, match="is a folder or no regular file"):
            read_picture(path)


def test_a_picture_without_permission_is_named(tmp_path, monkeypatch):
    def forbidden(*_args: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "a.png"
    path.write_bytes(saved(corners(), "PNG"))
    monkeypatch.setattr(pictures, "open", forbidden, raising=False)  # root may read everything
    with pytest.raises(PictureError, match="Permission denied"):
        read_picture(path)


def test_a_file_name_of_odd_bytes_is_read(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff.png"
    with open(path, "wb") as file:
        file.write(saved(corners(), "PNG"))
    assert same(read_picture(os.fsdecode(path)), np.asarray(corners()))


# --- sizes that the annotations give ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "size"),
    [({"width": 64, "height": 48}, [64, 48]), ({"width": 64.0, "height": 48}, [64, 48]), ({}, [0, 0]),
     ({"width": 64}, [0, 0]), ({"width": "64", "height": "48"}, [64, 48]), ({"width": None, "height": 4}, [0, 0]),
     ({"width": -3, "height": 4}, [0, 0]), ({"width": 10**400, "height": 4}, [0, 0]),
     ({"width": float("nan"), "height": 4}, [0, 0]), ({"width": True, "height": 4}, [0, 0]),
     ({"width": 0.5, "height": 4}, [0, 0]), ({"width": [1], "height": {}}, [0, 0])],
)  # fmt: skip
def test_a_size_that_is_absent_or_nonsense_is_none(entry, size):
    assert sizes_given([entry]).tolist() == [size]


def people_of(files: PictureFiles) -> object:
    return SimpleNamespace(read=files, rows=np.arange(len(files.paths)))


def files_of(tmp_path: Path, given: list[tuple[int, int]], annotations: str = "people.json") -> PictureFiles:
    paths = []
    for number in range(len(given)):
        path = tmp_path / f"{number}.png"
        path.write_bytes(saved(corners(), "PNG"))
        paths.append(str(path))
    return PictureFiles(tuple(paths), annotations, np.array(given))


def test_a_picture_of_another_size_than_annotated_is_named_once_a_file(tmp_path):
    files = files_of(tmp_path, [(64, 48), (32, 24), (0, 0), (640, 480)])
    other = files_of(tmp_path, [(1, 1)], "others.json")
    first, second = size_notes([people_of(files), people_of(files), people_of(other)])
    assert first == (
        f"people.json gives picture {tmp_path}/1.png 32 x 24 px, but it has 64 x 48 (2 of 3 pictures differ): "
        "its labels may lie elsewhere"
    )
    assert second.startswith("others.json gives picture") and "differ)" not in second


def test_exchanged_sides_hint_at_exif(tmp_path):
    (note,) = size_notes([people_of(files_of(tmp_path, [(48, 64)]))])
    assert "exchanged" in note and "EXIF orientation" in note and "store them turned" in note


def test_right_sizes_and_missing_pictures_give_no_note(tmp_path):
    files = files_of(tmp_path, [(64, 48), (5, 5)])
    (tmp_path / "1.png").unlink()
    assert size_notes([people_of(files)]) == ()
