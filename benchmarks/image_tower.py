"""BriVL's image tower: the published steps one after the other, against `for_inference` with the same weights.

Official size, random weights: a depth of random layers enlarges every rounding (see `cosine_weights_rounded`: what is
left when only the CNN's weights are rounded to bf16 and all else is computed in fp32). How near bf16 is with trained
weights is shown by the lab's own tower, where `make repro` has left it.

    make bench                                       # 380 and 456 px, 4 pictures; the lab's, 64 pictures
    python benchmarks/image_tower.py --presets brivl-baai --batch 16
"""

import copy

import torch
import torch.nn.functional as F

from side_by_side import (
    ROOT,
    begin,
    flops,
    gap,
    in_turn,
    options,
    precisely,
    record,
    similar,
)
from wavbrivl.image_text.layers import grid_boxes
from wavbrivl.image_text.config import PRESETS
from wavbrivl.image_text.brivl import BriVL
from wavbrivl.image_text.inputs import normalise_imagenet, to_unit_range
from wavbrivl.core.params import BrivlParams
from wavbrivl.core.runtime import log
from wavbrivl.pipeline.lab import Lab
from wavbrivl.training.image_text import load_pictures


class PlainTower(torch.nn.Module):
    "The image tower as one would write it down: the CNN, then picture by picture, box by box."

    def __init__(self, tower):
        super().__init__()
        self.tower = tower

    def forward(self, pixels):
        "[N, 3, S, S] -> [N, D], unit norm."
        return torch.stack(
            [self.embed(fmap) for fmap in self.tower.backbone.forward_features(pixels)]
        )

    def sampled(self, fmap):
        "A grid of points in every box of the picture: [D, h, w] -> [boxes, D, g, g]."
        c = self.tower.config
        d, h, w = fmap.shape
        boxes = grid_boxes(c.box_grid, w, h).to(fmap.device, fmap.dtype)
        x1, y1, x2, y2 = boxes.unbind(1)
        theta = fmap.new_zeros(len(x1), 2, 3)
        theta[:, 0, 0] = (x2 - x1) / (w - 1)
        theta[:, 0, 2] = (x1 + x2 - w + 1) / (w - 1)
        theta[:, 1, 1] = (y2 - y1) / (h - 1)
        theta[:, 1, 2] = (y1 + y2 - h + 1) / (h - 1)
        points = F.affine_grid(
            theta, (len(x1), d, c.pool_grid, c.pool_grid), align_corners=False
        )
        return F.grid_sample(
            fmap.expand(len(x1), -1, -1, -1), points, align_corners=False
        )

    def embed(self, fmap):
        "One picture's map [D, h, w] -> [D]: sample, convolve, average a box, attend, average the boxes, MLP."
        parts = self.tower.learnable
        boxes = F.avg_pool2d(
            parts['max_pool'](self.sampled(fmap)), self.tower.config.pool_grid
        ).flatten(1)
        seen = parts['imgAtt'](F.normalize(boxes, dim=-1)[None])
        return F.normalize(parts['imgFC'](seen.mean(1)), dim=-1)[0]


def pictures(n: int, size: int, device: str):
    "n different pictures, coarse and fine: [n, 3, S, S]."
    return sum(
        F.interpolate(torch.randn(n, 3, s, s), (size, size), mode='bilinear')
        for s in (3, 9, 27, size)
    ).to(device)


def settled(brivl, pixels):
    "Random weights, but batch norms that have seen pictures, so that pictures do not all look alike."
    norms = [
        m
        for m in brivl.image.backbone.modules()
        if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)
    ]
    for m in norms:
        m.momentum = 1.0
    brivl.image.train().feature_map(pixels)
    return brivl.eval()


def rounded(tower):
    "The tower with its CNN's weights rounded to bf16, to be computed in fp32."
    tower = copy.deepcopy(tower)
    for p in tower.tower.backbone.parameters():
        p.copy_(p.bfloat16().float())
    return tower


def compare(o, name: str, label: str, brivl, pixels):
    "One tower, some pictures [N, 3, S, S]."
    plain = PlainTower(brivl.image)
    fast = {p: brivl.for_inference(precision=p) for p in ('fp32', 'bf16')}
    want = plain(pixels)
    work = flops(lambda: brivl.encode_image(pixels))

    def run(precision):
        with precisely(precision, o.device):
            return fast[precision].encode_image(pixels)

    taken = in_turn(
        {'theirs': lambda: plain(pixels)} | {p: lambda p=p: run(p) for p in fast},
        o.times,
        o.device,
    )
    others = (want @ want.T)[~torch.eye(len(want), dtype=bool, device=want.device)]
    for p in fast:
        near = (
            dict(error=gap(run(p), want))
            if p == 'fp32'
            else dict(cosine_weights_rounded=similar(rounded(plain)(pixels), want))
        )
        record(
            o,
            f'{name}_{p}' if p != 'fp32' else name,
            f'{label}, {p}',
            taken[p],
            'the published steps, fp32',
            taken['theirs'],
            work,
            p,
            **near,
            cosine=similar(run(p), want),
            cosine_other_pictures=others.mean().item(),
            ms_a_picture=1e3 * sorted(taken[p])[len(taken[p]) // 2] / len(pixels),
        )


def random_tower(o, config):
    "Random weights that have seen pictures, and the pictures."
    brivl = BriVL(config, text=False).to(o.device)
    pixels = pictures(o.batch, brivl.config.image_size, o.device)
    return settled(brivl, pixels), pixels


def trained_tower(o, n: int = 64):
    "The lab's tower and test pictures of its corpus."
    lab = Lab(root=ROOT)
    brivl = lab.brivl[0].to(o.device)
    return brivl, normalise_imagenet(
        to_unit_range(
            load_pictures(
                lab.corpus, [f[0] for f in lab.corpus.split('test').frames[:n]]
            ).to(o.device),
            brivl.config.image_size,
        )
    )


@torch.no_grad()
def main(argv=None):
    p = options(__doc__)
    p.add_argument('--presets', nargs='+', choices=PRESETS, default=list(PRESETS))
    p.add_argument('--batch', type=int, default=4)
    o = begin(p, argv)
    if o.quick:
        return compare(
            o, 'image_tower', 'Image tower, tiny', *random_tower(o, BrivlParams())
        )
    for preset in o.presets:
        size = PRESETS[preset]['image_size']
        compare(
            o,
            'image_tower' if preset == 'brivl-baai' else f'image_tower_{size}',
            f'BriVL image tower, {o.batch} pictures of {size} px',
            *random_tower(o, preset),
        )
    if not (ROOT / 'build' / 'brivl').exists():
        return log('image_tower: no tower of the lab is here; `make repro` trains one.')
    brivl, pixels = trained_tower(o)
    compare(
        o,
        'image_tower_lab',
        f"The lab's trained image tower, {len(pixels)} pictures of {brivl.config.image_size} px",
        brivl,
        pixels,
    )


if __name__ == '__main__':
    main()
