"Whatever a sound, a picture or a sentence is brought in, it is heard, seen and read as the file is."

import io
import itertools
import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import soundfile as sf
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tiny import SMALL
from wavbrivl.api.folder import WavBriVL
from wavbrivl.api.inputs import as_list, split_items
from wavbrivl.api.onnx_export import export_onnx
from wavbrivl.api.onnx_model import OnnxModel
from wavbrivl.api.painter import Painter
from wavbrivl.api.pictures import one_item
from wavbrivl.api.released import import_released
from wavbrivl.search.index import index_files
from wavbrivl.search.index_blocks import embed_items
from wavbrivl.core.files import BadFile, BadInput
from wavbrivl.core.params import BrivlParams
from wavbrivl.core.picture_params import DiffusionParams, VqganParams
from wavbrivl.decoders.diffusion import LatentDiffusion
from wavbrivl.decoders.vqgan import VQGAN
from wavbrivl.generation.mosaic import Mosaic
from wavbrivl.image_text.brivl import BriVL
from wavbrivl.image_text.inputs import train_tokenizer
from wavbrivl.image_text.words import TextNote
from wavbrivl.training.audio import make_audio_encoder

pytestmark = pytest.mark.usefixtures('one_thread')
CASES = Path(__file__).parents[2] / 'shared/data/cases'
CAPTIONS = ['a dog barks', 'rain falls on a roof', 'a café by the sea']


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    tokenizer = train_tokenizer(CAPTIONS, 100)
    text = dict(vocab=tokenizer.get_vocab_size(), hidden=16, layers=1, heads=2, ffn=16)
    brivl = BriVL(BrivlParams(image_size=32, text=text))
    tower = make_audio_encoder(SMALL, brivl.dim, 0.5)
    return WavBriVL(tower, brivl, tokenizer, dict(picture=32))


def new_sound(rng, channels=1, seconds=0.6, rate=16_000):
    "A tone with noise, louder in one channel than in another: [n, channels]."
    t = np.arange(round(seconds * rate)) / rate
    tone = np.sin(2 * np.pi * rng.uniform(100, 2000) * t)
    x = 0.3 * tone + rng.uniform(0.02, 0.2) * rng.standard_normal(len(t))
    gains = np.linspace(1, 0.4, channels)
    return np.round(0.5 * x[:, None] * gains * 2**15).clip(-(2**15), 2**15 - 1) / 2**15


class Named:
    "A path of somebody's own kind."

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return str(self.path)


class Decoder:
    "A sound of `datasets` 4: it is decoded when it is asked for."

    def __init__(self, data, rate):
        self.data, self.sample_rate = data, rate

    def get_all_samples(self):
        return self


