"What the generation chapter cannot tell well: chunks, company, sick sounds, files, bad input."

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from wavbrivl.teachers.teacher import as_teacher
from wavbrivl.image_text.brivl import BriVL
from wavbrivl.image_text.inputs import normalise_imagenet
from wavbrivl.core.files import BadInput
from wavbrivl.core.params import BrivlParams
from wavbrivl.core.picture_params import GuidanceParams, VqganParams
from wavbrivl.core.runtime import derive_seed
from wavbrivl.generation.cutouts import (
    cutouts,
    decode_straight_through,
    draw_cuts,
    guidance_gradient,
    homography,
    uncut_score,
    spherical_distance,
    warp_pictures,
)
from wavbrivl.generation.guidance import (
    as_frame,
    search_pictures,
    guide_windows,
    write_film,
    rerank,
    write_similarities,
    start_codes,
)


pytestmark = pytest.mark.usefixtures('one_thread')


class Codec(nn.Module):
    "The smallest thing with a VQGAN's face: a linear map of 4 x 4 patches."

    def __init__(self, size=32):
        super().__init__()
        self.config, self.stride = VqganParams(size=size, codes=16, embed=4), 4
        self.codebook = nn.Parameter(torch.randn(16, 4))
        self.there, self.back = nn.Conv2d(3, 4, 4, 4), nn.ConvTranspose2d(4, 3, 4, 4)

    def encode(self, x):
        return self.there(x)

    def decode(self, z):
        return self.back(z).tanh()

    def lookup(self, indices):
        return self.codebook[indices].movedim(-1, 1)

    def quantise(self, z):
        indices = (
            torch.cdist(z.movedim(1, -1).flatten(0, 2), self.codebook)
            .argmin(1)
            .view(len(z), *z.shape[2:])
        )
        return z + (self.lookup(indices) - z).detach(), indices, z.new_zeros(())


@pytest.fixture(scope='module')
def models():
    torch.manual_seed(3)
    return Codec(), BriVL(BrivlParams(image_size=32), text=False).eval()


@pytest.fixture(scope='module')
def wanted(models):
    return F.normalize(
        torch.randn(3, models[1].dim, generator=torch.Generator().manual_seed(1)),
        dim=-1,
    )


QUICK = GuidanceParams(steps=4, cutouts=3, chunk=6)
generators = lambda *seeds: [torch.Generator().manual_seed(s) for s in seeds]


def test_distance_is_the_angle():
    for degrees in (1, 30, 90, 150, 179):
        t = math.radians(degrees)
        d = spherical_distance(
            torch.tensor([[1.0, 0]]), torch.tensor([[math.cos(t), math.sin(t)]])
        )
        assert abs(d.item() - t * t / 2) < 1e-3
    for b in (torch.eye(3)[0], -torch.eye(3)[0]):
        a = torch.eye(3)[0].clone().requires_grad_()
        spherical_distance(a, b).backward()
        assert a.grad.isfinite().all()


def test_homography_puts_corners_where_they_shall_be():
    to = torch.tensor([[-1.2, -0.8], [0.9, -1.1], [1.3, 1.0], [-0.7, 0.6]]).double()
    corners = torch.tensor([[-1.0, -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1]]).double()
    p = corners @ homography(to[None])[0].T
    assert torch.allclose(p[:, :2] / p[:, 2:], to)
    x = torch.rand(2, 3, 8, 8)
    assert torch.allclose(warp_pictures(x, torch.eye(3).expand(2, 3, 3)), x, atol=1e-6)
    turned = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]).expand(2, 3, 3)
    assert torch.allclose(
        warp_pictures(x, turned), torch.rot90(x, 1, (2, 3)), atol=1e-5
    ) or torch.allclose(warp_pictures(x, turned), torch.rot90(x, -1, (2, 3)), atol=1e-5)


