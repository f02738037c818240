"A model is a folder: it opens as it was saved, names what is wrong with it, and may lie in the hub's cache."

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from wavbrivl.api.folder import MIGRATIONS, model_card
from wavbrivl.api.folder import hub_licence, model_folder
from wavbrivl.api.pictures import WavBriVL
from wavbrivl.image_text.brivl import BriVL
from wavbrivl.image_text.inputs import load_tokenizer, train_tokenizer
from wavbrivl.app.cli import main
from wavbrivl.core.files import BadFile, BadInput, read_json, write_json
from wavbrivl.core.params import AudioParams, BrivlParams
from wavbrivl.training.audio import make_audio_encoder

ROOT = Path(__file__).parents[1]
SMALL = AudioParams(
    conv_dim=[8] * 7,
    hidden=16,
    layers=1,
    heads=2,
    ffn=16,
    embed=16,
    pos_kernel=8,
    pos_groups=2,
    block_heads=2,
    buckets=16,
    width=4,
)
INFO = dict(
    corpus='foley',
    run='wavbrivl',
    seed=3,
    loss='moco',
    templates='bare',
    picture=32,
    crop=480,
    labels=['dog|hound', 'rain'],
    licence='CC BY 4.0',
    metrics={'zero-shot top 1': 1 / 3},
)
noise = np.random.default_rng(0).standard_normal(12_000).astype(np.float32) / 9

pytestmark = pytest.mark.usefixtures('one_thread')


def new_model(text=True, kind='wavlm', info=INFO):
    torch.manual_seed(0)
    tokenizer = train_tokenizer(['a dog barks', 'rain falls on a roof'], 100)
    brivl = BriVL(
        BrivlParams(
            image_size=32,
            text=dict(
                vocab=tokenizer.get_vocab_size(), hidden=16, layers=1, heads=2, ffn=16
            ),
        ),
        text=text,
    )
    return WavBriVL(
        make_audio_encoder(SMALL.model_copy(update=dict(kind=kind)), brivl.dim, 0.5),
        brivl,
        tokenizer if text else None,
        info,
    )


def opened(folder):
    return WavBriVL.from_pretrained(folder, 'cpu')


@pytest.fixture(scope='module')
def model():
    return new_model()


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / 'model')
    return tmp_path / 'model'


def edited(folder, **fields):
    write_json(read_json(folder / 'config.json') | fields, folder / 'config.json')


@pytest.mark.parametrize(
    'text, kind', [(True, 'wavlm'), (False, 'wavlm'), (True, 'wav2clip')]
)
def test_opens_as_it_was_saved(tmp_path, text, kind):
    model = new_model(text, kind)
    model.save_pretrained(tmp_path / 'm')
    again = opened(tmp_path / 'm')
    assert (
        again.info == model.info
        and again.audio.params == model.audio.params
        and again.brivl.config == model.brivl.config
        and again.audio.window == 0.5
        and not again.training
    )
    ours, theirs = model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys() and all(
        torch.equal(v, theirs[k]) for k, v in ours.items()
    )
    assert np.array_equal(
        model.embed_audio(noise, 16_000), again.embed_audio(noise, 16_000)
    )
    if text:
        assert np.array_equal(model.embed_text('a dog'), again.embed_text('a dog'))
    else:
        assert (
            again.brivl.text is None
            and again.tokenizer is None
            and not (tmp_path / 'm/tokenizer.json').exists()
        )
        with pytest.raises(BadInput, match='no text tower'):
            again.embed_text('a dog')
    assert {f.name for f in (tmp_path / 'm').iterdir()} == {
        'config.json',
        'model.safetensors',
        'README.md',
    } | ({'tokenizer.json'} if text else set())


def test_a_text_tower_without_a_tokenizer_stays(tmp_path, model):
    WavBriVL(model.audio, model.brivl, None).save_pretrained(tmp_path)
    again = opened(tmp_path)
    assert again.tokenizer is None and again.brivl.text is not None and not again.info


