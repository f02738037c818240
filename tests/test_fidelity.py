"Fidelity beyond the chapter: torchmetrics with the evaluator as extractor, closed forms, odd corpora, edges."

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

from wavbrivl.core.files import BadFile, BadInput
from wavbrivl.core.params import OptimParams
from wavbrivl.core.picture_params import EvaluatorParams, Params
from wavbrivl.data.manifest import class_caption
from wavbrivl.generation.judge import (
    CaptionedPictures,
    Evaluator,
    EvaluatorTask,
    LabelledPictures,
    resize_bytes,
    usable_attributes,
    soften,
    class_logits,
    train_caption_evaluator,
    train_evaluator,
)
from wavbrivl.generation.measures import spearman
from wavbrivl.generation.fidelity import (
    attribute_correlation,
    class_spread,
    measure_code_usage,
    diversity,
    frechet_distance,
    inception_score,
    kernel_distance,
    score_pictures_of,
    draw_rows,
    retrieval_r1,
)

NAMES = ['bee', 'cow', 'owl']


def made_judge(attributes=('pitch',), seed=0):
    torch.manual_seed(seed)
    return Evaluator('test_resnet', 32, NAMES, attributes).eval()


@pytest.fixture(scope='module')
def judge():
    return made_judge()


def bytes_of(n, seed=0, side=20):
    return torch.randint(
        0,
        256,
        (n, 3, side, side + 4),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(seed),
    )


class Drawn:
    "A corpus in memory: a class is a colour, its pitch the brightness."

    fingerprint = 'drawn'

    def __init__(self, labels=NAMES, n=8, attributes=True, said=class_caption):
        rows = []
        for split in ('train', 'valid'):
            for i in range(n * len(labels)):
                pitch = float((i * 7) % 10) / 10
                told = [
                    dict(name='pitch', value=pitch),
                    dict(name='level', value=-30.0 - i),
                    dict(name='count', value=1.0 + i % 3),
                ][: 3 if attributes else 0]
                rows.append(
                    dict(
                        split=split,
                        label=labels[i % len(labels)],
                        frames=[
                            f'{i % len(labels)}/{pitch}/{k}' for k in range(i % 2 + 1)
                        ],
                        attributes=told,
                        captions=[said(labels[i % len(labels)])],
                    )
                )
        self.table = pd.DataFrame(rows)

    def split(self, name):
        return self.table[self.table.split == name].reset_index(drop=True)

    def picture(self, path):
        c, pitch, k = path.split('/')
        x = np.full((24, 24, 3), 40 + int(k), np.uint8)
        x[..., int(c)] = 100 + int(155 * float(pitch))
        return x


def params(**k):
    return Params(
        device='cpu',
        precision='fp32',
        evaluator=EvaluatorParams(
            size=32, optim=OptimParams(**dict(epochs=2, batch=6, lr=5e-3) | k)
        ),
    )


# scores


def test_torchmetrics_with_the_judge_as_extractor(judge):
    "The numbers are those of the metrics fed with pictures, as their documentation has it."
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.inception import InceptionScore

    class Extractor(torch.nn.Module):
        def __init__(self, look):
            super().__init__()
            self.look, self.num_features = look, judge.dim

        def forward(self, x):
            return self.look(x).double()

    ours, real = bytes_of(12, 1), bytes_of(16, 2)
    fid = FrechetInceptionDistance(feature=Extractor(judge.features))
    fid.update(real, real=True)
    fid.update(ours, real=False)
    score = InceptionScore(feature=Extractor(judge.logits), splits=1)
    score.update(ours)
    found = score_pictures_of(judge, ours, [NAMES[i % 3] for i in range(12)], real)
    assert found['fid'] == pytest.approx(fid.compute().item(), abs=1e-4) and found[
        'is'
    ] == pytest.approx(score.compute()[0].item(), abs=1e-6)


def test_fid_of_gaussians_is_the_formula():
    g = torch.Generator().manual_seed(0)
    a, b = (
        torch.randn(400, 4, generator=g, dtype=torch.double),
        3 * torch.randn(300, 4, generator=g, dtype=torch.double) + 2,
    )
    from scipy.linalg import sqrtm

    S, T = np.cov(a.T.numpy()), np.cov(b.T.numpy())
    want = ((a.mean(0) - b.mean(0)) ** 2).sum().item() + np.trace(
        S + T - 2 * sqrtm(S @ T).real
    )
    assert frechet_distance(a, b) == pytest.approx(want, rel=1e-8) and frechet_distance(
        a, b
    ) == pytest.approx(frechet_distance(b, a), rel=1e-8)


