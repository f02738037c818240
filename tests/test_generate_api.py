"Pictures from the public surface: the same alone and in company, bad files, films, and the command line."

import json
import warnings

import numpy as np
import pytest
import soundfile as sf
import torch
from PIL import Image

from tiny import SMALL
from wavbrivl.api.pictures import WavBriVL
from wavbrivl.api.painter import PAINTING_KINDS, Painter
from wavbrivl.api.pictures import film_windows
from wavbrivl.image_text.brivl import BriVL
from wavbrivl.image_text.inputs import train_tokenizer
from wavbrivl.app.drawing import name_files, choose_paths
from wavbrivl.app.cli import main
from wavbrivl.core.files import BadFile, BadInput
from wavbrivl.core.params import BrivlParams
from wavbrivl.core.picture_params import DiffusionParams, GuidanceParams, VqganParams
from wavbrivl.decoders.diffusion import LatentDiffusion
from wavbrivl.generation.mosaic import Mosaic
from wavbrivl.training.targets import embed_pictures
from wavbrivl.decoders.vqgan import VQGAN
from wavbrivl.audio.tower import AudioTower

RATE = 16_000
OWN_KINDS = [k for k in PAINTING_KINDS if k != 'pipeline']
QUICK = GuidanceParams(steps=3, cutouts=2)
tone = lambda seconds, hz=440.0, gain=0.3: (
    gain * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE)
).astype(np.float32)
pixels = lambda picture: np.asarray(picture).astype(int)


pytestmark = pytest.mark.usefixtures('one_thread')


def new_model(level=False, text=True):
    torch.manual_seed(0)
    tokenizer = train_tokenizer(['a dog barks', 'rain falls on a roof'], 100)
    brivl = BriVL(
        BrivlParams(
            cnn='test_efficientnet',
            image_size=32,
            text=dict(
                vocab=tokenizer.get_vocab_size(), hidden=32, layers=1, heads=2, ffn=32
            ),
        ),
        text=text,
    )
    return WavBriVL(
        AudioTower(SMALL.model_copy(update=dict(level=level)), brivl.dim, 0.5),
        brivl,
        tokenizer if text else None,
        dict(picture=32),
    )


def new_painter(dim=256, diffusion=True):
    torch.manual_seed(1)
    vqgan = VQGAN(
        VqganParams(size=16, ch=16, ch_mult=[1, 2], attention=[], channels=16, codes=32)
    )
    with torch.no_grad():
        vqgan.codebook.normal_()  # fresh codes are so alike that every picture is
    mosaic = Mosaic(
        torch.randint(32, (20, vqgan.side, vqgan.side)), torch.randn(20, dim)
    )
    return Painter(
        vqgan,
        *(
            LatentDiffusion(
                DiffusionParams(ch=[16, 32], inference_steps=4),
                dim,
                vqgan.config.embed,
                vqgan.side,
            ),
            mosaic,
        )
        if diffusion
        else (),
    )


@pytest.fixture(scope='module')
def model():
    return new_model()


@pytest.fixture(scope='module')
def painter():
    return new_painter()


@pytest.fixture(scope='module')
def lab(tmp_path_factory, model, painter):
    "Folders of a model and a painter, and some sounds."
    d = tmp_path_factory.mktemp('lab')
    model.save_pretrained(d / 'model')
    painter.save(d / 'painter')
    (d / 'sounds').mkdir()
    for name, x in dict(
        high=tone(1, 2000),
        low=np.concatenate([tone(0.75, 200), tone(0.75, 90, 0.9)]),
        silent=np.zeros(RATE, np.float32),
    ).items():
        sf.write(d / f'sounds/{name}.wav', x, RATE)
    (d / 'sounds/empty.wav').write_bytes(b'')
    return d


@pytest.fixture
def run(lab, capsys):
    "The command line: exit status, standard output, standard error."

    def call(*words, painter=lab / 'painter'):
        status = main(
            [
                'generate',
                *map(str, words),
                '--model',
                str(lab / 'model'),
                '--painter',
                str(painter),
                '--device',
                'cpu',
            ]
        )
        return status, *capsys.readouterr()

    return call


