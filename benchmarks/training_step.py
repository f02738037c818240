"""One step of each training of the lab's own sizes, in fp32, beside the time that its matrix products alone would take.

A step draws a batch, runs forward and backward, and updates the weights. Time is the processor's, of one thread: what
runs beside it does not count. The floor is the step's FLOPs at the rate of a large matrix product, timed after
every step.

make bench
python benchmarks/training_step.py --times 9
"""

import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from side_by_side import begin, flops, options, record
from wavbrivl.audio.tower import AudioTower
from wavbrivl.audio.wav2clip import Wav2CLIPTower
from wavbrivl.core.params import AudioParams, BrivlParams, OptimParams
from wavbrivl.core.picture_params import DiffusionParams, VqganParams
from wavbrivl.decoders.diffusion import LatentDiffusion
from wavbrivl.decoders.vqgan import VQGAN
from wavbrivl.training.diffusion import DiffusionTask
from wavbrivl.training.image_text import ImageTextTask, new_brivl
from wavbrivl.training.loop import Task, Trainer
from wavbrivl.training.losses import make_loss
from wavbrivl.training.processes import OneDevice

DIM = 256


class HearingStep(Task):
    "A tower on crops of 2 s, against stored embeddings."

    def __init__(self, tower, n: int):
        super().__init__()
        self.loss = make_loss('moco', tower, DIM, 512, temperature=0.1)
        self.items = n
        self.waves = 0.1 * torch.randn(n, 32_000)
        self.pictures = F.normalize(torch.randn(n, DIM), dim=1)

    def batch(self, index, rng):
        lengths = torch.full((self.items,), 32_000)
        ids = torch.arange(self.items)
        return dict(waves=self.waves, lengths=lengths, pictures=self.pictures, ids=ids)

    def forward(self, waves, lengths, pictures, ids):
        return self.loss((waves, lengths), pictures, ids)


def make_brivl(n: int):
    "The image-text model's training, on random pictures and words."
    p, items = BrivlParams(), 2 * n
    alone = [np.array([i]) for i in range(items)]
    data = SimpleNamespace(
        pictures=torch.randint(256, (items, 3, 96, 96), dtype=torch.uint8),
        table=pd.DataFrame(dict(clip=range(items))),
        frames_of=alone,
        captions_of=alone,
        ids=torch.randint(5, 300, (items, 16)),
        lengths=torch.randint(5, 17, (items,)),
    )
    return ImageTextTask(new_brivl(p, 300), data, None)


def make_diffusion(n: int):
    "The diffusion model's training, on random latents."
    codec = VQGAN(VqganParams())
    latents = torch.randn(n, codec.config.embed, codec.side, codec.side)
    model = LatentDiffusion(DiffusionParams(), DIM, *latents.shape[1:3])
    return DiffusionTask(model, latents, F.normalize(torch.randn(n, 3, DIM), dim=-1))


def make_wavlm(n: int):
    "The audio tower's training."
    return HearingStep(AudioTower(AudioParams(), DIM), n)


def make_wav2clip(n: int):
    "The same of Wav2CLIP's tower."
    return HearingStep(Wav2CLIPTower(AudioParams(kind='wav2clip', width=32), DIM), n)


STEPS = dict(
    brivl=(make_brivl, 64, 'BriVL, 64 pictures of 64 px'),
    wavlm=(make_wavlm, 32, 'WavLM audio tower, 32 clips of 2 s'),
    wav2clip=(make_wav2clip, 32, 'Wav2CLIP audio tower, 32 clips of 2 s'),
    diffusion=(make_diffusion, 16, 'Diffusion, 16 pictures'),
)


def processor_seconds(call) -> float:
    "Seconds of this thread's processor time."
    began = time.thread_time()
    call()
    return time.thread_time() - began


def time_steps(step, times: int, side: int) -> tuple:
    "Seconds of every step, and of a matrix product [side, side] after each."
    x = torch.randn(side, side)
    product = lambda: x @ x
    step(), product()
    pairs = [
        (processor_seconds(step), processor_seconds(product)) for _ in range(times)
    ]
    return tuple(map(list, zip(*pairs)))


def measure(o, name: str):
    "Record one training's step."
    make, n, what = STEPS[name]
    n = 4 if o.quick else n
    side = 256 if o.quick else 2048
    torch.manual_seed(0)
    task, optim = make(n).train(), OptimParams(batch=n)
    fit = Trainer(task, optim, 0, None, OneDevice())
    step = lambda: fit.train_step(task, fit.optimizer, np.arange(n))
    work = flops(step)
    steps, products = time_steps(step, o.times, side)
    floor = work * min(products) / (2 * side**3)
    share = floor / sorted(steps)[len(steps) // 2]
    facts = dict(gflop=work / 1e9, floor_seconds=floor, share_of_floor=share)
    record(o, f'step_{name}', f'Training step, {what}, one thread', steps, **facts)


def main(argv=None):
    o = begin(options(__doc__), argv)
    if o.device != 'cpu':
        return print('training_step measures processor time; it has no row for a GPU.')
    torch.set_num_threads(1)
    for name in STEPS:
        measure(o, name)


if __name__ == '__main__':
    main()
