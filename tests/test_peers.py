"""The peers: Wav2CLIP against what the original computed, YAMNet on real sounds.

Each test is skipped where its files are not beside the checkout."""

import csv, json, sys, zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wavbrivl.core.files import BadInput
from wavbrivl.core.params import AudioParams
from wavbrivl.audio.wav2clip import (
    WAV2CLIP_PREFIXES,
    ResNet18,
    Wav2CLIPTower,
    load_wav2clip,
    log_spectrogram,
    mirror_pad,
)
from wavbrivl.tasks.yamnet import YAMNet, cut_overlapping_windows
from wavbrivl.audio.tower import embed_clips, embed_frames

torch.set_num_threads(1)
SHARED = Path(__file__).parents[2] / 'shared'
REFERENCE, YAMNET, ESC = (
    SHARED / 'reference' / 'wav2clip',
    SHARED / 'data' / 'weights' / 'yamnet.tflite',
    SHARED / 'data' / 'esc',
)
SMALL = AudioParams(width=8, embed=24)
needs_reference = pytest.mark.skipif(
    not REFERENCE.exists(), reason='no reference files beside the checkout'
)


def gap(a, b):
    return (a.detach() - torch.as_tensor(b)).abs().max().item()


def noise(*shape, seed=0):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_statistics(tower, seed=0):
    "A tower whose batch norms have seen sound, in eval mode."
    with torch.no_grad():
        for k in range(8):
            tower.train().embed(noise(6, 20_000, seed=seed + k).cumsum(1) * 0.05)
    return tower.eval()


@pytest.fixture(scope='module')
def tower():
    torch.manual_seed(0)
    return with_statistics(Wav2CLIPTower(SMALL, 16))


@pytest.fixture(scope='module')
def golden(tmp_path_factory):
    "The released layout with the fixture's weights: the file, the wave, what the original made of it."
    config, small = (
        json.loads((REFERENCE / 'config.json').read_text()),
        np.load(REFERENCE / 'weights_1d.npz'),
    )
    weights = {}
    for key, shape in config['checkpoint_layout']:
        if len(shape) < 2:
            weights[key] = torch.from_numpy(small[key])
            continue
        draw = np.random.RandomState(
            (zlib.crc32(key.encode()) ^ config['seed']) & 0xFFFFFFFF
        ).standard_normal(tuple(shape))
        weights[key] = torch.from_numpy(
            (draw * (config['recipe_scale'] / np.sqrt(np.prod(shape[1:])))).astype(
                np.float32
            )
        )
    path = tmp_path_factory.mktemp('wav2clip') / 'Wav2CLIP.pt'
    torch.save(weights, path)
    return (
        path,
        torch.from_numpy(np.load(REFERENCE / 'inputs.npz')['wave']),
        dict(np.load(REFERENCE / 'outputs.npz')),
        config,
    )


@needs_reference
def test_released_weights_hear_as_the_original(golden):
    path, wave, want, config = golden
    whole = load_wav2clip(path, standardise_over='batch')
    assert whole.params.width == 64 and whole.dim == whole.params.embed == 512
    with torch.no_grad():
        x, _ = log_spectrogram(wave, standardise_over='batch')
        assert gap(x[..., ::4], want['log_spectrogram_batch']) < 2e-5
        assert gap(whole.encoder(x)[0][:, ::8], want['layer4_batch']) < 1e-4
        assert gap(whole.embed(wave), want['embedding_batch']) < 2e-5
        pieces = wave[:1].unfold(1, config['frame_length'], config['hop_length'])[0]
        assert gap(whole.embed(pieces).T[None], want['embedding_frames']) < 2e-5


@needs_reference
def test_ours_is_the_original_on_each_clip_alone(golden):
    path, wave, want, _ = golden
    ours = load_wav2clip(path)
    n = wave.shape[1]
    with torch.no_grad():
        assert gap(ours.embed(wave), want['embedding_one_by_one']) < 2e-5
        assert (
            gap(
                ours.embed(F.pad(wave, (0, 9_001)), [n, n]),
                want['embedding_one_by_one'],
            )
            < 2e-5
        )
    moved = np.abs(want['embedding_batch'] - want['embedding_one_by_one']).max()
    assert moved > 0.1, 'the original depends on its batch'
    z, a = embed_clips(ours, list(wave.numpy()))
    assert (
        gap(z, want['embedding_one_by_one']) < 2e-5
        and gap(a, F.normalize(z, dim=1)) < 1e-6
    )


