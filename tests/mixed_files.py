"""A folder of every kind of file people bring, and a table of it through kills.

`python tests/mixed_files.py 2000` embeds 2,000 such files, kills the run five times, and compares the table with that
of an undisturbed run, byte for byte, and each row with the sound that the file was made of.
"""

import io
import multiprocessing
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from sound_writers import by_ffmpeg, by_soundfile

RATE = 16_000
# name of a file -> (ending, what libsndfile is told)
SNDFILE = {
    'wav': ('.wav', dict(format='WAV')),
    'wave': ('.WAVE', dict(format='WAV', subtype='PCM_24')),
    'float': ('.wav', dict(format='WAV', subtype='FLOAT')),
    'ulaw': ('.wav', dict(format='WAV', subtype='ULAW')),
    'rf64': ('.rf64', dict(format='RF64')),
    'w64': ('.w64', dict(format='W64')),
    'flac': ('.flac', dict(format='FLAC')),
    'ogg': ('.ogg', dict(format='OGG', subtype='VORBIS')),
    'oga': ('.oga', dict(format='OGG', subtype='VORBIS')),
    'opus': ('.opus', dict(format='OGG', subtype='OPUS')),
    'mp3': ('.mp3', dict(format='MP3')),
    'aif': ('.aif', dict(format='AIFF')),
    'au': ('.au', dict(format='AU')),
    'caf': ('.caf', dict(format='CAF')),
}
# name of a file -> (ending, ffmpeg's container, codec)
FFMPEG = {
    'm4a': ('.m4a', 'mp4', 'aac'),
    'aac': ('.aac', 'adts', 'aac'),
    'mka': ('.mka', 'matroska', 'libopus'),
    'wma': ('.wma', 'asf', 'wmav2'),
    'wv': ('.wv', 'wv', 'wavpack'),
    'tta': ('.tta', 'tta', 'tta'),
    'ac3': ('.ac3', 'ac3', 'ac3'),
}
FILMS = {
    'mp4': ('.mp4', 'mp4', 'aac'),
    'm4v': ('.m4v', 'mp4', 'aac'),
    'mov': ('.mov', 'mov', 'aac'),
    'mkv': ('.mkv', 'matroska', 'aac'),
    'avi': ('.avi', 'avi', 'pcm_s16le'),
    'mpg': ('.mpg', 'mpeg', 'mp2'),
    '3gp': ('.3gp', '3gp', 'aac'),
}
# a wrong ending, or none: name -> (ending, the file it is)
MISNAMED = {
    'bare': ('', 'flac'),
    'dat': ('.dat', 'mp3'),
    'backup': ('.wav~', 'wav'),
    'mp3.wav': ('.wav', 'mp3'),
    'wav.mp3': ('.mp3', 'wav'),
    'flac.jpg': ('.jpg', 'flac'),
    'm4a.bin': ('.bin', 'm4a'),
}
# least cosine where the encoder shifts a sound and the file does not say so
FAITHFUL = dict.fromkeys('.wma .mpg .mp2 .ac3 .aac'.split(), 0.8) | {'.opus': 0.9}
PICTURES = dict(jpg='JPEG', png='PNG', gif='GIF', bmp='BMP', tif='TIFF', webp='WEBP')
PICTURES |= dict(ppm='PPM', avif='AVIF', jp2='JPEG2000')


def tone(i: int) -> np.ndarray:  # [n] float32
    "A sound that no other number has: its pitch and its length."
    n = RATE // 2 + 800 * (i % 23)
    hz = 200 * 1.03 ** (i % 89)
    return (0.3 * np.sin(2 * np.pi * hz / RATE * np.arange(n))).astype(np.float32)


def sound_bytes(kind: str, x: np.ndarray) -> bytes:
    "The bytes of a file of a kind."
    if kind in MISNAMED:
        return sound_bytes(MISNAMED[kind][1], x)
    if kind in SNDFILE:
        how = SNDFILE[kind][1]
        return by_soundfile(x, RATE, how.get('subtype'), how['format'])
    _, container, codec = FFMPEG.get(kind) or FILMS[kind]
    coded = 48_000 if codec in ('libopus', 'ac3', 'mp2', 'wmav2') else RATE
    return by_ffmpeg(x[:, None], RATE, codec, container, coded, kind in FILMS)