@pytest.mark.parametrize('kind', OWN_KINDS)
def test_same_picture_alone_and_in_company(model, painter, kind):
    a, b = tone(1, 300), tone(0.7, 1500)
    together = model.generate([a, b, a], painter, RATE, kind, guide=QUICK)
    (alone,) = model.generate(b, painter, RATE, kind, guide=QUICK)
    assert [p.size for p in together] == [(16, 16)] * 3
    assert (
        np.abs(pixels(together[1]) - pixels(alone)).max() <= 1
        and abs(together[1].info['cosine'] - alone.info['cosine']) < 1e-2
    )
    assert np.abs(pixels(together[0]) - pixels(together[2])).max() <= 1, (
        'one sound, one picture'
    )
    assert np.abs(pixels(together[0]) - pixels(together[1])).mean() > 1
    (other,) = model.generate(b, painter, RATE, kind, seed=1, guide=QUICK)
    assert np.abs(pixels(other) - pixels(alone)).mean() > 1, (
        'another seed, another picture'
    )


def test_a_file_is_its_samples(model, painter, lab):
    x, _ = sf.read(lab / 'sounds/high.wav', dtype='float32')
    (from_file,) = model.generate(lab / 'sounds/high.wav', painter)
    (from_array,) = model.generate(x, painter, RATE)
    assert np.array_equal(pixels(from_file), pixels(from_array))


def test_best_candidate_is_kept(model, painter):
    wanted = torch.from_numpy(model.embed_audio([tone(1, 300), tone(1, 900)], RATE))
    names = ['a', 'b']
    best, cosine = painter.paint(model, wanted, candidates=5, names=names)
    each, _ = painter.diffusion.draw(
        painter.vqgan,
        wanted.repeat_interleave(5, 0),
        [(n, c) for n in names for c in range(5)],
    )
    scores = (embed_pictures(model.brivl, each).view(2, 5, -1) * wanted[:, None]).sum(2)
    assert torch.allclose(cosine, scores.max(1).values, atol=1e-4) and torch.equal(
        best, each.view(2, 5, *each.shape[1:])[torch.arange(2), scores.argmax(1)]
    )
    first, lower = painter.paint(model, wanted, names=names)
    assert (
        torch.equal(first, each[::5])
        and (lower <= cosine + 1e-4).all()
        and (lower < cosine - 1e-4).any()
    )


def test_rows_are_drawn_in_blocks_of_bounded_size(model, painter, monkeypatch):
    monkeypatch.setattr('wavbrivl.api.painter.MAX_DRAWN', 4)
    wanted = torch.randn(5, model.dim, generator=torch.Generator().manual_seed(0))
    sizes, draw = [], painter.diffusion.draw
    with monkeypatch.context() as m:
        m.setattr(
            type(painter.diffusion),
            'draw',
            lambda self, vqgan, rows, *a, **k: (
                sizes.append(len(rows)) or draw(vqgan, rows, *a, **k)
            ),
        )
        small, _ = painter.paint(model, wanted, candidates=2, level=[-20.0] * 5)
    monkeypatch.undo()
    large, _ = painter.paint(model, wanted, candidates=2, level=[-20.0] * 5)
    assert sizes == [4, 4, 2] and (small.int() - large.int()).abs().max() <= 1
    pictures, cosine = painter.paint(model, wanted[:0])
    assert pictures.shape == (0, 3, 16, 16) and cosine.shape == (0,)


