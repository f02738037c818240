"""What is in a picture file is what is seen: from the file, from bytes and from memory. See nbs/01_media.

The inputs are made here, with their right values beside them."""

import io
import struct
import warnings
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from wavbrivl.core.files import BadFile, gather_notes, read_json, write_json
from wavbrivl.core.params import BrivlParams, CorpusParams
from wavbrivl import WavBriVL
from wavbrivl.api.inputs import square_pixels
from wavbrivl.data.corpus import Corpus
from wavbrivl.data.prepare import write_corpus
from wavbrivl.image_text.brivl import BriVL
from wavbrivl.media.films import read_frames
from wavbrivl.media.pictures import (
    crop_square,
    picture_formats,
    prepare_picture,
)
from wavbrivl.training.audio import make_audio_encoder
from tiny import SMALL

CASES = Path(__file__).resolve().parents[2] / 'shared/data/cases'
Y, X = np.mgrid[:120, :160]
COLOUR = np.stack([60 + X, 255 - 1.8 * Y, 128 + 100 * np.sin(X / 9) * np.cos(Y / 7)], 2)
COLOUR = COLOUR.clip(0, 255).astype(np.uint8)
PICTURE = Image.fromarray(COLOUR)
GREY = np.asarray(PICTURE.convert('L'))
DEEP = GREY.astype(np.uint16) * 257
CLEAR = np.dstack([COLOUR, np.full(GREY.shape, 255, np.uint8)])


def read(x, prepare=prepare_picture):
    "A picture's pixels, and the texts of the notes on it."
    with gather_notes() as notes:
        pixels = np.asarray(prepare(x)).astype(int)
    return pixels, [n.text for n in notes]


def refusal(x) -> str:
    with pytest.raises(BadFile) as e:
        prepare_picture(x)
    assert e.value.reason[-1] == '.' and len(e.value.reason) > 15, 'a sentence'
    return e.value.reason


def colour(a) -> np.ndarray:
    "Grey [H, W] or colour as [H, W, 3]."
    a = np.asarray(a).astype(int)
    return a if a.ndim == 3 else a[..., None].repeat(3, 2)


def difference(got, want) -> float:
    assert got.shape == colour(want).shape
    return float(np.abs(got - colour(want)).mean())


def saved(picture, kind, **options) -> bytes:
    buffer = io.BytesIO()
    picture.copy().save(buffer, kind, **options)  # Pillow leaves settings on it
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return (
        struct.pack('>I', len(data))
        + name
        + data
        + struct.pack('>I', zlib.crc32(name + data))
    )


def png(rows, depth, kind, extra=b'', interlaced=False) -> bytes:
    "A PNG of rows of bytes, with chunks of any kind before its pixels."
    head = struct.pack('>IIBBBBB', 160, 120, depth, kind, 0, 0, interlaced)
    pixels = zlib.compress(b''.join(b'\0' + r for r in rows))
    parts = (chunk(b'IHDR', head), extra, chunk(b'IDAT', pixels), chunk(b'IEND', b''))
    return b'\x89PNG\r\n\x1a\n' + b''.join(parts)


def deep_rows(a) -> list:
    return [r.astype('>u2').tobytes() for r in a.astype(np.uint16)]


def adam7(a) -> list:
    "The rows of the seven passes of an interlaced PNG."
    passes = (
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    )
    return [r.tobytes() for y, x, dy, dx in passes for r in a[y::dy, x::dx]]


def tiff(a, bits, kind=1, photometric=1, tags=()) -> bytes:
    "A TIFF of one strip; kind 1: unsigned, 2: signed, 3: float."
    data = a if isinstance(a, bytes) else a.tobytes()
    channels = a.shape[2] if not isinstance(a, bytes) and a.ndim == 3 else 1
    data += b'\0' * (len(data) % 2)
    found = {
        256: 160,
        257: 120,
        259: 1,
        262: photometric,
        273: 8,
        277: channels,
        278: 120,
        279: len(data),
    }
    found |= dict(tags)
    place = 8 + len(data) + 6 + 12 * (len(found) + 2)
    many = struct.pack(f'<{2 * channels}H', *[bits] * channels, *[kind] * channels)
    entries = [(t, 4, 1, v) for t, v in found.items()]
    if channels == 1:
        entries += [(258, 3, 1, bits), (339, 3, 1, kind)]
    else:
        entries += [(258, 3, channels, place), (339, 3, channels, place + 2 * channels)]
    body = b''.join(struct.pack('<HHII', *e) for e in sorted(entries))
    head = b'II*\0' + struct.pack('<I', 8 + len(data))
    return head + data + struct.pack('<H', len(entries)) + body + bytes(4) + many


def twelve_bits(a) -> bytes:
    "Two values of 12 bits in three bytes."
    p = a.astype(np.uint16).reshape(-1, 2)
    low = ((p[:, 0] & 15) << 4) | (p[:, 1] >> 8)
    return np.stack([p[:, 0] >> 4, low, p[:, 1] & 255], 1).astype(np.uint8).tobytes()