def picture_bytes(kind: str, i: int) -> bytes:
    colours = np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(colours.repeat(6, 0).repeat(6, 1)).save(data, PICTURES[kind])
    return data.getvalue()


SOUND_KINDS = [*SNDFILE, *FFMPEG, *FILMS, *MISNAMED]
# files that are no sounds but have the ending of one: each is named, with a word of the reason
BAD = {
    'empty.wav': (b'', 'empty'),
    'letter.mp3': (b'Dear reader, ' * 90, 'neither'),
    'photo.wav': (picture_bytes('png', 0), ''),
}
# passed over without a word
OTHERS = {
    'notes.txt': b'BMW and ID3 and RIFF are words',
    'table.csv': b'file,label\na.wav,dog\n',
    '._0001.wav': b'\0\5\x16\7',
    '.hidden.wav': b'RIFF',
    'Thumbs.db': b'\xd0\xcf\x11\xe0',
    'desktop.ini': b'[x]',
    '__MACOSX/._a.wav': b'\0\5\x16\7',
    '.git/a.wav': b'RIFF',
    'utf16.log': 'a log in UTF-16'.encode('utf-16'),
}


def write_mixture(
    folder: Path, n: int
) -> dict:  # path -> number of its tone; None: it must be named
    "Write `n` sounds of all kinds, in folders and a shard, among files that are none."
    folder.mkdir(parents=True)
    for d in ('a b', 'ä/[deep]'):
        (folder / d).mkdir(parents=True)
    places = ('', 'a b', 'ä/[deep]')
    made = {}
    for i in range(n):
        kind = SOUND_KINDS[i % len(SOUND_KINDS)]
        known = SNDFILE | FFMPEG | FILMS | MISNAMED
        path = folder / places[i % 3] / f'{i:05d}{known[kind][0]}'
        path.write_bytes(sound_bytes(kind, tone(i)))
        made[str(path)] = i
    for name, (data, _) in BAD.items():
        (folder / 'a b' / name).write_bytes(data)
        made[str(folder / 'a b' / name)] = None
    for name, data in OTHERS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    for k, kind in enumerate(PICTURES):
        (folder / f'picture {k}.{kind}').write_bytes(picture_bytes(kind, k))
    (folder / 'a b/round').symlink_to(folder)
    return made | write_shard(folder / 'shard.tar', n, 12)


def write_shard(path: Path, first: int, n: int) -> dict:
    "Write a tar with sounds, and with files that are passed over."
    made = {}
    with tarfile.open(path, 'w') as tar:
        for i in range(first, first + n):
            kind = SOUND_KINDS[i % len(SOUND_KINDS)]
            known = SNDFILE | FFMPEG | FILMS | MISNAMED
            add_member(tar, f'./x/{i:05d}{known[kind][0]}', sound_bytes(kind, tone(i)))
            made[f'::./x/{i:05d}{known[kind][0]}'] = i
        for name in ('x/._1.wav', '__MACOSX/x/1.wav', 'x/1.json', 'x/.DS_Store'):
            add_member(tar, name, b'{}')
    return made


def add_member(tar, name: str, data: bytes):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def key_of(file: str) -> str:
    "A member is known by its name in the shard."
    return '::' + file.split('::', 1)[1] if '::' in file else file


def check_table(made: dict, out: Path, model) -> list:  # what is wrong, as sentences
    "Each file is a row that is right, or named; nothing else is there."
    table = pd.read_parquet(out)
    rows = {key_of(f): k for k, f in enumerate(table.file)}
    rejected = pd.read_csv(out.with_suffix('.rejected.csv')).file
    named = {key_of(f) for f in rejected}
    wrong = [f'{f}: not asked for' for f in (rows.keys() | named) - made.keys()]
    wrong += [f'{f}: lost' for f in made.keys() - (rows.keys() | named)]
    wrong += [f'{f}: a row and named' for f in rows.keys() & named]
    for f, i in made.items():
        if i is None:
            wrong += [f'{f}: a row'] if f in rows else []
        elif f in rows:
            wrong += check_row(f, tone(i), table.iloc[rows[f]], model)
    return wrong