def test_level_is_passed_only_by_a_tower_with_level_as_input(model, monkeypatch):
    seen, painter = [], new_painter()
    monkeypatch.setattr(
        Painter,
        'draw_best',
        lambda self, m, wanted, names, level, *rest, **how: (
            seen.append(level)
            or (
                torch.zeros(len(wanted), 3, 16, 16, dtype=torch.uint8),
                torch.zeros(len(wanted)),
            )
        ),
    )
    model.generate(tone(1), painter, RATE)
    hears = new_model(level=True)
    hears.generate([tone(1, gain=1.0), np.zeros(100, np.float32)], painter, RATE)
    hears.generate_film(
        tone(1.25, gain=1.0), painter, kind='diffusion', sample_rate=RATE
    )
    hears.generate('rain', painter, text=True)
    assert (
        seen[0] is None
        and np.allclose(seen[1], [-3.01, -80], atol=0.05)
        and np.allclose(seen[2], [-3.01] * 4, atol=0.1)
        and np.isnan(seen[3]).all()
    )


@pytest.mark.parametrize(
    'x',
    [np.zeros(RATE), np.sign(tone(1)), tone(0.1), np.ones(1), 1e4 * tone(1)],
    ids=['silence', 'clipped', '0.1 s', 'one sample', 'far beyond full scale'],
)
def test_edges_give_a_picture(model, painter, x):
    for kind in OWN_KINDS:
        (picture,) = model.generate(
            x.astype(np.float32), painter, RATE, kind, guide=QUICK
        )
        assert picture.size == (16, 16) and np.isfinite(picture.info['cosine'])
    assert (
        len(model.generate_film(tone(0.1), painter, sample_rate=RATE, guide=QUICK)) == 1
    )


def test_what_cannot_be_read_is_named(model, painter, lab):
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter('always')
        made = model.generate(
            [lab / 'sounds/empty.wav', lab / 'sounds/high.wav', lab / 'nowhere.wav'],
            painter,
        )
        assert model.generate([lab / 'nowhere.wav'], painter) == [None]
    assert [p is None for p in made] == [True, False, True] and any(
        'empty.wav' in str(x.message) for x in w
    )
    assert len(model.rejected) == 1 and 'does not exist' in model.rejected[0]['reason']
    with pytest.raises(BadFile, match='nowhere'):
        model.generate_film(lab / 'nowhere.wav', painter)
    with pytest.raises(BadInput, match='sample_rate'):
        model.generate(tone(1), painter)
    assert model.generate([], painter) == []


def test_sentences(model, painter):
    a, b = model.generate(
        ['a dog barks', 'rain falls'], painter, text=True, candidates=2
    )
    (alone,) = model.generate('rain falls', painter, text=True, candidates=2)
    assert (
        np.abs(pixels(b) - pixels(alone)).max() <= 1
        and np.abs(pixels(a) - pixels(b)).mean() > 1
    )
    with pytest.raises(BadInput, match='sentences'):
        model.generate([tone(1)], painter, text=True)
    with pytest.raises(BadInput, match='no text tower'):
        new_model(text=False).generate('rain', painter, text=True)


def test_a_picture_to_begin_with(model, painter, tmp_path):
    colours = [Image.new('RGB', (40, 30), c) for c in ('red', 'blue')]
    colours[0].save(tmp_path / 'red.png')
    away = lambda x: np.abs(pixels(x[0]) - pixels(x[1])).mean()
    for kind in ('diffusion', 'guided', 'bare'):
        how = {} if kind == 'diffusion' else dict(guide=QUICK)
        red, again, blue = (
            model.generate([tone(1), tone(1, 90)], painter, RATE, kind, start=s, **how)
            for s in (colours[0], tmp_path / 'red.png', colours[1])
        )
        assert all(np.array_equal(pixels(a), pixels(b)) for a, b in zip(red, again))
        assert away((red[0], blue[0])) > 0 and red[0].size == (16, 16)
    through = Image.fromarray(
        painter.vqgan(torch.zeros(1, 3, 16, 16))[0][0]
        .detach()
        .movedim(0, -1)
        .add(1)
        .mul(127.5)
        .clamp(0, 255)
        .byte()
        .numpy()
    )
    near, far = (
        model.generate(
            tone(1),
            painter,
            RATE,
            start=Image.new('RGB', (16, 16), (127, 127, 127)),
            share=s,
            guidance=1.0,
        )[0]
        for s in (0.01, 1.0)
    )
    assert away((near, through)) < away((far, through)), (
        'set back a little, it stays what it was'
    )
    with pytest.raises(BadInput, match='kind mosaic begins with noise'):
        model.generate(tone(1), painter, RATE, 'mosaic', start=colours[0])
    with pytest.raises(BadInput, match='3 pictures to begin with for 1 rows'):
        painter.paint(
            model,
            torch.ones(1, 256),
            start=torch.zeros(3, 3, 16, 16, dtype=torch.uint8),
        )
    with pytest.raises(BadFile, match='gone.png'):
        model.generate(tone(1), painter, RATE, start=tmp_path / 'gone.png')