# container -> function of (path, samples [n, channels], rate): what a user holds, whether it knows its rate
FILES = dict(
    path=lambda p, x, r: p,
    text=lambda p, x, r: str(p),
    own_path=lambda p, x, r: Named(p),
    content=lambda p, x, r: p.read_bytes(),
    memory=lambda p, x, r: io.BytesIO(p.read_bytes()),
    buffer=lambda p, x, r: memoryview(p.read_bytes()),
    open_file=lambda p, x, r: open(p, 'rb'),
    datasets_path=lambda p, x, r: dict(path=str(p), bytes=None),
    datasets_bytes=lambda p, x, r: dict(path=None, bytes=p.read_bytes()),
    strings=lambda p, x, r: np.array([str(p)]),
    zero_d=lambda p, x, r: np.array(str(p)),
    fixed_bytes=lambda p, x, r: np.array([os.fsencode(p)]),
    series=lambda p, x, r: pd.Series([p], index=[7]),
    arrow=lambda p, x, r: pa.array([str(p)]),
    generator=lambda p, x, r: (q for q in [p]),
)
RATED = dict(
    librosa=lambda p, x, r: (x, r),
    scipy=lambda p, x, r: (r, x),
    numpy_rate=lambda p, x, r: (x, np.int64(r)),
    as_json=lambda p, x, r: [x, r],
    torchaudio=lambda p, x, r: (torch.from_numpy(np.ascontiguousarray(x)), r),
    datasets=lambda p, x, r: dict(array=x, sampling_rate=r, path=str(p)),
    decoder=lambda p, x, r: Decoder(torch.from_numpy(np.ascontiguousarray(x)), r),
    pairs=lambda p, x, r: [(x, r)],
    column=lambda p, x, r: pd.Series([dict(array=x, sampling_rate=r)]),
)
ARRAYS = dict(
    array=lambda p, x, r: x,
    tensor=lambda p, x, r: torch.from_numpy(np.ascontiguousarray(x)),
    listed=lambda p, x, r: [x],
    objects=lambda p, x, r: pd.Series([x]),
    batch=lambda p, x, r: x[None] if x.ndim == 2 else x[None, None],
    lists=lambda p, x, r: x.tolist() if x.ndim == 1 and x.dtype.kind == 'f' else x,
    numbers=lambda p, x, r: pd.Series(x) if x.ndim == 1 else x,
)
LAYOUTS = dict(
    samples_first=lambda x: x,
    channels_first=lambda x: x.T,
    strided=lambda x: np.repeat(x, 2, 0)[::2],
)
TYPES = dict(
    float32=lambda x: x.astype(np.float32),
    float64=lambda x: x,
    int16=lambda x: np.round(x * 2**15).astype(np.int16),
    int32=lambda x: np.round(x * 2**31).clip(-(2**31), 2**31 - 1).astype(np.int32),
)
CONTAINERS = FILES | RATED | ARRAYS


def drawn_sound(rng, folder):
    "A random sound file, and the same sound in a random container, layout and type."
    rate, channels = int(rng.choice([8000, 16_000, 22_050, 44_100])), rng.integers(1, 4)
    x = new_sound(rng, channels, rate=rate)
    path = folder / f'{rng.integers(10**9)}.{rng.choice(["wav", "flac"])}'
    sf.write(path, x, rate, 'PCM_16')
    name, layout, kind = (
        str(rng.choice(list(d))) for d in (CONTAINERS, LAYOUTS, TYPES)
    )
    held = TYPES[kind](LAYOUTS[layout](x))
    if channels == 1 and rng.random() < 0.7:
        held = held.reshape(-1)
    thing = CONTAINERS[name](path, held, rate)
    return path, thing, rate if name in ARRAYS else None, (name, layout, kind, channels)


@pytest.mark.parametrize('seed', range(8))
def test_a_sound_is_heard_as_its_file(model, tmp_path, seed):
    "160 sounds in random containers, layouts and types."
    rng = np.random.default_rng(seed)
    drawn = [drawn_sound(rng, tmp_path) for _ in range(20)]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # three channels may be three sounds
        files = model.embed_audio([d[0] for d in drawn])
        for file, (_, thing, rate, how) in zip(files, drawn):
            row = model.embed_audio(thing, rate)
            assert row.shape == (1, model.dim), how
            assert row[0] @ file > 0.9999, how
            assert np.abs(row[0] - file).max() < 2e-3, how
    apart = np.abs(files[:, None] - files[None]).max(-1)
    assert np.median(apart) > 0.02, 'sounds of this model can be told apart'


