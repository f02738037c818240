"Prompts alone and together, and probabilities of each label by itself."

import json
import warnings

import numpy as np
import pytest
import torch
from tiny import SMALL

from wavbrivl.api.model import WavBriVL, calibrate
from wavbrivl.app.cli import main
from wavbrivl.audio.tower import AudioTower
from wavbrivl.core.files import BadInput
from wavbrivl.core.params import BrivlParams, EvaluateParams
from wavbrivl.image_text.brivl import BriVL
from wavbrivl.image_text.inputs import train_tokenizer
from wavbrivl.metrics.classification import class_embeddings, prompt_templates
from wavbrivl.metrics.calibration import (
    calibration_error,
    check_calibration,
    draw_lists,
    fit_calibration,
    fit_sigmoid,
    heard_probabilities,
    reliability,
)

pytestmark = pytest.mark.usefixtures('one_thread')
RATE = 16_000
NAMES = ['dog', 'rain', 'bell']


@pytest.fixture
def model():
    torch.manual_seed(0)
    words = 'this is a sound of a dog, rain, the scene with a picture of a bell'
    tokenizer = train_tokenizer([words] * 3, 200)
    vocab = tokenizer.get_vocab_size()
    text = dict(hidden=32, layers=1, heads=2, ffn=32, vocab=vocab)
    brivl = BriVL(BrivlParams(image_size=32, text=text, text_heads=2))
    return WavBriVL(AudioTower(SMALL, brivl.dim, 1.0), brivl, tokenizer)


@pytest.fixture
def sounds():
    rng = np.random.default_rng(0)
    return [rng.standard_normal(8000).astype('float32') * 0.1 for _ in range(6)]


def quiet(f, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return f(*args, **kwargs)


def test_an_ensemble_is_the_mean_of_unit_prompts():
    rows = {}

    def encode(sentences):
        for s in sentences:
            seed = sum(s.encode())
            rows[s] = np.random.default_rng(seed).standard_normal(8) * len(s)
        return np.stack([rows[s] for s in sentences])

    found = class_embeddings(encode, ['dog'], ['sound', 'clip'])[0]
    prompts = [t.replace('{}', 'dog') for t in prompt_templates(['sound', 'clip'])]
    unit = [rows[p] / np.linalg.norm(rows[p]) for p in prompts]
    mean = np.mean(unit, 0)
    assert np.allclose(found, mean / np.linalg.norm(mean), atol=1e-6)
    assert prompt_templates(['bare', 'scene', 'bare']) == prompt_templates('scene')


def test_prompts_are_a_setting():
    for templates in ('ensemble', ['sound', 'clip'], 'bare'):
        assert EvaluateParams(templates=templates).templates == templates
    with pytest.raises(ValueError):
        EvaluateParams(templates=3)
    assert 'calibration' not in EvaluateParams().tasks


def test_sigmoid_against_its_own_data():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, 20_000)
    heard = rng.random(20_000) < 1 / (1 + np.exp(-(6 * x - 3)))
    scale, bias = fit_sigmoid(x, heard)
    assert scale == pytest.approx(6, rel=0.05) and bias == pytest.approx(-3, rel=0.05)
    p = heard_probabilities(x[:, None], ['a'], dict(scale=scale, bias=bias))
    assert calibration_error(p, heard) < 0.01
    for nothing in (np.zeros(9, bool), np.ones(9, bool)):
        with pytest.raises(BadInput, match='heard'):
            fit_sigmoid(np.arange(9), nothing)


def test_calibration_error_by_hand():
    p, heard = np.array([0.1, 0.1, 0.9, 0.9]), np.array([0, 1, 1, 1], bool)
    assert calibration_error(p, heard, 2) == pytest.approx(0.5 * 0.4 + 0.5 * 0.1)
    assert reliability(p, heard, 2).pairs.tolist() == [2, 2]
    assert calibration_error([1.0, 0.0], [True, False]) == 0


