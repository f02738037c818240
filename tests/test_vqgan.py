"""The codec against what taming-transformers computed (skipped where its files are not beside the checkout).

Foreign and hostile files, the training's edges.
"""

import json, math, pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from wavbrivl.image_text.brivl import BriVL
from wavbrivl.image_text.inputs import normalise_imagenet
from wavbrivl.core.files import BadFile, BadInput
from wavbrivl.core.params import BrivlParams, OptimParams
from wavbrivl.core.picture_params import Params, VqganParams
from wavbrivl.training.loop import Trainer
from wavbrivl.decoders.vqgan_layers import GumbelCode, NearestCode, norm
from wavbrivl.decoders.vqgan import (
    VQGAN,
    pixels_to_bytes,
    bytes_to_pixels,
    read_vqgan_config,
    vqgan_weights,
)
from wavbrivl.training.vqgan import (
    Perceptual,
    VqganTask,
    adversarial_losses,
    adversary_weight,
    load_frames,
    train_vqgan,
)

REFERENCE = Path(__file__).parents[2] / 'shared' / 'reference' / 'vqgan'
needs_reference = pytest.mark.skipif(
    not REFERENCE.exists(), reason='no reference files beside the checkout'
)
TINY = VqganParams(
    size=16,
    ch=8,
    ch_mult=[1, 2],
    attention=[8],
    channels=8,
    embed=4,
    codes=16,
    crop_size=8,
    perceptual=0,
    disc_ch=8,
    disc_layers=1,
    quantize_start=0.2,
    disc_start=0.4,
    crop_until=0.6,
    optim=dict(epochs=3, batch=4, lr=2e-3),
)


@pytest.fixture(autouse=True)
def seeded(one_thread):
    torch.manual_seed(0)


@pytest.fixture(scope='module')
def reference():
    arrays = lambda f: {
        k: torch.from_numpy(v) for k, v in np.load(REFERENCE / f).items()
    }
    return (
        VQGAN.from_checkpoint(REFERENCE / 'last.ckpt', REFERENCE / 'model.yaml'),
        arrays('inputs.npz'),
        arrays('outputs.npz'),
    )


def changed(p=TINY, **other):
    return p.model_copy(update=other)


def pictures(n=16, size=16):
    return torch.randint(
        0,
        256,
        (n, 3, size, size),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(5),
    )


def close(ours, theirs, atol, what=''):
    gap = (ours.detach().double() - theirs.double()).abs().max().item()
    assert ours.shape == theirs.shape and gap <= atol, f'{what}: {gap:.2e} > {atol}'


@needs_reference
@torch.no_grad()
def test_encodes_quantises_and_decodes_as_the_reference(reference):
    model, given, want = reference
    z = model.encode(given['image'])
    close(z, want['pre_quant'], 5e-5, 'before quantisation')
    zq, numbers, loss = model.quantise(z)
    assert want['argmin_margin'].min() > 0 and torch.equal(numbers, want['indices'])
    close(zq, want['quantised'], 5e-5, 'quantised')
    close(loss.view(1), want['codebook_loss'], 1e-5, 'codebook loss')
    drawn, again, same = model(given['image'])
    close(drawn, want['decoded'], 1e-4, 'decoded')
    assert torch.equal(same, numbers) and torch.equal(again, loss)
    close(model.lookup(numbers), want['codebook_entry'], 1e-6, 'codebook entry')
    close(
        model.decode(model.lookup(numbers)),
        want['decoded_from_indices'],
        1e-4,
        'decoded from indices',
    )
    close(
        model.decode(model.lookup(given['prior_indices'])),
        want['decoded_from_prior_indices'],
        1e-4,
        "decoded from the prior's indices",
    )