@pytest.mark.parametrize('size', [16, 32, 48])
def test_cutouts_have_gradients_and_no_company(size):
    x = torch.rand(
        3, 3, 32, 32, generator=torch.Generator().manual_seed(2)
    ).requires_grad_()
    all_three = cutouts(x, 4, size, generators(5, 6, 7))
    assert all_three.shape == (12, 3, size, size)
    all_three.square().sum().backward()
    assert x.grad.isfinite().all() and (x.grad.abs().sum((1, 2, 3)) > 0).all()
    assert torch.equal(all_three[4:8], cutouts(x[1:2], 4, size, generators(6))), (
        'a picture meets the same cuts whoever is beside it'
    )
    again = cutouts(x, 4, size, generators(5, 6, 7))
    assert torch.equal(all_three, again) and not torch.equal(
        all_three[:4], cutouts(x[:1], 4, size, generators(8))
    )
    assert cutouts(x[:0], 4, size, []).shape == (0, 3, size, size)
    with pytest.raises(BadInput, match='2 generators for 3'):
        cutouts(x, 4, size, generators(1, 2))


def test_cuts_keep_to_their_ranges():
    c = draw_cuts(generators(1), 4000, 0.1)
    untouched = lambda v, rest: (
        torch.isclose(v, torch.tensor(rest)).all(1).float().mean().item()
    )
    assert abs(untouched(c.colour, [1.0, 1, 1, 0]) - 0.3) < 0.04
    assert ((c.colour[:, :3] - 1).abs() <= 0.1 + 1e-6).all() and (
        c.colour[:, 3].abs() <= 0.1
    ).all()
    side = c.hole[:, 2:] - c.hole[:, :2]
    assert (
        abs((side.prod(1) == 0).float().mean().item() - 0.3) < 0.04
        and side.prod(1).max() <= 0.2501
    )
    assert (
        c.hole.min() >= 0
        and c.hole.max() <= 1 + 1e-6
        and 0 <= c.noise.min()
        and c.noise.max() <= 0.1
    )
    assert c.seed.unique().numel() == 4000


def test_chunks_change_nothing_but_roundings(models, wanted):
    codec, brivl = models
    x, cuts = torch.rand(3, 3, 32, 32), draw_cuts(generators(1, 2, 3), 5)
    whole_loss, whole_gradient = guidance_gradient(brivl, x, wanted, cuts, 100)
    for chunk in (1, 4, 7):
        loss, gradient = guidance_gradient(brivl, x, wanted, cuts, chunk)
        assert torch.allclose(loss, whole_loss, atol=1e-5) and torch.allclose(
            gradient, whole_gradient, atol=1e-6 + 1e-3 * whole_gradient.abs().max()
        )
    made = [
        search_pictures(codec, brivl, wanted, QUICK.model_copy(update=dict(chunk=c)))
        for c in (1, 4, 64)
    ]
    for m in made[:2]:
        assert torch.allclose(m.losses, made[2].losses, atol=1e-4) and torch.allclose(
            m.score, made[2].score, atol=1e-3
        )


def test_gradient_is_that_of_the_loss(models, wanted):
    "The chunked gradient against one backward through everything."
    _, brivl = models
    x = torch.rand(2, 3, 32, 32).requires_grad_()
    brivl = brivl.for_inference()
    seen = brivl.encode_image(normalise_imagenet(cutouts(x, 3, 32, generators(1, 2))))
    loss = (
        spherical_distance(seen, wanted[:2].repeat_interleave(3, 0)).view(2, 3).mean(1)
    )
    loss.sum().backward()
    ours, gradient = guidance_gradient(
        brivl, x.detach(), wanted[:2], draw_cuts(generators(1, 2), 3), 4
    )
    assert torch.allclose(ours, loss, atol=1e-5) and torch.allclose(
        gradient, x.grad, atol=1e-3 * x.grad.abs().max()
    )