def test_painter_is_a_folder(lab, model, painter, tmp_path):
    again = Painter.load(lab / 'painter', 'cpu')
    for kind in OWN_KINDS:
        a, b = (
            model.generate(tone(1), p, RATE, kind, guide=QUICK)[0]
            for p in (painter, again)
        )
        assert np.array_equal(pixels(a), pixels(b))
    assert model.generate(tone(1), lab / 'painter', RATE)[0].size == (16, 16)
    with pytest.raises(BadInput, match='dvc repro vqgan'):
        Painter.load(tmp_path)


def test_without_diffusion_only_bare_pictures(model, tmp_path):
    new_painter(diffusion=False).save(tmp_path)
    alone = Painter.load(tmp_path, 'cpu')
    assert model.generate(tone(1), alone, RATE, 'bare', guide=QUICK)[0] is not None
    assert (
        model.generate(
            tone(1),
            alone,
            RATE,
            'guided',
            guide=QUICK.model_copy(update=dict(prior_interval=0)),
        )[0]
        is not None
    )
    for kind in ('diffusion', 'guided', 'mosaic'):
        with pytest.raises(BadInput, match='dvc repro diffusion'):
            model.generate(tone(1), alone, RATE, kind)
    (tmp_path / 'diffusion').mkdir()
    (tmp_path / 'diffusion/config.json').write_text('{')
    with pytest.raises(BadFile, match='JSON'):
        Painter.load(tmp_path)


def test_what_does_not_fit_is_said(model, painter):
    with pytest.raises(BadInput, match='64 dimensions, the model has 256'):
        model.generate(tone(1), new_painter(64), RATE)
    with pytest.raises(BadInput, match='3 x 3 codes, the codec makes 8 x 8'):
        Painter(painter.vqgan, None, Mosaic(torch.zeros(2, 3, 3), torch.ones(2, 256)))
    with pytest.raises(BadInput, match='grid of 4'):
        Painter(
            painter.vqgan,
            LatentDiffusion(
                DiffusionParams(ch=[16, 32]), 256, painter.vqgan.config.embed, 4
            ),
        )
    wanted = torch.randn(2, 256)
    for words, how in (
        ('no kind', dict(kind='painted')),
        ('candidates', dict(candidates=0)),
        ('candidates', dict(kind='bare', candidates=2)),
        ('1 names for 2', dict(names=['a'])),
        ('3 levels', dict(level=[0.0] * 3)),
    ):
        with pytest.raises(BadInput, match=words):
            painter.paint(model, wanted, **how)
    with pytest.raises(BadInput, match='row 1'):
        painter.paint(model, torch.stack([wanted[0], torch.full((256,), torch.nan)]))


def test_windows_of_a_film():
    starts = lambda *a: [c.start for c in film_windows(*a)]
    assert starts(100, 200, 100) == [0] and film_windows(100, 200, 100)[0].stop == 100
    assert (
        starts(200, 200, 100) == [0]
        and starts(400, 200, 100) == [0, 100, 200]
        and starts(450, 200, 100) == [0, 100, 200, 250]
    )
    assert film_windows(450, 200, 100)[-1] == slice(250, 450) and starts(
        1, 200, 100
    ) == [0]
    assert len(film_windows(600 * RATE, 2 * RATE, RATE)) == 599


