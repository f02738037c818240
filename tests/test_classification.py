"Zero-shot, probes and baselines: against references, in company and alone, on broken input and on real sounds."

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from wavbrivl.metrics.classification import (
    TEMPLATES,
    accuracy_at,
    class_embeddings,
    mean_average_precision,
    prompt_templates,
    zero_shot,
)
from wavbrivl.tasks.probe import Probe, fold_splits, hold_out, evaluate_probe_splits
from wavbrivl.tasks.baseline import (
    linear_accuracy,
    linear_probe,
    log_mel_features,
    mfcc_features,
)
from wavbrivl.core.files import BadInput

torch.set_num_threads(1)
rng = np.random.default_rng(0)
SHARED = Path(__file__).parents[2] / 'shared'
QUICK = dict(epochs=12, hidden=32, batch=32, lr=0.01)


@pytest.fixture(scope='module')
def task():
    y = rng.integers(0, 5, 250)
    centres = rng.standard_normal((5, 12))
    return (
        (centres[y] + 0.5 * rng.standard_normal((250, 12))).astype('float32'),
        y,
        np.arange(250) % 5,
    )


def words(sentences):
    return np.stack(
        [
            np.random.default_rng([ord(c) for c in s]).standard_normal(8)
            for s in sentences
        ]
    )


def test_class_embeddings_are_means_of_unit_prompts():
    got = class_embeddings(words, ['dog_bark', 'rain'], 'scene')
    p = words([t.format('dog bark') for t in TEMPLATES['scene']])
    p = (p / np.linalg.norm(p, axis=1, keepdims=True)).mean(0)
    assert np.allclose(got[0], p / np.linalg.norm(p), atol=1e-6)
    assert np.allclose(
        class_embeddings(lambda s: torch.tensor(words(s)), ['dog bark', 'rain']), got
    )
    assert np.allclose(
        class_embeddings(words, ['a{b}', 'c'], ['{}'])[0],
        words(['a{b}'])[0] / np.linalg.norm(words(['a{b}'])),
        atol=1e-6,
    )


def test_prompts_that_do_not_work():
    for wrong in ('scenes', [], ['no place']):
        with pytest.raises(BadInput):
            prompt_templates(wrong)
    with pytest.raises(BadInput, match='more than once'):
        class_embeddings(words, ['dog bark', 'dog_bark'])
    with pytest.raises(BadInput, match='one row each'):
        class_embeddings(lambda s: words(s)[:2], ['a', 'b'])


def test_zero_shot_against_sklearn(task):
    from sklearn.metrics import average_precision_score, top_k_accuracy_score

    x, y, _ = task
    w = rng.standard_normal((7, 12)).astype('float32')  # two classes that never occur
    s = zero_shot(x, w, y)
    unit = lambda v: v / np.linalg.norm(v, axis=1, keepdims=True)
    similarity = unit(x) @ unit(w).T
    assert s['top1'] == pytest.approx((similarity.argmax(1) == y).mean())
    assert s['top5'] == pytest.approx(
        top_k_accuracy_score(y, similarity, k=5, labels=np.arange(7))
    )
    assert s['map'] == pytest.approx(
        np.mean([average_precision_score(y == c, similarity[:, c]) for c in range(5)]),
        abs=1e-6,
    )
    assert s['chance']['top1'] == 1 / 7 and s['pool'] == 7 and s['n'] == 250
    assert {k for k in s if isinstance(s[k], float)} == set(s['chance'])


def test_zero_shot_of_a_dead_tower_is_luck(task):
    _, y, _ = task
    s = zero_shot(np.ones((250, 4), 'f'), np.ones((5, 4), 'f'), y)
    assert s['top1'] == pytest.approx(0.2) and s['top5'] == 1


def test_zero_shot_of_several_labels(task):
    x, y, _ = task
    s = zero_shot(x, rng.standard_normal((5, 12)), np.eye(5)[y])
    assert 'top1' not in s and 0 < s['map'] < 1


def test_zero_shot_refuses(task):
    x, y, _ = task
    w = rng.standard_normal((5, 12))
    for wrong in (
        (x, w[:, :3], y),
        (x, w[:1], 0 * y),
        (x, w, y + 1),
        (x, w, y[:9]),
        (x * np.nan, w, y),
        (x[:0], w, y[:0]),
        (x, w, y.astype(float)),
        (x, w, np.eye(4)[y % 4]),
    ):
        with pytest.raises(BadInput):
            zero_shot(*wrong)