def test_peak_is_bounded_by_the_chunk(models, wanted):
    codec, brivl = models
    seen = []
    hook = brivl.image.register_forward_pre_hook(
        lambda m, args: seen.append(len(args[0]))
    )
    quick = as_teacher(brivl)
    quick.for_inference = lambda: quick  # the hook stays on its tower
    search_pictures(
        codec, quick, wanted.repeat(3, 1), QUICK.model_copy(update=dict(steps=1))
    )
    hook.remove()
    assert max(seen) == 6 and sum(n == 6 for n in seen) == 4 and seen.count(3) == 1, (
        'nine sounds of three cuts, six at once'
    )


def test_a_sound_does_not_depend_on_company(models, wanted):
    codec, brivl = models
    together = search_pictures(codec, brivl, wanted, QUICK, names=['a', 'b', 'c'])
    alone = search_pictures(codec, brivl, wanted[1:2], QUICK, names=['b'])
    assert (
        torch.allclose(together.losses[:, 1], alone.losses[:, 0], atol=1e-4)
        and abs(together.score[1] - alone.score[0]) < 1e-3
    )
    other = search_pictures(codec, brivl, wanted[1:2], QUICK, names=['x'])
    assert not torch.allclose(other.losses, alone.losses, atol=1e-4)


def test_what_comes_back_is_what_was_scored(models, wanted):
    codec, brivl = models
    before = {
        k: v.clone()
        for k, v in [*codec.state_dict().items(), *brivl.state_dict().items()]
    }
    looked = []
    made = search_pictures(
        codec, brivl, wanted, QUICK, watch=lambda *a: looked.append(a)
    )
    assert torch.allclose(
        made.score, uncut_score(brivl, made.pictures, wanted), atol=1e-4
    )
    shown = (
        decode_straight_through(codec, codec.lookup(made.indices))[0] * 255
        - made.pictures
    ).abs()
    assert shown.max() <= 0.51, 'the codes are those of the picture'
    assert [s for s, *_ in looked] == [0, 1, 2, 3] and torch.equal(
        torch.stack([l for *_, l in looked]), made.losses
    )
    assert made.stopped == [''] * 3 and all(
        p.grad is None and p.requires_grad for m in models for p in m.parameters()
    )
    assert all(
        torch.equal(v, before[k])
        for k, v in [*codec.state_dict().items(), *brivl.state_dict().items()]
    )


class Breaks(Codec):
    "Decodes its second sound to NaN, once."

    calls, at = 0, ()

    def decode(self, z):
        self.calls += 1
        bad = (torch.arange(len(z)) == len(z) - 1) & (self.calls in self.at)
        return torch.where(bad[:, None, None, None], math.nan, super().decode(z))


def test_a_sick_sound_stops_alone(models, wanted):
    codec, brivl = models
    well, sick, dead = (
        search_pictures(codec, brivl, wanted[:2], QUICK),
        Breaks(),
        Breaks(),
    )
    for c in (sick, dead):
        c.load_state_dict(codec.state_dict())
    sick.at, dead.at = (3,), range(99)
    made = search_pictures(sick, brivl, wanted[:2], QUICK)
    assert (
        made.stopped[0] == ''
        and 'step 2' in made.stopped[1]
        and 'kept' in made.stopped[1]
    )
    assert torch.allclose(
        made.losses[:, 0], well.losses[:, 0], atol=1e-4
    ) and torch.allclose(made.losses[:2, 1], well.losses[:2, 1], atol=1e-4)
    assert (
        made.losses[2:, 1].isnan().all()
        and made.score.isfinite().all()
        and made.pictures[1].float().std() > 0
    )
    none = search_pictures(dead, brivl, wanted[:1], QUICK)
    assert (
        none.score.isnan().all()
        and 'no picture' in none.stopped[0]
        and none.losses.isnan().all()
    )