def test_fid_with_fewer_pictures_than_features():
    x = torch.randn(8, 96, generator=torch.Generator().manual_seed(0))
    assert 0 <= frechet_distance(x, x) < 1e-3, (
        'the covariance is singular, the distance still 0'
    )
    assert 0 <= frechet_distance(torch.ones(5, 96), torch.ones(7, 96)) < 1e-9, (
        'no spread at all'
    )


def test_kid_is_the_unbiased_sum():
    g = torch.Generator().manual_seed(0)
    a, b = (
        torch.randn(7, 5, generator=g, dtype=torch.double),
        torch.randn(7, 5, generator=g, dtype=torch.double) + 1,
    )
    k = lambda x, y: (x @ y / 5 + 1) ** 3
    within = np.mean(
        [
            k(x[i], x[j]).item()
            for x in (a, b)
            for i in range(7)
            for j in range(7)
            if i != j
        ]
    )
    want = 2 * within - 2 * np.mean([k(x, y).item() for x in a for y in b])
    assert kernel_distance(a, b) == pytest.approx(want, rel=1e-9)


def test_scores_leave_the_global_generator_alone_and_repeat(judge):
    ours, real = bytes_of(10, 1), bytes_of(16, 2)
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    first = score_pictures_of(judge, ours, ['bee'] * 10, real)
    assert torch.equal(torch.rand(3), want)
    assert first == score_pictures_of(judge, ours, ['bee'] * 10, real)
    assert (
        first['kid']
        != score_pictures_of(judge, ours, ['bee'] * 10, real, seed=1)['kid']
    ), 'the larger side is drawn from'


def test_inception_score_bounds():
    assert (
        inception_score(1000 * torch.eye(4)) == pytest.approx(4)
        and inception_score(torch.randn(1, 4)) == 1
    )
    assert inception_score(1000 * torch.eye(4)[[0] * 9]) == pytest.approx(1), (
        'one class only'
    )


def test_spread_is_the_mean_over_pairs():
    f, y = (
        torch.rand(9, 6, generator=torch.Generator().manual_seed(0)),
        np.array([0, 0, 0, 1, 1, 1, 1, 2, 2]),
    )
    u = torch.nn.functional.normalize(f, dim=1)
    for c, found in class_spread(f, y).items():
        own = u[torch.from_numpy(y == c)]
        assert found == pytest.approx(
            np.mean(
                [
                    1 - (own[i] @ own[j]).item()
                    for i in range(len(own))
                    for j in range(i)
                ]
            ),
            abs=1e-6,
        )
    assert diversity(f, y, f, y) == pytest.approx(1) and class_spread(
        torch.zeros(3, 6), np.zeros(3)
    ).keys() == {0}


def test_each_measure_fails_alone(judge):
    "One picture, one class, real pictures all alike: NaN with a sentence, the others stand."
    one = score_pictures_of(judge, bytes_of(1), ['owl'], bytes_of(1, 3))
    assert (
        set(one['reasons']) == {'fid', 'kid', 'diversity'}
        and all(math.isnan(one[k]) for k in one['reasons'])
        and one['r1'] in (0.0, 1.0)
        and one['is'] == 1
    )
    alike = score_pictures_of(
        judge,
        bytes_of(4),
        ['owl'] * 4,
        bytes_of(1, 3).expand(6, -1, -1, -1),
        ['owl'] * 6,
    )
    assert (
        set(alike['reasons']) == {'diversity'}
        and 'all alike' in alike['reasons']['diversity']
        and math.isfinite(alike['fid'])
    )
    same = dict(r1=1 / 3, r1_first=1 / 3, r5=1.0)
    assert one['chance'] == same and one['pool'] == 3, (
        'five of three classes is always right'
    )
    torch.manual_seed(0)
    single = score_pictures_of(
        Evaluator('test_resnet', 32, ['owl']).eval(),
        bytes_of(3),
        ['owl'] * 3,
        bytes_of(3, 1),
    )
    assert single['r1'] == single['is'] == single['chance']['r1'] == 1


@pytest.mark.parametrize(
    'pictures, labels, said',
    [
        (torch.full((2, 3, 8, 8), math.nan), ['owl'] * 2, 'must be bytes'),
        (bytes_of(2)[0], ['owl'], r'must be \[N, 3, H, W\]'),
        (bytes_of(0), [], 'no picture to judge'),
        (bytes_of(2), ['owl'], '2 clips and 1 labels'),
        (bytes_of(2), ['owl', 'elk'], "not learnt 'elk'"),
        (bytes_of(2), [0, 3], 'from 0 to 2'),
    ],
)
def test_bad_pictures_and_labels(judge, pictures, labels, said):
    with pytest.raises(BadInput, match=said):
        score_pictures_of(judge, pictures, labels, bytes_of(4))


