"What the diffusion chapter cannot tell well: company, names, guidance, levels, files, bad input, a killed training."

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from wavbrivl.core.files import BadFile, BadInput, read_json, write_json
from wavbrivl.core.picture_params import DiffusionParams, VqganParams
from wavbrivl.decoders.diffusion import (
    LatentDiffusion,
    encode_pictures,
    noise_scheduler,
    named_noise,
)
from wavbrivl.training.diffusion import DiffusionTask
from wavbrivl.generation.mosaic import Mosaic, window_distance
from wavbrivl.training.loop import Trainer
from wavbrivl.decoders.vqgan import VQGAN

TINY = DiffusionParams(
    ch=[16, 32],
    inference_steps=4,
    ema_decay=0.99,
    optim=dict(epochs=3, batch=4, lr=2e-3),
)


pytestmark = pytest.mark.usefixtures('one_thread')


def fresh(p=TINY, seed=0):
    "Random weights, none of them the zeros that some begin as, and a space of latents off centre."
    torch.manual_seed(seed)
    model = LatentDiffusion(p, dim=6, channels=4, side=8).eval()
    with torch.no_grad():
        for w in model.parameters():
            w.add_(0.05 * torch.randn_like(w))
        model.mean.copy_(torch.randn(4, 1, 1))
        model.deviation.copy_(0.5 + torch.rand(4, 1, 1))
    return model


@pytest.fixture(scope='module')
def model():
    return fresh()


@pytest.fixture(scope='module')
def codec():
    torch.manual_seed(1)
    return VQGAN(
        VqganParams(
            size=16, ch=8, ch_mult=[1, 2], attention=[], channels=8, embed=4, codes=32
        )
    ).eval()


@pytest.fixture(scope='module')
def wanted():
    return F.normalize(
        torch.randn(5, 6, generator=torch.Generator().manual_seed(2)), dim=1
    )


def test_a_draw_depends_on_no_company(model, codec, wanted):
    names, level = list('abcde'), [-20.0, -30.0, math.nan, -50.0, -60.0]
    among = model.latents(wanted, names, level)
    for i in range(5):
        assert torch.allclose(
            model.latents(wanted[i : i + 1], names[i : i + 1], level[i : i + 1]),
            among[i : i + 1],
            atol=1e-4,
        )
    pictures, codes = model.draw(codec, wanted, names, level)
    assert (
        pictures.shape == (5, 3, 16, 16)
        and pictures.dtype == torch.uint8
        and codes.shape == (5, 8, 8)
    )
    for batch in (1, 2):
        again, same = model.draw(codec, wanted, names, level, batch=batch)
        assert (codes != same).float().mean() < 0.01 and (
            pictures.int() - again.int()
        ).abs().float().mean() < 0.5
    with torch.no_grad():
        close = codec.quantise(among)
    assert torch.equal(close[1], codes)


def test_names_seed_the_noise(model, wanted):
    one = wanted[:1].repeat(4, 1)
    a = model.latents(one, ['x', ('x', 0), ('x', 1), 'x'])
    assert torch.equal(a[0], a[3]) and not any(
        torch.allclose(a[i], a[j], atol=1e-2) for i, j in ((0, 1), (1, 2), (0, 2))
    )
    assert torch.equal(
        named_noise((2, 3), ['a', 7]),
        torch.cat((named_noise((2, 3), ['a']), named_noise((2, 3), [7]))),
    )
    noise = named_noise((4, 8, 8), range(200))
    assert (
        abs(noise.mean()) < 0.02
        and abs(noise.std() - 1) < 0.02
        and torch.corrcoef(noise.flatten(1))[~torch.eye(200, dtype=bool)].abs().max()
        < 0.4
    )


def test_guidance(model, wanted):
    "0 is anything, 1 the plain answer in one pass, others on the line through both and begin after the noisiest steps."
    p, names = model.params, range(5)
    process = noise_scheduler(p.steps)
    process.set_timesteps(p.inference_steps)
    for w in (0.0, 1.0, 2.5):
        x = named_noise((4, 8, 8), names)
        with torch.no_grad():
            for t in process.timesteps:
                told, free = (
                    model(x, t.expand(5), c)
                    for c in (model.condition_vector(wanted), None)
                )
                weight = 1 if w > 1 and t > 800 else w
                x = process.step(free + weight * (told - free), t, x).prev_sample
        assert torch.allclose(
            model.latents(wanted, names, guidance=w),
            x * model.deviation + model.mean,
            atol=1e-4,
        )
    passes = []
    hook = model.unet.register_forward_hook(lambda *a: passes.append(1))
    model.latents(wanted, names, guidance=1, sampling=3)
    plain = len(passes)
    model.latents(wanted, names, sampling=3)
    hook.remove()
    assert (plain, len(passes) - plain) == (3, 3 + 2), 'the first step is not guided'
    assert torch.equal(
        model.latents(wanted, names),
        model.latents(
            wanted, names, guidance=p.guidance_scale, sampling=p.inference_steps
        ),
    )
    assert not torch.allclose(
        model.latents(wanted, names, guidance=1),
        model.latents(wanted.roll(1, 0), names, guidance=1),
        atol=1e-3,
    ), 'it listens'


