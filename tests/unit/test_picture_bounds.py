"""Pictures are decoded within bounds, and what comes out is one upright frame without anything else."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ekiben.errors import InvalidRequest
from ekiben.runtime.vision.images import MAX_PIXELS, upright_png


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decoded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def striped(size: tuple[int, int] = (60, 20)) -> Image.Image:
    """Red on the left half, blue on the right one."""
    image = Image.new("RGB", size, "red")
    image.paste("blue", (size[0] // 2, 0, size[0], size[1]))
    return image


def png_of_claimed_size(width: int, height: int) -> bytes:
    """A few bytes of PNG whose header claims as many pixels as it likes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(100_000)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_every_format_comes_out_as_the_same_picture(kind: str) -> None:
    image = decoded(upright_png(encoded(striped(), kind)))
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (60, 20))
    red, _, blue = image.convert("RGB").resize((1, 1), box=(0, 0, 10, 20)).tobytes()
    assert red > 200 > 60 > blue


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_mode_is_brought_to_eight_bits(mode: str) -> None:
    kind = "TIFF" if mode in ("CMYK", "I", "F", "PA") else "PNG"
    if mode == "PA":
        kind = "PNG"
        source = Image.new("RGBA", (8, 8), (255, 0, 0, 100)).quantize(4)
    else:
        source = Image.new(mode, (8, 8))
    assert decoded(upright_png(encoded(source, kind))).mode in ("RGB", "RGBA")


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    source = Image.new("I;16", (8, 8), 32768)
    assert decoded(upright_png(encoded(source, "PNG"))).getpixel((0, 0)) == (128, 128, 128)


def test_transparency_is_kept_for_the_engine_to_judge() -> None:
    source = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert decoded(upright_png(encoded(source, "PNG"))).mode == "RGBA"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_their_exif_says(orientation: int) -> None:
    upright = striped()
    back = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = upright if back is None else upright.transpose(back)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decoded(upright_png(encoded(stored, "PNG", exif=exif)))
    assert (image.size, image.tobytes()) == (upright.size, upright.tobytes())
    assert not image.getexif()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_counts_as_none() -> None:
    data = encoded(striped(), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff garbage")
    assert decoded(upright_png(data)).size == (60, 20)


def test_metadata_and_further_frames_are_left_behind() -> None:
    frames = [Image.new("RGB", (10, 10), colour) for colour in ("red", "green", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], comment=b"canary")
    clean = upright_png(data + b"canary after the end")
    assert b"canary" not in clean
    assert decoded(clean).getpixel((0, 0)) == (255, 0, 0)


def test_an_animation_of_many_frames_costs_one_frame() -> None:
    first = Image.new("P", (500, 500), 0)
    data = encoded(
        first, "GIF", save_all=True, append_images=[Image.new("P", (500, 500), i) for i in range(200)]
    )
    assert decoded(upright_png(data)).size == (500, 500)


@pytest.mark.parametrize(
    "size", [(60_000, 60_000), (MAX_PIXELS + 1, 1), (8001, 8000), (2**31 - 1, 2**31 - 1)]
)
def test_pixel_bombs_are_refused_by_their_header(size: tuple[int, int]) -> None:
    with pytest.raises(InvalidRequest, match="pixels") as caught:
        upright_png(png_of_claimed_size(*size))
    assert caught.value.param == "image"


def test_a_text_chunk_that_inflates_to_gigabytes_is_refused() -> None:
    plain = encoded(striped(), "PNG")
    text = b"bomb\x00\x00" + zlib.compress(bytes(200 * 2**20))
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    with pytest.raises(InvalidRequest):
        upright_png(plain[:33] + chunk + plain[33:])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_truncated_pictures_are_refused(kind: str) -> None:
    noise = Image.effect_noise((200, 200), 80).convert("RGB")
    data = encoded(noise, kind)
    for kept in (0, 1, 10, len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(InvalidRequest) as caught:
            upright_png(data[:kept])
        assert caught.value.param == "image"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic",
        b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(50),
        b"%PDF-1.7\n1 0 obj<<>>endobj",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"PK\x03\x04" + bytes(100),
        b"GIF89a" + bytes(20),
        b"\xff\xd8\xff\xe0" + b"\xff" * 200,
        b"BM" + b"\xff" * 200,
        b"II*\x00" + b"\xff" * 200,
        b"RIFF\xff\xff\xff\xffWEBPVP8 " + b"\xff" * 200,
        b"\x89PNG\r\n\x1a\n" + b"\xff" * 200,
        encoded(Image.new("RGB", (4, 4)), "PPM"),
        encoded(Image.new("RGB", (16, 16)), "ICO"),
        encoded(Image.new("RGB", (16, 16)), "EPS"),
    ],
)
def test_what_is_no_picture_of_a_known_format_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        upright_png(data)
    assert caught.value.param == "image"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_damaged_pictures_are_read_or_refused_and_nothing_else(kind: str) -> None:
    data = encoded(Image.effect_noise((16, 16), 80).convert("RGB"), kind)

    @given(st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=8))
    @settings(max_examples=60, deadline=None, derandomize=True)
    def damage(changes: list[tuple[int, int]]) -> None:
        damaged = bytearray(data)
        for place, value in changes:
            damaged[place] = value
        try:
            image = decoded(upright_png(bytes(damaged)))
        except InvalidRequest as error:
            assert error.param == "image"
        else:
            assert image.width * image.height <= MAX_PIXELS

    damage()
