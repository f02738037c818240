"""Every kind of file that people bring, what becomes of it and what is said: the table of the guide and its test.

`python tests/what_is_read.py --write` renews the table in nbs/guides/formats.ipynb.
"""

import io
import json
import re
import struct
import sys
import tempfile
import zipfile
import zlib
from collections import namedtuple
from pathlib import Path

import numpy as np

from sound_writers import by_ffmpeg, by_soundfile
from wavbrivl.core.files import BadInput, gather_notes

PAGE = Path(__file__).parents[1] / 'nbs/guides/formats.ipynb'
READ, NOTE, REFUSED = 'read', 'read, with a note', 'refused'

# what a user brings, its ending, how it is made, what becomes of it
Kind = namedtuple('Kind', 'name ending make outcome')


# ---------------------------------------------------------------- sounds


def chirp(rate=16000, seconds=2.0):
    "A rising tone, loud throughout."
    t = np.arange(int(rate * seconds)) / rate
    return (0.3 * np.sin(2 * np.pi * (300 + 200 * t) * t)).astype(np.float32)


def wav(x=None, rate=16000, subtype=None):
    return by_soundfile(chirp(rate) if x is None else x, rate, subtype, 'WAV')


def with_size(data, size):
    "A WAV whose header gives another size for its samples."
    at = data.index(b'data') + 4
    return data[:at] + struct.pack('<I', size) + data[at + 4 :]


def stereo(right):
    x = chirp()
    return wav(np.stack([x, right * x], 1))


def not_a_number():
    x = chirp()
    x[1000] = np.nan
    return wav(x, subtype='FLOAT')


def total_zero():
    "A FLAC that was streamed: its header counts no samples."
    data = bytearray(flac())
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    return bytes(data)


def encoded(kind, subtype=None):
    return by_soundfile(chirp(), 16000, subtype, kind)


def coded(codec, container, rate=48000):
    return by_ffmpeg(chirp(rate)[:, None], rate, codec, container)


def flac():
    return encoded('FLAC')


def mp3():
    return encoded('MP3')


def ogg():
    return encoded('OGG', 'VORBIS')


def cut(make, share):
    data = make()
    return data[: int(share * len(data))]


def page():
    return b'<!DOCTYPE html><html><body>404 Not Found</body></html>'


def archive():
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w') as z:
        z.writestr('dog.wav', wav())
    return out.getvalue()


def two_rates():
    return coded('aac', 'adts', 16000) + coded('aac', 'adts', 32000)


def silent_film():
    import av

    out = io.BytesIO()
    with av.open(out, 'w', format='mp4') as c:
        track = c.add_stream('mpeg4', rate=5)
        track.width = track.height = 32
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))
            c.mux(track.encode(frame))
        c.mux(track.encode(None))
    return out.getvalue()


