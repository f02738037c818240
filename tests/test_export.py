"The ONNX folder: every graph agrees with torch, at any length and batch; what does not belong together is refused."

import copy
import json
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile as sf
import torch
from PIL import Image

onnx, ort = pytest.importorskip('onnx'), pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')

from tiny import SMALL as TINY
from wavbrivl.api.pictures import WavBriVL
from wavbrivl.gloss.bridge import Bridge
from wavbrivl.image_text.brivl import BriVL
from wavbrivl.image_text.inputs import train_tokenizer
from wavbrivl.app.cli import main
from wavbrivl.core.files import BadInput, read_json, write_json
from wavbrivl.core.params import BrivlParams, LanguageParams
from wavbrivl.api.onnx_export import export_onnx, freeze_tower, open_session
from wavbrivl.api.onnx_model import OnnxModel
from wavbrivl.audio.wav2clip import Wav2CLIPTower
from wavbrivl.audio.tower import AudioTower

RATE = 16_000
SMALL = TINY.model_copy(update=dict(max_distance=40))
LARGE = SMALL.model_copy(
    update=dict(conv_norm='layer', normalize=True, level=True)
)  # the layout of WavLM large
WORDS = LanguageParams(
    hidden=16, layers=1, decoder_layers=1, heads=2, ffn=32, align_dim=8, window=0.5
)
TOWERS = dict(
    large=lambda dim: AudioTower(LARGE, dim, 0.5),
    bridge=lambda dim: Bridge(
        SMALL, WORDS, ['dog', 'rain'], dim
    ),  # on the layout of WavLM base
    wav2clip=lambda dim: Wav2CLIPTower(
        SMALL.model_copy(update=dict(width=8)), dim, 0.5
    ),
)

pytestmark = pytest.mark.usefixtures('one_thread')


def settled(tower):
    "Weights and statistics as after some training: nothing is 0 or 1."
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for k, v in [*tower.named_parameters(), *tower.named_buffers()]:
            if k.endswith('running_mean'):
                v.copy_(0.1 * torch.randn(v.shape, generator=g))
            elif k.endswith('running_var'):
                v.copy_(0.5 + torch.rand(v.shape, generator=g))
            elif v.ndim == 1 and v.is_floating_point():
                v.add_(0.1 * torch.randn(v.shape, generator=g))
    return tower


def new_model(kind='large', text=True):
    torch.manual_seed(0)
    tokenizer = train_tokenizer(['a dog barks', 'rain falls on a roof'], 100)
    brivl = BriVL(
        BrivlParams(
            image_size=32,
            text=dict(
                vocab=tokenizer.get_vocab_size(),
                hidden=32,
                layers=1,
                heads=2,
                ffn=32,
                max_length=12,
            ),
        ),
        text=text,
    )
    return WavBriVL(
        settled(TOWERS[kind](brivl.dim)),
        settled(brivl),
        tokenizer if text else None,
        dict(picture=48, seed=7),
    )


@pytest.fixture(scope='module')
def model():
    return new_model()


@pytest.fixture(scope='module')
def folder(tmp_path_factory, model):
    d = tmp_path_factory.mktemp('onnx') / 'out'
    model.before = copy.deepcopy(model.state_dict())
    rows = export_onnx(model, d)
    assert [r['part'] for r in rows] == ['audio', 'image', 'text'] and all(
        r['error'] < 1e-4 and r['bytes'] > 1e4 for r in rows
    )
    return d


@pytest.fixture(scope='module')
def light(folder):
    return OnnxModel.open(folder, threads=1)


def batch(n, samples, seed=0):
    "Clips of lengths down to one sample, the last but one silent."
    rng = np.random.default_rng(seed)
    lengths = np.linspace(samples, 1, n).astype(np.int64)
    wave = np.where(
        np.arange(samples) < lengths[:, None],
        0.1 * rng.standard_normal((n, samples)),
        0,
    ).astype(np.float32)
    if n > 1:
        wave[-2] = 0
    return wave, lengths