@pytest.mark.parametrize('size', [16, 64])
def test_codec_and_tower_of_different_sizes(size, models, wanted):
    torch.manual_seed(0)
    made = search_pictures(Codec(size), models[1], wanted[:1], QUICK)
    assert made.pictures.shape == (1, 3, size, size) and made.losses.isfinite().all()


def test_no_sound_one_sound(models, wanted):
    codec, brivl = models
    for start, kind in (
        (None, 'noise'),
        (torch.zeros(0, 3, 8, 8, dtype=torch.uint8), 'picture'),
    ):
        none = search_pictures(
            codec, brivl, wanted[:0], QUICK.model_copy(update=dict(start=kind)), start
        )
        assert (
            none.pictures.shape == (0, 3, 32, 32)
            and none.losses.shape == (4, 0)
            and none.stopped == []
        )
    assert search_pictures(codec, brivl, wanted[0:1].numpy(), QUICK).indices.shape == (
        1,
        8,
        8,
    )


def test_starts(models, wanted):
    codec, brivl = models
    picture = torch.randint(0, 256, (2, 3, 50, 50), dtype=torch.uint8)
    g = lambda: generators(1, 2)
    noise = start_codes(codec, 'noise', None, g())
    assert torch.equal(
        noise[1:], start_codes(codec, 'noise', None, g()[1:])
    ) and not torch.equal(noise[0], noise[1])
    assert (
        torch.cdist(noise.movedim(1, -1).reshape(-1, 4), codec.codebook)
        .min(1)
        .values.max()
        < 1e-3
    ), 'every one is a code'
    assert start_codes(codec, 'retrieved', picture, g()).shape == noise.shape
    still = GuidanceParams(steps=1, cutouts=1, lr=1e-9)
    codes = torch.randint(0, 16, (2, 8, 8))
    assert torch.equal(
        search_pictures(codec, brivl, wanted[:2], still, codes).indices, codes
    ), 'codes may be given as they are'
    begun = search_pictures(
        codec,
        brivl,
        wanted[:2],
        still.model_copy(update=dict(start='picture')),
        picture,
    )
    assert torch.equal(
        begun.indices,
        codec.quantise(
            codec.encode(
                F.interpolate(picture / 255, (32, 32), mode='bilinear') * 2 - 1
            )
        )[1],
    )


def test_the_rate_fits_any_codebook(models, wanted):
    "A codec whose codes are ten times as large, and mean the same, is searched alike."
    codec, brivl = models

    class Tenfold(Codec):
        def decode(self, z):
            return super().decode(z / 10)

    large = Tenfold()
    large.load_state_dict(codec.state_dict())
    large.codebook.data *= 10
    a, b = (search_pictures(c, brivl, wanted[:2], QUICK) for c in (codec, large))
    assert torch.allclose(a.losses, b.losses, atol=1e-3) and torch.allclose(
        a.score, b.score, atol=1e-2
    )


def test_bad_input(models, wanted):
    codec, brivl = models
    broken = wanted.clone()
    broken[1, 5] = math.nan
    with pytest.raises(BadInput, match='row 1 of wanted is not finite'):
        search_pictures(codec, brivl, broken, QUICK)
    with pytest.raises(BadInput, match='row 2 of wanted is all zeros'):
        search_pictures(codec, brivl, torch.cat((wanted[:2], wanted[:1] * 0)), QUICK)
    with pytest.raises(BadInput, match='joint space'):
        search_pictures(codec, brivl, wanted[:, :5], QUICK)
    with pytest.raises(BadInput, match='2 names for 3'):
        search_pictures(codec, brivl, wanted, QUICK, names=['a', 'b'])
    with pytest.raises(BadInput, match="'retrieved'.*3 sounds"):
        search_pictures(
            codec, brivl, wanted, QUICK.model_copy(update=dict(start='retrieved'))
        )
    with pytest.raises(BadInput, match="guidance.start is 'noise'"):
        search_pictures(
            codec, brivl, wanted, QUICK, torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
        )


