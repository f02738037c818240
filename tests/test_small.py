"The model in the package: it is whole, small, and names and draws scenes that it has not met. See nbs/14_tuning/."

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from wavbrivl import WavBriVL
from wavbrivl.api.folder import SMALL
from wavbrivl.app.cli import main
from wavbrivl.app.examples import render_examples
from wavbrivl.app.listening import open_listener
from wavbrivl.core.files import BadInput
from wavbrivl.foley.scene import CLASSES

RELEASED = Path(str(SMALL)).parent
pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return render_examples(tmp_path_factory.mktemp('scenes'), takes=2)


@pytest.fixture(scope='module')
def small():
    return WavBriVL.from_pretrained(device='cpu')


def test_it_is_what_the_note_says():
    note = json.loads((RELEASED / 'release.json').read_text())
    assert note['commit'] and note['params'] and note['seed'] == 0
    found = {
        str(p.parent.relative_to(RELEASED)): p for p in RELEASED.rglob('*.safetensors')
    }
    assert set(found) == set(note['weights'])
    for name, path in found.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == note['weights'][name]
    painter = sum(p.stat().st_size for n, p in found.items() if n.startswith('painter'))
    assert painter < 15e6


def test_it_names_scenes_that_it_has_not_met(small, scenes):
    answers = small.classify([r['sound'] for r in scenes])
    right = [a[0][0] == r['heard'].split(' and ')[0] for a, r in zip(answers, scenes)]
    assert set(dict(answers[0])) == set(CLASSES)
    assert np.mean(right) > 0.7, 'chance is .04'


def test_it_finds_the_picture_of_a_sound(small, scenes):
    sounds = small.embed_audio([r['sound'] for r in scenes])
    pictures = small.embed_image([r['picture'] for r in scenes])
    cosines = sounds @ pictures.T
    rank = (cosines > np.diag(cosines)[:, None]).sum(1)
    assert (rank < 5).mean() > 0.7, 'chance is .10'


def test_it_draws_what_it_hears(small, scenes):
    some = scenes[: len(CLASSES)]
    drawn = small.generate([r['sound'] for r in some], candidates=2)
    seen = small.embed_image(drawn) @ small.embed_text(CLASSES).T
    right = seen.argmax(1) == np.arange(len(CLASSES))
    assert right.mean() > 0.5, 'chance is .04'


def test_without_a_painter_it_says_so(small):
    small.folder, kept = None, small.folder
    try:
        with pytest.raises(BadInput, match='painter'):
            small.generate([np.zeros(16000, np.float32)], sample_rate=16000)
    finally:
        small.folder = kept


def test_commands_take_it_where_no_lab_is(scenes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    dog = scenes[CLASSES.index('dog')]['sound']
    assert main(['classify', dog, '--device', 'cpu']) == 0
    assert 'dog' in capsys.readouterr().out
    assert main(['generate', dog, '-o', 'dog.png', '--device', 'cpu']) == 0
    assert (tmp_path / 'dog.png').stat().st_size > 500


def test_the_page_needs_no_lab(small, tmp_path, scenes):
    listener = open_listener(small, tmp_path)
    assert listener.names == list(CLASSES) and len(listener.examples) == 6
    heard = listener.hear(scenes[0]['sound'], ', '.join(CLASSES))
    assert len(heard.pictures) == 8
    assert heard.pictures[0][1].split()[0] in CLASSES
    assert listener.painter is not None