# ---------------------------------------------------------------- the graphs


@pytest.mark.parametrize('kind', list(TOWERS))
def test_every_tower_at_every_length(tmp_path, request, kind):
    m, d = (
        (request.getfixturevalue(k) for k in ('model', 'folder'))
        if kind == 'large'
        else (new_model(kind), tmp_path)
    )
    if kind != 'large':
        export_onnx(m, d, ['audio'])
    s = open_session(d / 'audio.onnx', 1)
    for n, samples in (
        (1, 400),
        (2, 401),
        (4, 719),
        (1, 720),
        (3, 8_000),
        (7, 8_001),
        (1, 70_003),
        (2, 33_333),
    ):
        wave, lengths = batch(n, samples)
        task, joint = s.run(['task', 'joint'], dict(wave=wave, lengths=lengths))
        with torch.inference_mode():
            z = m.audio.embed(torch.from_numpy(wave), torch.from_numpy(lengths))
            a = m.audio.joint(z).numpy()
        assert np.abs(a - joint).max() < 1e-5 and np.abs(
            z.numpy() - task
        ).max() < 1e-4 * max(1, z.abs().max()), (n, samples)
        assert np.abs(np.linalg.norm(joint, axis=1) - 1).max() < 1e-5


def test_a_row_does_not_depend_on_its_batch(light):
    wave, lengths = batch(5, 8_000)
    whole = light.run('audio', 'joint', wave=wave, lengths=lengths)
    alone = np.concatenate(
        [
            light.run(
                'audio', 'joint', wave=wave[i : i + 1], lengths=lengths[i : i + 1]
            )
            for i in range(5)
        ]
    )
    assert np.abs(whole - alone).max() < 1e-5
    assert np.abs(whole[0] - whole[1]).max() > 1e-3, (
        'different sounds, different points'
    )


def test_padding_beyond_the_length_counts_for_nothing(light):
    wave, lengths = batch(3, 8_000)
    dirty = [
        light.run(
            'text',
            'joint',
            ids=np.where(np.arange(9) < [[4], [9]], 5, fill),
            lengths=np.array([4, 9]),
        )
        for fill in (0, 7)
    ]
    assert np.abs(dirty[0] - dirty[1]).max() < 1e-6
    short, long = (
        light.run(
            'text',
            'joint',
            ids=np.array([[2, 5, 6, 3] + [0] * k]),
            lengths=np.array([4]),
        )
        for k in (0, 30)
    )
    assert np.abs(short - long).max() < 1e-6


def test_the_model_is_left_as_it_was(model, folder):
    assert (
        all(torch.equal(v, model.before[k]) for k, v in model.state_dict().items())
        and model.state_dict().keys() == model.before.keys()
    )
    assert torch.backends.mha.get_fastpath_enabled()
    x = torch.from_numpy(batch(1, 8_000)[0])
    with torch.inference_mode():
        assert torch.allclose(freeze_tower(model.audio)(x), model.audio(x), atol=1e-6)
    assert 'weight' not in dict(
        model.audio.wavlm.model.encoder.pos_conv_embed.conv.named_parameters()
    ), 'weight norm is still there'


def test_what_a_graph_says_of_itself(folder):
    graph = onnx.load(folder / 'image.onnx')
    facts, config = (
        {p.key: json.loads(p.value) for p in graph.metadata_props},
        read_json(folder / 'config.json'),
    )
    assert (
        config.pop('parts') == ['audio', 'image', 'text']
        and facts.pop('part') == 'image'
        and facts == config
    )
    assert (
        config['sample_rate'],
        config['window'],
        config['picture'],
        config['info']['seed'],
    ) == (16_000, 0.5, 48, 7)
    onnx.checker.check_model(graph)
    free = {
        i.name: [d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim]
        for p in ('audio', 'image', 'text')
        for i in onnx.load(folder / f'{p}.onnx').graph.input
        if i.name != 'lengths'
    }
    assert free == dict(wave=['N', 'n'], pixels=['N', 3, 48, 48], ids=['N', 'L'])