def test_retrieval_by_class(judge):
    real, labels = bytes_of(9, 4), [NAMES[i % 3] for i in range(9)]
    assert retrieval_r1(judge, real, labels, real, labels)['r1'] == 1, (
        'a picture is nearest to itself'
    )
    assert retrieval_r1(judge, real, labels, real, np.arange(9) % 3)['r1'] == 1, (
        'numbers are as good as names'
    )
    wrong = retrieval_r1(judge, real, labels, real, labels[1:] + labels[:1])
    assert (
        wrong['r1'] < 1
        and wrong['pool'] == 9
        and wrong['chance']['r1'] == pytest.approx(1 / 3)
    )
    with pytest.raises(BadInput):
        retrieval_r1(judge, real, labels, bytes_of(0), [])


# the judge


def test_judge_is_deterministic_in_any_batch_and_size(judge):
    x = bytes_of(7)
    judge.train()
    whole, parts = judge.predict(x), judge.predict(x, batch=2)
    for a, b in zip(whole, parts):
        assert torch.allclose(a, b, atol=1e-5)
    assert not judge.training and torch.equal(judge.features(x), whole[0])
    assert [t.shape for t in judge.predict(bytes_of(0))] == [
        (0, judge.dim),
        (0, 3),
        (0, 1),
    ]
    assert (
        judge.features(bytes_of(2, side=200)).isfinite().all()
        and ((whole[2] >= 0) & (whole[2] <= 1)).all()
    )


def test_a_broken_judge_says_so():
    j = made_judge()
    torch.nn.init.constant_(j.class_head.weight, math.nan)
    with pytest.raises(BadInput, match='train it again'):
        j.features(bytes_of(2))


def test_judge_without_attributes(tmp_path):
    j = made_judge(())
    assert j.attributes(bytes_of(3)).shape == (3, 0)
    j.save(tmp_path)
    assert torch.equal(
        Evaluator.load(tmp_path).logits(bytes_of(3)), j.logits(bytes_of(3))
    )


def test_files(tmp_path, judge):
    judge.save(tmp_path / 'a')
    with pytest.raises(BadFile, match='does not exist'):
        Evaluator.load(tmp_path / 'b')
    config = json.loads((tmp_path / 'a' / 'config.json').read_text())
    (tmp_path / 'a' / 'config.json').write_text(
        json.dumps(config | dict(classes=['bee']))
    )
    with pytest.raises(BadInput, match='class_head'):
        Evaluator.load(tmp_path / 'a')
    (tmp_path / 'a' / 'config.json').write_text(json.dumps(dict(cnn='test_resnet')))
    with pytest.raises(BadFile, match='no judge'):
        Evaluator.load(tmp_path / 'a')
    (tmp_path / 'a' / 'config.json').write_text(json.dumps(config))
    (tmp_path / 'a' / 'model.safetensors').write_bytes(b'x')
    with pytest.raises(BadFile, match='no weights'):
        Evaluator.load(tmp_path / 'a')


def test_a_cnn_timm_does_not_have():
    with pytest.raises(BadInput, match='did you mean'):
        Evaluator('test_resnett', 32, NAMES)


def test_a_head_wider_than_the_features():
    assert Evaluator('mobilenetv3_small_050', 32, NAMES).logits(bytes_of(2)).shape == (
        2,
        3,
    ), 'timm pools into another width here'


# the lesson


def test_attributes_are_chosen_by_range_and_coverage():
    values = [
        dict(a=0.1 * i, half=0.5, dB=-10.0 - i, count=i % 3)
        | (dict(rare=0.1 * i) if i < 4 else {})
        for i in range(10)
    ]
    table = pd.DataFrame(
        dict(
            attributes=[
                [dict(name=k, value=float(v)) for k, v in row.items()] for row in values
            ]
        )
    )
    assert usable_attributes(table) == ['a'], 'constant, out of range, rare: left out'
    assert usable_attributes(pd.DataFrame(dict(attributes=[[], []]))) == []


def test_frames_carry_their_clips_class_and_attributes():
    d = LabelledPictures(Drawn(), 'valid', NAMES[:2], ['pitch', 'age'])
    assert len(d) == len(d.pictures) == len(d.values) and set(d.y) == {0, 1}, (
        'the third class has no number'
    )
    assert np.isnan(d.values[:, 1]).all()
    assert torch.equal(d.pictures[:, :, 0, 0].argmax(1), torch.from_numpy(d.y)), (
        'a picture of colour c is of class c'
    )
    brightness = d.pictures[:, :, 0, 0].amax(1).float()
    assert torch.allclose(
        (brightness - 100) / 155, torch.from_numpy(d.values[:, 0]), atol=0.01
    ), 'and as bright as its clip is high'
    assert len(LabelledPictures(Drawn(), 'test', NAMES, ['pitch'])) == 0