@pytest.mark.parametrize('kind', OWN_KINDS)
def test_film_follows_its_sound(model, painter, kind):
    x = np.concatenate([tone(0.5, 200), tone(0.75, 3000)])
    frames = model.generate_film(x, painter, kind=kind, sample_rate=RATE, guide=QUICK)
    assert len(frames) == 4 and all(f.size == (16, 16) for f in frames)
    again = model.generate_film(x, painter, kind=kind, sample_rate=RATE, guide=QUICK)
    assert all(np.array_equal(pixels(f), pixels(g)) for f, g in zip(frames, again))
    assert (
        len(model.generate_film(x, painter, fps=8, kind='diffusion', sample_rate=RATE))
        == 7
    )
    with pytest.raises(BadInput, match='frames per second'):
        model.generate_film(x, painter, fps=0, sample_rate=RATE)


def test_frames_follow_one_another(model, painter, monkeypatch):
    "Drawn frames share one noise; a guided frame begins where the one before ended, and the prior leaves some of it."
    steady = torch.from_numpy(model.embed_audio(tone(1), RATE)).repeat(3, 1)
    frames, _ = painter.film(model, steady, 'diffusion')
    assert (frames[1:].int() - frames[:1].int()).abs().max() <= 1
    starts, shares, guided, likely = (
        [],
        [],
        Painter.guide,
        type(painter.diffusion).denoise_once,
    )
    monkeypatch.setattr(
        Painter,
        'guide',
        lambda self, m, w, k, n, p, start=None, share=1.0: (
            starts.append((start, p.steps)) or guided(self, m, w, k, n, p, start, share)
        ),
    )
    monkeypatch.setattr(
        type(painter.diffusion),
        'denoise_once',
        lambda self, z, share, noise, wanted: (
            shares.append(share) or likely(self, z, share, noise, wanted)
        ),
    )
    painter.film(
        model, steady, guide=GuidanceParams(steps=10, cutouts=1, prior_interval=5)
    )
    assert (
        starts[0] == (None, 10)
        and [s.shape for s, _ in starts[1:]] == [(1, 8, 8)] * 2
        and [n for _, n in starts[1:]] == [4, 4]
    )
    assert shares == [1.0, 0.5, 0.4, 0.4]