def test_own_scales_only_where_there_is_data():
    rng = np.random.default_rng(0)
    heard = rng.random((200, 2)) < [0.5, 0.02]
    cosines = 0.4 * heard + rng.normal(0, 0.2, heard.shape)
    assert fit_calibration(cosines, heard, ['a', 'b'])['labels'] == {}
    own = fit_calibration(cosines, heard, ['a', 'b'], per_label=True)
    assert list(own['labels']) == ['a']
    assert json.loads(json.dumps(own)) == own


def test_short_lists():
    heard = np.zeros((40, 9), bool)
    heard[np.arange(40), np.arange(40) % 9] = True
    lists = draw_lists(heard)
    there = np.take_along_axis(heard, lists, 1).sum(1)
    assert there.tolist() == [1, 0] * 20
    assert all(len(set(row)) == 5 for row in lists)
    assert (draw_lists(heard) == lists).all()
    with pytest.raises(BadInput, match='fewer than 5'):
        draw_lists(heard[:, :5])


def test_each_name_by_itself(model, sounds, tmp_path):
    with pytest.raises(BadInput, match='not calibrated'):
        model.classify(sounds[0], ['dog'], RATE, independent=True)
    before = model.classify(sounds[0], NAMES, RATE)
    fingerprint = model.fingerprint
    calibrate(model, sounds, ['dog', 'rain', ['dog', 'bell']] * 2, sample_rate=RATE)
    assert model.fingerprint == fingerprint
    assert model.classify(sounds[0], NAMES, RATE) == before
    ask = lambda m, names, **k: dict(
        m.classify(sounds[0], names, RATE, independent=True, **k)
    )
    alone, among = ask(model, ['dog']), ask(model, NAMES)
    assert alone['dog'] == pytest.approx(among['dog'])
    assert all(0 < p < 1 for p in among.values())
    assert ask(model, ['dog'], templates='bare') == alone
    with pytest.raises(BadInput, match='calibrated for the prompts bare'):
        ask(model, ['dog'], templates='ensemble')
    model.save_pretrained(tmp_path)
    again = WavBriVL.from_pretrained(tmp_path, device='cpu')
    assert ask(again, ['dog'])['dog'] == pytest.approx(alone['dog'], abs=1e-6)
    unknown = quiet(ask, model, ['dog', 'zyzzyva'])
    assert unknown['zyzzyva'] is None and unknown['dog'] == pytest.approx(alone['dog'])


def test_calibration_leaves_out_what_cannot_be_read(model, sounds):
    broken = np.zeros(0, np.float32)
    labels = ['dog', 'rain', 'bell', 'dog']
    found = quiet(calibrate, model, [*sounds[:3], broken], labels, sample_rate=RATE)
    assert found['sounds'] == 3
    with pytest.raises(BadInput, match='need 2 labels'):
        calibrate(model, sounds[:2], ['dog'], sample_rate=RATE)


def test_a_spoilt_calibration_is_named(model, sounds):
    spoilt = [[], 3, dict(scale=1), dict(scale='a', bias=1), dict(scale=1, bias=1e999)]
    spoilt.append(dict(scale=1, bias=0, labels=dict(dog=[1])))
    for wrong in spoilt:
        with pytest.raises(BadInput, match='calibrate it again'):
            check_calibration(wrong)
        model.info['calibration'] = wrong
        with pytest.raises(BadInput, match='calibrate it again'):
            model.classify(sounds[0], ['dog'], RATE, independent=True)


def test_command(model, sounds, tmp_path, capsys):
    import soundfile as sf

    calibrate(model, sounds, NAMES * 2, sample_rate=RATE)
    model.save_pretrained(tmp_path / 'model')
    sf.write(tmp_path / 'x.wav', sounds[0], RATE)
    files = ['classify', str(tmp_path / 'x.wav'), '--model', str(tmp_path / 'model')]
    assert main([*files, '--label', 'dog', '--independent', '--json']) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert len(row['classes']) == 1 and row['classes'][0]['probability'] < 1
    assert main([*files, '--label', 'dog']) == 2
    assert main([*files, '-l', 'dog,rain', '--templates', 'sound,scene']) == 0
    assert main([*files, '-l', 'dog,rain', '--templates', 'sound,scen']) == 2
    assert "did you mean 'scene'" in capsys.readouterr().err
