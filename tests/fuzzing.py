"""What a fuzzer throws at the readers, and what must come back: a whole result, or one sentence.

    pip install atheris
    python tests/fuzzing.py sound --seconds 300     # sound, picture, table, model, index

runs a coverage-guided fuzzer on one reader. What it finds is mended and kept in tests/fuzz; `test_fuzzing.py` tries
it again in every run of the tests, with mutations of its own.
"""

import argparse
import io
import random
import shutil
import sys
import tempfile
import warnings
from functools import cache
from pathlib import Path

import numpy as np

from sound_writers import by_ffmpeg, by_soundfile
from wavbrivl.core.files import BadInput

FINDINGS = Path(__file__).parent / 'fuzz'
MAX_BYTES = 20_000  # of an input
HEAD = 16_000  # bytes of a larger file that are changed


@cache
def place():
    "A folder in memory that the inputs are written to."
    in_memory = Path('/dev/shm')
    return Path(
        tempfile.mkdtemp(prefix='fuzz-', dir=in_memory if in_memory.is_dir() else None)
    )


# ---------------------------------------------------------------- seeds: small files that are right


def tone(rate=8000, seconds=0.3):
    t = np.arange(int(rate * seconds)) / rate
    return (0.3 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)


def sound_seeds():
    for kind in 'WAV FLAC AIFF AU CAF W64 RF64'.split():
        yield by_soundfile(tone(), 8000, None, kind)
    stereo = np.stack([tone(16000)] * 2, 1)
    for kind, subtype in (
        ('WAV', 'FLOAT'),
        ('WAV', 'IMA_ADPCM'),
        ('WAV', 'ULAW'),
        ('OGG', 'VORBIS'),
        ('OGG', 'OPUS'),
        ('MP3', 'MPEG_LAYER_III'),
    ):
        yield by_soundfile(stereo, 16000, subtype, kind)
    for container, codec in (
        ('adts', 'aac'),
        ('mp4', 'aac'),
        ('asf', 'wmav2'),
        ('matroska', 'libopus'),
        ('mp3', 'libmp3lame'),
        ('mov', 'alac'),
    ):
        yield by_ffmpeg(tone(48000)[:, None], 48000, codec, container)


def picture_seeds():
    from PIL import Image

    a = np.arange(24 * 20 * 4, dtype=np.uint8).reshape(20, 24, 4)
    rgba = Image.fromarray(a)
    for kind in 'PNG JPEG GIF BMP TIFF WEBP PPM AVIF JPEG2000'.split():
        for mode in ('RGB', 'RGBA', 'L', 'P', '1', 'CMYK', 'I;16'):
            out = io.BytesIO()
            try:
                rgba.convert(mode).save(out, kind)
            except (OSError, ValueError, KeyError):
                continue  # the format has no such pictures
            yield out.getvalue()


def table_seeds():
    yield b'audio,image,caption,label,fold\na.wav,a.png,"a dog, barking",dog,1\n'
    yield '\ufeffAudio; Caption\r\na.wav; "caf\u00e9"\r\n'.encode()
    yield b'audio\tlabel\tsplit\na.wav\tdog;cat\ttrain\n\n../b.wav\t\ttest\n'
    yield 'audio,label\na.wav,dog\n'.encode('utf-16')


@cache
def tiny_model():
    "A folder with a model of a few kilobytes."
    import torch

    from tiny import SMALL
    from wavbrivl.api.pictures import WavBriVL
    from wavbrivl.audio.tower import AudioTower
    from wavbrivl.core.params import BrivlParams
    from wavbrivl.image_text.brivl import BriVL
    from wavbrivl.image_text.inputs import train_tokenizer

    torch.manual_seed(0)
    words = train_tokenizer(['a dog barks', 'rain falls on a roof'], 60)
    text = dict(vocab=words.get_vocab_size(), hidden=8, layers=1, heads=2, ffn=8)
    brivl = BriVL(BrivlParams(image_size=32, text=text))
    model = WavBriVL(AudioTower(SMALL, brivl.dim, 0.5), brivl, words, dict(run='tiny'))
    folder = place() / 'model'
    model.save_pretrained(folder)
    return folder


@cache
def tiny_index():
    "A folder with an index of three sentences."
    from wavbrivl.api.pictures import WavBriVL
    from wavbrivl.search.index import index_files

    folder = place() / 'index'
    model = WavBriVL.from_pretrained(tiny_model(), 'cpu')
    sentences = ['a dog barks', 'rain falls', 'a roof']
    index_files(dict(text=sentences), folder, model, 'float32')
    return folder


def folder_seeds(folder):
    "The head of each file of a folder, behind the file's number: what `read_changed` takes."
    for i, f in enumerate(sorted(folder.iterdir())):
        yield bytes([i]) + f.read_bytes()[:HEAD]


# ---------------------------------------------------------------- readers: bytes in, a whole result or `BadInput`


def read_sound(data):
    from wavbrivl.media.sound import load_audio, probe_audio

    path = place() / 'sound'
    path.write_bytes(data)
    probe_audio(path)
    x = load_audio(path)
    assert x.dtype == np.float32 and x.ndim == 1 and len(x)
    assert np.isfinite(x).all()