def test_luck_of_average_precision_is_that_of_random_orders():
    y = np.repeat([0, 1, 2], [3, 10, 17])
    drawn = np.mean(
        [mean_average_precision(rng.random((30, 3)), y)[0] for _ in range(600)]
    )
    assert mean_average_precision(rng.random((30, 3)), y)[1] == pytest.approx(
        drawn, abs=0.01
    )


def test_accuracy_at_shares_ties():
    assert (
        accuracy_at([[1.0, 1, 0]], [0]) == 0.5
        and accuracy_at([[1.0, 1, 0]], [0], 2) == 1
        and accuracy_at([[1.0, 1, 0]], [2], 2) == 0
    )


def test_probe_learns_and_repeats(task):
    x, y, fold = task
    one, two = (
        evaluate_probe_splits(x, y, fold_splits(fold), 5, **QUICK) for _ in range(2)
    )
    assert (
        one['accuracy'] == two['accuracy']
        and (one['predictions'] == two['predictions']).all()
    )
    assert (
        min(one['accuracy']) > 0.85
        and (one['predictions'] >= 0).all()
        and np.shape(one['by_fold']) == (5, 3)
    )
    assert np.mean((one['predictions'] == y).mean(1)) == pytest.approx(
        np.mean(one['accuracy'])
    )


def test_a_head_does_not_feel_its_neighbours(task):
    x, y, fold = task
    together, alone = (
        evaluate_probe_splits(x, y, fold_splits(fold)[:1], 5, seeds=[3, 4, 5], **QUICK),
        evaluate_probe_splits(x, y, fold_splits(fold)[:1], 5, seeds=[4], **QUICK),
    )
    assert (together['predictions'][1] == alone['predictions'][0]).mean() > 0.99
    assert together['best_epoch'][1] == alone['best_epoch'][0]


def test_stacked_heads_are_plain_networks():
    heads = Probe(6, 3, [1, 2], 8).eval()
    x = torch.randn(4, 6)
    for h in range(2):
        plain = (x @ heads.w1[h] + heads.b1[h]).relu() @ heads.w2[h] + heads.b2[h]
        assert torch.allclose(heads(x)[h], plain, atol=1e-6)


def test_probe_without_information_is_luck(task):
    _, y, fold = task
    r = evaluate_probe_splits(
        rng.standard_normal((250, 12)), y, fold_splits(fold), 5, **QUICK
    )
    assert (
        abs(np.mean(r['accuracy']) - 0.2) < 0.1
        and abs(np.mean(r['map']) - r['chance']['map']) < 0.1
    )


def test_standardisation_knows_nothing_of_the_test_clips(task):
    x, y, fold = task
    far = x.copy()
    far[fold == 0] *= 1e4
    a, b = (
        evaluate_probe_splits(v, y, fold_splits(fold)[:1], 5, seeds=[0], **QUICK)
        for v in (x, far)
    )
    assert a['best_epoch'] == b['best_epoch']


def test_constant_and_scaled_features_are_harmless(task):
    x, y, fold = task
    odd = np.concatenate([1e5 * x, np.full((250, 2), 7.0)], 1).astype('float32')
    assert (
        min(
            evaluate_probe_splits(odd, y, fold_splits(fold)[:1], 5, **QUICK)['accuracy']
        )
        > 0.8
    )


def test_several_labels(task):
    x, y, fold = task
    several = np.eye(5)[y]
    several[:, 4] = x[:, 0] > 0
    r = evaluate_probe_splits(x, several, fold_splits(fold)[:2], 5, **QUICK)
    assert 'accuracy' not in r and np.mean(r['map']) > 0.8


def test_unseen_class_is_wrong_and_named(task):
    x, y, fold = task
    train, test = np.flatnonzero((fold > 0) & (y != 2)), np.flatnonzero(fold == 0)
    r = evaluate_probe_splits(x, y, [(train, None, test)], 5, **QUICK)
    assert (
        r['unseen'] == [2]
        and not (r['predictions'] == 2).any()
        and max(r['accuracy']) <= (y[test] != 2).mean()
    )
    line = linear_probe(x[train], y[train], x[test], y[test])
    assert line['unseen'] == [2] and line['accuracy'] <= (y[test] != 2).mean()