def matrix_profile(columns, gamma: float, name: str) -> bytes:
    "A colour profile by the XYZ of its three colours (rows, D50) and their gamma."
    number = lambda *v: b''.join(struct.pack('>i', round(x * 65536)) for x in v)
    curve = b'curv' + bytes(4) + struct.pack('>IHH', 1, round(gamma * 256), 0)
    title = b'desc' + bytes(4) + struct.pack('>I', len(name) + 1) + name.encode()
    tags = [
        (b'desc', title.ljust(120, b'\0')),
        (b'wtpt', b'XYZ ' + bytes(4) + number(0.9642, 1, 0.8249)),
    ]
    for c, xyz in zip('rgb', columns):
        tags += [
            (f'{c}XYZ'.encode(), b'XYZ ' + bytes(4) + number(*xyz)),
            (f'{c}TRC'.encode(), curve),
        ]
    table, data, start = b'', b'', 132 + 12 * len(tags)
    for key, value in tags:
        table += key + struct.pack('>II', start + len(data), len(value))
        data += value + bytes(-len(value) % 4)
    head = (
        struct.pack('>I', start + len(data))
        + bytes(4)
        + b'\2\x40\0\0mntrRGB XYZ '
        + bytes(12)
    )
    head += b'acsp' + bytes(28) + number(0.9642, 1, 0.8249)
    return head.ljust(128, b'\0') + struct.pack('>I', len(tags)) + table + data


ADOBE = matrix_profile(
    [
        [0.60974, 0.31111, 0.01947],
        [0.20528, 0.62567, 0.06087],
        [0.14919, 0.06322, 0.74457],
    ],
    2.2,
    'Adobe RGB',
)


# ---------------------------------------------------------------- one picture, everywhere

MODES = 'RGB RGBA L LA P 1 CMYK YCbCr HSV LAB RGBa RGBX PA La I;16 I F'.split()


def in_mode(picture, mode: str):
    "A picture in a mode, and the RGB pixels that it then stands for."
    grey = np.asarray(picture.convert('L'))
    if mode in ('I;16', 'I', 'F'):
        a = grey.astype(np.uint16) * 257
        a = (
            a
            if mode == 'I;16'
            else a.astype(np.int32)
            if mode == 'I'
            else grey / np.float32(255)
        )
        return Image.fromarray(a), colour(grey)
    if mode == 'LAB':
        lab = ImageCms.createProfile('LAB')
        srgb = ImageCms.createProfile('sRGB')
        return ImageCms.profileToProfile(picture, srgb, lab, outputMode='LAB'), colour(
            picture
        )
    if mode in ('PA', 'La'):
        source = picture.convert('P' if mode == 'PA' else 'LA')
        return source.convert(mode), colour(source.convert('RGB'))
    made = picture.convert(mode)
    return made, colour(made.convert('RGB'))


def smooth(rng, height: int, width: int) -> np.ndarray:
    "A picture of slow waves over the full range."
    y, x = np.mgrid[:height, :width]
    waves = [
        np.sin(a * x / 30 + b * y / 30 + c) for a, b, c in rng.uniform(-2, 2, (3, 3))
    ]
    a = np.stack(waves, 2)
    return ((a - a.min()) / np.ptp(a) * 255).round().astype(np.uint8)


ARRAYS = dict(
    bytes=lambda a: a,
    floats=lambda a: a / 255,
    single=lambda a: (a / 255).astype(np.float32),
    float_bytes=lambda a: a.astype(np.float32),
    deep=lambda a: a.astype(np.uint16) * 257,
    integers=lambda a: a.astype(np.int64),
    deep_floats=lambda a: a.astype(np.float64) * 257,
    opaque=lambda a: np.dstack([a, np.full(a.shape[:2], 255, np.uint8)]),
    first=lambda a: np.moveaxis(a, -1, 0),
    tensor=lambda a: torch.from_numpy(np.moveaxis(a, -1, 0).copy()),
    float_tensor=lambda a: torch.from_numpy(np.moveaxis(a, -1, 0) / 255).float(),
    half_tensor=lambda a: torch.from_numpy(a / 255).bfloat16(),
)
TURNS = {
    1: None,
    2: 0,
    3: 3,
    4: 1,
    5: 5,
    6: 2,
    7: 6,
    8: 4,
}  # EXIF tag -> what undoes it


def stored(rng, a: np.ndarray):
    "The picture in a random file, turned by EXIF where the kind can: bytes, and the tolerance."
    kind = rng.choice(['PNG', 'TIFF', 'WEBP', 'BMP', 'PPM', 'JPEG', 'JPEG2000', 'AVIF'])
    options = dict(
        WEBP=dict(lossless=True, exact=True),
        JPEG=dict(quality=98, subsampling=0, progressive=bool(rng.integers(2))),
        AVIF=dict(quality=98, subsampling='4:4:4'),
    ).get(kind, {})
    p, tag = Image.fromarray(a), int(rng.integers(1, 9))
    if kind in ('PNG', 'WEBP', 'JPEG'):
        exif = Image.Exif()
        exif[0x0112] = tag
        options['exif'] = exif
        p = p if tag == 1 else p.transpose(TURNS[tag])
    return saved(p, kind, **options), 3 if kind in ('JPEG', 'AVIF') else 0