def recorded(answer=lambda z, share, noise, wanted: z):
    "A prior, and what it was asked: (z, share, noise, wanted)."
    asked = []

    def prior(z, share, noise, wanted):
        asked.append((z.clone(), share, noise.clone(), wanted.clone()))
        return answer(z, share, noise, wanted)

    return prior, asked


softly = lambda z, share, noise, wanted: (
    (1 - share) * z + share * noise.roll(1, 2)
)  # something that minds all it is told
ASKED = QUICK.model_copy(update=dict(steps=7, prior_interval=3, chunk=64))


def test_a_prior_is_asked_now_and_then_with_less_and_less_noise(models, wanted):
    codec, brivl = models
    prior, asked = recorded()
    when = []
    search_pictures(
        codec,
        brivl,
        wanted,
        ASKED,
        prior=prior,
        watch=lambda step, *_: when.append(len(asked)),
    )
    assert [share for _, share, *_ in asked] == pytest.approx(
        [1, 4 / 7, 1 / 7]
    ) and when == [1, 1, 1, 2, 2, 2, 3]
    assert torch.allclose(
        asked[0][0],
        start_codes(
            codec,
            'noise',
            None,
            [
                torch.Generator().manual_seed(derive_seed('guide', 0, n))
                for n in range(3)
            ],
        ),
        atol=1e-5,
    ), 'z as the codec has it'
    unit = F.normalize(torch.as_tensor(wanted), dim=1)
    assert all(torch.allclose(w.cpu(), unit, atol=1e-5) for *_, w in asked)
    from_picture, asked = recorded()
    search_pictures(
        codec,
        brivl,
        wanted,
        ASKED.model_copy(update=dict(start='picture')),
        torch.zeros(3, 3, 32, 32, dtype=torch.uint8),
        prior=from_picture,
    )
    assert asked[0][1] == 0.6, 'a picture to start from is not lost in noise'
    in_pieces, pieces = recorded()
    search_pictures(
        codec, brivl, wanted, ASKED.model_copy(update=dict(chunk=6)), prior=in_pieces
    )
    assert [len(z) for z, *_ in pieces] == [2, 1] * 3, (
        'as many sounds at once as fill a chunk'
    )


def test_what_a_prior_says_is_where_the_search_goes_on(models, wanted):
    codec, brivl = models
    still = ASKED.model_copy(update=dict(lr=1e-9))
    forced = search_pictures(
        codec,
        brivl,
        wanted,
        still,
        prior=lambda z, share, noise, wanted: codec.codebook[9][
            :, None, None
        ].expand_as(z),
    )
    assert (forced.indices == 9).all()
    late = lambda z, share, noise, wanted: codec.codebook[2 if share < 0.5 else 9][
        :, None, None
    ].expand_as(z)
    looked = []
    last = search_pictures(
        codec,
        brivl,
        wanted,
        still,
        prior=late,
        watch=lambda step, seen, loss: looked.append(seen),
    )
    assert (
        (last.indices == 2).all()
        and torch.equal(last.pictures, looked[-1])
        and not torch.equal(looked[5], looked[6])
    )
    either = torch.stack(
        [uncut_score(brivl, x, wanted) for x in (looked[5], looked[6])]
    )
    assert (either[0] > either[1]).any(), (
        'else this could not tell the last from the best'
    )
    assert torch.allclose(last.score, either[1], atol=1e-4), (
        'under a prior the last picture counts'
    )
    bare = search_pictures(codec, brivl, wanted, ASKED)
    assert (
        bare.score
        >= search_pictures(codec, brivl, wanted, ASKED, prior=lambda z, *_: z).score
        - 1e-4
    ).all(), 'without one the best does'


