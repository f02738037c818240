"""A folder of sounds to embeddings: `embed_files` against a loop with librosa and transformers.

Both have the same WavLM of base size. The loop embeds every file whole. Ours embeds windows of 2 s, the last one
reaching back, so that an embedding depends on its file alone and memory on no length: for these files 1.4 times as
much sound.

    make bench                                    # 200 files: wav, flac, ogg; 8 to 48 kHz; 0.5 to 5 s
    python benchmarks/bulk.py --files 1000
"""

import itertools, tempfile
from pathlib import Path

import librosa
import numpy as np
import pyarrow.parquet as pq
import soundfile as sf
import torch

from side_by_side import begin, in_turn, options, record, similar
from wavbrivl.api.folder import WavBriVL
from wavbrivl.image_text.brivl import BriVL
from wavbrivl.app.bulk import embed_files
from wavbrivl.core.params import AudioParams, BrivlParams
from wavbrivl.core.runtime import named_rng
from wavbrivl.media.sound import SAMPLE_RATE, load_audio
from wavbrivl.audio.tower import AudioTower, embed_clips, compile_for_inference
from wavlm import BASE, label, same_weights


def generated(root: Path, files: int, folders: int, longest: float) -> list:
    "Folders of tones in noise, every file another rate, length and format."
    rng, made = named_rng('bulk'), [root / str(i) for i in range(folders)]
    for f in made:
        f.mkdir()
    for i in range(files):
        rate, seconds = (
            int(rng.choice([8000, 16000, 22050, 44100, 48000])),
            rng.uniform(0.5, longest),
        )
        t = np.arange(round(rate * seconds)) / rate
        x = 0.3 * np.sin(
            2 * np.pi * rng.uniform(100, 2000) * t
        ) + 0.05 * rng.standard_normal(len(t))
        sf.write(
            made[i % folders] / f'{i:05d}.{("wav", "flac", "ogg")[i % 3]}', x, rate
        )
    return made


def plain_loop(model, folder: Path, device: str):
    "What one would write first: file by file, the mean of the last hidden states."
    out = []
    for f in sorted(folder.iterdir()):
        x, _ = librosa.load(f, sr=SAMPLE_RATE)
        out.append(
            model(torch.from_numpy(x)[None].to(device)).last_hidden_state.mean(1).cpu()
        )
    return torch.cat(out)


@torch.no_grad()
def main(argv=None):
    p = options(__doc__, times=4)
    p.add_argument('--files', type=int, default=200)
    o = begin(p, argv)
    if o.quick:
        o.files = 6 * o.times
    theirs, wavlm = same_weights(o.quick, o.device)
    brivl = BriVL(BrivlParams(), text=False)
    tower = AudioTower(AudioParams() if o.quick else BASE, brivl.dim).eval()
    tower.wavlm = wavlm
    ours = {
        p: WavBriVL(compile_for_inference(tower, p), brivl, None).to(o.device)
        for p in ('fp32', 'bf16')
    }
    with tempfile.TemporaryDirectory() as root:
        folders = generated(
            Path(root), o.files, o.times, 1.0 if o.quick else 5.0
        )  # each round takes another folder
        table = lambda p: Path(root) / f'{p}.parquet'

        def run(p, turns):
            embed_files(ours[p], next(turns), table(p), progress=False)

        taken = in_turn(
            {
                'theirs': lambda turns=itertools.cycle(folders): plain_loop(
                    theirs, next(turns), o.device
                )
            }
            | {
                p: lambda p=p, turns=itertools.cycle(folders): run(p, turns)
                for p in ours
            },
            o.times,
            o.device,
        )
        for p in ours:
            embed_files(ours[p], folders[0], table(p), progress=False)
            rows = pq.read_table(table(p))
            want = embed_clips(
                tower.to(o.device),
                [load_audio(f) for f in rows['file'].to_pylist()[:8]],
            )[1]
            got = torch.tensor(rows['embedding'].to_pylist()[:8])
            record(
                o,
                f'bulk_{p}',
                f'Folder of {o.files // o.times} mixed files, in windows of {tower.window:g} s, {label(o)}, {p}',
                taken[p],
                'a loop of librosa and transformers',
                taken['theirs'],
                precision=p,
                cosine=similar(got, want),
                files_per_second=o.files
                / o.times
                / sorted(taken[p])[len(taken[p]) // 2],
            )


if __name__ == '__main__':
    main()