def check_row(file: str, x: np.ndarray, row, model) -> list:
    "Compare a row with the sound its file was made of."
    faults = []
    if abs(row.seconds - len(x) / RATE) > 0.15:  # encoders fill up their last frame
        faults.append(f'{file}: {row.seconds:.2f} s instead of {len(x) / RATE:.2f} s')
    wanted = model.embed_audio([x], RATE)[0]
    least = FAITHFUL.get(Path(file).suffix, 0.97)
    if (cosine := float(row.embedding @ wanted)) < least:
        faults.append(f'{file}: cosine {cosine:.3f}')
    return faults


def embed_here(model, folder, out, part: int):
    "Embed a folder with a model's folder, on one thread."
    import torch
    from wavbrivl.api.pictures import WavBriVL
    from wavbrivl.search.bulk import embed_files

    torch.set_num_threads(1)
    opened = WavBriVL.from_pretrained(model, 'cpu')
    embed_files(opened, folder, out, part=part, progress=False)


def embed(context, model, folder, out, part: int, kill: bool = False) -> bool:
    "Embed in a process of its own; with `kill`, end it at a random moment after it made a part. Was it finished?"
    process = context.Process(target=embed_here, args=(model, folder, out, part))
    process.start()
    parts = lambda: len(list(Path(f'{out}.parts').glob('0*.parquet')))
    before = parts()
    while kill and process.is_alive() and parts() == before:
        time.sleep(0.01)
    if kill and process.is_alive():
        time.sleep(float(np.random.default_rng().uniform(0, 0.3)))
        process.kill()
    process.join()
    return process.exitcode == 0


def killed_and_whole(box: Path, context, n: int, kills: int, part: int) -> dict:
    "Embed a mixture undisturbed and through kills; return what was written, as `write_mixture` does."
    made = write_mixture(box / 'mixture', n)
    job = context, box / 'model', box / 'mixture'
    embed(*job, box / 'whole.parquet', part)
    done = [embed(*job, box / 'killed.parquet', part, True) for _ in range(kills)]
    print(f'{kills - sum(done)} runs were killed', file=sys.stderr)
    embed(*job, box / 'killed.parquet', part)
    return made


def differing(box: Path) -> list:
    "Names of the files of the two runs that differ."
    endings = ('.parquet', '.rejected.csv', '.notes.csv')
    pairs = [(box / f'killed{e}', box / f'whole{e}') for e in endings]
    return [a.name for a, b in pairs if a.read_bytes() != b.read_bytes()]


def small_model(seed: int = 0):
    "A small untrained model."
    import torch
    from tiny import SMALL
    from wavbrivl.api.pictures import WavBriVL
    from wavbrivl.audio.tower import AudioTower
    from wavbrivl.core.params import BrivlParams
    from wavbrivl.image_text.brivl import BriVL

    torch.manual_seed(seed)
    text = dict(vocab=60, hidden=32, layers=1, heads=2, ffn=32)
    brivl = BriVL(BrivlParams(image_size=32, text=text))
    return WavBriVL(AudioTower(SMALL, brivl.dim, 0.5), brivl, None)


if __name__ == '__main__':
    import tempfile

    n = int(sys.argv[1])
    box = Path(tempfile.mkdtemp())
    model = small_model()
    model.save_pretrained(box / 'model')
    context = multiprocessing.get_context('spawn')
    made = killed_and_whole(box, context, n, 5, max(8, n // 40))
    wrong = check_table(made, box / 'whole.parquet', model) + differing(box)
    print(*wrong[:50], sep='\n')
    rejected = pd.read_csv(box / 'whole.rejected.csv')
    print(rejected.assign(file=[Path(f).name for f in rejected.file]).to_string())
    print(f'{len(made)} files in {box}: {len(rejected)} named, {len(wrong)} wrong')