def test_resnet_is_torchvisions():
    from torchvision.models import resnet18

    torch.manual_seed(0)
    net, theirs = ResNet18().eval(), resnet18().eval()
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            (
                m.running_mean.normal_(0, 0.3),
                m.running_var.uniform_(0.5, 2),
                m.weight.data.uniform_(0.5, 1.5),
                m.bias.data.normal_(0, 0.3),
            )
    theirs.conv1 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    missing, left = theirs.load_state_dict(net.state_dict(), strict=False)
    assert set(missing) == {'fc.weight', 'fc.bias'} and not left
    theirs.avgpool = theirs.fc = torch.nn.Identity()
    x = torch.randn(2, 1, 257, 40)
    with torch.no_grad():
        ours, want = net(x)[0].flatten(1), theirs(x)
    assert gap(ours, want) < 1e-5 * want.abs().max()


def test_mirror_is_numpys():
    wave, lengths = noise(5, 40), torch.tensor([40, 23, 5, 2, 1])
    out = mirror_pad(
        wave.masked_fill(torch.arange(40) >= lengths[:, None], 0), lengths, 30
    )
    for row, x, n in zip(out, wave, lengths.tolist()):
        assert (
            np.array_equal(row[: n + 60], np.pad(x[:n].numpy(), 30, 'reflect'))
            and not row[n + 60 :].any()
        )


@pytest.mark.parametrize(
    'n', [1, 2, 100, 256, 257, 353, 354, 706, 5_000, 11_296, 15_887, 29_999]
)
def test_padding_and_company_do_not_matter(tower, n):
    x = noise(1, n, seed=n)
    loud = 3 * noise(1, 40_000, seed=7)
    batch = torch.cat([F.pad(x, (0, 40_000 - n)), loud])
    with torch.no_grad():
        alone, (frames, real) = tower(x), tower.frames(x)
        among, (frames2, real2) = (
            tower(batch, [n, 40_000])[:1],
            tower.frames(batch, np.array([n, 40_000])),
        )
        assert (
            gap(alone, among) < 1e-5
            and real.all()
            and real2[0].sum() == real.sum()
            and not frames2[0][~real2[0]].any()
        )
        assert gap(frames[0], frames2[0, : frames.shape[1]]) < 1e-5 * frames.abs().max()
        assert gap(tower(loud), tower(batch, [n, 40_000])[1:]) < 1e-5
        naive = tower(batch)[:1]
    assert gap(alone, naive) > 1e-3, 'zeros taken for sound would be noticed'


def test_silence_is_finite_and_its_own(tower):
    for x in (torch.zeros(1, 3000), torch.full((1, 3000), 0.3), 1e-6 * noise(1, 3000)):
        with torch.no_grad():
            alone, padded = tower(x), tower(F.pad(x, (0, 20_000)), [3000])
        assert alone.isfinite().all() and gap(alone, padded) < 1e-5


def test_lengths_of_every_kind(tower):
    x = F.pad(noise(2, 5000), (0, 3000))
    with torch.no_grad():
        want = tower(x, [5000, 5000])
    for lengths in (torch.tensor([5000, 5000]), np.array([5000, 5000])):
        with torch.no_grad():
            assert torch.equal(tower(x, lengths), want)