@pytest.mark.parametrize('seed', range(8))
def test_one_picture_in_every_shape(seed, tmp_path):
    "Twenty random pictures a seed: file, bytes, open file, Pillow picture, arrays and tensors are one picture."
    rng = np.random.default_rng(seed)
    for i in range(20):
        a = smooth(rng, *rng.integers(8, 60, 2))
        data, most = stored(rng, a)
        file = tmp_path / f'{i}.{rng.choice(["jpg", "png", "gif", "txt"])}'
        file.write_bytes(data)
        whole = read(file)[0]
        assert difference(whole, a) <= most
        with open(file, 'rb') as f, Image.open(file) as p, warnings.catch_warnings():
            for x in (
                str(file),
                data,
                bytearray(data),
                f,
                p,
                p.copy(),
                dict(bytes=data, path=None),
                dict(path=str(file)),
            ):
                assert np.array_equal(read(x)[0], whole)
        for name, make in ARRAYS.items():
            got, notes = read(make(a))
            assert np.abs(got - a).max() <= (0 if 'half' not in name else 1), name
        grey = np.asarray(Image.fromarray(a).convert('L'))
        for x in (
            grey,
            grey[..., None],
            grey[None],
            grey / 255,
            grey.astype(np.uint16) * 257,
        ):
            got, _ = read(x)
            dark = grey.max() < 16
            assert dark or np.array_equal(got, colour(grey))
        mode = MODES[int(rng.integers(len(MODES)))]
        made, want = in_mode(Image.fromarray(a), mode)
        off = np.abs(read(made)[0] - want)
        assert off.mean() < 6 if mode in ('LAB', 'HSV') else off.max() <= 1, mode


@pytest.mark.parametrize('mode', MODES)
def test_every_mode(mode):
    made, want = in_mode(PICTURE, mode)
    before = made.copy()
    got, notes = read(made)
    off = np.abs(got - want)
    assert not notes
    assert off.mean() < 6 if mode in ('LAB', 'HSV') else off.max() <= 1
    assert made.mode == before.mode and made.info.keys() == before.info.keys(), (
        'the user keeps the picture'
    )
    assert made.tobytes() == before.tobytes()


def test_what_is_transparent_is_white():
    alpha = np.zeros(GREY.shape, np.uint8)
    alpha[:60] = 255
    want = colour(COLOUR).copy()
    want[60:] = 255
    clear = np.dstack([COLOUR, alpha])
    picture = Image.fromarray(clear)
    for x in (
        clear,
        clear / 255,
        np.moveaxis(clear, -1, 0),
        clear.astype(np.uint16) * 257,
        picture,
        picture.convert('RGBa'),
    ):
        assert difference(read(x)[0], want) < 0.1
    for kind in ('PNG', 'WEBP', 'TIFF', 'AVIF'):
        got = read(
            saved(picture, kind, **(dict(lossless=True) if kind == 'WEBP' else {}))
        )[0]
        assert (got[70:] == 255).all() and np.abs(got[:50] - COLOUR[:50]).mean() < 3
    palette = PICTURE.quantize(16)
    first = np.asarray(palette) == 3
    for kind in ('PNG', 'GIF'):
        got = read(saved(palette, kind, transparency=3))[0]
        assert (got[first] == 255).all() and difference(
            got[~first][None], colour(palette.convert('RGB'))[~first][None]
        ) == 0
    grey = picture.convert('LA')
    assert (read(np.asarray(grey))[0][70:] == 255).all() and (
        read(grey)[0][70:] == 255
    ).all()


@pytest.mark.parametrize(
    'x, words',
    [
        (np.zeros((3, 40, 3)), 'does not say which end'),
        (np.zeros((1, 40, 3)), 'does not say which end'),
        (np.zeros((4, 40, 4)), 'does not say which end'),
        (np.zeros((5, 40, 7)), 'one picture is'),
        (np.zeros((2, 40, 40, 3)), 'one picture is'),
        (np.zeros(40), 'one picture is'),
        (np.zeros((0, 40, 3)), 'one picture is'),
        (np.linspace(-1, 1, 300).reshape(10, 10, 3), 'from -1 to 1'),
        (np.linspace(-2.1, 2.6, 300).reshape(10, 10, 3), 'from -2.1 to 2.6'),
        (np.linspace(0, 3, 300).reshape(10, 10, 3), '1 or 255 may be white'),
        (np.full((10, 10), np.nan), 'no finite numbers'),
        (np.full((10, 10), np.inf), 'no finite numbers'),
        (np.full((10, 10), 1j), 'no finite numbers'),
        (np.full((10, 10), 'a'), 'no finite numbers'),
        (np.full((10, 10), -5), 'from -5 to -5'),
        ([[1, 2], [3]], 'no picture'),
        (None, 'one picture is'),
        (b'', 'no bytes'),
        (io.StringIO('x'), 'no bytes'),
        (dict(bytes=None, path=None), 'one picture is'),
    ],
)
def test_what_is_asked_about(x, words):
    assert words in refusal(x)