@needs_reference
def test_its_files(reference, tmp_path):
    model, config = reference[0], json.loads((REFERENCE / 'config.json').read_text())
    theirs = [k for k in config['state_dict_keys'] if not k.startswith('loss.')]
    assert len(theirs) < len(config['state_dict_keys']) and sorted(
        model.state_dict()
    ) == sorted(theirs), "the losses' weights are not the codec's"
    assert (model.stride, model.side, model.config.gumbel, model.training) == (
        2,
        16,
        False,
        False,
    )
    by_hand = VQGAN.from_checkpoint(
        REFERENCE / 'last.ckpt',
        {k: config[k] for k in ('ddconfig', 'embed_dim', 'n_embed')},
    )
    save_file(model.state_dict(), tmp_path / 'codec.safetensors')
    other = VQGAN.from_checkpoint(tmp_path / 'codec.safetensors', model.config)
    for k, v in model.state_dict().items():
        assert torch.equal(v, by_hand.state_dict()[k]) and torch.equal(
            v, other.state_dict()[k]
        )


def test_save_and_load(tmp_path):
    model = VQGAN(TINY).eval()
    model.save(tmp_path)
    again, x = VQGAN.load(tmp_path), torch.rand(2, 3, 16, 16) * 2 - 1
    assert (
        again.config == TINY
        and not again.training
        and all(torch.equal(a, b) for a, b in zip(model(x), again(x)))
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        'config.json',
        'model.safetensors',
    ]
    with pytest.raises(BadInput, match='holds no VQGAN.*dvc repro vqgan'):
        VQGAN.load(tmp_path / 'nowhere')


class Pulls:
    "What a hostile file holds: opening it as a pickle writes `mark`."

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return open, (self.mark, 'w')