def test_one_sound_is_one_row_and_many_are_many(model, tmp_path):
    rng = np.random.default_rng(0)
    x = new_sound(rng, 2)
    paths = [tmp_path / f'{i}.wav' for i in range(3)]
    for p in paths:
        sf.write(p, new_sound(rng), 16_000, 'PCM_16')
    many = [
        paths,
        tuple(paths),
        (p for p in paths),
        iter(paths),
        map(str, paths),
        dict.fromkeys(paths).keys(),
        pd.Series(paths, index=[3, 1, 2]),
        np.array([str(p) for p in paths]),
        np.array(paths, object),
        pa.chunked_array([[str(p)] for p in paths]),
        [dict(path=str(p)) for p in paths],
        [p.read_bytes() for p in paths],
        (io.BytesIO(p.read_bytes()) for p in paths),
    ]
    wanted = np.concatenate([model.embed_audio(p) for p in paths])
    for things in many:
        assert np.abs(model.embed_audio(things) - wanted).max() < 1e-5
    batch = np.stack([x.T, -x.T])
    for things in (
        batch,
        torch.from_numpy(batch),
        list(batch),
        batch.transpose(0, 2, 1),
    ):
        assert model.embed_audio(things, 16_000).shape == (2, model.dim)
    assert model.embed_audio([]).shape == (0, model.dim)
    assert model.embed_audio(np.zeros((0, 2, 400)), 16_000).shape == (0, model.dim)


ASKED = [
    (np.zeros((100, 400)), 'which axis is channels'),
    (np.zeros((20, 30)), 'which axis is channels'),
    (np.zeros((2, 2, 2, 400)), 'no sound'),
    (np.float32(3), 'no sound'),
    ([[0.0] * 400] * 2, 'one sound or many'),
    ([[0.1, 0.2]] * 400, 'one sound or many'),
    (dict(label='dog', file='a.wav'), 'label, file'),
    ({}, 'no sound'),
    ({'a.wav', 'b.wav'}, 'no order'),
    (None, 'None is no sound'),
    (3.5, '3.5 is no sound'),
    (pd.DataFrame(dict(audio=['a.wav'], label=['dog'])), 'one of its columns'),
    (pa.table(dict(audio=['a.wav'])), 'one of its columns'),
]


@pytest.mark.parametrize('things, words', ASKED, ids=[w for _, w in ASKED])
def test_what_may_be_either_is_asked_for(model, things, words):
    for ask in (
        lambda: model.embed_audio(things, 16_000),
        lambda: model.classify(things, ['dog', 'rain'], 16_000),
        lambda: model.rank(things, np.eye(model.dim)[:2], 16_000),
        lambda: one_item(things, 'sound'),
    ):
        with pytest.raises(BadInput, match=words):
            ask()


def test_rows_that_may_be_sounds_are_noted(model):
    x = np.random.default_rng(0).normal(0, 0.1, (8, 8000))
    with pytest.warns(UserWarning, match=r'one sound of 8 channels; give list\(x\)'):
        assert model.embed_audio(x, 16_000).shape == (1, model.dim)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert model.embed_audio(list(x), 16_000).shape == (8, model.dim)
        assert model.embed_audio(x[:2], 16_000).shape == (1, model.dim)
        assert model.embed_audio(x.T, 16_000).shape == (1, model.dim)


def test_what_cannot_be_read_is_named_by_its_place(model, tmp_path):
    good = new_sound(np.random.default_rng(0))
    empty = tmp_path / 'empty.wav'
    empty.touch()
    things = [good, None, empty, b'no sound', (good[:0], 16_000), 'nowhere.wav']
    with pytest.warns(UserWarning, match='5 of 6 sounds could not be read: sound 2 of'):
        rows = model.embed_audio(things, 16_000)
    assert np.isnan(rows[1:]).all() and np.isfinite(rows[0]).all()
    names = [r['file'] for r in model.rejected]
    wanted = ['sound 2 of 6', str(empty), 'sound 4 of 6', 'sound 5 of 6', 'nowhere.wav']
    assert names == wanted and [r['index'] for r in model.rejected] == [1, 2, 3, 4, 5]