def test_what_is_white():
    ramp = np.arange(256).reshape(16, 16)
    for bits, notes in ((8, 1), (10, 1), (12, 1), (16, 0)):
        deep = (ramp * (2**bits - 1) / 255).round().astype(np.uint16)
        got, said = read(deep)
        assert np.abs(got[..., 0] - ramp).max() <= 1 and len(said) == notes, bits
        assert not notes or f'{bits} bits' in said[0]
    assert (
        read(ramp == ramp)[0].min() == 255
        and read(np.zeros((4, 4), bool))[0].max() == 0
    )
    assert read(np.zeros((4, 4), np.uint16))[1] == []
    got, said = read(ramp / 255 * 0.01)
    assert np.abs(got[..., 0] - ramp).max() <= 1 and 'taken as white' in said[0]
    dark = np.minimum(ramp, 9).astype(
        np.float32
    )  # whole numbers: a dark picture of bytes
    assert np.array_equal(read(dark)[0][..., 0], np.minimum(ramp, 9))


# ---------------------------------------------------------------- kinds of files

HUGE = zlib.compress(bytes(5_000_000))
BAD = bytearray(chunk(b'tEXt', b'k\0hello'))
BAD[-1] ^= 1
ROWS = [r.tobytes() for r in COLOUR]
MARKED = DEEP.copy()
MARKED[:20] = 1234
UNMARKED = GREY.copy()
UNMARKED[:20] = 255
OTHER = PICTURE.rotate(180)
SAVED = {
    'jpeg grey': (saved(PICTURE.convert('L'), 'JPEG', quality=95), GREY),
    'jpeg of four inks': (saved(PICTURE.convert('CMYK'), 'JPEG', quality=95), COLOUR),
    'jpeg and junk': (saved(PICTURE, 'JPEG', quality=95) + b'junk' * 1000, COLOUR),
    'jpeg with broken exif': (
        saved(PICTURE, 'JPEG', quality=95, exif=b'Exif\0\0' + b'\xff' * 300),
        COLOUR,
    ),
    'mpo': (
        saved(PICTURE, 'MPO', save_all=True, append_images=[OTHER.copy()], quality=95),
        COLOUR,
    ),
    'moving webp': (
        saved(
            PICTURE, 'WEBP', save_all=True, append_images=[OTHER.copy()], lossless=True
        ),
        COLOUR,
    ),
    'moving png': (
        saved(PICTURE, 'PNG', save_all=True, append_images=[OTHER.copy()]),
        COLOUR,
    ),
    'moving gif': (
        saved(
            PICTURE.quantize(255), 'GIF', save_all=True, append_images=[OTHER.copy()]
        ),
        PICTURE.quantize(255).convert('RGB'),
    ),
    'tiff of two pages': (
        saved(PICTURE, 'TIFF', save_all=True, append_images=[OTHER.copy()]),
        COLOUR,
    ),
    'fax': (
        saved(PICTURE.convert('1'), 'TIFF', compression='group4'),
        PICTURE.convert('1').convert('RGB'),
    ),
    'jpeg in tiff': (saved(PICTURE, 'TIFF', compression='jpeg'), COLOUR),
    'big tiff': (saved(PICTURE, 'TIFF', big_tiff=True), COLOUR),
    'tiff of four inks': (saved(PICTURE.convert('CMYK'), 'TIFF'), COLOUR),
    'avif': (saved(PICTURE, 'AVIF', quality=95), COLOUR),
    'jp2': (saved(PICTURE, 'JPEG2000'), COLOUR),
    'bare jpeg 2000': (saved(PICTURE, 'JPEG2000', no_jp2=True), COLOUR),
    'one pixel': (
        saved(Image.new('RGB', (1, 1), (9, 99, 199)), 'PNG'),
        [[[9, 99, 199]]],
    ),
    'a line': (
        saved(Image.new('RGB', (20_000, 1), (9, 99, 199)), 'PNG'),
        [[[9, 99, 199]] * 20_000],
    ),
    'pgm up to 4095': (
        b'P5 160 120 4095\n' + (GREY * np.uint16(16)).astype('>u2').tobytes(),
        GREY,
    ),
    'pgm of 16 bits': (b'P5 160 120 65535\n' + DEEP.astype('>u2').tobytes(), GREY),
    'png 16 grey': (png(deep_rows(DEEP), 16, 0), GREY),
    'png 16 colour': (png(deep_rows(COLOUR * np.uint16(257)), 16, 2), COLOUR),
    'png 16 with alpha': (png(deep_rows(CLEAR * np.uint16(257)), 16, 6), COLOUR),
    'png 16 with a clear grey': (
        png(deep_rows(MARKED), 16, 0, chunk(b'tRNS', b'\x04\xd2')),
        UNMARKED,
    ),
    'png interlaced': (png(adam7(COLOUR), 8, 2, interlaced=True), COLOUR),
    'png with long text': (png(ROWS, 8, 2, chunk(b'zTXt', b'k\0\0' + HUGE)), COLOUR),
    'png with long xmp': (
        png(ROWS, 8, 2, chunk(b'iTXt', b'XML\0\1\0\0\0' + HUGE)),
        COLOUR,
    ),
    'png with much text': (
        png(ROWS, 8, 2, chunk(b'tEXt', b'k\0' + b'x' * 900_000) * 80),
        COLOUR,
    ),
    'png with a bomb as profile': (
        png(ROWS, 8, 2, chunk(b'iCCP', b'k\0\0' + HUGE)),
        COLOUR,
    ),
    'png with junk as profile': (
        png(ROWS, 8, 2, chunk(b'iCCP', b'k\0\0' + zlib.compress(b'x' * 500))),
        COLOUR,
    ),
    'png with a wrong sum': (png(ROWS, 8, 2, bytes(BAD)), COLOUR),
    'tiff 16': (tiff(DEEP, 16), GREY),
    'tiff 16, white is 0': (tiff(65535 - DEEP, 16, photometric=0), GREY),
    'tiff 8, white is 0': (tiff(255 - GREY, 8, photometric=0), GREY),
    'tiff 16 signed': (tiff(GREY.astype(np.int16) * 128, 16, 2), GREY),
    'tiff 32': (tiff(GREY.astype(np.uint32) * 16843009, 32, 1), GREY),
    'tiff 32 signed': (tiff(GREY.astype(np.int32) * 8421504, 32, 2), GREY),
    'tiff 12': (tiff(twelve_bits(GREY * np.uint16(16)), 12), GREY),
    'tiff float 1': (tiff(np.float32(GREY / 255), 32, 3), GREY),
    'tiff float 255': (tiff(np.float32(GREY), 32, 3), GREY),
    'tiff float 65535': (tiff(np.float32(DEEP), 32, 3), GREY),
    'tiff 16 colour': (tiff(COLOUR * np.uint16(257), 16, photometric=2), COLOUR),
    'tiff 16 with alpha': (tiff(CLEAR * np.uint16(257), 16, 1, 2, {338: 2}), COLOUR),
}