@pytest.mark.parametrize('zipped', [True, False])
def test_a_pickle_that_would_run_code_is_refused_unopened(tmp_path, zipped):
    path, mark = tmp_path / 'last.ckpt', tmp_path / 'ran'
    torch.save(
        {'state_dict': VQGAN(TINY).state_dict(), 'callbacks': Pulls(mark)},
        path,
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(BadFile, match='pickled objects.*keep the weights alone'):
        VQGAN.from_checkpoint(path, TINY)
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists(), 'it was live'


def test_what_is_no_checkpoint(tmp_path):
    whole = tmp_path / 'whole.ckpt'
    torch.save({'state_dict': {'a': torch.zeros(99)}}, whole)
    files = {
        'page.ckpt': b'<html>404</html>',
        'words.pt': b'hello',
        'empty.pth': b'',
        'bytes.ckpt': bytes(range(256)),
        'cut.ckpt': whole.read_bytes()[:300],
        'page.safetensors': b'<html>404</html>',
        'plain.ckpt': pickle.dumps({'state_dict': Pulls(tmp_path / 'ran')}),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadFile, match=f'{name}: not a weight file'):
            vqgan_weights(tmp_path / name)
    for name, content in {
        'list.ckpt': [torch.zeros(1)],
        'odd.ckpt': {'state_dict': [torch.zeros(1)]},
        'losses.ckpt': {'state_dict': {'loss.a': torch.zeros(1)}},
    }.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(BadFile, match='holds no weights of a VQGAN'):
            vqgan_weights(tmp_path / name)
    with pytest.raises(BadFile, match='does not exist'):
        vqgan_weights(tmp_path / 'nowhere.ckpt')
    assert not (tmp_path / 'ran').exists()


def test_differences_are_listed(tmp_path):
    found = VQGAN(TINY).state_dict()
    del found['encoder.conv_in.bias']
    found |= {
        'encoder.extra': torch.zeros(1),
        'quant_conv.bias': torch.zeros(7),
        'loss.discriminator.weight': torch.zeros(3),
    }
    torch.save({'state_dict': found}, tmp_path / 'odd.ckpt')
    with pytest.raises(
        BadFile,
        match=r'1 missing: encoder.conv_in.bias; 1 left over: encoder.extra; '
        r'1 of another shape: quant_conv.bias \[7\] instead of \[4\]\.$',
    ):
        VQGAN.from_checkpoint(tmp_path / 'odd.ckpt', TINY)
    torch.save(VQGAN(TINY).state_dict(), tmp_path / 'bare.ckpt')
    with pytest.raises(BadFile, match='missing.*left over.*another shape.*, [.]{3}'):
        VQGAN.from_checkpoint(
            tmp_path / 'bare.ckpt', changed(ch_mult=[1, 3, 4], attention=[4])
        )
    assert VQGAN.from_checkpoint(tmp_path / 'bare.ckpt', TINY).config == TINY, (
        'a file may hold the weights themselves'
    )


def test_configurations(tmp_path):
    assert read_vqgan_config({'size': 32, 'codes': 7}).codes == 7
    gumbel = {
        'model': {
            'target': 'taming.models.vqgan.GumbelVQ',
            'params': dict(
                embed_dim=8,
                n_embed=32,
                ddconfig=dict(
                    ch=8,
                    ch_mult=[1],
                    num_res_blocks=1,
                    attn_resolutions=[],
                    resolution=8,
                    z_channels=8,
                ),
            ),
        }
    }
    (tmp_path / 'model.json').write_text(json.dumps(gumbel))
    assert read_vqgan_config(tmp_path / 'model.json').gumbel
    (tmp_path / 'list.yaml').write_text('- 1\n')
    (tmp_path / 'broken.yaml').write_text('a: [\n')
    kl = {
        'embed_dim': 8,
        'n_embed': 32,
        'ddconfig': gumbel['model']['params']['ddconfig'] | dict(double_z=True),
    }
    for config, words in (
        ('nowhere.yaml', 'no such configuration'),
        (tmp_path / 'list.yaml', 'a mapping is needed'),
        (tmp_path / 'broken.yaml', 'not YAML'),
        (3, 'a mapping is needed'),
        (kl, 'double_z'),
        ({'model': {}}, 'params is missing'),
        ({'model': None}, 'must be mappings'),
        ({'ddconfig': {'ch': 8}}, 'ch_mult is missing'),
        ({'sizes': 3}, 'unknown parameter vqgan.sizes'),
        ({'codes': 0}, 'vqgan.codes is 0'),
    ):
        with pytest.raises(BadInput, match=words):
            read_vqgan_config(config)
    with pytest.raises(BadInput, match='size 18 cannot be halved 2 times'):
        VQGAN(changed(size=18, ch_mult=[1, 1, 2]))


def test_pictures_and_codes_that_do_not_fit():
    model = VQGAN(changed(ch_mult=[1, 1, 2])).eval()
    assert model.encode(torch.zeros(1, 3, 8, 20)).shape == (1, 4, 2, 5), (
        'any sides that the stride divides'
    )
    for shape in ((1, 3, 16, 18), (1, 3, 18, 16), (1, 1, 16, 16), (3, 16, 16)):
        with pytest.raises(BadInput, match='divisible by 4'):
            model.encode(torch.zeros(shape))
    for wrong in (-1, 16):
        with pytest.raises(BadInput, match='codebook has 0 to 15'):
            model.lookup(torch.full((1, 4, 4), wrong))
    none = model(torch.zeros(0, 3, 16, 16))
    assert none[0].shape == (0, 3, 16, 16) and none[2].shape == model.lookup(none[2])[
        :, 0
    ].shape == (0, 4, 4)


def test_bytes_and_back():
    x = pictures(2)
    assert torch.equal(pixels_to_bytes(bytes_to_pixels(x, 16)), x) and bytes_to_pixels(
        x, 8
    ).shape == (
        2,
        3,
        8,
        8,
    )
    assert pixels_to_bytes(torch.tensor([-9.0, -1, 0, 1, 9])).tolist() == [
        0,
        0,
        128,
        255,
        255,
    ]


def test_quantising_is_exact_in_pieces_and_needs_no_table_of_differences(monkeypatch):
    "64 x 64 codes out of 16384 with 256 dimensions: all differences would be 64 GiB."
    book = NearestCode(changed(codes=16384, embed=256))
    torch.nn.init.normal_(book.embedding.weight)
    at = torch.randint(16384, (1, 64, 64))
    z = F.embedding(at, book.weight).movedim(-1, 1) + 0.1 * torch.randn(1, 256, 64, 64)
    sizes, real = [], torch.Tensor.argmin
    monkeypatch.setattr(
        torch.Tensor,
        'argmin',
        lambda self, *a, **k: sizes.append(self.numel()) or real(self, *a, **k),
    )
    with torch.no_grad():
        found = book(z)[1]
    assert torch.equal(found, at) and max(sizes) <= 2**24 and sum(sizes) == 4096 * 16384
    small, z = NearestCode(TINY), torch.randn(3, 4, 5, 7) / 16
    by_hand = (
        torch.cdist(z.movedim(1, -1).flatten(0, 2).double(), small.weight.double())
        .argmin(1)
        .view(3, 5, 7)
    )
    assert torch.equal(small(z)[1], by_hand)


def test_quantising_is_in_full_precision_whatever_is_around_it():
    model, z = VQGAN(TINY), torch.randn(2, 4, 8, 8)
    with torch.autocast('cpu', torch.bfloat16):
        inside = model.quantise(z)
    assert (
        all(torch.equal(a, b) for a, b in zip(inside, model.quantise(z)))
        and inside[0].dtype == torch.float32
    )


def test_gumbel():
    p = changed(gumbel=True, codes=12)
    model, z = VQGAN(p), torch.randn(2, 4, 8, 8, requires_grad=True)
    assert {
        k: tuple(v.shape)
        for k, v in model.state_dict().items()
        if k.startswith('quantize')
    } == {
        'quantize.proj.weight': (12, 4, 1, 1),
        'quantize.proj.bias': (12,),
        'quantize.embed.weight': (12, 4),
    }
    model.eval()
    zq, at, loss = model.quantise(z)
    assert torch.equal(at, model.quantize.proj(z).argmax(1)) and torch.equal(
        at, model.quantise(z)[1]
    )
    close(zq, model.lookup(at), 1e-5, 'the very code')
    share = model.quantize.proj(z).softmax(1)
    close(
        loss,
        5e-4 * (share * (12 * share).log()).sum(1).mean(),
        1e-8,
        'distance from using all codes alike',
    )
    zq.square().sum().backward()
    assert z.grad.isfinite().all() and (z.grad.abs().sum(1) > 0).all(), (
        'choosing lets a gradient through'
    )
    model.train()
    torch.manual_seed(1)
    zq, first, _ = model.quantise(z)
    torch.manual_seed(1)
    assert torch.equal(model.quantise(z)[1], first)
    assert not torch.equal(model.quantise(z)[1], first), 'drawn while training'
    close(zq, model.lookup(first), 1e-5, 'a code, not a mixture')


def task(p=TINY, n=16):
    torch.manual_seed(7)
    return VqganTask(p, pictures(n), pictures(4))


def test_each_side_has_its_own_gradient():
    of = task()
    drawn = of.vqgan(torch.rand(2, 3, 16, 16))[0]
    fooled, critic = adversarial_losses(of.critic, torch.rand(2, 3, 16, 16), drawn)
    ours, theirs = (
        list(of.vqgan.decoder.parameters()),
        [p for p in of.critic.parameters() if p.ndim > 1],
    )
    reached = lambda loss, at: [
        g is not None and bool(g.any())
        for g in torch.autograd.grad(loss, at, retain_graph=True, allow_unused=True)
    ]
    assert fooled.requires_grad and critic.requires_grad
    assert not any(reached(critic, ours)) and not any(reached(fooled, theirs))
    assert all(reached(critic, theirs)) and any(reached(fooled, ours))


def test_the_adversary_is_brought_to_the_size_of_the_others():
    w = torch.tensor([3.0, 4.0], requires_grad=True)
    assert (
        abs(adversary_weight((2 * w).sum(), (0.5 * w).sum(), w) - 4) < 0.01
        and adversary_weight((1e9 * w).sum(), (0 * w).sum(), w) == 1e4
    )


def test_unused_codes_are_put_among_the_vectors():
    of = task(changed(quantize_start=0.0))
    z = torch.randn(2, 4, 8, 8) + 5
    rows, among = (
        z.movedim(1, -1).flatten(0, 2),
        lambda: (of.vqgan.codebook[:, None] == rows).all(2).any(1),
    )
    assert not among().any()
    of.revive_codes(z, of.vqgan.quantise(z)[1])
    assert among().all(), 'all begin there'
    far = of.vqgan.codebook.detach().clone()
    far[3:] = -50.0 - torch.arange(13)[:, None]
    of.vqgan.codebook.data.copy_(far)
    for _ in range(49):
        of.revive_codes(z, of.vqgan.quantise(z)[1])
    assert torch.equal(of.vqgan.codebook, far), 'in between they are left alone'
    busy = of.use >= 0.05
    of.use[5] = 1.0
    of.revive_codes(z, of.vqgan.quantise(z)[1])
    kept = (of.vqgan.codebook == far).all(1)
    assert (
        busy.any()
        and kept[busy].all()
        and kept[5]
        and among()[~kept].all()
        and (~kept).sum() >= 8
    )
    of.progress, of.begun = 0.8, torch.tensor(100)
    of.vqgan.codebook.data[7:] = -50.0
    of.revive_codes(z, of.vqgan.quantise(z)[1])
    assert (of.vqgan.codebook[7:] == -50).all(), 'late in the training nothing is moved'


def test_crops():
    rng = lambda: np.random.default_rng(0)
    of = task()
    batch = of.batch(range(3), rng())
    x = bytes_to_pixels(batch['pictures'], 16)
    halves = of.cropped(x, batch['corners'])
    assert halves.shape == (6, 3, 8, 8) and batch['corners'].max() <= 8
    a, b = batch['corners'][1].tolist()
    assert torch.equal(halves[3:], x[..., a : a + 8, b : b + 8])
    of.progress = 0.6
    assert of.cropped(x, batch['corners']) is x
    for crop in (None, 16, 17, 99):
        all_of_it = task(changed(crop_size=crop))
        batch = all_of_it.batch(range(3), rng())
        assert (
            not batch['corners'].any()
            and all_of_it.cropped(x, batch['corners']) is x
            and all_of_it(**batch).isfinite()
        )
    with pytest.raises(
        BadInput, match='vqgan.crop_size is 7; it must be a multiple of 2'
    ):
        task(changed(crop_size=7))


def trained(folder, kill=None, p=TINY):
    "Train, or be killed in step `kill`, with a state written after each."
    of = task(p)
    steps, real = [], of.batch

    def batch(index, rng):
        steps.append(of.progress)
        if kill and len(steps) > kill:
            raise KeyboardInterrupt
        return real(index, rng)

    of.batch = batch
    history = Trainer(of, p.optim, 0, folder, save_minutes=0).run()
    return of, history, len(steps)


@pytest.mark.parametrize('gumbel', [False, True])
def test_a_killed_training_ends_the_same(tmp_path, gumbel):
    "Quantised from step 3, with the adversary from 5, whole pictures from 8 of 12; killed in the seventh."
    p = changed(gumbel=gumbel)
    (whole, history, n), (again, repeated, _) = (
        trained(tmp_path / 'whole', p=p),
        trained(tmp_path / 'again', p=p),
    )
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / 'killed', 6, p)
    resumed, rest, left = trained(tmp_path / 'killed', p=p)
    assert n == 12 and left == 6
    for other, rows in ((again, repeated), (resumed, rest)):
        assert np.allclose(
            rows[['l1', 'usage', 'perplexity']],
            history[['l1', 'usage', 'perplexity']],
            atol=1e-5,
        )
        for (k, a), b in zip(whole.state_dict().items(), other.state_dict().values()):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4, msg=k)
    begun = task(p)
    moved = {
        part: max(
            (a - b).abs().max().item()
            for a, b in zip(
                getattr(whole, part).parameters(), getattr(begun, part).parameters()
            )
        )
        for part in ('vqgan', 'critic')
    }
    assert (
        min(moved.values()) > 1e-4
        and (history.usage > 0).all()
        and (history.perplexity >= 1).all()
    ), moved