# ---------------------------------------------------------------- the reader


def test_same_contracts(tmp_path, model, light):
    rng = np.random.default_rng(0)
    sounds = [
        (0.1 * rng.standard_normal(n)).astype(np.float32)
        for n in (50, 20_000, 22_050, 90_001)
    ]
    for kind in ('joint', 'task'):
        a, b = (
            m.embed_audio(sounds, 44_100, batch=3, kind=kind) for m in (model, light)
        )
        assert (
            a.shape == b.shape and b.dtype == np.float32 and np.abs(a - b).max() < 1e-4
        )
    assert (
        np.abs(
            light.embed_audio(sounds, 44_100, batch=1)
            - light.embed_audio(sounds, 44_100)
        ).max()
        < 1e-5
    )
    assert light.embed_audio(sounds[1], 44_100).shape == (1, light.config['dim'])
    pictures = [
        Image.effect_noise((90, 70), 80).convert('RGB'),
        rng.integers(0, 255, (48, 48, 3), dtype=np.uint8),
        Image.effect_noise((600, 500), 80),
    ]
    assert (
        np.abs(model.embed_image(pictures) - light.embed_image(pictures, batch=2)).max()
        < 1e-5
    )
    assert (
        np.abs(light.embed_image(pictures[1]) - light.embed_image(pictures)[1:2]).max()
        < 1e-5
    )
    sentences = ['a dog barks', '', 'rain falls on a roof ' * 9, '雨']
    ours, theirs = model.embed_text(sentences), light.embed_text(sentences, batch=3)
    assert np.allclose(ours, theirs, atol=1e-5, equal_nan=True)
    assert np.isnan(theirs[[1, 3]]).all() and np.isfinite(theirs[[0, 2]]).all()
    assert light.embed_text('a dog').shape == (1, light.config['dim'])
    assert (
        light.embed_text([]).shape
        == light.embed_image([]).shape
        == light.embed_audio([]).shape
        == (0, light.config['dim'])
    )
    with pytest.raises(BadInput, match='text 1'):
        light.embed_text(['a', 3])


def test_bad_files_keep_their_place(tmp_path, light):
    good = np.random.default_rng(0).normal(0, 0.1, 9_000).astype(np.float32)
    sf.write(tmp_path / 'good.wav', good, RATE, 'FLOAT')
    (tmp_path / 'empty.wav').touch()
    with pytest.warns(UserWarning, match='2 of 3'):
        rows = light.embed_audio(
            [tmp_path / 'empty.wav', tmp_path / 'good.wav', tmp_path / 'none.wav']
        )
    assert (
        np.isnan(rows[[0, 2]]).all()
        and [r['index'] for r in light.rejected] == [0, 2]
        and 'empty' in light.rejected[0]['reason']
    )
    assert (
        np.abs(rows[1] - light.embed_audio(good, RATE)[0]).max() < 1e-6
        and light.rejected == []
    )
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert (
            np.isnan(light.embed_image([str(tmp_path / 'good.wav')])).all()
            and len(light.rejected) == 1
        )


WITHOUT_TORCH = """
import sys
import numpy as np
from wavbrivl.api.onnx_model import OnnxModel

m = OnnxModel.open({folder!r}, 1)
m.embed_audio(np.ones(9000, np.float32), 16000)
m.embed_image(np.zeros((9, 9, 3), np.uint8))
m.embed_text('a')
assert 'torch' not in sys.modules and 'transformers' not in sys.modules
"""


def test_reading_needs_no_torch(folder):
    code = WITHOUT_TORCH.format(folder=str(folder))
    subprocess.run([sys.executable, '-c', code], check=True)


# ---------------------------------------------------------------- refusals


