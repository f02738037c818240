"The lab from end to end at a tiny size: stages in order, a kill in the middle, the model in use."

import json, os, signal, subprocess, sys, time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
import yaml

from wavbrivl.api.pictures import WavBriVL
from wavbrivl.app.cli import main
from wavbrivl.core.files import BadInput, read_json
from wavbrivl.core.config import merge_config
from wavbrivl.pipeline.lab import Lab
from wavbrivl.pipeline.training import (
    prepare_corpus,
    prepare_datasets,
    pretrain_brivl,
    pretrain_wavlm,
    store_targets,
    train_run,
)
from wavbrivl.pipeline.evaluation import evaluate_baselines, evaluate_run
from wavbrivl.pipeline.gloss import pretrain_gloss, store_frames, train_bridge_run
from wavbrivl.pipeline.pictures import (
    draw_pictures,
    measure_painter,
    train_codec,
    train_evaluators,
    train_painter,
)
from wavbrivl.pipeline.studies import (
    draw_manipulations,
    make_survey,
    read_grids,
    read_studies,
    study_edits,
    survey_tables,
)
from wavbrivl.pipeline.sources import (
    gloss_samples,
    pair_selection,
    picture_columns,
    table4_rows,
    place_tokens,
    placing_variants,
)

ROOT = Path(__file__).parents[1]
TINY = dict(
    precision='fp32',
    corpus=dict(foley=dict(train=48, valid=12, test=24)),
    wavlm=dict(optim=dict(batch=16)),
    brivl=dict(optim=dict(batch=16)),
    train=dict(seeds=[0], optim=dict(epochs=3, batch=16)),
)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    "A lab after the stages corpus to targets."
    root = tmp_path_factory.mktemp('lab')
    config = merge_config(
        yaml.safe_load((ROOT / 'presets/smoke.yaml').read_text()), TINY
    )
    config['runs'] = dict(
        wavbrivl={},
        undisturbed={},
        killed={},
        scratch=dict(train=dict(init='scratch')),
        cosine=dict(train=dict(loss='cosine')),
        infonce=dict(train=dict(loss='infonce')),
        l2=dict(train=dict(loss='l2')),
        level=dict(audio=dict(level=True)),
        supervised=dict(train=dict(loss='labels', init='scratch')),
        wav2clip=dict(audio=dict(kind='wav2clip', width=8), train=dict(init='scratch')),
    )
    config['encoders'] = dict(wavlm='build/wavlm', wavbrivl='models/wavbrivl')
    config['variants'] |= dict(
        whole=dict(language=dict(seeds=[0])),
        cut=dict(language=dict(seeds=[0])),
    )
    (root / 'params.yaml').write_text(yaml.safe_dump(config))
    lab = Lab(root=root)
    summary = prepare_corpus(lab)
    assert summary['clips'] == dict(train=48, valid=12, test=24)
    (root / 'data').symlink_to(root / 'build/corpus')
    pretrain_brivl(lab)
    store_targets(lab)
    pretrain_wavlm(lab)
    prepare_datasets(lab)
    return root


@pytest.fixture(scope='module')
def model(root):
    lab = Lab('wavbrivl', root)
    history = train_run(lab)
    assert len(history) == 3 and history.loss.notna().all()
    return WavBriVL.from_pretrained(root / 'models/wavbrivl', device='cpu')


def test_missing_stage_is_named(tmp_path):
    (tmp_path / 'params.yaml').write_text('runs: {}')
    with pytest.raises(BadInput, match='dvc repro'):
        Lab(root=tmp_path).corpus


@pytest.mark.parametrize(
    'run', ['scratch', 'cosine', 'infonce', 'l2', 'level', 'supervised', 'wav2clip']
)
def test_every_loss_and_start_trains(root, run):
    history = train_run(Lab(run, root))
    assert (
        history.loss.notna().all()
        and history.loss.iloc[-1] < history.loss.iloc[0] * 1.5
    )


def test_evaluation_is_complete_and_repeatable(root, model):
    lab = Lab('wavbrivl', root)
    (first,) = evaluate_run(lab)
    (again,) = evaluate_run(lab)
    stored = read_json(root / 'results/metrics/wavbrivl/foley.json')
    assert stored.pop('made').keys() == {'board', 'teacher'}
    assert first == again == stored
    top1 = first['tasks']['zero_shot']['top1']
    assert 0 <= top1['mean'] <= 1 and 0 < top1['chance'] < 0.1 and top1['pool'] == 24
    assert {
        'audio_to_image',
        'image_to_audio',
        'audio_to_text',
        'text_to_audio',
        'probe',
        'zero_shot',
        'detection',
        'captioning',
    } <= first['tasks'].keys()
    assert first['tasks']['audio_to_image']['mrr']['pool'] == 24