PICTURES = dict(
    RGB=lambda x: Image.fromarray(x),
    RGBA=lambda x: Image.fromarray(np.dstack([x, x[..., :1] // 2 + 60])),
    L=lambda x: Image.fromarray(x[..., 0]),
    LA=lambda x: Image.fromarray(x[..., 0]).convert('LA'),
    P=lambda x: Image.fromarray(x).quantize(16),
)
HELD = dict(
    path=lambda p, im: p,
    text=lambda p, im: str(p),
    own_path=lambda p, im: Named(p),
    content=lambda p, im: p.read_bytes(),
    memory=lambda p, im: io.BytesIO(p.read_bytes()),
    open_file=lambda p, im: open(p, 'rb'),
    datasets=lambda p, im: dict(bytes=p.read_bytes(), path=None),
    datasets_path=lambda p, im: dict(bytes=None, path=str(p)),
    pillow=lambda p, im: Image.open(p),
    listed=lambda p, im: [Image.open(p)],
    array=lambda p, im: np.asarray(im),
    first=lambda p, im: np.moveaxis(np.atleast_3d(np.asarray(im)), -1, 0),
    floats=lambda p, im: np.asarray(im) / 255,
    tensor=lambda p, im: torch.from_numpy(np.atleast_3d(np.array(im))).movedim(-1, 0),
    unit=lambda p, im: torch.from_numpy(np.array(im)) / 255,
    batch=lambda p, im: np.atleast_3d(np.asarray(im))[None],
    series=lambda p, im: pd.Series([p], index=[5]),
    strings=lambda p, im: np.array([str(p)]),
    generator=lambda p, im: (q for q in [p]),
)


@pytest.mark.parametrize('seed', range(6))
def test_a_picture_is_seen_as_its_file(model, tmp_path, seed):
    "120 pictures in random containers and modes."
    rng = np.random.default_rng(seed)
    for i in range(20):
        height, width = rng.integers(33, 90, 2)
        coarse = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        x = np.array(Image.fromarray(coarse).resize((width, height)))
        mode, how = str(rng.choice(list(PICTURES))), str(rng.choice(list(HELD)))
        made = PICTURES[mode](x)
        path = tmp_path / f'{i}.png'
        made.save(path)
        if mode in (
            'P',
            'LA',
        ):  # as arrays, numbers of colours and two channels say nothing
            how = str(rng.choice(list(HELD)[:10]))
        row = model.embed_image(HELD[how](path, made))
        assert row.shape == (1, model.dim), (mode, how)
        assert row[0] @ model.embed_image(path)[0] > 0.9999, (mode, how)


PICTURES_ASKED = [
    (np.zeros((8, 64, 64)), 'no picture'),
    (np.zeros(100), 'no picture'),
    ([0.1, 0.2], 'no picture'),
    ([[0, 0, 0]] * 40, 'one picture or many'),
    (None, 'None is no picture'),
    (dict(label='dog'), 'label'),
    ({'a.png'}, 'no order'),
]


@pytest.mark.parametrize('things, words', PICTURES_ASKED)
def test_pictures_that_are_asked_for(model, things, words):
    with pytest.raises(BadInput, match=words):
        model.embed_image(things)


def test_many_pictures(model):
    x = np.random.default_rng(0).integers(0, 255, (3, 40, 50, 3), dtype=np.uint8)
    wanted = np.concatenate([model.embed_image(p) for p in x])
    for things in (x, list(x), x.transpose(0, 3, 1, 2), torch.from_numpy(x), iter(x)):
        assert np.abs(model.embed_image(things) - wanted).max() < 1e-5
    assert model.embed_image(x[0, ..., 0]).shape == (1, model.dim)


def test_the_exported_model_follows_the_same_rule(model, tmp_path):
    export_onnx(model, tmp_path / 'onnx')
    light = OnnxModel.open(tmp_path / 'onnx', 1)
    rng = np.random.default_rng(0)
    for i, (name, hold) in enumerate(CONTAINERS.items()):
        x = new_sound(rng, 2)
        path = tmp_path / f'{i}.wav'
        sf.write(path, x, 16_000, 'PCM_16')
        rate = 16_000 if name in ARRAYS else None
        a, b = (m.embed_audio(hold(path, x, 16_000), rate) for m in (model, light))
        assert a.shape == b.shape and np.abs(a - b).max() < 1e-4, name
    picture = rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)
    for things in (picture, picture[..., 0], picture.transpose(2, 0, 1), picture[None]):
        a, b = (m.embed_image(things) for m in (model, light))
        assert a.shape == b.shape == (1, model.dim) and np.abs(a - b).max() < 1e-4
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        a, b = (m.embed_text(['a dog', 'zyzzyva', '']) for m in (model, light))
    assert np.isnan(b[1:]).all() and np.allclose(a, b, atol=1e-4, equal_nan=True)
    assert light.rejected == model.rejected and len(light.rejected) == 2
    for things, words in ASKED:
        with pytest.raises(BadInput, match=words):
            light.embed_audio(things, 16_000)


def test_answers_for_one_and_for_many(model, tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f'{i}.wav' for i in range(2)]
    for p in paths:
        sf.write(p, new_sound(rng), 16_000, 'PCM_16')
    names = ['dog', 'rain', 'roof']
    one = [model.classify(p, names) for p in paths]
    assert [sorted(n for n, _ in a) for a in one] == [sorted(names)] * 2
    assert all(abs(sum(p for _, p in a) - 1) < 1e-5 for a in one)
    for things in (paths, tuple(paths), iter(paths), pd.Series(paths)):
        many = model.classify(things, iter(names))
        assert [[n for n, _ in a] for a in many] == [[n for n, _ in a] for a in one]
    assert model.classify([paths[0]], names) == [one[0]]
    pictures = [rng.integers(0, 255, (40, 50, 3), dtype=np.uint8) for _ in range(3)]
    ranked = [model.rank(p, pictures) for p in paths]
    again = model.rank(iter(paths), iter(pictures))
    assert [[i for i, _ in a] for a in again] == [[i for i, _ in a] for a in ranked]
    assert np.allclose(again, ranked, atol=1e-6)
    assert {i for i, _ in ranked[0]} == {0, 1, 2}
    assert model.rank(paths[0], pictures[0])[0][0] == 0
    rows = model.embed_image(pictures)
    for matrix in (rows, torch.from_numpy(rows)):
        found = model.rank(paths[0], matrix, k=2)
        assert [i for i, _ in found] == [i for i, _ in ranked[0]][:2]
    with pytest.raises(BadFile, match='nowhere.wav'):
        model.classify('nowhere.wav', names)
    with pytest.raises(BadFile, match='sound 1 of 1'):
        model.classify(b'no sound', names)
    with pytest.warns(UserWarning, match='1 of 2 sounds'):
        assert model.classify([paths[0], 'nowhere.wav'], names) == [one[0], None]
    with pytest.warns(UserWarning, match='1 of 2 sounds'):
        found, none = model.rank([paths[0], 'nowhere.wav'], pictures)
    assert np.allclose(found, ranked[0], atol=1e-6) and none is None
    assert [r['file'] for r in model.rejected] == ['nowhere.wav']


NAMES = [
    ('dog', "'dog' is one string"),
    (['dog'], '1 class names'),
    ([], '0 class names'),
    (['dog', 'rain', 'dog'], "'dog' and 'dog' are one"),
    (['Dog', 'dog'], "'Dog' and 'dog' are one"),
    (['café', 'cafe\u0301'], 'are one class name'),
    (['sea', 'ｓｅａ'], 'are one class name'),
    (['a_dog', 'a  dog'], 'are one class name'),
    (['café', 'cafe'], 'one name to this model'),
    (['dog', ''], 'empty'),
    (['dog', ' \t'], 'empty'),
    (['dog', 3], 'text 1 is 3'),
    (['dog', None], 'text 1 is None'),
    (dict(dog=1, rain=2), 'no sentence'),
    (3, '3 is no sentence'),
    (['zyzzyva', 'qoph'], 'knows none of the class names'),
]


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('names, words', NAMES)
def test_class_names_that_are_refused(model, names, words):
    with pytest.raises(BadInput, match=words):
        model.classify(np.zeros(8000, np.float32), names, 16_000)


@pytest.mark.parametrize('templates', ['bare', 'scene'])
def test_a_name_that_the_model_does_not_know_has_no_score(model, templates):
    x = new_sound(np.random.default_rng(0))
    with pytest.warns(UserWarning, match=r'1 of 3 class names .* zyzzyva: this model'):
        found = model.classify(x, ['zyzzyva', 'dog', 'rain'], 16_000, templates)
    assert found[2] == ('zyzzyva', None)
    assert found[:2] == model.classify(x, ['dog', 'rain'], 16_000, templates)
    with pytest.warns(TextNote, match='does not know, .*: zyzzyva'):
        found = dict(model.classify(x, ['zyzzyva dog', 'rain'], 16_000, templates))
    assert all(0 < p < 1 for p in found.values())


def test_words_of_sentences(model):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        plain = model.embed_text(['a dog barks', 'Rain, on a roof!'])
    for things in (
        ('a dog barks', 'Rain, on a roof!'),
        iter(['a dog barks', 'Rain, on a roof!']),
        pd.Series(['a dog barks', 'Rain, on a roof!'], index=[4, 2]),
        np.array(['a dog barks', 'Rain, on a roof!']),
        pa.array(['a dog barks', 'Rain, on a roof!']),
    ):
        assert np.array_equal(model.embed_text(things), plain)
    assert np.allclose(model.embed_text('a dog barks'), plain[:1], atol=1e-6)
    with pytest.warns(UserWarning, match='3 of 4 sentences could not be read'):
        rows = model.embed_text(['a dog barks', 'zyzzyva', '', '!?'])
    assert np.isnan(rows[1:]).all() and np.allclose(rows[0], plain[0], atol=1e-6)
    names = [r['file'] for r in model.rejected]
    assert names == ['zyzzyva', 'sentence 3 of 4', '!?']
    with pytest.warns(TextNote, match='1 of 2 texts with words .* zyzzyva, qoph'):
        assert np.isfinite(model.embed_text(['a zyzzyva barks qoph', 'a dog'])).all()
    with pytest.warns(TextNote, match='letter by letter: afresh'):
        model.embed_text('afresh')
    longest = model.brivl.config.text.max_length
    words = f'it used the first {longest - 2} of {3 * longest} words'
    with pytest.warns(TextNote, match=words):
        model.embed_text('rain ' * 3 * longest)
    for strange in (b'a dog', Path('a'), 3, None, dict(a=1), np.zeros(3), [['a']]):
        with pytest.raises(BadInput):
            model.embed_text(strange)


def test_an_index_of_anything(model, tmp_path):
    rng = np.random.default_rng(0)
    sf.write(tmp_path / 'a.wav', new_sound(rng), 16_000, 'PCM_16')
    sounds = [tmp_path / 'a.wav', (new_sound(rng, 2), 16_000), new_sound(rng)]
    items = dict(sound=(s for s in sounds), text=pd.Series(['a dog', 'zyzzyva']))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        index = index_files(items, tmp_path / 'index', model, sample_rate=16_000)
    names = index.names['name'].to_pylist()
    assert names == [str(tmp_path / 'a.wav'), 'sound 2', 'sound 3', 'a dog']
    assert [r['file'] for r in index.rejected] == ['zyzzyva']
    rows = embed_items(model, pd.Series(sounds, index=[5, 6, 7]), ['sound'] * 3, 16_000)
    assert np.abs(index.rows[:3] - rows).max() < 1e-6
    with pytest.raises(BadInput, match='no kind of item'):
        index_files(dict(film=['a.mp4']), tmp_path / 'other', model)


def test_a_film_is_made_of_one_sound(model):
    for things in ([], ['a.wav', 'b.wav'], np.zeros((2, 1, 400))):
        with pytest.raises(BadInput, match='One sound is needed'):
            one_item(things, 'sound')
    assert one_item(['a.wav'], 'sound') == one_item('a.wav', 'sound') == 'a.wav'


def test_a_generator_is_read_once_and_not_before(model):
    count = itertools.count()
    things = (np.zeros(800, np.float32) for _ in count)
    assert len(as_list(itertools.islice(things, 3), 'sound')) == 3 and next(count) == 3
    items, one = split_items((v for v in [0.1, 0.2, 0.3]), 'sound')
    assert one and items == [[0.1, 0.2, 0.3]]


# ---- weights


def broken(folder, name=None, value=np.nan):
    "Put one number that is not finite into a folder's weights."
    path = folder / 'model.safetensors'
    weights = load_file(path)
    name = name or next(k for k, w in weights.items() if w.is_floating_point())
    weights[name].view(-1)[-1] = value
    save_file(weights, path)
    return name


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('name', ['audio.to_joint.bias', 'brivl.text.head.0.weight'])
def test_weights_that_are_not_finite(model, tmp_path, name, value):
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / 'model.safetensors')
    name = name if name in weights else sorted(weights)[-1]
    broken(tmp_path, name, value)
    with pytest.raises(BadFile, match=rf'model.safetensors: {name}: 1 of \d+ numbers'):
        WavBriVL.from_pretrained(tmp_path, 'cpu')


def test_painters_that_are_not_finite(tmp_path):
    torch.manual_seed(0)
    sizes = VqganParams(size=16, ch=8, ch_mult=[1, 2], channels=8, codes=16)
    codec = VQGAN(sizes)
    drawing = DiffusionParams(ch=[16, 16], inference_steps=2)
    diffusion = LatentDiffusion(drawing, 8, codec.config.embed, codec.side)
    codes = torch.zeros(2, codec.side, codec.side, dtype=torch.long)
    painter = Painter(codec, diffusion, Mosaic(codes, torch.eye(8)[:2]))
    for part in ('mosaic', 'diffusion', 'vqgan'):
        painter.save(tmp_path / part)
        Painter.load(tmp_path / part, 'cpu')
        name = broken(tmp_path / part / part)
        with pytest.raises(BadFile, match=f'{part}.*{name}.*NaN or infinite'):
            Painter.load(tmp_path / part, 'cpu')


def test_imports_that_are_not_finite(tmp_path):
    torch.manual_seed(0)
    sizes = VqganParams(size=16, ch=8, ch_mult=[1, 2], channels=8, codes=16)
    VQGAN(sizes).save(tmp_path / 'codec')
    name = broken(tmp_path / 'codec')
    weights, out = tmp_path / 'codec/model.safetensors', tmp_path / 'out'
    with pytest.raises(BadFile, match=f'{name}: 1 of'):
        import_released('vqgan', weights, out, tmp_path / 'codec/config.json')
    assert not (out / 'config.json').exists()


# ---- the small inputs of other people


@pytest.mark.skipif(not CASES.is_dir(), reason='the shared inputs are elsewhere')
def test_shared_cases_from_memory(model):
    for (
        name
    ) in 'scene.wav scene.mp3 joined.mp3 chained.ogg unknown_length.flac'.split():
        path = CASES / name
        file = model.embed_audio(path)[0]
        for thing in (
            path.read_bytes(),
            io.BytesIO(path.read_bytes()),
            dict(path=path),
        ):
            assert model.embed_audio(thing)[0] @ file > 0.999, name
    for name in 'exif6.jpg i16.png la.png rgba.png rgb.png'.split():
        path = CASES / name
        file = model.embed_image(path)[0]
        for thing in (Image.open(path), path.read_bytes(), open(path, 'rb')):
            assert model.embed_image(thing)[0] @ file > 0.999, name