def test_goes_where_the_audio_tower_goes(tower):
    rng = np.random.default_rng(0)
    clips = [
        (0.1 * rng.standard_normal(n)).astype('f') for n in (1, 700, 32_000, 90_000)
    ]
    z, a = embed_clips(tower, clips, batch=3)
    assert (
        z.shape == (4, 24)
        and a.shape == (4, 16)
        and gap(a.norm(dim=1), torch.ones(4)) < 1e-5
    )
    assert gap(a, embed_clips(tower, clips[::-1], batch=2)[1].flip(0)) < 1e-5
    assert [f.shape for f in embed_frames(tower, clips)] == [
        (-(-len(c) // 320), 64) for c in clips
    ]
    assert tower.frame_hop == pytest.approx(0.706)


def test_gain_is_heard_only_through_the_level():
    x = noise(2, 20_000)
    for level in (False, True):
        torch.manual_seed(0)
        t = with_statistics(
            Wav2CLIPTower(SMALL.model_copy(update=dict(level=level)), 16)
        )
        with torch.no_grad():
            moved = gap(t(x), t(x / 10))
        assert moved > 0.01 if level else moved < 0.01


def test_learns():
    "Eight sounds find eight points."
    torch.manual_seed(0)
    t, x, goal = (
        Wav2CLIPTower(AudioParams(width=8, embed=32, dropout=0), 16),
        torch.cat(
            [
                noise(1, 8000, seed=i).cumsum(1) * 0.02 * (i % 3)
                + noise(1, 8000, seed=9 + i) * (i + 1)
                for i in range(8)
            ]
        ),
        F.normalize(noise(8, 16, seed=5), dim=1),
    )
    step, losses = torch.optim.AdamW(t.parameters(), 3e-3), []
    for _ in range(25):
        loss = F.cross_entropy(
            t(x, [8000] * 4 + [6000] * 4) @ goal.T / 0.1, torch.arange(8)
        )
        step.zero_grad()
        loss.backward()
        step.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0], losses
    assert all(p.grad is not None and p.grad.isfinite().all() for p in t.parameters())


def test_half_precision_hears_nearly_the_same(tower):
    x = noise(2, 20_000)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        low = tower(x)
    with torch.no_grad():
        assert (low * tower(x)).sum(1).min() > 0.999


def released(tower):
    return {
        old + k[len(new) :]: v
        for k, v in tower.state_dict().items()
        for old, new in WAV2CLIP_PREFIXES.items()
        if k.startswith(new)
    }


def test_files_of_either_kind(tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    t = with_statistics(Wav2CLIPTower(AudioParams(width=8, embed=24), 24))
    more = released(t) | {
        'audio_encoder.fc.weight': torch.zeros(309, 64),
        'image_transform.sequential.0.weight': torch.zeros(2, 2),
        'audio_encoder.spectrogram.window': torch.hann_window(512),
    }
    torch.save(dict(state_dict=more, epoch=3), tmp_path / 'a.ckpt')
    save_file({k: v.contiguous() for k, v in more.items()}, tmp_path / 'b.safetensors')
    x = noise(2, 9000)
    for f in ('a.ckpt', 'b.safetensors'):
        with torch.no_grad():
            assert torch.equal(load_wav2clip(tmp_path / f)(x), t(x))


class Pickled:
    pass


def test_files_that_do_not_fit(tmp_path):
    good = released(Wav2CLIPTower(SMALL, 24))
    bad = dict(
        part=({k: v for k, v in good.items() if 'layer3.0.conv1' not in k}, 'missing'),
        more=(good | {'audio_encoder.layer5.weight': torch.zeros(1)}, 'left over'),
        other=(dict(a=torch.zeros(1)), 'audio_encoder'),
        empty=({}, 'no tensors'),
        shape=(
            good | {'audio_encoder.bn1.bias': torch.zeros(9)},
            'size mismatch for encoder.bn1.bias',
        ),
        window=(good | {'audio_encoder.spectrogram.window': torch.ones(512)}, 'Hann'),
        pickled=(dict(state_dict=good, hparams=Pickled()), 'pickled objects'),
    )
    for name, (found, why) in bad.items():
        torch.save(found, tmp_path / f'{name}.pt')
        with pytest.raises(BadInput, match=why):
            load_wav2clip(tmp_path / f'{name}.pt')
    with pytest.raises(BadInput, match='does not exist'):
        load_wav2clip(tmp_path / 'none.pt')
    with pytest.raises(BadInput, match="'clip' or 'batch'"):
        Wav2CLIPTower(SMALL, 16, standardise_over='epoch')


@pytest.mark.parametrize(
    'n, windows',
    [(1, 1), (15_600, 1), (15_601, 2), (23_280, 2), (23_281, 3), (80_000, 10)],
)
def test_hops_cover_every_sample(n, windows):
    x = np.arange(1.0, n + 1)
    w = cut_overlapping_windows(x, 15_600, 7_680)
    assert (
        w.shape == (windows, 15_600) and w.max() == n and all(len(r[r > 0]) for r in w)
    )
    assert np.array_equal(np.unique(w[w > 0]), x)


def test_what_yamnet_needs(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match='does not exist'):
        YAMNet(tmp_path / 'yamnet.tflite')
    (tmp_path / 'yamnet.tflite').write_bytes(b'TFL3 no more')
    monkeypatch.setitem(sys.modules, 'ai_edge_litert.interpreter', None)
    with pytest.raises(BadInput, match='pip install ai-edge-litert'):
        YAMNet(tmp_path / 'yamnet.tflite')


@pytest.fixture(scope='module')
def yamnet():
    pytest.importorskip('ai_edge_litert')
    if not YAMNET.exists():
        pytest.skip('no YAMNet beside the checkout')
    return YAMNet(YAMNET)


def test_other_models_are_refused(yamnet, tmp_path):
    with pytest.raises(BadInput, match='521 scores'):
        YAMNet(YAMNET.with_name('mobilenet_v2_1.0_224_quant.tflite'))
    (tmp_path / 'yamnet.tflite').write_bytes(b'no model')
    with pytest.raises(BadInput, match='not a .tflite'):
        YAMNet(tmp_path / 'yamnet.tflite')


def test_yamnet_takes_any_length(yamnet):
    clips = [noise(n, seed=n).numpy() for n in (1, 4_000, 15_600, 50_000)]
    s, z = yamnet.scores(clips), yamnet.embed(clips)
    assert (
        s.shape == (4, 521)
        and z.shape == (4, 1024)
        and 0 <= s.min()
        and s.max() <= 1
        and z.min() >= 0
    )
    assert (
        np.array_equal(s[::-1], yamnet.scores(clips[::-1])) and len(yamnet.names) == 521
    )
    assert np.allclose(s[3], yamnet.run(clips[3], yamnet.scores_index).mean(0))
    for wrong in (
        [],
        [clips[0], np.zeros(0)],
        [np.full(9, np.nan)],
        [np.zeros((2, 9))],
    ):
        with pytest.raises(BadInput):
            yamnet.scores(wrong)


def test_embedding_is_what_the_scores_are_made_of(yamnet):
    "The last layer, applied by hand to the embedding of a window, gives its scores."
    details = {d['name']: d for d in yamnet.net.get_tensor_details()}
    weight = next(d for n, d in details.items() if n.endswith('dense/MatMul'))
    bias = next(
        d
        for n, d in details.items()
        if n.endswith('dense/BiasAdd/ReadVariableOp/resource')
    )
    W = (
        yamnet.net.get_tensor(weight['index']).astype('f')
        * weight['quantization_parameters']['scales'][:, None]
    )
    x = noise(40_000).cumsum(0).numpy() * 0.05
    logits = yamnet.run(x, yamnet.embedding_index) @ W.T + yamnet.net.get_tensor(
        bias['index']
    )
    want = yamnet.run(x, yamnet.scores_index)
    assert want.max() > 0.1 and np.abs(1 / (1 + np.exp(-logits)) - want).max() < 0.02


@pytest.mark.skipif(not ESC.exists(), reason='no real sounds beside the checkout')
def test_yamnet_on_esc10(yamnet):
    "Fold 1 of the official folds: its scores and embeddings by the linear probe, beside the bar of MFCC."
    from wavbrivl.tasks.baseline import linear_probe, mfcc_features
    from wavbrivl.media.sound import load_audio

    rows = [
        r
        for r in csv.DictReader(open(ESC / 'meta' / 'esc50.csv'))
        if r['esc10'] == 'True' and r['fold'] in '1234'
    ]
    clips = [load_audio(ESC / 'audio' / r['filename']) for r in rows]
    y, test = (
        np.array([r['category'] for r in rows]),
        np.array([r['fold'] == '1' for r in rows]),
    )
    made = dict(
        mfcc=mfcc_features(clips),
        scores=yamnet.scores(clips),
        embedding=yamnet.embed(clips),
    )
    got = {
        k: linear_probe(x[~test], y[~test], x[test], y[test])['accuracy']
        for k, x in made.items()
    }
    assert len(rows) == 320 and test.sum() == 80
    assert (
        got['embedding'] >= 0.95
        and 0.82 <= got['scores'] <= got['embedding']
        and 0.55 <= got['mfcc'] <= got['scores'] - 0.1
    ), got
    best = np.array(yamnet.names)[made['scores'].argmax(1)]
    dogs = best[y == 'dog']
    assert (
        np.isin(
            dogs, ['Dog', 'Bark', 'Animal', 'Domestic animals, pets', 'Yip', 'Bow-wow']
        ).mean()
        > 0.6
    ), dogs