@pytest.fixture(scope='module')
def esc(tmp_path_factory):
    "A folder in ESC-50's layout: three classes of tones, three folds, one clip of the table missing."
    folder, rows = tmp_path_factory.mktemp('esc'), []
    for d in ('meta', 'audio'):
        (folder / d).mkdir()
    rng = np.random.default_rng(0)
    for k in range(36):
        fold, c = 1 + k // 12, k % 3
        t = np.arange(12_000) / 16_000
        sf.write(
            folder / f'audio/{fold}-{k}-A-{c}.wav',
            0.3 * np.sin(2 * np.pi * (300 + 900 * c + 20 * rng.random()) * t)
            + 0.01 * rng.standard_normal(len(t)),
            16_000,
        )
        rows.append(
            dict(
                filename=f'{fold}-{k}-A-{c}.wav',
                fold=fold,
                target=c,
                category=['clock_tick', 'dog', 'rain'][c],
                esc10='True',
                src_file=k,
                take='A',
            )
        )
    (folder / 'audio/1-0-A-0.wav').unlink()
    pd.DataFrame(rows).to_csv(folder / 'meta/esc50.csv', index=False)
    return folder


@pytest.fixture
def abroad(root, esc):
    "The lab with a public data set in the config, another one that is not where the config says, and the rest unnamed."
    config = yaml.safe_load((root / 'params.yaml').read_text())
    before = (root / 'params.yaml').read_text()
    (root / 'params.yaml').write_text(
        yaml.safe_dump(
            merge_config(config, dict(datasets=dict(esc50=str(esc), clotho='nowhere')))
        )
    )
    prepare_datasets(Lab(root=root))
    yield root
    (root / 'params.yaml').write_text(before)
    prepare_datasets(Lab(root=root))


def test_public_corpora_are_asked_the_same(abroad, model):
    found = prepare_datasets(Lab(root=abroad)).set_index('dataset')
    assert found.clips.esc50 == 35 and '1 of the 36 clips' in found.said.esc50
    assert (
        'nowhere' in found.said.clotho
        and not found.clips.clotho
        and 'datasets.us8k' in found.said.us8k
    )
    made = (abroad / 'build/datasets/esc50/manifest.parquet').stat().st_mtime_ns
    prepare_datasets(Lab(root=abroad))
    assert (
        abroad / 'build/datasets/esc50/manifest.parquet'
    ).stat().st_mtime_ns == made, 'what has not changed is left as it is'
    lab = Lab('wavbrivl', abroad)
    own, public = evaluate_run(lab)
    assert (own['corpus'], public['corpus']) == ('foley', 'esc50') and {
        'probe',
        'zero_shot',
    } == public['tasks'].keys()
    probe = public['tasks']['probe']['accuracy']
    assert probe['pool'] == 3 and probe['mean'] > 0.5, (
        'three tones apart are told apart over the official folds'
    )
    assert evaluate_run(lab)[1] == public, 'the same from kept embeddings'


def test_rows_without_a_joint_space(abroad, model):
    metrics = evaluate_baselines(Lab(root=abroad))
    rows = {(m['corpus'], m['run']): m['tasks'] for m in metrics}
    assert (
        rows['esc50', 'mfcc']['probe']['accuracy']['mean'] > 0.9
        and rows['esc50', 'log_mel']['probe']['accuracy']['mean'] > 0.9
    )
    assert ('foley', 'brivl') in rows and ('esc50', 'brivl') not in rows, (
        'that corpus has no pictures'
    )
    lab = Lab('supervised', abroad)
    if not (abroad / 'models/supervised').exists():
        train_run(lab)
    own, public = evaluate_run(lab)
    assert (
        own['tasks'].keys() == public['tasks'].keys() == {'probe'}
        and 0 <= public['tasks']['probe']['accuracy']['mean'] <= 1
    )
    assert 'scratch' in public['tasks']['probe']['accuracy']['supervision']