def test_unknown_attributes_do_not_count():
    j, d = (
        made_judge(('pitch', 'age')),
        LabelledPictures(Drawn(), 'train', NAMES, ['pitch', 'age']),
    )
    lesson = EvaluatorTask(j, d, d)
    batch = lesson.batch(np.arange(6), np.random.default_rng(0))
    lesson(**batch).backward()
    assert (
        j.attribute_head.weight.grad[0].abs().sum() > 0
        and j.attribute_head.weight.grad[1].abs().sum() == 0
    )
    assert lesson(**batch | dict(values=torch.full((6, 2), math.nan))).isfinite()
    again = lesson.batch(np.arange(6), np.random.default_rng(0))
    assert torch.equal(again['pixels'], batch['pixels']), 'one stream, one batch'


def test_softening():
    g, x = (
        torch.Generator().manual_seed(0),
        torch.rand(40, 3, 32, 32, generator=torch.Generator().manual_seed(1)),
    )
    y = soften(x, g)
    kept = (y == x).flatten(1).all(1)
    assert y.shape == x.shape and 8 < kept.sum() < 32, 'about half stay as they are'
    assert (y.flatten(1).std(1) <= x.flatten(1).std(1) + 1e-6).all() and torch.equal(
        soften(x, g, p=0.0), x
    )


def test_filtered_reduction_keeps_the_mean():
    stripes = torch.zeros(1, 3, 96, 96, dtype=torch.uint8)
    stripes[..., ::3] = 255
    assert (
        resize_bytes(stripes, 32)[..., 1:-1] - 1 / 3
    ).abs().max() < 0.01 and torch.equal(
        resize_bytes(stripes, 96) * 255, stripes.float()
    )


def test_training_learns_and_repeats(tmp_path):
    corpus, p = Drawn(), params(epochs=4)
    history = train_evaluator(p, corpus, tmp_path / 'a', tmp_path / 'state')
    train_evaluator(p, corpus, tmp_path / 'b', tmp_path / 'state')
    a, b = (Evaluator.load(tmp_path / k) for k in 'ab')
    assert all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values())
    )
    assert (
        history.score.max() > 0.9
        and list(history.columns[-2:]) == ['score', 'pitch']
        and not (tmp_path / 'state').exists()
    )
    assert a.attribute_names == ['pitch'] and (tmp_path / 'a' / 'history.csv').exists()


def test_without_validation_or_attributes(tmp_path):
    corpus = Drawn(attributes=False)
    corpus.table = corpus.table[corpus.table.split == 'train']
    history = train_evaluator(
        params(epochs=1), corpus, tmp_path / 'a', tmp_path / 'state'
    )
    assert (
        'score' not in history and Evaluator.load(tmp_path / 'a').attribute_names == []
    )


def test_a_judge_by_words_learns_and_names(tmp_path):
    corpus, p = Drawn(said='{} on a green field'.format), params(epochs=4)
    train = CaptionedPictures(corpus, 'train')
    assert set(train.words) == {'BEE', 'COW', 'OWL', 'GREEN', 'FIELD'}
    assert len(train) == len(train.pictures) > len(train.y)
    y = train.targets(np.arange(len(train)))
    torch.testing.assert_close(y.sum(1), torch.ones(len(train)))
    assert (y[:, train.words.index('GREEN')] == 0).all(), 'all say it: it tells nothing'
    history = train_caption_evaluator(p, corpus, tmp_path / 'a', tmp_path / 'state')
    judge = Evaluator.load(tmp_path / 'a')
    valid = LabelledPictures(corpus, 'valid', NAMES, [])
    logits = class_logits(judge.logits(valid.pictures), judge.classes, NAMES)
    named = (logits.argmax(1).numpy() == valid.y).mean()
    assert history.score.max() == pytest.approx(named) and named > 0.9