def test_the_terms_come_in_when_they_should():
    class Alike:
        calls = 0

        def __call__(self, x, y):
            self.calls += 1
            return (x - y).square().mean()

    torch.manual_seed(7)
    alike = Alike()
    of = VqganTask(changed(perceptual=0.5), pictures(), pictures(4), alike)
    batch, seen = of.batch(range(4), np.random.default_rng(0)), {}
    for at in (0.0, 0.3, 0.5):
        of.progress = at
        of.zero_grad()
        of(**batch).backward()
        seen[at] = (
            bool(of.vqgan.codebook.grad is not None and of.vqgan.codebook.grad.any()),
            any(p.grad is not None for p in of.critic.parameters()),
        )
    assert (
        seen == {0.0: (False, False), 0.3: (True, False), 0.5: (True, True)}
        and alike.calls == 3
    )
    assert VqganTask(TINY, pictures(), pictures(0)).score() == {}, (
        'without validation pictures nothing is scored'
    )


@needs_reference
@torch.no_grad()
def test_the_encoder_and_how_near_the_second_code_came(reference):
    model, given, want = reference
    close(model.encoder(given['image']), want['encoder_out'], 5e-5, 'encoder')
    rows = model.encode(given['image']).movedim(1, -1).flatten(0, 2).double()
    first, second = (
        torch.cdist(rows, model.codebook.double()).square().sort(1).values[:, :2].T
    )
    close(
        (second - first).view_as(want['argmin_margin']),
        want['argmin_margin'],
        1e-3,
        'margin',
    )