def test_length_of_what_is_wanted_says_nothing(model, wanted):
    assert torch.allclose(
        model.latents(wanted, range(5)), model.latents(7 * wanted, range(5)), atol=1e-3
    )


@pytest.mark.parametrize('hears', [True, False])
def test_levels_matter_where_they_shall(wanted, hears):
    model = fresh(TINY.model_copy(update=dict(level=hears)))
    draw = lambda level: model.latents(wanted, range(5), level)
    unknown, loud, quiet = draw(None), draw([-10.0] * 5), draw(np.full(5, -70.0))
    assert torch.equal(unknown, draw([math.nan] * 5))
    assert (
        torch.allclose(loud, unknown, atol=1e-5) != hears
        and torch.allclose(loud, quiet, atol=1e-5) != hears
    )
    some = draw([math.nan, -10.0, math.nan, -10.0, -10.0])
    assert torch.allclose(some[[0, 2]], unknown[[0, 2]], atol=1e-4) and torch.allclose(
        some[1], loud[1], atol=1e-4
    )


def test_nothing_to_draw(model, codec):
    for none in (torch.zeros(0, 6), np.zeros((0, 6))):
        pictures, codes = model.draw(codec, none, [], [])
        assert (
            pictures.shape == (0, 3, 16, 16)
            and pictures.dtype == torch.uint8
            and codes.shape == (0, 8, 8)
            and codes.dtype == torch.int64
        )


def test_bad_input(model, codec, wanted):
    for wrong in (wanted[0], wanted[:, :5], wanted[None]):
        with pytest.raises(BadInput, match=r'this model draws for \[N, 6\]'):
            model.draw(codec, wrong)
    sick = wanted.clone()
    sick[3, 2] = math.nan
    sick[4, 0] = math.inf
    with pytest.raises(BadInput, match='row 3 of the embeddings is not finite'):
        model.draw(codec, sick)
    with pytest.raises(BadInput, match='row 4 of the embeddings'):
        model.draw(codec, sick[[0, 1, 2, 0, 4]].numpy())
    with pytest.raises(BadInput, match='2 names for 5'):
        model.draw(codec, wanted, ['a', 'b'])
    with pytest.raises(BadInput, match='3 levels for 5'):
        model.draw(codec, wanted, level=[-10.0, -10, -10])
    with pytest.raises(BadInput, match='4 pictures to begin with for 5'):
        model.draw(codec, wanted, start=torch.zeros(4, 3, 16, 16, dtype=torch.uint8))
    for other, words in (
        (dict(ch=[16, 24]), 'multiple of 16'),
        (dict(ch=[16] * 5, patch=2), 'grid of 8 does not divide into 32'),
        (dict(steps=3), 'inference_steps is 4, more than the 3'),
    ):
        with pytest.raises(BadInput, match=words):
            LatentDiffusion(TINY.model_copy(update=other), 6, 4, 8)


@pytest.mark.parametrize('ch', [[16], [16, 16], [48, 32]])
def test_narrow_networks_stand(ch, wanted):
    assert (
        fresh(TINY.model_copy(update=dict(ch=ch)))
        .latents(wanted, range(5), sampling=1)
        .isfinite()
        .all()
    )


def test_save_and_load(model, wanted, tmp_path):
    model.save(tmp_path)
    again = LatentDiffusion.load(tmp_path)
    assert (
        again.params == model.params
        and not again.training
        and sorted(p.name for p in tmp_path.iterdir())
        == ['config.json', 'model.safetensors']
    )
    assert torch.equal(
        again.latents(wanted, range(5), [-30.0] * 5),
        model.latents(wanted, range(5), [-30.0] * 5),
    ), 'mean and deviation come along'
    with pytest.raises(BadInput, match='holds no diffusion model.*dvc repro diffusion'):
        LatentDiffusion.load(tmp_path / 'nowhere')
    write_json(
        read_json(tmp_path / 'config.json') | dict(dim=7), tmp_path / 'config.json'
    )
    with pytest.raises(BadInput, match='1 of another shape: condition.0.weight'):
        LatentDiffusion.load(tmp_path)