SOUNDS = [
    Kind('WAV, 16 bit', 'wav', wav, READ),
    Kind('WAV, 8 bit', 'wav', lambda: wav(subtype='PCM_U8'), READ),
    Kind('WAV, 24 bit', 'wav', lambda: wav(subtype='PCM_24'), READ),
    Kind('WAV, float', 'wav', lambda: wav(subtype='FLOAT'), READ),
    Kind('WAV, mu-law', 'wav', lambda: wav(subtype='ULAW'), READ),
    Kind('WAV, ADPCM', 'wav', lambda: wav(subtype='IMA_ADPCM'), READ),
    Kind('WAV, 192 kHz', 'wav', lambda: wav(rate=192000), READ),
    Kind('WAV of unknown length', 'wav', lambda: with_size(wav(), 2**31 - 1), READ),
    Kind('RF64', 'wav', lambda: encoded('RF64'), READ),
    Kind('W64', 'w64', lambda: encoded('W64'), READ),
    Kind('AIFF', 'aiff', lambda: encoded('AIFF'), READ),
    Kind('AU', 'au', lambda: encoded('AU'), READ),
    Kind('CAF', 'caf', lambda: encoded('CAF'), READ),
    Kind('FLAC', 'flac', flac, READ),
    Kind('FLAC that was streamed', 'flac', total_zero, READ),
    Kind('MP3', 'mp3', mp3, READ),
    Kind('two MP3 joined', 'mp3', lambda: mp3() + mp3(), READ),
    Kind('Ogg Vorbis', 'ogg', ogg, READ),
    Kind('two Ogg joined', 'ogg', lambda: ogg() + ogg(), READ),
    Kind('Opus', 'opus', lambda: encoded('OGG', 'OPUS'), READ),
    Kind('AAC', 'aac', lambda: coded('aac', 'adts'), READ),
    Kind('M4A, ALAC', 'm4a', lambda: coded('alac', 'mov'), READ),
    Kind('WMA', 'wma', lambda: coded('wmav2', 'asf'), READ),
    Kind('AAC, its rate changes', 'aac', two_rates, READ),
    Kind('two WAV joined', 'wav', lambda: wav() + wav(), READ),
    Kind('two FLAC joined', 'flac', lambda: flac() + flac(), READ),
    Kind('AC-3', 'ac3', lambda: coded('ac3', 'ac3', 48000), READ),
    Kind('sound of a film', 'mkv', lambda: coded('libopus', 'matroska'), READ),
    Kind('channels that cancel out', 'wav', lambda: stereo(-1), NOTE),
    Kind('WAV, its last fifth missing', 'wav', lambda: cut(wav, 0.8), NOTE),
    Kind('WAV, most of it missing', 'wav', lambda: cut(wav, 0.3), REFUSED),
    Kind('samples that are no numbers', 'wav', not_a_number, REFUSED),
    Kind('an empty file', 'wav', bytes, REFUSED),
    Kind('a header without samples', 'wav', lambda: wav()[:44], REFUSED),
    Kind('a web page named MP3', 'mp3', page, REFUSED),
    Kind('a ZIP named WAV', 'wav', archive, REFUSED),
    Kind('text named WAV', 'wav', lambda: b'Dear all, here it is.', REFUSED),
    Kind('a picture named WAV', 'wav', lambda: picture('PNG'), REFUSED),
    Kind('a playlist', 'm3u', lambda: b'#EXTM3U\nhttp://x.org/a.mp3\n', REFUSED),
    Kind('a film without sound', 'mp4', silent_film, REFUSED),
]


# ---------------------------------------------------------------- pictures