@pytest.mark.parametrize('name', SAVED)
def test_kinds_that_are_read(name, tmp_path):
    data, want = SAVED[name]
    (tmp_path / 'wrong.jpg').write_bytes(data)
    got, notes = read(tmp_path / 'wrong.jpg')
    assert difference(got, want) < 2
    assert np.array_equal(read(data)[0], got)
    assert len(notes) == any(w in name for w in (' 12', ' 32')), notes
    try:
        p = Image.open(io.BytesIO(data))
    except Exception:
        return  # Pillow alone refuses it
    assert np.array_equal(read(p)[0], got)


PROGRESSIVE = saved(PICTURE, 'JPEG')
CUT_TIFF = tiff(DEEP, 16, tags={254: 1})
LEFT_OUT = {
    'HEIC|pillow-heif': b'\0\0\0\x1cftypheic\0\0\0\0mif1heic' + bytes(99),
    'JPEG XL': b'\xff\x0a\xfa\x7f' + bytes(50),
    'a PDF': b'%PDF-1.7\n1 0 obj',
    'SVG': b'<?xml version="1.0"?>\n<!-- a -->\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    'Photoshop': b'8BPS\0\1' + bytes(60),
    'an icon': saved(PICTURE, 'ICO'),
    'TGA': saved(PICTURE, 'TGA'),
    'PostScript': b'%!PS-Adobe-3.0 EPSF-3.0\n(ran) print',
    'raw picture': b'II*\0\x10\0\0\0CR\2\0' + bytes(60),
    "camera's raw": CUT_TIFF,
    'a web page': b'\n <!DOCTYPE HTML>\n<html>404</html>',
    'Git LFS': b'version https://git-lfs.github.com/spec/v1\noid',
    'a film': b'\0\0\0\x20ftypisom' + bytes(60),
    'a sound': b'RIFF\0\0\0\0WAVEfmt ' + bytes(60),
    'packed': b'PK\3\4' + bytes(60),
    'a medical': bytes(128) + b'DICM' + bytes(60),
    'astronomical': b'SIMPLE  =                    T',
    '12 bits': PROGRESSIVE.replace(b'\xff\xc0\0\x11\x08', b'\xff\xc0\0\x11\x0c'),
    'rare kind': tiff(np.float32(COLOUR / 255), 32, 3, 2),
    'not a picture': b'hello',
}


@pytest.mark.parametrize('words', LEFT_OUT)
def test_kinds_that_are_named(words, tmp_path):
    "By the content, whatever the ending; never as damaged."
    (tmp_path / 'x.png').write_bytes(LEFT_OUT[words])
    said = refusal(tmp_path / 'x.png')
    if 'HEIC' in words and 'HEIF' in picture_formats():
        return
    assert any(w in said for w in words.split('|')) and 'copy' not in said
    assert refusal(LEFT_OUT[words]) == said


@pytest.mark.skipif(
    'HEIF' not in picture_formats(), reason='pillow-heif is not installed'
)
def test_heic():
    got = read(saved(PICTURE, 'HEIF', quality=95))[0]
    assert difference(got, COLOUR) < 3


def test_colours_of_a_profile():
    "A picture in Adobe RGB looks like its original; a profile of another mode is passed over."
    own = ImageCms.ImageCmsProfile(io.BytesIO(ADOBE))
    muted = Image.fromarray((64 + COLOUR / 2).astype(np.uint8))
    wide = ImageCms.profileToProfile(
        muted, ImageCms.createProfile('sRGB'), own, outputMode='RGB'
    )
    ignored = np.abs(np.asarray(wide).astype(int) - np.asarray(muted)).max()
    for kind in ('PNG', 'TIFF', 'WEBP', 'JPEG'):
        options = (
            dict(lossless=True)
            if kind == 'WEBP'
            else dict(quality=98)
            if kind == 'JPEG'
            else {}
        )
        data = saved(wide, kind, icc_profile=ADOBE, **options)
        got = read(data)[0]
        assert np.abs(got - np.asarray(muted)).mean() < 2 < 8 < ignored
        assert np.array_equal(read(Image.open(io.BytesIO(data)))[0], got)
    clear = Image.merge('RGBA', [*wide.split(), Image.new('L', wide.size, 255)])
    assert difference(read(saved(clear, 'PNG', icc_profile=ADOBE))[0], muted) < 1
    for broken in (ADOBE[:200], b'junk', ADOBE.replace(b'RGB XYZ', b'CMYKXYZ')):
        assert (
            difference(read(saved(PICTURE, 'PNG', icc_profile=broken))[0], COLOUR) == 0
        )