def test_unlabelled_clips_may_stand_by(task):
    x, y, fold = task
    some = y.copy()
    some[fold == 4] = -1
    split = (
        np.flatnonzero(fold < 3),
        np.flatnonzero(fold == 3)[:20],
        np.flatnonzero(fold == 3)[20:],
    )
    assert evaluate_probe_splits(x, some, [split], 5, **QUICK)['n'] == len(split[2])
    with pytest.raises(BadInput, match='no label'):
        evaluate_probe_splits(
            x, some, [(split[0], None, np.flatnonzero(fold == 4))], 5, **QUICK
        )


def test_probe_refuses(task):
    x, y, fold = task
    a, b = np.flatnonzero(fold > 0), np.flatnonzero(fold == 0)
    for wrong in (
        (x, y[:9], [(a, None, b)], 5),
        (x, 0 * y, [(a, None, b)], 5),
        (x, 0 * y, [(a, None, b)], 1),
        (x, y, [(a, None, a)], 5),
        (x, y, [(a, None, b[:0])], 5),
        (x, y, [(a[:0], None, b)], 5),
    ):
        with pytest.raises(BadInput):
            evaluate_probe_splits(*wrong)
    with pytest.raises(BadInput):
        fold_splits(np.zeros(5, int))
    with pytest.raises(BadInput, match='validation'):
        hold_out(np.arange(5), 0.1, 0)


def test_hold_out_leaves_every_class_something():
    y = np.repeat(np.arange(30), rng.integers(1, 9, 30))
    for seed in range(50):
        held = hold_out(y, 0.4, seed)
        assert set(y[~held]) == set(y) and (held == hold_out(y, 0.4, seed)).all()


def test_linear_probe_is_sklearn(task):
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x, y, fold = task
    a, b = fold > 0, fold == 0
    scale = StandardScaler().fit(x[a])
    assert linear_accuracy(x[a], y[a], x[b], y[b]) == LogisticRegression(
        max_iter=5000
    ).fit(scale.transform(x[a]), y[a]).score(scale.transform(x[b]), y[b])
    for wrong in (
        (x[a], 0 * y[a], x[b], y[b]),
        (x[a], y, x[b], y[b]),
        (x[a] * np.inf, y[a], x[b], y[b]),
    ):
        with pytest.raises(BadInput):
            linear_accuracy(*wrong)


def test_features_do_not_depend_on_company():
    clips = [
        rng.standard_normal(n).astype('float32') for n in (1, 300, 16000, 5000)
    ] + [np.zeros(800, 'f')]
    for features in (log_mel_features, mfcc_features):
        all_, alone = features(clips), np.concatenate([features([c]) for c in clips])
        assert np.isfinite(all_).all() and (all_ == alone).all()
    assert np.allclose(
        log_mel_features(clips, workers=2), log_mel_features(clips), atol=1e-3
    )
    for wrong in ([], [np.zeros(0)], [np.zeros((2, 9))], [np.array([np.nan])]):
        with pytest.raises(BadInput):
            log_mel_features(wrong)


@pytest.mark.skipif(
    not (SHARED / 'data' / 'esc').exists(), reason='no real sounds beside the checkout'
)
def test_baseline_on_real_sounds():
    "ESC-10, one official fold: classical features are far above chance and below perfection."
    from wavbrivl.media.sound import load_audio

    rows = [
        r
        for r in csv.DictReader(open(SHARED / 'data/esc/meta/esc50.csv'))
        if r['esc10'] == 'True' and r['fold'] in '12'
    ]
    clips = [
        load_audio(SHARED / 'data/esc/audio' / r['filename'], max_seconds=3)
        for r in rows
    ]
    y, fold = (
        np.array([r['category'] for r in rows]),
        np.array([r['fold'] for r in rows]),
    )
    x = mfcc_features(clips)
    assert (
        0.45
        < linear_accuracy(
            x[fold == '1'], y[fold == '1'], x[fold == '2'], y[fold == '2']
        )
        < 0.95
    )