def test_a_class_as_caption_teaches_no_judge_by_words(tmp_path):
    "Clips without a caption get one of their class: words of such a corpus are its labels."
    corpus = Drawn()
    assert len(CaptionedPictures(corpus, 'train')) == 0
    found = train_caption_evaluator(
        params(), corpus, tmp_path / 'a', tmp_path / 'state'
    )
    assert found is None and not (tmp_path / 'a').exists()
    one = corpus.table.label == 'bee'
    corpus.table.loc[one, 'captions'] = corpus.table.label[one].map(
        lambda c: [f'a {c} flies']
    )
    train = CaptionedPictures(corpus, 'train')
    assert train.words and 'COW' not in train.words
    found = train_caption_evaluator(
        params(), corpus, tmp_path / 'a', tmp_path / 'state'
    )
    assert found is None, 'not every class has a word'


@pytest.mark.parametrize(
    'labels, said',
    [([''], '0 training clips have a picture and a label'), (['bee'], 'of 1 classes')],
)
def test_corpus_without_labels(tmp_path, labels, said):
    with pytest.raises(BadInput, match=said):
        train_evaluator(params(), Drawn(labels), tmp_path / 'a', tmp_path / 'state')
    assert not (tmp_path / 'a').exists()


# sounds, codes, attributes


def test_random_rows():
    assert (
        sorted(draw_rows(10, 10, 3)) == list(range(10))
        and (draw_rows(10, 10, 3) == draw_rows(10, 10, 3)).all()
    )
    assert (draw_rows(50, 50, 0) != draw_rows(50, 50, 1)).any() and np.bincount(
        draw_rows(25, 10)
    ).tolist().count(3) == 5
    assert len(draw_rows(0, 5)) == 0 and (draw_rows(4, 9) < 9).all()
    with pytest.raises(BadInput, match='no real picture'):
        draw_rows(3, 0)


def test_code_usage():
    assert measure_code_usage(torch.zeros(2, 4, 4, dtype=torch.long), 16) == dict(
        usage=1 / 16, perplexity=1.0
    )
    assert measure_code_usage(np.array([[[0, 0, 0, 1]]]), 2)[
        'perplexity'
    ] == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))
    for bad in (
        torch.zeros(0, 4, 4, dtype=torch.long),
        torch.full((1, 2, 2), 16),
        torch.full((1, 2, 2), -1),
        torch.rand(1, 2, 2),
    ):
        with pytest.raises(BadInput, match='from 0 to 15'):
            measure_code_usage(bad, 16)


def test_correlation_is_spearmans():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    x = rng.integers(0, 6, 40).astype(float)
    y = x + rng.standard_normal(40)
    found = attribute_correlation(x, y, resamples=300)
    assert (
        found['rho'] == pytest.approx(spearmanr(x, y).statistic)
        and found['low'] < found['rho'] < found['high']
        and found['n'] == 40
    )
    assert (
        found == attribute_correlation(x, y, resamples=300)
        and attribute_correlation(x, y, 300, seed=1)['low'] != found['low']
    )
    narrow = attribute_correlation(x, y, 300, level=0.5)
    assert found['low'] < narrow['low'] < narrow['high'] < found['high']
    assert (
        attribute_correlation(x, -y, 9)['rho'] == pytest.approx(-found['rho'])
        and attribute_correlation(x, np.exp(y), 9)['rho'] == found['rho']
    )


def test_interval_covers_as_often_as_it_says():
    rng, inside = np.random.default_rng(1), 0
    for k in range(50):
        found = attribute_correlation(
            *rng.standard_normal((2, 25)), resamples=120, seed=k
        )
        inside += found['low'] <= 0 <= found['high']
    assert 42 <= inside < 50


def test_correlation_edges():
    assert (
        attribute_correlation([1, 2, 3], [1, 2, 3])['rho'] == pytest.approx(1)
        and attribute_correlation([1, 2, 3], [4, 4, 4])['reason']
    )
    flat = attribute_correlation([5, 5, 5], [1, 2, 3])
    assert (
        all(math.isnan(flat[k]) for k in ('rho', 'low', 'high'))
        and 'x is 5' in flat['reason']
        and math.isnan(spearman([1, 1], [1, 2]))
    )
    few = attribute_correlation([1, 2, 3, 4], [1, 2, 4, 3], groups=['a', 'a', 'b', 'b'])
    assert (
        few['rho'] == pytest.approx(0.8)
        and math.isnan(few['low'])
        and '2 groups' in few['reason']
    )
    for bad in (
        ([1, 2], [1, 2]),
        ([1, 2, 3], [1, 2]),
        ([1, 2, math.nan], [1, 2, 3]),
        ([[1, 2, 3]], [[1, 2, 3]]),
    ):
        with pytest.raises(BadInput):
            attribute_correlation(*bad)
    with pytest.raises(BadInput, match='3 pairs and 2 groups'):
        attribute_correlation([1, 2, 3], [1, 2, 3], groups=[0, 1])