def test_the_sizes_of_f16_and_of_gumbel_f8():
    big = dict(ch=128, res_blocks=2, size=256, channels=256, embed=256)
    with torch.device('meta'):
        f16 = VQGAN(
            VqganParams(**big, ch_mult=[1, 1, 2, 2, 4], attention=[16], codes=16384)
        ).state_dict()
        f8 = VQGAN(
            VqganParams(
                **big, ch_mult=[1, 1, 2, 4], attention=[32], codes=8192, gumbel=True
            )
        ).state_dict()
    assert {k.split('.attn')[0] for k in f16 if '.attn.' in k} == {
        'encoder.down.4',
        'decoder.up.4',
    } and 'decoder.up.4.attn.2.q.weight' in f16
    assert (
        'encoder.down.4.downsample.conv.weight' not in f16
        and 'decoder.up.0.upsample.conv.weight' not in f16
    )
    assert (
        'encoder.down.2.block.0.nin_shortcut.weight' in f16
        and 'encoder.down.1.block.0.nin_shortcut.weight' not in f16
    )
    sizes = lambda found: {
        k: list(v.shape) for k, v in found.items() if k.startswith('quantize')
    }
    assert sizes(f16) == {'quantize.embedding.weight': [16384, 256]}
    assert sizes(f8) == {
        'quantize.proj.weight': [8192, 256, 1, 1],
        'quantize.proj.bias': [8192],
        'quantize.embed.weight': [8192, 256],
    }