# ---------------------------------------------------------------- cut short

LARGE = PICTURE.resize((640, 480))
WHOLE = {
    'jpeg': saved(LARGE, 'JPEG', quality=90),
    'jpeg 4:4:4': saved(LARGE, 'JPEG', subsampling=0),
    'jpeg grey': saved(LARGE.convert('L'), 'JPEG'),
    'jpeg of four inks': saved(LARGE.convert('CMYK'), 'JPEG'),
    'jpeg progressive': saved(LARGE, 'JPEG', progressive=True),
    'png': saved(LARGE, 'PNG'),
    'gif': saved(LARGE.quantize(64), 'GIF', interlace=0),
    'webp': saved(LARGE, 'WEBP', quality=90),
    'tiff': saved(LARGE, 'TIFF'),
    'bmp': saved(LARGE, 'BMP'),
    'ppm': saved(LARGE, 'PPM'),
}


@pytest.mark.parametrize('name', WHOLE)
def test_files_cut_short(name, tmp_path):
    data = WHOLE[name]
    whole, notes = read(data)
    assert not notes
    for share in (0.999, 0.85):
        file = tmp_path / 'cut.jpg'
        file.write_bytes(data[: int(share * len(data))])
        got, notes = read(file)
        assert len(notes) == 1 and 'can be read' in notes[0]
        kept = len(got)
        assert kept / len(whole) > share - 0.15
        same = whole[-kept:] if name == 'bmp' else whole[:kept]
        assert np.abs(got - same).mean() < 2, 'what is there is what it was'
        if name == 'webp':
            continue  # Pillow does not even open it
        with Image.open(file) as p:
            assert np.array_equal(read(p)[0], got)
    file.write_bytes(data[: len(data) // 5])
    assert 'damaged' in refusal(file)
    for kind in ('AVIF', 'JPEG2000'):
        part = saved(LARGE, kind)
        assert 'damaged' in refusal(part[: len(part) // 2])


def test_the_end_mark_alone():
    "The two last bytes carry no pixel."
    for options in (dict(), dict(progressive=True), dict(subsampling=0)):
        for size in ((640, 480), (33, 17), (8, 8), (1, 1)):
            data = saved(PICTURE.resize(size), 'JPEG', **options)
            assert np.array_equal(read(data[:-2])[0], read(data)[0])


def test_a_cut_photograph_is_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(LARGE.rotate(90, expand=True), 'JPEG', exif=exif, quality=95)
    whole, cut = read(data)[0], read(data[:-2])[0]
    assert np.array_equal(whole, cut) and whole.shape == (480, 640, 3)
    half = read(data[: len(data) * 3 // 4])[
        0
    ]  # the rows that are missing are columns then
    assert half.shape[0] == 480 and 320 < half.shape[1] < 640


# ---------------------------------------------------------------- the square


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    brivl = BriVL(BrivlParams(image_size=32), text=False)
    return WavBriVL(
        make_audio_encoder(SMALL, brivl.dim, 0.5), brivl, None, dict(picture=32)
    )


def photograph(side: int):
    "Many colours, fine and coarse, 3:2."
    coarse = np.random.default_rng(5).integers(0, 256, (8, 12, 3), np.uint8)
    return Image.fromarray(coarse).resize(
        (side, side * 2 // 3), Image.Resampling.BICUBIC
    )


def test_a_photograph_of_any_size_is_seen_whole(model, tmp_path):
    files = []
    for side in (4000, 2000, 1000, 500, 300):
        files.append(tmp_path / f'{side}.jpg')
        photograph(side).save(files[-1], quality=95)
    squares = [square_pixels(f, None, 32).astype(int) for f in files]
    assert max(np.abs(s - squares[-1]).mean() for s in squares) < 3
    cut = square_pixels(files[0], 480, 32).astype(int)
    assert np.abs(cut - squares[-1]).mean() > 30
    rows = model.embed_image([str(f) for f in files])
    assert (rows @ rows.T).min() > 0.999
    model.info['crop'] = 480  # as the papers cut frames
    patches = model.embed_image([str(f) for f in files])
    del model.info['crop']
    same = np.abs(patches - rows).max(1) < 1e-6
    assert same.tolist() == [False, False, False, True, True]


def test_the_cut_is_a_field_of_the_model(model, tmp_path):
    "Saved and loaded with it; of older folders it was the cut of their films."
    file = tmp_path / '1000.jpg'
    photograph(1000).save(file)
    scaled = model.embed_image(str(file))
    for crop in (480, None):
        model.info['crop'] = crop
        model.save_pretrained(tmp_path / 'm')
        again = WavBriVL.from_pretrained(tmp_path / 'm', 'cpu')
        assert again.info['crop'] == crop and again.fingerprint == model.fingerprint
        assert np.allclose(again.embed_image(str(file)), scaled, atol=1e-6) == (
            crop is None
        )
    path = tmp_path / 'm/config.json'
    config = read_json(path)
    config['info']['crop'] = 480
    write_json(config | dict(format=2), path)
    old = WavBriVL.from_pretrained(tmp_path / 'm', 'cpu')
    for crop in ('480', 0, -3, 1.5, [480]):
        config['info']['crop'] = crop
        write_json(config | dict(format=3), path)
        with pytest.raises(BadFile, match='info.crop is'):
            WavBriVL.from_pretrained(tmp_path / 'm', 'cpu')
    assert old.info['crop'] is None and old.info['film_crop'] == 480
    assert np.allclose(old.embed_image(str(file)), scaled, atol=1e-6)


def test_small_pictures_are_as_before():
    "Up to 480 pixels the two ways are one, to the bit."
    for size in ((96, 96), (480, 480), (640, 480), (33, 20)):
        p = PICTURE.resize(size)
        assert np.array_equal(square_pixels(p, 480, 96), square_pixels(p, None, 96))
        side = min(size)
        x, y = (size[0] - side) // 2, (size[1] - side) // 2
        middle = p.crop((x, y, x + side, y + side))
        plain = (
            middle if side == 96 else middle.resize((96, 96), Image.Resampling.BICUBIC)
        )
        assert np.array_equal(square_pixels(p, None, 96), np.asarray(plain))


def test_steps_change_nothing_that_is_seen():
    p = photograph(4000)
    a, b = (
        crop_square(p, None, 96),
        p.crop((667, 0, 3333, 2666)).resize((96, 96), Image.Resampling.BICUBIC),
    )
    assert np.abs(np.asarray(a).astype(int) - np.asarray(b)).max() <= 3


# ---------------------------------------------------------------- films


def film(
    path, frames, codec='mpeg4', pix_fmt='yuv420p', rate=10, options=None, **settings
):
    with av.open(str(path), 'w') as c:
        v = c.add_stream(codec, rate=rate, options=options or {})
        v.height, v.width = frames[0].shape[:2]
        v.pix_fmt = pix_fmt
        for key, value in settings.items():
            setattr(v.codec_context, key, value)
        for x in frames:
            f = av.VideoFrame.from_ndarray(x, 'rgba' if x.shape[2] == 4 else 'rgb24')
            c.mux(v.encode(f.reformat(format=pix_fmt)))
        c.mux(v.encode(None))
    return path


def levels(path, n) -> list:
    return [np.asarray(p).mean() for p in read_frames(path, n)]


@pytest.mark.parametrize(
    'shape, size', [((4, 3), (213, 120)), ((1, 2), (80, 120)), ((1, 1), (160, 120))]
)
def test_pixels_that_are_not_square(tmp_path, shape, size):
    f = film(
        tmp_path / 'x.mp4',
        [COLOUR] * 3,
        'libx264',
        sample_aspect_ratio=Fraction(*shape),
    )
    assert read_frames(f, 1)[0].size == size


def test_two_moments_in_a_frame(tmp_path):
    "A bar stands left in the even rows and right in the odd ones."
    woven = np.zeros((120, 160, 3), np.uint8)
    woven[::2, 20:60] = 255
    woven[1::2, 100:140] = 255
    f = film(
        tmp_path / 'x.mkv',
        [woven] * 4,
        'libx264',
        options={'x264-params': 'interlaced=1', 'qp': '1'},
    )
    with av.open(str(f)) as c:
        assert next(c.decode(video=0)).interlaced_frame
    got = np.asarray(read_frames(f, 1)[0])[..., 0].mean(0)
    assert got[30:50].min() > 200 and got[110:130].max() < 55


@pytest.mark.parametrize(
    'codec, pix_fmt, ending',
    [
        ('qtrle', 'argb', 'mov'),
        ('prores_ks', 'yuva444p10le', 'mov'),
        ('libvpx-vp9', 'yuva420p', 'webm'),
        ('libx265', 'yuv420p10le', 'mkv'),
        ('ffv1', 'yuv444p16le', 'mkv'),
    ],
)
def test_deep_and_transparent_films(tmp_path, codec, pix_fmt, ending):
    clear = 'a' in pix_fmt.replace('yuva', 'a').replace('argb', 'a')
    x = np.zeros((64, 64, 4 if clear else 3), np.uint8)
    x[16:48, 16:48, :3] = 200, 60, 50
    if clear:
        x[16:48, 16:48, 3] = 255
    p = read_frames(film(tmp_path / f'x.{ending}', [x] * 3, codec, pix_fmt), 1)[0]
    assert np.abs(np.array(p.getpixel((32, 32))) - [200, 60, 50]).max() < 12
    assert (min(p.getpixel((4, 4))) > 245) == clear


def test_frames_at_uneven_distances(tmp_path):
    "Nine seconds of dark in one frame, one second of light in ten: the dark is nine tenths of the film."
    f = tmp_path / 'x.mkv'
    with av.open(str(f), 'w') as c:
        v = c.add_stream('ffv1', rate=10)
        v.width, v.height, v.pix_fmt = 64, 64, 'bgr0'
        for t, level in [(0, 10), *((90 + i, 200) for i in range(10))]:
            frame = av.VideoFrame.from_ndarray(
                np.full((64, 64, 3), level, np.uint8), 'rgb24'
            )
            frame.pts, frame.time_base = t, Fraction(1, 10)
            c.mux(v.encode(frame.reformat(format='bgr0')))
        c.mux(v.encode(None))
    assert [round(x) for x in levels(f, 2)] == [10] and [
        round(x) for x in levels(f, 20)
    ] == [10, 200, 200]


@pytest.mark.parametrize('seconds', [4, 40])
@pytest.mark.parametrize(
    'codec, ending', [('ffv1', 'mkv'), ('mpeg4', 'avi'), ('mpeg4', 'mp4')]
)
def test_a_film_cut_short(tmp_path, codec, ending, seconds):
    n = 10 * seconds
    frames = [np.full((64, 64, 3), 20 + 200 * i // n, np.uint8) for i in range(n)]
    options = dict(g='10')
    f = tmp_path / f'x.{ending}'
    with av.open(
        str(f), 'w', options=dict(movflags='faststart') if ending == 'mp4' else {}
    ) as c:
        v = c.add_stream(codec, rate=10, options=options)
        v.width = v.height = 64
        v.pix_fmt = 'bgr0' if codec == 'ffv1' else 'yuv420p'
        for x in frames:
            c.mux(
                v.encode(
                    av.VideoFrame.from_ndarray(x, 'rgb24').reformat(format=v.pix_fmt)
                )
            )
        c.mux(v.encode(None))
    data = f.read_bytes()
    with gather_notes() as notes:
        assert np.allclose(np.diff(levels(f, 4)), 50, atol=6) and not notes
    f.write_bytes(data[: len(data) * 3 // 5])
    with gather_notes() as notes:
        got = levels(f, 4)
    if ending != 'avi':  # ffmpeg takes its length from the size of the file
        assert len(notes) == 1 and 'film ends after' in notes[0].text
    assert len(got) == 4 and 15 < got[0] < got[1] < got[2] < got[3] < 20 + 200 * 0.75
    assert np.ptp(np.diff(got)) < 16, 'at even distances'


# ---------------------------------------------------------------- a corpus


def corpus(folder, rows, workers=1, **params):
    (folder / 'pairs.csv').write_text(
        '\n'.join(['audio,image,video,label', *rows]) + '\n'
    )
    p = CorpusParams(
        reader='folder', source='pairs.csv', valid_fraction=0, test_fraction=0, **params
    )
    write_corpus(p, folder / 'out', folder, workers)
    return Corpus(folder / 'out')


@pytest.mark.parametrize('workers', [1, 2])
def test_notes_end_in_the_table(tmp_path, workers):
    photograph(300).save(tmp_path / 'good.jpg')
    (tmp_path / 'cut.jpg').write_bytes((tmp_path / 'good.jpg').read_bytes()[:-2])
    (tmp_path / 'lost.jpg').write_bytes((tmp_path / 'good.jpg').read_bytes()[:900])
    (tmp_path / 'deep.tif').write_bytes(SAVED['tiff 12'][0])
    with gather_notes() as notes:
        made = corpus(
            tmp_path,
            [f',{f},,x' for f in ('good.jpg', 'cut.jpg', 'lost.jpg', 'deep.tif')],
            workers,
        )
    said = dict(zip(made.rejected.file, made.rejected.reason))
    assert (
        len(made.table) == 3
        and set(said) == {'cut.jpg', 'lost.jpg', 'deep.tif'}
        and not notes
    )
    assert 'was used: ' in said['cut.jpg'] and 'was used: ' in said['deep.tif']
    assert 'used' not in said['lost.jpg']


def test_frames_are_cut_and_photographs_scaled(tmp_path):
    "A square of 480 pixels in the middle of both is red."
    a = np.zeros((720, 1280, 3), np.uint8)
    a[120:600, 400:880, 0] = 255
    Image.fromarray(a).save(tmp_path / 'photograph.png')
    film(tmp_path / 'film.mp4', [a] * 3)
    made = corpus(tmp_path, [',photograph.png,,x', ',,film.mp4,y'])
    red = {
        r.label: (made.picture(r.frames[0])[..., 0] > 128).mean()
        for r in made.table.itertuples()
    }
    assert red['y'] > 0.99 and abs(red['x'] - (480 / 720) ** 2) < 0.02


# ---------------------------------------------------------------- small inputs of the kinds people bring


@pytest.mark.skipif(not CASES.is_dir(), reason='the cases are not beside the checkout')
def test_cases():
    plain = read(CASES / 'rgb.png')[0]
    for name in ('i16.png', 'la.png', 'rgba.png', 'exif6.jpg', 'rgb.png'):
        with Image.open(CASES / name) as p:
            assert np.array_equal(read(p)[0], read(CASES / name)[0]), name
    assert plain.shape == read(CASES / 'exif6.jpg')[0].shape
    pixels, notes = read(CASES / 'no_eoi.jpg')
    assert len(notes) == 1 and pixels.std() > 10
    for name in ('f_001.tif', 'i32.tif', 'avif_named.jpg'):
        pixels, _ = read(CASES / name)
        assert 40 < pixels.mean() < 215 and pixels.std() > 10, name
