"""A folder of sounds to embeddings: `embed_files` against a loop with librosa and transformers.

Both have the same WavLM of base size. The loop embeds every file whole. Ours embeds windows of 2 s, the last one
reaching back, so that an embedding depends on its file alone and memory on no length: for these files 1.4 times as
much sound.

    make bench                                    # 200 files: wav, flac, ogg; 8 to 48 kHz; 0.5 to 5 s
    python benchmarks/bulk.py --files 1000
"""

import functools, itertools, tempfile
from pathlib import Path

import librosa
import numpy as np
import pyarrow.parquet as pq
import soundfile as sf
import torch

from side_by_side import begin, in_turn, options, record, similar
from wavbrivl.api.pictures import WavBriVL
from wavbrivl.image_text.brivl import BriVL
from wavbrivl.search.bulk import embed_files
from wavbrivl.core.params import AudioParams, BrivlParams
from wavbrivl.core.runtime import named_rng
from wavbrivl.media.sound import SAMPLE_RATE, load_audio
from wavbrivl.audio.tower import AudioTower, embed_clips, compile_for_inference
from wavlm import BASE, label, same_weights


def generated(root: Path, files: int, folders: int, longest: float) -> list:
    "Folders of tones in noise, every file another rate, length and format."
    rng = named_rng('bulk')
    made = [root / str(i) for i in range(folders)]
    for f in made:
        f.mkdir()
    for i in range(files):
        rate = int(rng.choice([8000, 16000, 22050, 44100, 48000]))
        seconds = rng.uniform(0.5, longest)
        t = np.arange(round(rate * seconds)) / rate
        tone = 0.3 * np.sin(2 * np.pi * rng.uniform(100, 2000) * t)
        ending = ('wav', 'flac', 'ogg')[i % 3]
        noise = 0.05 * rng.standard_normal(len(t))
        sf.write(made[i % folders] / f'{i:05d}.{ending}', tone + noise, rate)
    return made


def plain_loop(model, folder: Path, device: str):
    "What one would write first: file by file, the mean of the last hidden states."
    out = []
    for f in sorted(folder.iterdir()):
        x, _ = librosa.load(f, sr=SAMPLE_RATE)
        hidden = model(torch.from_numpy(x)[None].to(device)).last_hidden_state
        out.append(hidden.mean(1).cpu())
    return torch.cat(out)


def new_models(o):
    "transformers' model, our tower with the same weights, and our model in each precision."
    theirs, wavlm = same_weights(o.quick, o.device)
    brivl = BriVL(BrivlParams(), text=False)
    tower = AudioTower(AudioParams() if o.quick else BASE, brivl.dim).eval()
    tower.wavlm = wavlm
    ours = {}
    for p in ('fp32', 'bf16'):
        model = WavBriVL(compile_for_inference(tower, p), brivl, None)
        ours[p] = model.to(o.device)
    return theirs, tower, ours


def time_ways(o, theirs, ours, folders, tables) -> dict:
    "Seconds of each way; every round takes another folder."

    def run_theirs(turns):
        plain_loop(theirs, next(turns), o.device)

    def run_ours(p, turns):
        embed_files(ours[p], next(turns), tables[p], progress=False)

    ways = dict(theirs=functools.partial(run_theirs, itertools.cycle(folders)))
    for p in ours:
        ways[p] = functools.partial(run_ours, p, itertools.cycle(folders))
    return in_turn(ways, o.times, o.device)


def compare_rows(o, tower, table) -> float:
    "Lowest cosine of the first rows with those of `embed_clips`."
    rows = pq.read_table(table)
    clips = [load_audio(f) for f in rows['file'].to_pylist()[:8]]
    want = embed_clips(tower.to(o.device), clips)[1]
    return similar(torch.tensor(rows['embedding'].to_pylist()[:8]), want)


@torch.no_grad()
def main(argv=None):
    p = options(__doc__, times=4)
    p.add_argument('--files', type=int, default=200)
    o = begin(p, argv)
    if o.quick:
        o.files = 6 * o.times
    theirs, tower, ours = new_models(o)
    with tempfile.TemporaryDirectory() as root:
        longest = 1.0 if o.quick else 5.0
        folders = generated(Path(root), o.files, o.times, longest)
        tables = {p: Path(root) / f'{p}.parquet' for p in ours}
        taken = time_ways(o, theirs, ours, folders, tables)
        files = o.files / o.times
        what = f'Folder of {o.files // o.times} mixed files, in windows of {tower.window:g} s, {label(o)}'
        for p in ours:
            embed_files(ours[p], folders[0], tables[p], progress=False)
            record(
                o,
                f'bulk_{p}',
                f'{what}, {p}',
                taken[p],
                'a loop of librosa and transformers',
                taken['theirs'],
                precision=p,
                cosine=compare_rows(o, tower, tables[p]),
                files_per_second=files / sorted(taken[p])[len(taken[p]) // 2],
            )


if __name__ == '__main__':
    main()