def test_groups_of_narrow_layers():
    assert [norm(c).num_groups for c in (128, 64, 48, 33, 12, 37)] == [
        32,
        32,
        24,
        11,
        12,
        1,
    ] and norm(64).eps == 1e-6


def test_a_narrow_codec_can_tell_plain_colours():
    groups = lambda ch: {
        m.num_channels // m.num_groups
        for m in VQGAN(VqganParams(ch=ch, ch_mult=[1, 2], channels=ch)).modules()
        if isinstance(m, torch.nn.GroupNorm)
    }
    assert groups(16) == groups(8) == {4} and groups(32) == {
        1,
        2,
    }  # 32 and its multiples are as released


def test_what_is_no_codec_of_pictures():
    d = dict(
        ch=8,
        ch_mult=[1],
        num_res_blocks=1,
        attn_resolutions=[],
        resolution=8,
        z_channels=8,
    )
    for other in (dict(out_ch=151), dict(in_channels=1), dict(resamp_with_conv=False)):
        with pytest.raises(BadInput, match=f'{next(iter(other))}: '):
            read_vqgan_config(dict(embed_dim=8, n_embed=32, ddconfig=d | other))


def test_the_order_of_beta_is_the_release_s():
    "Weight 1 pulls vectors to codes, beta codes to vectors."
    q, z = (
        NearestCode(changed(commitment=0.25)),
        torch.randn(2, 4, 3, 3, requires_grad=True),
    )
    _, at, loss = q(z)
    loss.backward()
    off = z.detach() - F.embedding(at, q.weight.detach()).movedim(-1, 1)
    close(z.grad, 2 * off / z.numel(), 1e-7)
    close(
        q.weight.grad,
        torch.zeros_like(q.weight).index_add_(
            0, at.flatten(), -0.25 * 2 * off.movedim(1, -1).flatten(0, 2) / z.numel()
        ),
        1e-7,
    )