def test_without_a_prior_nobody_is_asked(models, wanted):
    codec, brivl = models
    prior, asked = recorded(softly)
    never = search_pictures(
        codec,
        brivl,
        wanted,
        ASKED.model_copy(update=dict(prior_interval=0)),
        prior=prior,
    )
    bare = search_pictures(codec, brivl, wanted, ASKED)
    assert (
        not asked
        and torch.equal(never.losses, bare.losses)
        and torch.equal(never.pictures, bare.pictures)
    )
    assert not torch.allclose(
        search_pictures(codec, brivl, wanted, ASKED, prior=prior).losses,
        bare.losses,
        atol=1e-3,
    )


def test_a_sounds_noise_is_its_own(models, wanted):
    codec, brivl = models
    (prior, among), (other, alone) = recorded(softly), recorded(softly)
    together = search_pictures(
        codec, brivl, wanted, ASKED, names=['a', 'b', 'c'], prior=prior
    )
    single = search_pictures(codec, brivl, wanted[1:2], ASKED, names=['b'], prior=other)
    for (_, _, many, _), (_, _, one, _) in zip(among, alone):
        assert torch.equal(many[1], one[0]) and not torch.equal(many[0], many[1])
    assert not torch.equal(among[0][2], among[1][2])
    noise = torch.cat([n for _, _, n, _ in among])
    assert abs(noise.mean()) < 0.15 and abs(noise.std() - 1) < 0.1
    assert torch.allclose(together.losses[:, 1], single.losses[:, 0], atol=1e-4)
    pieces = search_pictures(
        codec,
        brivl,
        wanted,
        ASKED.model_copy(update=dict(chunk=3)),
        names=['a', 'b', 'c'],
        prior=softly,
    )
    assert torch.allclose(pieces.losses, together.losses, atol=1e-4) and torch.allclose(
        pieces.score, together.score, atol=1e-3
    )


def test_a_prior_that_breaks_stops_that_sound_alone(models, wanted):
    codec, brivl = models

    def breaks(z, share, noise, wanted):
        return torch.where(
            (torch.arange(len(z)) == 1)[:, None, None, None]
            & (share < 1)
            & (len(z) == 3),
            math.nan,
            softly(z, share, noise, wanted),
        )

    well, made = (
        search_pictures(codec, brivl, wanted, ASKED, prior=p) for p in (softly, breaks)
    )
    assert (
        made.stopped[::2] == ['', '']
        and 'step 3' in made.stopped[1]
        and 'kept' in made.stopped[1]
    )
    assert torch.allclose(
        made.losses[:, ::2], well.losses[:, ::2], atol=1e-4
    ) and torch.allclose(made.losses[:3], well.losses[:3], atol=1e-4)
    assert (
        made.losses[3:, 1].isnan().all()
        and made.score.isfinite().all()
        and made.pictures[1].float().std() > 0
    )


def test_windows_go_on_from_each_other(models, wanted):
    codec, brivl = models
    frames = guide_windows(codec, brivl, wanted, QUICK, share=0.5, name='long')
    first = search_pictures(codec, brivl, wanted[:1], QUICK, names=['long'])
    second = search_pictures(
        codec,
        brivl,
        wanted[1:2],
        QUICK.model_copy(update=dict(steps=2)),
        first.indices,
        ['long'],
    )
    assert torch.equal(frames[0], first.pictures[0]) and torch.equal(
        frames[1], second.pictures[0]
    )
    assert guide_windows(codec, brivl, wanted[:0], QUICK).shape == (0, 3, 32, 32)


def test_rerank():
    order, best = rerank([[0.1, 0.5, 0.3], [2.0, 2, 1]])
    assert order.tolist() == [[1, 2, 0], [0, 1, 2]] and best.tolist() == [1, 0]
    w, c = torch.randn(4, 8), torch.randn(4, 5, 8)
    order, best = rerank(w, c)
    assert torch.equal(
        best, F.cosine_similarity(w[:, None], c, dim=-1).argmax(1)
    ) and torch.equal(rerank(3 * w, 7 * c)[0], order)
    assert rerank(torch.zeros(0, 3))[1].shape == (0,)
    with pytest.raises(BadInput, match='row 1 has a candidate'):
        rerank([[1.0, 2], [1, math.nan]])
    with pytest.raises(BadInput, match='at least one candidate'):
        rerank(torch.zeros(2, 0))
    with pytest.raises(BadInput, match=r'candidates must be'):
        rerank(w, c[:3])