def test_long_sound_is_heard_window_by_window(model, painter, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        AudioTower,
        'embed',
        lambda self, wave, lengths=None: (
            sizes.append(wave.shape)
            or torch.zeros(len(wave), 32) + wave.mean(1, keepdim=True)
        ),
    )
    x = np.tile(tone(1, 333), 600)
    assert (
        len(model.generate(x, painter, RATE)) == 1
        and max(n for n, _ in sizes) <= 32
        and {m for _, m in sizes} == {RATE // 2}
    )
    frames, _ = [], sizes.clear()
    monkeypatch.setattr(
        Painter,
        'film',
        lambda self, m, wanted, *rest: (
            frames.append(len(wanted))
            or (
                torch.zeros(len(wanted), 3, 16, 16, dtype=torch.uint8),
                torch.zeros(len(wanted)),
            )
        ),
    )
    assert (
        len(model.generate_film(x, painter, sample_rate=RATE)) == frames[0] == 2399
        and max(n for n, _ in sizes) <= 32
    )


def test_one_picture_from_a_shell(run, lab, tmp_path, model, painter):
    status, out, _ = run(
        lab / 'sounds/high.wav', '-o', tmp_path / 'new/high.png', '--scale', 3, '--json'
    )
    (row,) = json.loads(out)
    assert (
        status == 0
        and row.keys() == {'file', 'picture', 'cosine'}
        and row['file'].endswith('high.wav')
    )
    (expected,) = model.generate(lab / 'sounds/high.wav', painter)
    picture = Image.open(row['picture'])
    assert (
        picture.size == (48, 48)
        and np.array_equal(pixels(picture)[1::3, 1::3], pixels(expected))
        and abs(row['cosine'] - expected.info['cosine']) < 1e-3
    )
    assert [f.name for f in (tmp_path / 'new').iterdir()] == ['high.png']


def test_a_folder_from_a_shell(run, lab, tmp_path, monkeypatch):
    monkeypatch.setattr('wavbrivl.app.drawing.SOUNDS_AT_ONCE', 2)
    status, out, err = run(lab / 'sounds', '-o', tmp_path / 'out', '--json')
    assert status == 1 and 'set aside' in err and 'empty.wav' in err
    assert (
        sorted(f.name for f in (tmp_path / 'out').iterdir())
        == ['high.png', 'low.png', 'silent.png']
        and len(json.loads(out)) == 3
    )
    status, out, err = run(lab / 'sounds/empty.wav', '-o', tmp_path / 'none.png')
    assert status == 2 and not (tmp_path / 'none.png').exists() and 'empty.wav' in err
    status, out, _ = run(
        'A dog barks!', 'a dog barks', '--text', '-o', tmp_path / 'said', '--json'
    )
    assert (
        status == 0
        and sorted(f.name for f in (tmp_path / 'said').iterdir())
        == ['A-dog-barks.png', 'a-dog-barks-2.png']
        and json.loads(out)[0]['text'] == 'A dog barks!'
    )


def test_films_from_a_shell(run, lab, tmp_path):
    status, out, _ = run(
        lab / 'sounds/low.wav',
        '-o',
        tmp_path / 'low.gif',
        '--kind',
        'diffusion',
        '--scale',
        2,
        '--json',
    )
    assert status == 0 and json.loads(out)[0]['frames'] == 5
    with Image.open(tmp_path / 'low.gif') as gif:
        assert (
            gif.n_frames > 1
            and gif.size == (32, 32)
            and gif.info['duration'] % 250 == 0
        )
    status, _, err = run(
        lab / 'sounds', '-o', tmp_path / 'films', '--film', '--kind', 'diffusion'
    )
    assert (
        status == 1
        and 'empty.wav' in err
        and sorted(f.name for f in (tmp_path / 'films').iterdir())
        == ['high.gif', 'low.gif', 'silent.gif']
    )


def test_shell_refuses_in_sentences(run, lab, tmp_path):
    high, low, film = (
        lab / 'sounds/high.wav',
        lab / 'sounds/low.wav',
        tmp_path / 'x.gif',
    )
    (tmp_path / 'file').write_text('')
    for words, said in (
        ((high, low, '-o', tmp_path / 'x.png'), 'is one file'),
        ((high, '-o', tmp_path / 'x.jpg'), 'ends in .png'),
        ((high, '-o', tmp_path / 'x.png', '--film'), '.gif or .mp4'),
        (('rain', '--text', '-o', film), 'a sentence'),
        ((high, '-o', tmp_path / 'file'), 'is a file'),
        ((high, '-o', tmp_path / 'x.png', '--scale', 0), '--scale 0'),
        ((high, '-o', film, '--candidates', 2), '--candidates'),
        ((high, '-o', tmp_path / 'x.png', '--fps', 2), '--fps'),
        ((high, '-o', tmp_path / 'x.png', '--candidates', 0), '0 candidates'),
    ):
        status, out, err = run(*words)
        assert status == 2 and said in err and not out and len(err.splitlines()) == 1
    status, _, err = run(high, '-o', tmp_path / 'x.png', painter=tmp_path / 'nowhere')
    assert status == 2 and 'dvc repro vqgan' in err
    assert [f.name for f in tmp_path.iterdir()] == ['file']
    with pytest.raises(BadInput, match='one of the inputs'):
        choose_paths(['a/clip.mp4'], 'a/clip.mp4', False, False)
    assert name_files(
        ['a/X.wav', 'b/x.mp3', 'c/x.tar.wav', 'x-2.wav'], False, '.png'
    ) == ['X.png', 'x-2.png', 'x.tar.png', 'x-2-2.png'] and name_files(
        ['?!'], True, '.png'
    ) == ['picture.png']