def kill_when_saved(root, module, function, run):
    "Start a stage's function in a process of its own; SIGKILL as soon as a state of training is on disk."
    state = root / f'checkpoints/{run}/seed-0/state.pt'
    code = (
        'import sys\n'
        'from wavbrivl.pipeline.lab import Lab\n'
        f'from {module} import {function}\n'
        f'{function}(Lab(sys.argv[1], sys.argv[2]))'
    )
    env = os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1')
    p = subprocess.Popen(
        [sys.executable, '-c', code, run, str(root)],
        env=env,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.time() + 300
    while not state.exists() and time.time() < deadline and p.poll() is None:
        time.sleep(0.01)
    p.send_signal(signal.SIGKILL)
    p.wait()
    assert not (root / 'models' / run).exists()
    return torch.load(state, weights_only=True)


def audio_weights(root, run):
    folder = root / 'models' / run
    return WavBriVL.from_pretrained(folder, device='cpu').audio.state_dict()


def test_killed_training_ends_as_an_undisturbed_one(root, one_thread, capsys):
    "SIGKILL after the first epoch has been saved, then the same training again."
    train_run(Lab('undisturbed', root))
    saved = kill_when_saved(root, 'wavbrivl.pipeline.training', 'train_run', 'killed')
    assert saved['epoch'] < 3
    capsys.readouterr()
    train_run(Lab('killed', root))
    assert 'resuming at epoch' in capsys.readouterr().out
    a, b = (audio_weights(root, r) for r in ('undisturbed', 'killed'))
    assert all(torch.equal(a[k], b[k]) for k in a)
    h = [
        pd.read_csv(root / f'results/history/{r}.csv').drop(columns='run')
        for r in ('undisturbed', 'killed')
    ]
    pd.testing.assert_frame_equal(*h)


def test_nothing_is_continued_that_was_finished(root, model):
    "A finished training leaves no state behind, so that none is taken up under other code or first weights."
    assert not list((root / 'checkpoints').rglob('state.pt'))


@pytest.mark.skipif(
    not (ROOT.parent / 'shared/reference').exists(),
    reason='no reference files beside the checkout',
)
def test_released_wavlm_trains_in_the_lab(root, tmp_path):
    "The stage `wavlm` takes the released weights instead of training; the tower takes their sizes."
    copy = tmp_path / 'lab'
    copy.mkdir()
    for part in ('build', 'data'):
        (copy / part).symlink_to(root / part)
    config = yaml.safe_load((root / 'params.yaml').read_text())
    config['runs'] = dict(released=dict(train=dict(optim=dict(epochs=1))))
    config['pictures'] = {}
    config['audio'] = dict(
        config['audio'],
        checkpoint=str(ROOT.parent / 'shared/reference/wavlm_base/checkpoint.pt'),
        freeze_conv=True,
        hidden=32,
    )
    (copy / 'params.yaml').write_text(yaml.safe_dump(config))
    (copy / 'build').unlink()
    (copy / 'build').mkdir()
    for part in ('corpus', 'brivl', 'targets'):
        (copy / 'build' / part).symlink_to(root / 'build' / part)
    lab = Lab('released', copy)
    assert not len(pretrain_wavlm(lab))
    assert train_run(lab).loss.notna().all()
    model = WavBriVL.from_pretrained(copy / 'models/released', device='cpu')
    assert model.audio.params.hidden == 64 and model.audio.params.layers == 3
    config['audio'] |= dict(checkpoint=None)
    (copy / 'params.yaml').write_text(yaml.safe_dump(config))
    with pytest.raises(BadInput, match='train.init: scratch'):
        train_run(Lab('released', copy))


def test_embedding_is_the_same_alone_and_in_company(model):
    rng = np.random.default_rng(0)
    clips = [
        (0.1 * rng.standard_normal(int(s * 16_000))).astype(np.float32)
        for s in (0.1, 1.0, 3.3, 7.0)
    ]
    clips.append((0.1 * rng.standard_normal(600 * 16_000)).astype(np.float32))
    together, backwards = (
        model.embed_audio(clips, 16_000, batch=8),
        model.embed_audio(clips[::-1], 16_000, batch=3)[::-1],
    )
    alone = np.concatenate([model.embed_audio(c, 16_000) for c in clips])
    for other in (backwards, alone, model.embed_audio(clips, 16_000, batch=8)):
        np.testing.assert_allclose(together, other, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


def test_bad_files_do_not_stop_good_ones(model, tmp_path):
    good, bad = tmp_path / 'an odd näme.wav', tmp_path / 'text.wav'
    sf.write(good, 0.1 * np.random.default_rng(1).standard_normal((24_000, 2)), 48_000)
    bad.write_text('not audio')
    with pytest.warns(UserWarning, match='text.wav'):
        rows = model.embed_audio([good, bad, good])
    assert (
        np.isnan(rows[1]).all()
        and np.array_equal(rows[0], rows[2])
        and len(model.rejected) == 1
    )
    np.testing.assert_allclose(rows[0], model.embed_audio(good)[0], atol=1e-6)


def test_saved_model_is_the_model(model, tmp_path):
    model.save_pretrained(tmp_path / 'copy')
    copy = WavBriVL.from_pretrained(tmp_path / 'copy', device='cpu')
    assert np.array_equal(
        model.embed_text('a dog barks'), copy.embed_text('a dog barks')
    )
    (tmp_path / 'copy/model.safetensors').write_bytes(b'broken')
    with pytest.raises(BadInput):
        WavBriVL.from_pretrained(tmp_path / 'copy')
    with pytest.raises(BadInput, match='not a folder'):
        WavBriVL.from_pretrained(tmp_path / 'nowhere')


def test_command_line(root, model, tmp_path, capsys):
    sounds = sorted((root / 'build/corpus/audio').glob('*.flac'))[:2]
    (tmp_path / 'empty.wav').write_bytes(b'')
    m = ['--model', str(root / 'models/wavbrivl'), '--device', 'cpu']
    assert (
        main(['classify', str(sounds[0]), '--labels', 'dog,rain,bell', '--json', *m])
        == 0
    )
    best = json.loads(capsys.readouterr().out)[0]['classes']
    assert len(best) == 3 and abs(sum(c['probability'] for c in best) - 1) < 1e-3
    assert (
        main(
            [
                'embed',
                *map(str, sounds),
                str(tmp_path / 'empty.wav'),
                '-o',
                str(tmp_path / 'out.parquet'),
                *m,
            ]
        )
        == 1
    )
    assert (
        'empty.wav' in capsys.readouterr().err
        and len(pd.read_parquet(tmp_path / 'out.parquet')) == 2
    )
    assert (
        main(
            [
                'rank',
                str(sounds[0]),
                str(root / 'build/corpus/frames'),
                '--top',
                '4',
                '--json',
                *m,
            ]
        )
        == 0
    )
    ranked = json.loads(capsys.readouterr().out)
    assert len(ranked) == 4 and ranked[0]['cosine'] >= ranked[-1]['cosine']
    assert main(['embed', str(tmp_path / 'empty.wav'), *m]) == 2
    assert main(['classify', str(sounds[0]), '--labels', 'dog', *m]) == 2


# ---------------------------------------------------------------- the second paper's stages


@pytest.fixture(scope='module')
def variants(root, model):
    "The lab after the stages encoder and gloss."
    lab = Lab(root=root)
    for name in ('wavlm', 'wavbrivl'):
        store_frames(lab, name)
    assert pretrain_gloss(lab)['style'].unique().tolist() == ['content']
    return root


def test_a_variant_is_trained_evaluated_and_used(variants, capsys):
    history, (own,) = train_bridge_run(Lab('ds_rf', variants))
    assert sorted(history.seed.unique()) == [0, 1] and history.loss.notna().all()
    assert {
        'zero_shot',
        'audio_to_image',
        'selection',
        'text_to_gloss',
        'audio_to_gloss',
        'timing',
    } <= own['tasks'].keys()
    assert own['tasks']['selection']['auc']['chance'] == 0.5 and own['tasks'][
        'zero_shot'
    ]['top1']['seeds'] == [0, 1]
    assert 'gloss' in own['tasks']['zero_shot']['top1']['supervision'] and not list(
        (variants / 'checkpoints').rglob('state.pt')
    )
    model = WavBriVL.from_pretrained(variants / 'models/ds_rf', device='cpu')
    sound = sorted((variants / 'build/corpus/audio').glob('*.flac'))[0]
    assert model.embed_audio(sound).shape == (1, model.dim) and isinstance(
        model.gloss_audio(sound)[0], str
    )
    assert (
        main(
            [
                'gloss',
                'A dog barks.',
                '--text',
                '--json',
                '--model',
                str(variants / 'models/ds_rf'),
                '--device',
                'cpu',
            ]
        )
        == 0
    )
    assert (
        json.loads(capsys.readouterr().out)[0]['gloss']
        == model.gloss_text('A dog barks.')[0]
    )
    lab = Lab(root=variants)
    assert (
        pair_selection(lab)['ds_rf'] == (0.25, 'both')
        and table4_rows(lab) == dict(ds_rf='(F)')
        and list(placing_variants(lab)) == ['alignment']
        and place_tokens(lab, 'ds_rf')[0]['net'] == 'TimingNet'
    )
    assert list(gloss_samples(lab, 'ds_rf').columns) == [
        'by rule',
        'from the caption',
        'from the sound',
    ]


def test_a_trained_tower_can_be_the_audio_encoder(variants):
    _, (own,) = train_bridge_run(Lab('bgtai', variants))
    assert {'detection', 'probe'} <= own['tasks'].keys()
    with pytest.raises(BadInput, match='no gloss decoder'):
        WavBriVL.from_pretrained(variants / 'models/wavbrivl', device='cpu').gloss_text(
            'x'
        )


def test_a_killed_variant_ends_as_an_undisturbed_one(variants, one_thread, capsys):
    train_bridge_run(Lab('whole', variants))
    kill_when_saved(variants, 'wavbrivl.pipeline.gloss', 'train_bridge_run', 'cut')
    capsys.readouterr()
    train_bridge_run(Lab('cut', variants))
    assert 'resuming at epoch' in capsys.readouterr().out
    a, b = (audio_weights(variants, r) for r in ('whole', 'cut'))
    assert all(torch.equal(a[k], b[k]) for k in a)
    a, b = (
        read_json(variants / f'results/metrics/{r}/foley.json')['tasks']
        for r in ('whole', 'cut')
    )
    assert a == b


def test_pictures_from_sound(root, model):
    lab = Lab('wavbrivl', root)
    if not (root / 'build/embeddings/wavbrivl').exists():
        evaluate_run(lab)
    assert (
        len(train_evaluators(lab))
        and train_codec(lab).l1.notna().all()
        and train_painter(lab).loss.notna().all()
    )
    assert set(measure_painter(lab).task) == {'reconstructed', 'diffusion'}
    metrics = draw_pictures(lab)[0]
    assert set(metrics['tasks']) == {
        'guided',
        'bare',
        'diffusion',
        'mosaic',
        'ranked',
        'redrawn',
        'retrieved',
        'prompts',
        'prompts_ranked',
    }
    assert all(
        0 <= t['r1']['mean'] <= t['r5']['mean'] <= 1 and t['r1']['sounds']
        for t in metrics['tasks'].values()
    )
    assert draw_pictures(lab)[0] == metrics, (
        'the same parameters give the same pictures'
    )
    rows = picture_columns(lab, 3)
    assert len(rows) == 3 and all(
        p is not None for r in rows for p in r['pictures'].values()
    )
    found = study_edits(lab)
    frame, rhos = found['wavbrivl']
    with_level, _ = found['wavbrivl, level given']
    assert list(found) == list(read_studies(lab)) and set(with_level.measure) <= {
        m for m in frame.measure if m.startswith('drawn_')
    }
    at = lambda f, v: f[
        (f.edit == 'gain') & (f.measure == 'drawn_intensity') & (f.value == v)
    ]['mean'].item()
    assert any(abs(at(with_level, v) - at(frame, v)) > 1e-6 for v in (-12, 0, 12)), (
        'the level given makes a difference'
    )
    assert {'drift', 'match', 'drawn_intensity'} <= set(frame.measure) and read_studies(
        lab
    )['wavbrivl'][0].shape == frame.shape
    rows = draw_manipulations(lab, 2)
    kept = read_grids(lab)
    assert [r['name'] for r in kept] == [r['name'] for r in rows] and rows
    for row, same in zip(rows, kept):
        assert [c for c, _ in row['steps']] == [c for c, _ in same['steps']]
        assert all(
            np.array_equal(a, b)
            for (_, a), (_, b) in zip(row['steps'], same['steps'], strict=True)
        )
    assert make_survey(lab)['trials'] and (root / 'build/survey/survey.html').exists()
    people, proxy = survey_tables(lab)
    assert people is None and proxy.loc['all', 'n'] == 4


def test_a_corpus_of_one_class_draws_and_evaluates_nothing(root, model, monkeypatch):
    monkeypatch.setattr(Lab, 'can_evaluate_pictures', False)
    lab = Lab('wavbrivl', root)
    assert (
        not len(train_evaluators(lab))
        and draw_pictures(lab) == []
        and study_edits(lab) == {}
        and draw_manipulations(lab) == []
    )