def test_similarity_files_hold_what_the_tool_computes(tmp_path):
    g = torch.Generator().manual_seed(0)
    a = 3 * torch.randn(9, 6, generator=g)
    b = a + 2 * torch.randn(9, 6, generator=g)
    recalls = write_similarities(a, b, tmp_path / 'made')
    read = {f.stem: np.load(f) for f in (tmp_path / 'made').glob('*.npy')}
    assert set(read) == {
        'np_img',
        'np_text',
        'scores',
        'indices_img2text',
        'indices_text2img',
    }
    assert read['np_img'].dtype == np.float32 and np.allclose(
        np.linalg.norm(read['np_text'], axis=1), 1, atol=1e-6
    )
    truth = torch.arange(9).view(9, 1)
    for name, s in (
        ('img2text', torch.from_numpy(read['scores'])),
        ('text2img', torch.from_numpy(read['scores']).T),
    ):
        indices = torch.argsort(s, descending=True)
        assert np.array_equal(indices.numpy(), read[f'indices_{name}'])
        assert recalls[name] == pytest.approx(
            100 * (indices == truth).float().cumsum(1)[:, 0].mean().item(), abs=1e-4
        )
    assert 0 < recalls['img2text'] < 100
    with pytest.raises(BadInput, match='row by row'):
        write_similarities(a, b[:5], tmp_path)


@pytest.mark.parametrize('suffix', ['.gif', '.mp4', '.MP4'])
def test_moving_pictures_can_be_read_again(tmp_path, suffix):
    import av
    from PIL import Image

    levels = [20, 120, 220]
    path = write_film(
        [torch.full((3, 33, 65), v, dtype=torch.uint8) for v in levels],
        tmp_path / f'film{suffix}',
        fps=2,
    )
    if suffix == '.gif':
        with Image.open(path) as film:
            found = []
            for k in range(film.n_frames):
                film.seek(k)
                found.append(
                    (
                        np.asarray(film.convert('L')).mean(),
                        film.size,
                        film.info['duration'],
                    )
                )
        assert all(size == (65, 33) and ms == 500 for _, size, ms in found)
    else:
        with av.open(str(path)) as film:
            found = [
                (f.to_ndarray(format='gray').mean(), f.width, float(f.time))
                for f in film.decode(video=0)
            ]
        assert [t for *_, t in found] == [0, 0.5, 1.0] and all(
            w == 66 for _, w, _ in found
        )
    assert np.allclose([f[0] for f in found], levels, atol=12) and [
        p.name for p in tmp_path.iterdir()
    ] == [path.name]


def test_moving_picture_refuses(tmp_path):
    frame = np.zeros((8, 8, 3), np.uint8)
    for frames, name, fps, words in (
        ([frame], 'a.avi', 2, 'gif or .mp4'),
        ([], 'a.gif', 2, 'no frames'),
        ([frame, frame[:4]], 'a.gif', 2, 'different sizes'),
        ([frame], 'a.mp4', 0, 'frames per second'),
        ([frame / 1.0], 'a.gif', 2, 'uint8'),
        ([frame[..., 0]], 'a.gif', 2, 'three channels'),
    ):
        with pytest.raises(BadInput, match=words):
            write_film(frames, tmp_path / name, fps)
    assert not list(tmp_path.iterdir())
    assert as_frame(torch.zeros(3, 4, 6, dtype=torch.uint8)).shape == (4, 6, 3)
