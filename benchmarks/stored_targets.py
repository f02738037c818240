"""One step of audio training, official size: stored targets against the frozen image tower in every step.

make bench                                   # WavLM base against 456 px, the papers' batch of 32, clips of 2 s
python benchmarks/stored_targets.py --preset brivl-baai --batch 8
"""

import tempfile

import torch

from side_by_side import begin, flops, gap, in_turn, options, record
from wavbrivl.image_text.config import PRESETS
from wavbrivl.image_text.brivl import BriVL
from wavbrivl.core.params import AudioParams, BrivlParams, OptimParams
from wavbrivl.core.picture_params import Params
from wavbrivl.core.runtime import pick_precision
from wavbrivl.training.losses import make_loss
from wavbrivl.media.sound import SAMPLE_RATE
from wavbrivl.training.processes import make_engine
from wavbrivl.training.loop import Trainer, Task
from wavbrivl.training.image_text import make_views
from wavbrivl.audio.tower import AudioTower
from wavlm import BASE

OFFICIAL = BASE.model_copy(update=dict(block_layers=4, freeze_conv=True))


class Step(Task):
    "Sounds beside pictures; the picture's embedding is stored, or made as the step needs it."

    def __init__(self, audio, brivl, waves, pictures, stored=None):
        super().__init__()
        self.loss = make_loss(
            'infonce', AudioTower(audio, brivl.dim), brivl.dim, temperature=0.1
        )
        self.frozen = (brivl,)  # a tuple: it is not trained
        self.waves = waves
        self.pictures = pictures
        self.stored = stored
        self.items = len(waves)

    @torch.no_grad()
    def targets(self, index):
        "Augment and embed the pictures of a batch: [N, D]."
        brivl = self.frozen[0]
        x = make_views(
            self.pictures[index],
            brivl.config.image_size,
            torch.Generator().manual_seed(0),
        )
        return brivl.encode_image(x.to(next(brivl.parameters()).device))

    def batch(self, index, rng):
        return dict(
            waves=self.waves[index],
            ids=index,
            pictures=self.targets(index) if self.stored is None else self.stored[index],
        )

    def forward(self, waves, pictures, ids):
        return self.loss((waves, None), pictures, ids)


def main(argv=None):
    p = options(__doc__)
    p.add_argument('--preset', choices=PRESETS, default='brivl-nmi')
    p.add_argument('--batch', type=int, default=32)
    o = begin(p, argv)
    if o.quick:
        o.batch = 8
    audio, config, side, seconds = (
        (AudioParams(), BrivlParams(), 96, 0.5)
        if o.quick
        else (OFFICIAL, o.preset, 480, 2.0)
    )
    brivl = (
        BriVL(config, text=False).to(o.device).eval()
    )  # as a training loop would hold it
    waves, pictures = (
        0.1 * torch.randn(o.batch, round(seconds * SAMPLE_RATE)),
        torch.randint(256, (o.batch, 3, side, side), dtype=torch.uint8),
    )
    index, optim = torch.arange(o.batch), OptimParams(lr=1e-4, batch=o.batch)
    engine, runs = make_engine(Params(device=o.device)), {}
    stored = Step(audio, brivl, waves, pictures).targets(index).cpu()
    for name, kept in dict(ours=stored, theirs=None).items():
        torch.manual_seed(0)
        fit = Trainer(
            Step(audio, brivl, waves, pictures, kept),
            optim,
            0,
            tempfile.gettempdir(),
            engine,
        )
        runs[name] = fit, *engine.prepare(fit.task, fit.optimizer)
    step = lambda name: runs[name][0].train_step(*runs[name][1:], index)
    losses = {k: step(k) for k in runs}
    work = flops(lambda: step('ours'))
    taken = in_turn({k: lambda k=k: step(k) for k in runs}, o.times, o.device)
    record(
        o,
        'stored_targets',
        f'Audio training step, {o.batch} clips of {seconds:g} s, targets stored',
        taken['ours'],
        'the frozen image tower in every step',
        taken['theirs'],
        work,
        pick_precision('auto', o.device),
        error=gap(stored, runs['theirs'][0].task.targets(index).cpu()),
        loss_gap=abs(losses['ours'] - losses['theirs']),
    )


if __name__ == '__main__':
    main()