def test_gumbel_passes_the_gradient_of_the_mixture_and_draws_by_its_shares():
    q, z = (
        GumbelCode(changed(gumbel=True)).eval(),
        torch.randn(2, 4, 5, 5, requires_grad=True),
    )
    zq, at, _ = q(z)
    assert torch.equal(zq, F.embedding(at, q.weight).movedim(-1, 1)), (
        'codes to the last bit'
    )
    mixed, w = (
        torch.einsum('nkhw,kd->ndhw', q.proj(z).softmax(1), q.weight.detach()),
        torch.randn_like(zq),
    )
    close(
        torch.autograd.grad((zq * w).sum(), z)[0],
        torch.autograd.grad((mixed * w).sum(), z)[0],
        1e-6,
    )
    q = GumbelCode(changed(gumbel=True, codes=3, embed=1)).train()
    with torch.no_grad():
        q.proj.weight.zero_()
        q.proj.bias.copy_(torch.tensor([0.6, 0.3, 0.1]).log())
        at = q(torch.zeros(4, 1, 50, 50))[1]
    close(
        torch.bincount(at.flatten()) / at.numel(), torch.tensor([0.6, 0.3, 0.1]), 0.03
    )


@pytest.fixture(scope='module')
def brivl():
    torch.manual_seed(1)
    return BriVL(BrivlParams(), text=False)


def test_the_frozen_tower_stays_out(brivl):
    before = {k: v.clone() for k, v in brivl.image.backbone.state_dict().items()}
    P = Perceptual(brivl)
    of = VqganTask(
        changed(perceptual=0.5, quantize_start=0.0, disc_start=0.0),
        pictures(),
        pictures(4),
        P,
    ).train()
    assert (
        not brivl.image.backbone.training
        and not {id(w) for w in brivl.parameters()} & {id(w) for w in of.parameters()}
        and not any('held' in k for k in of.state_dict())
    )
    of(**of.batch(np.arange(4), np.random.default_rng(0))).backward()
    assert all(w.grad is None for w in brivl.parameters()) and all(
        torch.equal(v, before[k]) for k, v in brivl.image.backbone.state_dict().items()
    )
    x, y = (
        bytes_to_pixels(pictures(2, 32), 32),
        torch.zeros(2, 3, 32, 32, requires_grad=True),
    )
    P(x, y).backward()
    assert y.grad.abs().sum() > 0 and P(x, x) == 0
    every = brivl.image.backbone.forward_intermediates(
        normalise_imagenet((x + 1) / 2), intermediates_only=True
    )[:3]
    other = brivl.image.backbone.forward_intermediates(
        normalise_imagenet((y.detach() + 1) / 2), intermediates_only=True
    )[:3]
    by_hand = sum(
        (a / a.norm(dim=1, keepdim=True) - b / b.norm(dim=1, keepdim=True))
        .square()
        .sum(1)
        .mean()
        for a, b in zip(every, other)
    )
    close(P(x, y), by_hand, 1e-4)
    with pytest.raises(BadInput, match='vqgan.perceptual: 0'):
        Perceptual(
            SimpleNamespace(
                image=SimpleNamespace(backbone=torch.nn.Identity()),
                config=BrivlParams(),
            )
        )