def test_what_a_latent_is_taken_for(wanted):
    z, noise = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    for seed in (0, 1):
        model = fresh(seed=seed)
        same, none = (model.denoise_once(z, share, noise) for share in (0.0, 1.0))
        assert same.shape == z.shape and (same - z).abs().max() < 0.1, (
            'hardly noised it is itself, whatever the weights'
        )
        assert torch.allclose(
            none, model.denoise_once(torch.randn_like(z), 1.0, noise), atol=1e-4
        ), 'as noise it is forgotten'
        gaps = [
            (model.denoise_once(z, share, noise) - z).square().mean().item()
            for share in (0.0, 0.25, 0.5, 1.0)
        ]
        assert gaps == sorted(gaps) and gaps[1] > 10 * gaps[0]
        assert torch.allclose(
            model.denoise_once(z[1:2], 0.5, noise[1:2]),
            model.denoise_once(z, 0.5, noise)[1:2],
            atol=1e-4,
        )


def test_a_network_that_knows_takes_noise_away():
    "The velocity of a known latent, handed back: whatever the noise, that latent is found."
    model, z = fresh(), torch.randn(3, 4, 8, 8)
    clean, noise = (z - model.mean) / model.deviation, torch.randn(3, 4, 8, 8)
    model.forward = lambda x, step, wanted: noise_scheduler(
        model.params.steps
    ).get_velocity(clean, noise, step)
    for share in (0.0, 0.3, 0.9, 1.0):
        assert torch.allclose(model.denoise_once(z, share, noise), z, atol=1e-4)


def task(p=TINY, n=12):
    g = torch.Generator().manual_seed(3)
    return DiffusionTask(
        fresh(p).train(),
        torch.randn(n, 4, 8, 8, generator=g),
        F.normalize(torch.randn(n, 2, 6, generator=g), dim=2),
        torch.linspace(-60, -20, n),
    )


def trained(folder, kill=None):
    "Train, or be killed in step `kill`, with a state written after each."
    of, steps = task(), []
    real = of.batch

    def batch(index, rng):
        steps.append(1)
        if kill and len(steps) > kill:
            raise KeyboardInterrupt
        return real(index, rng)

    of.batch = batch
    return of, Trainer(of, TINY.optim, 0, folder, save_minutes=0).run(), len(steps)


def test_a_killed_training_ends_the_same(tmp_path):
    whole, history, n = trained(tmp_path / 'whole')
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / 'killed', 5)
    resumed, rest, left = trained(tmp_path / 'killed')
    assert (n, left) == (9, 4) and np.allclose(
        rest.loss.iloc[-1], history.loss.iloc[-1], atol=1e-5
    )
    for (k, a), b in zip(whole.state_dict().items(), resumed.state_dict().values()):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4, msg=k)
    begun, gap = (
        fresh(),
        lambda a, b: max(
            (x - y).abs().max().item() for x, y in zip(a.parameters(), b.parameters())
        ),
    )
    assert (
        gap(whole.model, begun) > 1e-4
        and gap(whole.average, begun) > 1e-4
        and gap(whole.average, whole.model) > 1e-5
    )


def test_what_a_lesson_draws():
    of = task(
        TINY.model_copy(update=dict(condition_noise=0.0, condition_dropout=0.25)), 400
    )
    batch = lambda seed, of=of: of.batch(np.arange(400), np.random.default_rng(seed))
    a, b = batch(0), batch(0)
    assert all(torch.equal(a[k], b[k]) for k in a) and not torch.equal(
        a['noise'], batch(1)['noise']
    )
    point, known = a['wanted'][:, :6] / 6**0.5, a['wanted'][:, 7]
    views = (point[:, None] - of.wanted).abs().amax(2) < 1e-5
    assert views.any(1).all() and 0.3 < views[:, 0].float().mean() < 0.7, (
        'either view, where it is'
    )
    assert (
        0.82 < known.mean() < 0.97
        and 0.18 < a['drop'].float().mean() < 0.32
        and a['step'].min() >= 0
        and a['step'].max() < 1000
        and a['step'].unique().numel() > 200
    )
    assert torch.allclose(a['wanted'][:, 6], known * (of.level + 40) / 12, atol=1e-5)
    moved = batch(0, task(TINY, 400))['wanted'][:, :6] / 6**0.5
    cosine = torch.einsum('nd,nvd->nv', moved, of.wanted).amax(1)
    assert cosine.min() < 0.9 < cosine.max() and torch.allclose(
        moved.norm(dim=1), torch.ones(400), atol=1e-5
    )