def read_picture(data):
    from wavbrivl.media.pictures import load_picture

    path = place() / 'picture'
    path.write_bytes(data)
    picture = load_picture(path)
    assert picture.mode == 'RGB' and min(picture.size) > 0
    picture.load()


def read_table(data):
    from wavbrivl.core.params import CorpusParams
    from wavbrivl.data.prepare import records

    path = place() / 'pairs.csv'
    path.write_bytes(data)
    params = CorpusParams(reader='folder', source='pairs.csv')
    for found in records(params, place()):
        assert found is not None


def read_changed(folder, data, read):
    "Read a folder of which one file, numbered by the first byte, has another head."
    files = sorted(folder.iterdir())
    file = files[data[0] % len(files)]
    changed = place() / 'changed'
    shutil.rmtree(changed, ignore_errors=True)
    shutil.copytree(folder, changed)
    (changed / file.name).write_bytes(data[1:] + file.read_bytes()[HEAD:])
    read(changed)


def open_model(folder):
    from wavbrivl.api.pictures import WavBriVL

    model = WavBriVL.from_pretrained(folder, 'cpu')
    assert np.isfinite(model.embed_audio(tone(16000), 16000)).all()


def search_index(folder):
    from wavbrivl.search.index import Index

    index = Index.open(folder)
    scores, rows = index.search(np.ones((1, index.dim), np.float32), 2)
    assert np.isfinite(scores).all() and (rows < len(index)).all()
    index.hits(scores, rows)


def read_model(data):
    read_changed(tiny_model(), data, open_model)


def read_index(data):
    read_changed(tiny_index(), data, search_index)


TARGETS = dict(
    sound=(read_sound, sound_seeds),
    picture=(read_picture, picture_seeds),
    table=(read_table, table_seeds),
    model=(read_model, lambda: folder_seeds(tiny_model())),
    index=(read_index, lambda: folder_seeds(tiny_index())),
)


def seeds(target):
    "The small right files and what was found before."
    yield from TARGETS[target][1]()
    for f in sorted((FINDINGS / target).glob('*')):
        yield f.read_bytes()


def try_input(target, data):
    "Read one input; True where it was read, False where it was refused in a sentence."
    if not data:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            TARGETS[target][0](data)
        except BadInput as e:
            sentence = str(e)
            assert sentence.strip() and 'Traceback' not in sentence
            return False
    return True


# ---------------------------------------------------------------- mutations without a fuzzer


def mutate(data, rng):
    "Change a few bytes, cut a piece out, double one, or cut the end off."
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        if not data:
            break
        i = rng.randrange(len(data))
        j = min(len(data), i + rng.choice([1, 2, 4, 64, 1024]))
        kind = rng.choice('set flip cut double end number'.split())
        if kind == 'set':
            data[i] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, 34, 44, 10])
        elif kind == 'flip':
            data[i] ^= 1 << rng.randrange(8)
        elif kind == 'cut':
            del data[i:j]
        elif kind == 'double':
            data[i:i] = data[i:j]
        elif kind == 'end':
            del data[max(i, len(data) // 4) :]
        else:
            data[i : i + 4] = rng.choice([b'\xff' * 4, b'\0' * 4, b'\xff\xff\xff\x7f'])
    return bytes(data[:MAX_BYTES])


def mutations(target, seed=0):
    "Endless mutations of the seeds, the same in every run."
    rng = random.Random(f'{target}-{seed}')
    known = [s for s in seeds(target) if s]
    while True:
        yield mutate(rng.choice(known), rng)


# ---------------------------------------------------------------- the fuzzer


def fuzz(target, seconds, keep):
    "Run atheris; it stops at the first input that breaks a reader and leaves it in `keep`."
    import atheris

    with atheris.instrument_imports(include=['wavbrivl', 'PIL', 'soundfile', 'csv']):
        import wavbrivl.search.index  # noqa: F401
        import wavbrivl.data.corpus  # noqa: F401
        import wavbrivl.media.pictures  # noqa: F401
    corpus = keep / f'corpus-{target}'
    corpus.mkdir(parents=True, exist_ok=True)
    for i, data in enumerate(seeds(target)):
        (corpus / f'seed-{i:03d}').write_bytes(data[:MAX_BYTES])
    limits = '-timeout=20 -rss_limit_mb=3000 -malloc_limit_mb=1000'.split()
    options = [f'-max_total_time={seconds}', f'-max_len={MAX_BYTES}', *limits]
    found = f'-artifact_prefix={keep}/{target}-'
    arguments = [sys.argv[0], *options, found, str(corpus)]
    atheris.Setup(arguments, lambda data: try_input(target, data) and None)
    atheris.Fuzz()


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('target', choices=TARGETS)
    p.add_argument('--seconds', type=int, default=240)
    p.add_argument('--keep', type=Path, default=Path('build/fuzz'))
    a = p.parse_args()
    fuzz(a.target, a.seconds, a.keep)


if __name__ == '__main__':
    main()