def test_score():
    of = task(changed(disc_weight=0.0)).eval()
    with torch.no_grad():
        of.vqgan.codebook.copy_(torch.randn(16, 4))
        y, _, at = of.vqgan(bytes_to_pixels(pictures(4), 16))
    found, share = (
        of.score(),
        (torch.bincount(at.flatten(), minlength=16) / at.numel()).tolist(),
    )
    assert (
        found['l1']
        == pytest.approx(
            (y - bytes_to_pixels(pictures(4), 16)).abs().mean().item(), rel=1e-4
        )
        and found['score'] == -found['l1']
    )
    assert found['usage'] == pytest.approx(len(at.unique()) / 16) and found[
        'perplexity'
    ] == pytest.approx(math.exp(-sum(s * math.log(s) for s in share if s)), rel=1e-4)
    assert 'score' not in task().score(), (
        'the adversary trades L1 for sharpness: the last weights are kept'
    )


class Noise:
    "A corpus of noise, two frames a clip."

    fingerprint = 'noise'

    def __init__(self, **clips):
        self.clips = clips

    def split(self, name):
        return pd.DataFrame(
            dict(
                frames=[
                    [f'{name}-{i}-{j}' for j in range(2)]
                    for i in range(self.clips.get(name, 0))
                ]
            ),
            columns=['frames'],
        )

    def picture(self, path):
        return np.random.default_rng(list(path.encode())).integers(
            0, 256, (20, 20, 3), dtype=np.uint8
        )


def test_frames():
    corpus = Noise(train=3)
    assert load_frames(corpus, 'train', 16).shape == (6, 3, 16, 16) and load_frames(
        corpus, 'valid', 16
    ).shape == (0, 3, 16, 16)
    assert torch.equal(
        load_frames(corpus, 'train', 20, 2),
        torch.from_numpy(
            np.stack([corpus.picture(f'train-{i}-0') for i in (0, 1)])
        ).movedim(-1, 1),
    )


def test_train_vqgan(tmp_path, brivl):
    p = changed(perceptual=0.1, optim=OptimParams(epochs=2, batch=4, lr=1e-3))
    params, corpus = (
        Params(device='cpu', precision='fp32', vqgan=p),
        Noise(train=4, valid=2),
    )
    history = train_vqgan(params, corpus, brivl, tmp_path / 'm', tmp_path / 'state')
    assert (
        list(history.epoch) == [1, 2]
        and {'loss', 'l1', 'usage', 'perplexity'} <= set(history)
        and not (tmp_path / 'state').exists()
    )
    assert (
        list(pd.read_csv(tmp_path / 'm/history.csv').epoch) == [1, 2]
        and VQGAN.load(tmp_path / 'm').config == p
    )
    again = train_vqgan(params, corpus, brivl, tmp_path / 'n', tmp_path / 'state')
    for (k, a), b in zip(
        VQGAN.load(tmp_path / 'm').state_dict().items(),
        VQGAN.load(tmp_path / 'n').state_dict().values(),
    ):
        torch.testing.assert_close(a, b, msg=k)
    assert np.allclose(again.loss, history.loss, atol=1e-5)
    with pytest.raises(BadInput, match='Fewer than two'):
        train_vqgan(params, Noise(), brivl, tmp_path / 'o', tmp_path / 'state')


def test_released_weights_are_taken_as_they_are(tmp_path):
    d = dict(
        ch=8,
        ch_mult=[1, 2],
        num_res_blocks=1,
        attn_resolutions=[8],
        resolution=16,
        z_channels=4,
    )
    (tmp_path / 'model.yaml').write_text(
        json.dumps(
            dict(
                model=dict(
                    target='taming.models.vqgan.GumbelVQ',
                    params=dict(embed_dim=4, n_embed=12, ddconfig=d),
                )
            )
        )
    )
    weights = VQGAN(tmp_path / 'model.yaml').state_dict()
    torch.save(dict(state_dict=weights), tmp_path / 'last.ckpt')
    params = Params(
        vqgan=dict(
            checkpoint=str(tmp_path / 'last.ckpt'), config=str(tmp_path / 'model.yaml')
        )
    )
    assert (
        len(train_vqgan(params, None, None, tmp_path / 'm', tmp_path / 'state')) == 0
        and (tmp_path / 'm/history.csv').exists()
    )
    model = VQGAN.load(tmp_path / 'm')
    assert model.config.gumbel and all(
        torch.equal(w, weights[k]) for k, w in model.state_dict().items()
    )