def test_a_berts_tokenizer_is_kept(tmp_path, model):
    (tmp_path / 'bert').mkdir()
    (tmp_path / 'bert/vocab.txt').write_text(
        '\n'.join(['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'a', 'dog'])
    )
    (tmp_path / 'bert/config.json').write_text(json.dumps(dict(model_type='bert')))
    theirs = WavBriVL(model.audio, model.brivl, load_tokenizer(tmp_path / 'bert'))
    theirs.save_pretrained(tmp_path / 'm')
    assert np.array_equal(
        theirs.embed_text('a dog'), opened(tmp_path / 'm').embed_text('a dog')
    )


def test_the_card_is_read_as_the_hub_reads_it(folder, model):
    from huggingface_hub import ModelCard

    card = ModelCard.load(folder / 'README.md')
    assert (card.data.license, card.data.library_name) == (
        'cc-by-4.0',
        'wavbrivl',
    ) and {'audio', 'image', 'text'} <= set(card.data.tags)
    for said in (
        '| corpus | foley |',
        '| seed | 3 |',
        '| loss | moco |',
        '256 dimensions',
        'dog\\|hound, rain',
        '| zero-shot top 1 | 0.3333 |',
        'from_pretrained',
        f'{sum(p.numel() for p in model.parameters()):,}',
    ):
        assert said in card.text, said
    told = dict(license='other', license_name='by file; films belong to their owners')
    assert (
        hub_licence(told['license_name']) == told
        and hub_licence('Apache-2.0') == dict(license='apache-2.0')
        and hub_licence(None) == hub_licence('') == dict(license='unknown')
    )
    plain = model_card(WavBriVL(model.audio, model.brivl, None))
    assert (
        yaml.safe_load(plain.split('---')[1])['license'] == 'unknown'
        and 'classify' not in plain
        and 'Metrics' not in plain
    )


@pytest.mark.parametrize('step', ['model.safetensors', 'tokenizer.json', 'README.md'])
def test_a_saving_cut_short_leaves_no_model(folder, step):
    "Whatever could not be written, the folder has no config.json and no half of a file, and says so."
    before = {f.name for f in folder.iterdir()}
    (folder / step).unlink()
    (folder / step).mkdir()  # a folder where the file should go
    (folder / step / 'in the way').touch()
    with pytest.raises(BadFile, match='cannot be written'):
        new_model(info=dict(run='later')).save_pretrained(folder)
    assert {f.name for f in folder.iterdir()} <= before - {'config.json'}
    with pytest.raises(
        BadFile, match='config.json: the file does not exist.*cut short'
    ):
        opened(folder)


def test_saving_over_a_model_leaves_nothing_of_it(folder):
    new_model(text=False).save_pretrained(folder)
    assert (
        not (folder / 'tokenizer.json').exists() and opened(folder).brivl.text is None
    )


@pytest.mark.parametrize('text', [True, False])
def test_a_folder_of_format_1(tmp_path, text):
    new_model(text).save_pretrained(tmp_path)
    config = {
        k: v
        for k, v in read_json(tmp_path / 'config.json').items()
        if k not in ('text', 'files')
    } | dict(format=1)
    write_json(config, tmp_path / 'config.json')
    (tmp_path / 'README.md').unlink()
    again = opened(tmp_path)
    assert (again.brivl.text is not None) == (
        again.tokenizer is not None
    ) == text and read_json(tmp_path / 'config.json') == config, (
        'the folder stays as it is'
    )


def test_a_format_for_every_step():
    assert sorted(MIGRATIONS) == list(range(1, WavBriVL.format))


@pytest.mark.parametrize(
    'fields, words',
    [
        (dict(format=99), 'newer version.*99.*update'),
        (dict(format=0), 'never a format 0'),
        (dict(format=None), 'names no format'),
        (dict(text='yes'), 'text: missing or of a wrong type'),
        (dict(audio=None, dim='wide'), 'audio, dim: missing'),
        (
            dict(audio=SMALL.model_dump() | dict(hiden=3)),
            r'config.json: unknown parameter audio.hiden; did you mean audio.hidden',
        ),
        (dict(dim=100), 'of another shape|do not belong together'),
        (
            dict(files=['model.safetensors', 'words.txt']),
            'words.txt: the file does not exist',
        ),
    ],
)
def test_a_configuration_that_is_refused(folder, fields, words):
    edited(folder, **fields)
    with pytest.raises(BadInput, match=words):
        opened(folder)


def test_what_is_missing_or_damaged_is_named(folder):
    def says(words):
        with pytest.raises(BadFile, match=words):
            opened(folder)

    (folder / 'config.json').rename(folder / 'kept.json')
    says('config.json: the file does not exist')
    (folder / 'config.json').write_text('{')
    says('config.json: not JSON')
    (folder / 'config.json').write_text('[]')
    says('config.json: names no format')
    (folder / 'kept.json').rename(folder / 'config.json')
    (folder / 'tokenizer.json').write_text('{')
    says('tokenizer.json: not a tokenizer')
    (folder / 'tokenizer.json').unlink()
    says('tokenizer.json: the file does not exist')
    (folder / 'model.safetensors').write_bytes(
        (folder / 'model.safetensors').read_bytes()[:500]
    )
    says('model.safetensors: no weights could be read')
    (folder / 'model.safetensors').unlink()
    says('model.safetensors: the file does not exist')


def test_weights_that_do_not_fit_are_listed(folder):
    weights = load_file(folder / 'model.safetensors')
    del weights['audio.to_joint.bias']
    weights |= {
        'audio.extra': torch.zeros(1),
        'audio.to_embedding.bias': torch.zeros(3),
    }
    save_file(weights, folder / 'model.safetensors')
    missing = '1 missing: audio.to_joint.bias; 1 left over: audio.extra; '
    shape = r'1 of another shape: audio.to_embedding.bias \[3\] instead of \[16\]'
    with pytest.raises(BadInput, match=missing + shape):
        opened(folder)


def test_a_run_opens_as_its_first_seed(model, tmp_path):
    for seed in (2, 1):
        WavBriVL(model.audio, model.brivl, None, dict(seed=seed)).save_pretrained(
            tmp_path / f'run/seed-{seed}'
        )
    assert opened(tmp_path / 'run').info['seed'] == 1


@pytest.mark.parametrize(
    'name',
    ['models/wavbrivl', '/no/where', 'nowhere', './a/b', 'a/b/c', Path('owner/name')],
)
def test_names_that_are_never_looked_for_on_the_hub(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match='is not a folder; train a model'):
        model_folder(name)


HUB = """
from wavbrivl import WavBriVL
from wavbrivl.core.files import BadInput
print(WavBriVL.from_pretrained('someone/sounds', 'cpu').info['run'])
try: WavBriVL.from_pretrained('someone/nothing', 'cpu')
except BadInput as e: print(e)
"""


def test_a_hub_name_offline(folder, tmp_path):
    "The hub's cache as the hub lays it out: a name in it opens, another is refused in a sentence, nothing is fetched."
    at, print_ = tmp_path / 'hub/models--someone--sounds', 'f' * 40
    (at / 'refs').mkdir(parents=True)
    (at / 'refs/main').write_text(print_)
    (at / 'snapshots').mkdir()
    folder.rename(at / 'snapshots' / print_)
    env = os.environ | dict(
        HF_HUB_OFFLINE='1',
        HF_HUB_CACHE=str(tmp_path / 'hub'),
        PYTHONPATH=str(ROOT),
        OMP_NUM_THREADS='1',
    )
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', HUB],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    run, sentence = done.stdout.splitlines()[:2]
    assert (
        run == 'wavbrivl'
        and sentence.startswith('someone/nothing is neither a folder here nor')
        and 'HF_HUB_OFFLINE' in sentence
    )


def test_the_command_line_says_it(folder, capsys):
    (folder / 'model.safetensors').unlink()
    assert main(['classify', '-m', str(folder), '-l', 'dog,rain', 'x.wav']) == 2
    assert 'model.safetensors: the file does not exist' in capsys.readouterr().err