def broken(folder, tmp_path, change):
    "A copy of the folder with something changed."
    for f in folder.iterdir():
        (tmp_path / f.name).write_bytes(f.read_bytes())
    change(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    'change, why',
    [
        (
            lambda d: (d / 'config.json').unlink(),
            'config.json: the file does not exist',
        ),
        (lambda d: (d / 'text.onnx').unlink(), 'text.onnx: the file does not exist'),
        (
            lambda d: (d / 'image.onnx').write_bytes(
                (d / 'image.onnx').read_bytes()[:5000]
            ),
            'image.onnx: not a graph',
        ),
        (
            lambda d: (d / 'tokenizer.json').write_text('{}'),
            'tokenizer.json: not a tokenizer',
        ),
        (
            lambda d: write_json(
                read_json(d / 'config.json') | dict(model='0'), d / 'config.json'
            ),
            'belongs to another model',
        ),
        (
            lambda d: write_json(
                read_json(d / 'config.json') | dict(format=99), d / 'config.json'
            ),
            'format 99',
        ),
        (lambda d: write_json(dict(audio={}), d / 'config.json'), 'names no parts'),
    ],
    ids=['config', 'graph', 'damaged', 'tokenizer', 'mixed', 'newer', 'foreign'],
)
def test_folders_refused(folder, tmp_path, change, why):
    with pytest.raises(BadInput, match=why):
        OnnxModel.open(broken(folder, tmp_path, change))


class Undecided(torch.nn.Module):
    "A tower whose path depends on what it hears."

    params, window, dim = SMALL, 0.5, 256

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(1))

    def embed(self, wave, lengths):
        return wave[:, :32] * self.w if float(wave.sum()) > 0 else -wave[:, :32]

    def joint(self, z):
        return z


def test_a_part_that_cannot_be_written_is_named(tmp_path, folder, model):
    odd = SimpleNamespace(
        fingerprint='none',
        audio=Undecided(),
        brivl=model.brivl,
        tokenizer=model.tokenizer,
        info=model.info,
        dim=model.dim,
        state_dict=model.state_dict,
    )
    there = broken(folder, tmp_path, lambda d: None)
    with pytest.raises(BadInput, match='audio part cannot be written'):
        export_onnx(odd, there)
    assert sorted(f.name for f in there.iterdir()) == sorted(
        f.name for f in folder.iterdir()
    ), 'nothing half-written stays'
    OnnxModel.open(there, 1)


def test_parts(tmp_path, model, capsys):
    with pytest.raises(BadInput, match='no text tower'):
        export_onnx(new_model(text=False), tmp_path / 'a', ['text'])
    with pytest.raises(BadInput, match='smell'):
        export_onnx(model, tmp_path / 'a', ['audio', 'smell'])
    with pytest.raises(BadInput, match='no part was asked for'):
        export_onnx(model, tmp_path / 'a', [])
    assert not (tmp_path / 'a').exists()
    model.save_pretrained(tmp_path / 'model')
    assert (
        main(
            [
                'export',
                str(tmp_path / 'model'),
                '-o',
                str(tmp_path / 'b'),
                '--parts',
                'image',
                '--json',
            ]
        )
        == 0
    )
    rows = json.loads(capsys.readouterr().out)
    assert [r['part'] for r in rows] == ['image'] and sorted(
        f.name for f in (tmp_path / 'b').iterdir()
    ) == ['config.json', 'image.onnx']
    only = OnnxModel.open(tmp_path / 'b', 1)
    assert only.embed_image(np.zeros((60, 60, 3), np.uint8)).shape == (1, model.dim)
    for call in (
        lambda: only.embed_text('a'),
        lambda: only.embed_audio(np.ones(900, np.float32), RATE),
    ):
        with pytest.raises(BadInput, match='holds no'):
            call()
    assert (
        main(
            [
                'export',
                str(tmp_path / 'model'),
                '-o',
                str(tmp_path / 'c'),
                '--parts',
                'sound',
            ]
        )
        == 2
    )