def test_dropped_conditions_are_anything(model, wanted):
    x, step = torch.randn(5, 4, 8, 8), torch.arange(5) * 200
    with torch.no_grad():
        some = model(
            x,
            step,
            model.condition_vector(wanted),
            torch.tensor([True, False, True, False, False]),
        )
        told, free = (
            model(x, step, model.condition_vector(wanted)),
            model(x, step, None),
        )
    assert (
        torch.allclose(some[[0, 2]], free[[0, 2]], atol=1e-5)
        and torch.allclose(some[[1, 3, 4]], told[[1, 3, 4]], atol=1e-5)
        and not torch.allclose(told, free, atol=1e-3)
    )


def test_pictures_of_any_size_are_encoded_at_the_codecs(codec):
    x = torch.randint(0, 256, (3, 3, 24, 24), dtype=torch.uint8)
    z = encode_pictures(codec, x, batch=2)
    assert z.shape == (3, 4, 8, 8) and torch.allclose(
        encode_pictures(codec, x[2:]), z[2:], atol=1e-5
    )


@pytest.fixture(scope='module')
def memory():
    return Mosaic(
        torch.randint(32, (12, 8, 8), generator=torch.Generator().manual_seed(0)),
        torch.randn(12, 6, generator=torch.Generator().manual_seed(1)),
    )


def test_mosaic_of_one_picture_is_that_picture(codec, memory):
    _, codes = Mosaic(memory.codes[:1], memory.points[:1]).draw(
        codec, torch.randn(3, 6)
    )
    assert torch.equal(codes, memory.codes[:1].long().expand(3, -1, -1))


def test_mosaic_takes_the_pieces_of_what_is_near(codec, memory, wanted):
    pictures, codes = memory.draw(codec, wanted, ['a', 'b', 'c', 'd', 'e'])
    assert (
        pictures.shape == (5, 3, 16, 16)
        and pictures.dtype == torch.uint8
        and codes.shape == (5, 8, 8)
    )
    sure = Mosaic(
        torch.stack([torch.zeros(8, 8), torch.ones(8, 8)]),
        torch.tensor([[1.0, 0, 0, 0, 0, 0], [-1, 0, 0, 0, 0, 0]]),
    )
    z, want = (
        sure.latents(codec, torch.tensor([[1.0, 0, 0, 0, 0, 0]]), ['x']),
        codec.lookup(torch.zeros(1, 8, 8, dtype=torch.long)),
    )
    assert torch.allclose(z, want, atol=1e-3), (
        'a picture as far off as can be takes no part'
    )
    alone, _ = memory.draw(codec, wanted[3:4], ['d'])
    again, _ = memory.draw(codec, 5 * wanted, ['a', 'b', 'c', 'd', 'e'], batch=2)
    assert (alone[0].int() - pictures[3].int()).abs().max() <= 1 and (
        again.int() - pictures.int()
    ).abs().max() <= 1
    alike = Mosaic(memory.codes, torch.ones(12, 6))
    assert not torch.equal(*(alike.draw(codec, wanted[:1], [n])[1] for n in 'ab')), (
        'where nothing is nearer, noise decides'
    )


def test_windows_of_a_mosaic():
    x, z = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 3, 8, 8)
    d = (x[:, None] - z).square().sum(2)
    assert torch.allclose(
        window_distance(x, z, 15), d.sum((2, 3), keepdim=True).expand_as(d), rtol=1e-5
    )
    assert torch.allclose(window_distance(x, z, 1), d, rtol=1e-5) and torch.allclose(
        window_distance(x, z, 3)[0, 0, 2, 2], d[0, 0, 1:4, 1:4].sum(), rtol=1e-5
    )


def test_mosaic_is_kept_and_refuses(codec, memory, tmp_path, wanted):
    memory.save(tmp_path / 'm')
    again = Mosaic.load(tmp_path / 'm')
    assert torch.equal(again.codes, memory.codes) and torch.equal(
        again.points, memory.points
    )
    assert memory.draw(codec, torch.zeros(0, 6), [])[0].shape == (0, 3, 16, 16)
    for words, what in (
        ('2 points for 3', lambda: Mosaic(torch.zeros(3, 8, 8), torch.ones(2, 6))),
        ('at least one', lambda: Mosaic(torch.zeros(0, 8, 8), torch.ones(0, 6))),
        (r'draws for \[N, 6\]', lambda: memory.draw(codec, wanted[:, :5])),
        ('2 names for 5', lambda: memory.draw(codec, wanted, ['a', 'b'])),
        (
            'run from 1000000 to',
            lambda: Mosaic(torch.full((1, 8, 8), 10**6), torch.ones(1, 6)).draw(
                codec, wanted
            ),
        ),
        ('holds no mosaic', lambda: Mosaic.load(tmp_path)),
    ):
        with pytest.raises(BadInput, match=words):
            what()
    save_file(dict(other=torch.zeros(2)), tmp_path / 'm/model.safetensors')
    with pytest.raises(BadFile, match='holds codes and points'):
        Mosaic.load(tmp_path / 'm')
