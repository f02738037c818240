"A mistake on the knob board is a sentence that names the key, and the exit status says so."

import json
from pathlib import Path

import pytest
import yaml

from wavbrivl.cli import main
from wavbrivl.core import BadInput, load_params, read_board, run_names


@pytest.fixture
def board(tmp_path, monkeypatch):
    monkeypatch.setenv('WAVBRIVL_ROOT', str(tmp_path))

    def write(text):
        (tmp_path / 'params.yaml').write_text(text)
        return tmp_path

    return write


@pytest.mark.parametrize(
    'text, words',
    [
        ('train: {losss: moco}', ['train.losss', 'train.loss']),
        ('brivl: {optim: {learning_rate: 1}}', ['brivl.optim.learning_rate']),
        ('tarin: {}', ['tarin', 'train']),
        (
            'train: {momentum: 1.5}',
            ['train.momentum', '1.5', 'at least 0', 'at most 1'],
        ),
        ('train: {loss: hinge}', ['train.loss', 'moco', 'infonce']),
        ('corpus: {frames: many}', ['corpus.frames', 'many']),
        ('corpus: [1]', ['corpus']),
        ('train: {a', ['YAML']),
    ],
)
def test_refused_with_a_sentence(board, capsys, text, words):
    board(text)
    assert main(['params']) == 2
    said = capsys.readouterr().err
    assert all(w in said for w in words), said


def test_run_prints_what_it_uses(board, capsys):
    board('train: {loss: moco}\nruns: {cosine: {train: {loss: cosine}}, plain: {}}')
    assert main(['params', '--run', 'cosine', '--json']) == 0
    used = json.loads(capsys.readouterr().out)
    assert used['train']['loss'] == 'cosine' and used['train']['momentum'] == 0.99
    assert (
        main(['params', '--run', 'cosin']) == 2
        and "'cosine'" in capsys.readouterr().err
    )


def test_preset_replaces_runs(board, tmp_path):
    root = board('runs: {a: {}, b: {train: {loss: l2}}}\ntrain: {seeds: [5]}')
    preset = tmp_path / 'preset.yaml'
    preset.write_text('train: {loss: infonce}\nruns: {c: {}}')
    assert main(['params', '--preset', str(preset), '--write']) == 0
    assert (
        run_names(root) == ['c']
        and load_params('c', root).train.loss == 'infonce'
        and load_params('c', root).train.seeds == [5]
    )
    preset.write_text('nonsense: 1')
    assert main(['params', '--preset', str(preset), '--write']) == 2
    assert run_names(root) == ['c'], 'a refused preset changes nothing'


def test_number_written_as_yaml_text(board):
    assert load_params(None, board('train: {optim: {lr: 1e-3}}')).train.optim.lr == 1e-3


def test_board_shows_every_knob():
    "DVC watches keys of params.yaml, so each one must stand there; and a reader sees all there is."
    from wavbrivl.core import Section, known_keys

    board = yaml.safe_load((Path(__file__).parents[1] / 'params.yaml').read_text())

    def keys(d, prefix=''):
        for k, v in d.items():
            yield prefix + k
            if isinstance(v, dict):
                yield from keys(v, prefix + k + '.')

    runs, arms, fronts, pictures = (
        board.pop(k) for k in ('runs', 'arms', 'fronts', 'pictures')
    )
    assert (
        set(known_keys()) == set(keys(board)) and runs and arms and fronts and pictures
    )
    for name in (*runs, *arms):
        load_params(name, Path(__file__).parents[1])
    assert {a['language']['front'] for a in arms.values()} <= set(fronts), (
        'DVC reads the front end from the arm itself'
    )


ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    'preset', sorted(p.name for p in (ROOT / 'presets').glob('*.yaml'))
)
def test_every_run_of_every_preset(preset):
    board = read_board(ROOT, ROOT / 'presets' / preset)
    for name in (None, *board['runs'], *board['arms']):
        load_params(name, ROOT, ROOT / 'presets' / preset)
    assert {a['language']['front'] for a in board['arms'].values()} <= set(
        board['fronts']
    ) and set(board['study']['runs']) <= set(board['runs'])


def test_the_papers_size():
    "The preset describes the released models: their sizes, and parts that fit each other."
    import torch
    from wavbrivl.brivl import BriVL
    from wavbrivl.diffusion import LatentDiffusion
    from wavbrivl.vqgan import VQGAN
    from wavbrivl.wavlm import AudioTower

    p = load_params('wavbrivl', ROOT, ROOT / 'presets/papers.yaml')
    with torch.device('meta'):
        brivl, vqgan = BriVL(p.brivl.preset), VQGAN(p.vqgan)
        tower, drawer = (
            AudioTower(p.audio, brivl.dim, p.train.window),
            LatentDiffusion(p.diffusion, brivl.dim, vqgan.config.embed, vqgan.side),
        )
    assert (brivl.dim, brivl.config.image_size, p.corpus.picture) == (
        2048,
        380,
        380,
    ) and (vqgan.side, drawer.side) == (16, 16)
    assert (
        vqgan.stride == 16
        and round(sum(x.numel() for x in tower.wavlm.parameters()) / 1e6, 1) == 94.4
    ), 'f16, and base+'


def test_an_arm_is_a_run_and_a_name_is_one(board, capsys):
    root = board(
        'runs: {a: {train: {seeds: [3]}}}\narms: {b: {language: {front: wavlm, gloss: aslg}}}'
    )
    assert load_params('b', root).language.gloss == 'aslg' and run_names(
        root, 'arms'
    ) == ['b']
    with pytest.raises(BadInput, match='language.gloss'):
        load_params('b', board('arms: {b: {language: {gloss: signs}}}'))
    with pytest.raises(BadInput, match='under runs: and under arms:'):
        load_params('a', board('runs: {a: {}}\narms: {a: {}}'))


def test_pictures_name_runs_and_change_them(board):
    root = board('runs: {a: {}}\npictures: {a: {generate: {kinds: [guided]}}}')
    assert load_params('a', root).generate.kinds == ['guided'] and load_params(
        None, root
    ).generate.kinds == ['diffusion']
    with pytest.raises(BadInput, match='b stands under pictures'):
        load_params(None, board('runs: {a: {}}\npictures: {b: {}}'))