def shades(mode='RGB', side=64):
    "A picture with a light and a dark half."
    from PIL import Image

    a = np.full((side, side, 3), 60, np.uint8)
    a[:, side // 2 :] = (220, 180, 90)
    return Image.fromarray(a).convert(mode)


def picture(kind, mode='RGB', **options):
    out = io.BytesIO()
    shades(mode).save(out, kind, **options)
    return out.getvalue()


def array_picture(a, kind='TIFF'):
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(a).save(out, kind)
    return out.getvalue()


def ramp(dtype, full):
    return np.linspace(0, full, 64 * 64).reshape(64, 64).astype(dtype)


def turned():
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    return picture('JPEG', exif=exif)


def animation():
    more = [shades().rotate(90)]
    return picture('GIF', save_all=True, append_images=more)


def noise_png():
    rng = np.random.default_rng(0)
    return array_picture(rng.integers(0, 256, (64, 64, 3), np.uint8), 'PNG')


def huge():
    "A PNG that says it has 10,000 million pixels."
    data = picture('PNG')
    head = b'IHDR' + struct.pack('>II', 100_000, 100_000) + data[24:29]
    check = struct.pack('>I', zlib.crc32(head))
    return data[:12] + head + check + data[33:]


def box(brand):
    return struct.pack('>I', 24) + b'ftyp' + brand + bytes(4) + brand + b'mif1'


PICTURES = [
    Kind('JPEG', 'jpg', lambda: picture('JPEG'), READ),
    Kind('JPEG, progressive', 'jpg', lambda: picture('JPEG', progressive=True), READ),
    Kind('JPEG, CMYK', 'jpg', lambda: picture('JPEG', 'CMYK'), READ),
    Kind('JPEG, turned by its EXIF', 'jpg', turned, READ),
    Kind('JPEG without its end', 'jpg', lambda: picture('JPEG')[:-2], NOTE),
    Kind('JPEG, its head alone', 'jpg', lambda: picture('JPEG')[:300], REFUSED),
    Kind('PNG', 'png', lambda: picture('PNG'), READ),
    Kind('PNG, transparent', 'png', lambda: picture('PNG', 'RGBA'), READ),
    Kind('PNG, grey and transparent', 'png', lambda: picture('PNG', 'LA'), READ),
    Kind('PNG, palette', 'png', lambda: picture('PNG', 'P'), READ),
    Kind('PNG, black and white', 'png', lambda: picture('PNG', '1'), READ),
    Kind('PNG, 16 bit', 'png', lambda: array_picture(ramp('u2', 65535), 'PNG'), READ),
    Kind('GIF, moving: its first picture', 'gif', animation, READ),
    Kind('WebP', 'webp', lambda: picture('WEBP'), READ),
    Kind('AVIF', 'avif', lambda: picture('AVIF'), READ),
    Kind('AVIF named JPEG', 'jpg', lambda: picture('AVIF'), READ),
    Kind('JPEG 2000', 'jp2', lambda: picture('JPEG2000'), READ),
    Kind('TIFF', 'tif', lambda: picture('TIFF'), READ),
    Kind('TIFF, float 0..1', 'tif', lambda: array_picture(ramp('f4', 1)), READ),
    Kind('TIFF, 32 bit', 'tif', lambda: array_picture(ramp('i4', 2**31 - 1)), NOTE),
    Kind('BMP', 'bmp', lambda: picture('BMP'), READ),
    Kind('PPM', 'ppm', lambda: picture('PPM'), READ),
    Kind('HEIC', 'heic', lambda: box(b'heic'), REFUSED),
    Kind('SVG', 'svg', lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>', REFUSED),
    Kind('PDF', 'pdf', lambda: b'%PDF-1.7\n%', REFUSED),
    Kind('PSD', 'psd', lambda: b'8BPS\0\1' + bytes(40), REFUSED),
    Kind('PNG, its last third missing', 'png', lambda: cut(noise_png, 0.7), NOTE),
    Kind('JPEG XL', 'jxl', lambda: b'\xff\x0a' + bytes(40), REFUSED),
    Kind('EPS', 'eps', lambda: b'%!PS-Adobe-3.0 EPSF-3.0\n', REFUSED),
    Kind('DICOM', 'dcm', lambda: bytes(128) + b'DICM' + bytes(40), REFUSED),
    Kind('a sound named PNG', 'png', wav, REFUSED),
    Kind('a film named JPEG', 'jpg', silent_film, REFUSED),
    Kind('more pixels than memory', 'png', huge, REFUSED),
    Kind('a web page named JPEG', 'jpg', page, REFUSED),
    Kind('an empty file', 'png', bytes, REFUSED),
]


# ---------------------------------------------------------------- tables


def table(text, encoding='utf-8'):
    return lambda: text.encode(encoding)


PLAIN = 'audio,label\na.wav,dog\nb.wav,rain\n'
SEMICOLONS = PLAIN.replace(',', ';')
SHORT = 'audio,label,caption\na.wav,dog,a dog\nb.wav,rain\n'
LATER = 'audio,caption\na.wav,"dog\nb.wav,rain\nc.wav,"bell\n'
UNCLOSED = 'audio,caption\na.wav,dog\nb.wav,"rain\nc.wav,bell\n'
LONG = f'audio,caption\na.wav,"{"very " * 40_000}long"\nb.wav,rain\n'
EXTRA = 'audio,label\na.wav,dog\nb.wav,rain,wind\n'
LATIN = 'audio,caption\na.wav,café\nb.wav,rain\n'

TABLES = [
    Kind('commas', 'csv', table(PLAIN), READ),
    Kind('semicolons', 'csv', table(SEMICOLONS), READ),
    Kind('tabs', 'csv', table(PLAIN.replace(',', '\t')), READ),
    Kind(
        'capital heads, spaces', 'csv', table(PLAIN.replace('audio,', 'Audio, ')), READ
    ),
    Kind('byte order mark', 'csv', table(PLAIN, 'utf-8-sig'), READ),
    Kind('Windows line ends', 'csv', table(PLAIN.replace('\n', '\r\n')), READ),
    Kind('UTF-16', 'csv', table(PLAIN, 'utf-16'), READ),
    Kind('a first line sep=;', 'csv', table('sep=;\n' + SEMICOLONS), READ),
    Kind('a very long caption', 'csv', table(LONG), READ),
    Kind('label NA', 'csv', table(PLAIN.replace('dog', 'NA')), READ),
    Kind('a row with a cell too many', 'csv', table(EXTRA), NOTE),
    Kind('a row with a cell too few', 'csv', table(SHORT), NOTE),
    Kind('a quote closed rows later', 'csv', table(LATER), REFUSED),
    Kind('a workbook named CSV', 'csv', archive, REFUSED),
    Kind('Latin-1', 'csv', table(LATIN, 'latin-1'), REFUSED),
    Kind('a quote that is never closed', 'csv', table(UNCLOSED), REFUSED),
    Kind('no column of files', 'csv', table('name,label\na,dog\n'), REFUSED),
    Kind('an empty file', 'csv', bytes, REFUSED),
]


# ---------------------------------------------------------------- what becomes of each


def hear(path):
    from wavbrivl.media.sound import load_audio

    x = load_audio(path)
    assert np.abs(x).mean() > 0.05, 'a loud sound was read as a soft one'


def see(path):
    from wavbrivl.media.pictures import load_picture

    a = np.asarray(load_picture(path).convert('L'), float)
    assert a.std() > 30 and 60 < a.mean() < 200, 'a picture lost its contrast'


def look_up(path):
    "Read a table of two rows; rows that are not used are named in notes."
    from wavbrivl.core.files import note_file
    from wavbrivl.core.params import CorpusParams
    from wavbrivl.data.manifest import Record
    from wavbrivl.data.prepare import records

    params = CorpusParams(reader='folder', source=path.name)
    found = list(records(params, path.parent))
    clips = [r for r in found if isinstance(r, Record)]
    others = [r.reason for r in found if not isinstance(r, Record)]
    assert len(clips) + len(others) >= 2, 'a row is missing'
    for reason in others:
        note_file(path, reason)


AREAS = dict(
    sounds=('Sounds', SOUNDS, hear),
    pictures=('Pictures', PICTURES, see),
    tables=('Tables', TABLES, look_up),
)


def outcome(kind, read):
    "Make the file, read it: what became of it, and what was said."
    with tempfile.TemporaryDirectory() as d:
        path = Path(d) / f'file.{kind.ending}'
        path.write_bytes(kind.make())
        try:
            with gather_notes() as notes:
                read(path)
        except BadInput as e:
            return REFUSED, str(e).replace(f'{d}/', '')
    said = ' '.join(n.text for n in notes)
    return (NOTE if notes else READ), said


# ---------------------------------------------------------------- the table


def rows(area):
    "Markdown rows of one area."
    _, kinds, read = AREAS[area]
    for kind in kinds:
        became, said = outcome(kind, read)
        said = re.sub(r'\s+', ' ', said).replace('|', '\\|')
        yield f'| {kind.name} | {became} | {said} |'


def markdown():
    "The whole table."
    lines = []
    for area, (title, *_) in AREAS.items():
        lines += [f'## {title}', '| what it is | what becomes of it | what is said |']
        lines += ['|---|---|---|', *rows(area), '']
    return '\n'.join(lines).rstrip()


def cell(page):
    "The page's cell that holds the table."
    return next(c for c in page['cells'] if c['id'] == 'kinds')


def written():
    return ''.join(cell(json.loads(PAGE.read_text('utf-8')))['source'])


def write():
    page = json.loads(PAGE.read_text('utf-8'))
    cell(page)['source'] = markdown().splitlines(keepends=True)
    text = json.dumps(page, indent=1, sort_keys=True, ensure_ascii=False)
    PAGE.write_text(text + '\n', 'utf-8')


if __name__ == '__main__':
    write() if '--write' in sys.argv else print(markdown())
