"Retrieval against scikit-learn, torchmetrics and simulation; ties, tiles, memory."

import numpy as np
import pytest
import torch

from wavbrivl.core.files import BadInput
from wavbrivl.metrics.retrieval import (
    RankCounts,
    score_both_directions,
    first_hit_distribution,
    rank_relevant,
    rank_targets,
    score_retrieval,
    search_top_k,
)
from wavbrivl.metrics.class_retrieval import (
    average_precision,
    score_class_retrieval,
    chance_average_precision,
)

torch.set_num_threads(1)
rng = np.random.default_rng(0)


def embeddings(n, d=16, like=None, noise=1.0):
    x = rng.standard_normal((n, d))
    return (x if like is None else like + noise * x).astype('float32')


def cosine(a, b):
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit(a.astype(float)) @ unit(b.astype(float)).T


@pytest.fixture(scope='module')
def pair():
    b = embeddings(300)
    return embeddings(300, like=b), b


@pytest.fixture(scope='module')
def groups():
    return rng.integers(0, 12, 300), rng.integers(0, 12, 300)


def test_mrr_is_that_of_torchmetrics(pair):
    from torchmetrics.retrieval import RetrievalHitRate, RetrievalMRR

    s = torch.tensor(cosine(*pair))
    right, query = (
        torch.eye(300, dtype=torch.bool),
        torch.arange(300)[:, None].expand(300, 300),
    )
    ours = score_retrieval(rank_relevant(*pair))
    assert ours['mrr'] == pytest.approx(
        RetrievalMRR()(s.flatten(), right.flatten(), query.flatten()).item(), abs=1e-5
    )
    for k in (1, 5, 10):
        assert ours[f'r{k}'] == pytest.approx(
            RetrievalHitRate(top_k=k)(
                s.flatten(), right.flatten(), query.flatten()
            ).item(),
            abs=1e-5,
        )


def test_mrr_is_that_of_sklearn(pair):
    "With one relevant item, label ranking average precision is the mean reciprocal rank."
    from sklearn.metrics import label_ranking_average_precision_score

    assert score_retrieval(rank_relevant(*pair))['mrr'] == pytest.approx(
        label_ranking_average_precision_score(np.eye(300), cosine(*pair)), abs=1e-5
    )


def test_class_level_is_that_of_torchmetrics_and_sklearn(pair, groups):
    "torchmetrics leaves relevant items of negative similarity out of its mAP, so it is shown similarities above 0."
    from sklearn.metrics import average_precision_score
    from torchmetrics.retrieval import RetrievalMAP, RetrievalMRR

    s, right = (
        torch.tensor(cosine(*pair)) + 2,
        torch.tensor(groups[0][:, None] == groups[1]),
    )
    query = torch.arange(300)[:, None].expand(300, 300).flatten()
    ours = score_class_retrieval(*pair, groups)
    assert ours['mrr'] == pytest.approx(
        RetrievalMRR()(s.flatten(), right.flatten(), query).item(), abs=1e-5
    )
    assert ours['map'] == pytest.approx(
        RetrievalMAP()(s.flatten(), right.flatten(), query).item(), abs=1e-4
    )
    theirs = [average_precision_score(r, x) for r, x in zip(right.numpy(), s.numpy())]
    assert np.allclose(average_precision(*pair, groups), theirs, atol=1e-3)


def test_a_tie_gets_its_expectation():
    "Copies in the gallery: simulate every order of equal items."
    q = embeddings(1)
    gallery = np.concatenate([q + 0.1, q, q, q, -q]).astype(
        'float32'
    )  # items 1, 2, 3 are level and best
    assert rank_targets(q, gallery, [2]) == [2.0]
    found = rank_relevant(
        q, gallery, (np.array([7]), np.array([0, 7, 7, 1, 1]))
    )  # two of the three are relevant
    assert (found.better, found.tied, found.hits) == ([0], [1], [2])
    drawn = [
        1 + next(j for j, i in enumerate(rng.permutation([1, 1, 0])) if i)
        for _ in range(20000)
    ]
    ours = score_retrieval(found)
    assert found.rank[0] == pytest.approx(np.mean(drawn), abs=0.02)
    assert ours['mrr'] == pytest.approx(
        np.mean(1 / np.array(drawn)), abs=0.01
    ) and ours['r1'] == pytest.approx(2 / 3)


@pytest.mark.parametrize('noise', [0, 1e-8])
@pytest.mark.parametrize('block', [64, 10_000, 2**22])
def test_a_collapsed_tower_gets_luck(noise, block):
    x = np.ones((257, 64), 'float32') + noise * rng.standard_normal((257, 64)).astype(
        'float32'
    )
    assert (rank_targets(x, x, block=block) == 129).all()
    s = score_retrieval(rank_relevant(x, x, block=block))
    assert all(
        s[k] == pytest.approx(s['chance'][k]) for k in ('mrr', 'r1', 'r5', 'r10')
    )
    assert s['chance']['mrr'] == pytest.approx(np.mean(1 / np.arange(1, 258)))


@pytest.mark.parametrize('relevant', [1, 3, 17])
def test_chance_is_that_of_random_orders(relevant):
    pool = 40
    orders = np.argsort(rng.random((30_000, pool)), axis=1) < relevant
    first = orders.argmax(1) + 1
    z = np.zeros(1, int)
    chance = score_retrieval(RankCounts(z, z, z + 1, z + relevant, pool))['chance']
    assert chance['mrr'] == pytest.approx((1 / first).mean(), abs=0.006)
    assert chance['r5'] == pytest.approx((first <= 5).mean(), abs=0.01)
    assert abs(chance['median_rank'] - np.median(first)) <= 1
    precision = (orders * np.cumsum(orders, 1) / np.arange(1, pool + 1)).sum(
        1
    ) / relevant
    assert chance_average_precision(pool, relevant) == pytest.approx(
        precision.mean(), abs=0.004
    )
    at10 = (orders * np.cumsum(orders, 1) / np.arange(1, pool + 1))[:, :10].sum(
        1
    ) / min(relevant, 10)
    assert chance_average_precision(pool, relevant, 10) == pytest.approx(
        at10.mean(), abs=0.006
    )
    assert first_hit_distribution(pool - relevant, relevant).sum() == pytest.approx(1)


def test_average_precision_of_ties_is_expected():
    q = np.array([[1.0, 0]], 'float32')
    gallery = np.array(
        [[1, 0], [0.8, 0.6], [0.8, 0.6], [0.8, 0.6], [0.6, 0.8], [0.6, 0.8]], 'float32'
    )
    relevant = np.array([0, 1, 0, 1, 1, 0])

    def one():
        order = np.lexsort((rng.random(6), -(gallery @ q[0])))
        rel = relevant[order]
        return (rel * np.cumsum(rel) / np.arange(1, 7)).sum() / 3

    assert average_precision(q, gallery, ([1], relevant))[0] == pytest.approx(
        np.mean([one() for _ in range(8000)]), abs=0.01
    )


@pytest.mark.parametrize('block', [1, 50, 999, 2**22])
def test_tiles_do_not_matter(pair, groups, block):
    small = lambda x: x[:60]
    a, b, g = small(pair[0]), small(pair[1]), (small(groups[0]), small(groups[1]))
    for relevant in (None, rng.integers(0, 60, 60), g):
        x, y = (
            rank_relevant(a, b, relevant, both=True),
            rank_relevant(a, b, relevant, block, both=True),
        )
        for one, other in zip(x, y):
            assert np.nanmax(np.abs(one.rank - other.rank)) <= 0.5
    assert (
        search_top_k(a, b, 7, block)[1]
        == np.argsort(-cosine(a, b), 1, kind='stable')[:, :7]
    ).all()
    assert np.allclose(
        average_precision(a, b, g, block=block), average_precision(a, b, g), atol=1e-6
    )


def test_both_ways_is_each_way(pair, groups):
    a, b = pair
    for relevant, back in ((None, None), (groups, groups[::-1])):
        two = score_both_directions(a, b, relevant)
        assert two['audio_to_image']['mrr'] == pytest.approx(
            score_retrieval(rank_relevant(a, b, relevant))['mrr'], abs=1e-3
        )
        assert two['image_to_audio']['mrr'] == pytest.approx(
            score_retrieval(rank_relevant(b, a, back))['mrr'], abs=1e-3
        )


def test_captions_are_many_to_one():
    audio = embeddings(50)
    own = np.repeat(np.arange(50), 5)
    text = embeddings(250, like=audio[own], noise=0.5)
    two = score_both_directions(text, audio, own, ('text_to_audio', 'audio_to_text'))
    s = cosine(text, audio)
    assert two['text_to_audio']['r1'] == pytest.approx((s.argmax(1) == own).mean())
    assert two['audio_to_text']['r1'] == pytest.approx(
        (own[s.argmax(0)] == np.arange(50)).mean()
    )
    assert two['audio_to_text']['chance']['r1'] == pytest.approx(5 / 250)


def test_what_nothing_is_relevant_to_is_counted(pair):
    a, b = pair
    own = np.arange(300)
    own[:7] = -1
    s = score_retrieval(rank_relevant(a, b, own))
    assert (
        s['unanswered'] == 7
        and s['n'] == 293
        and np.isnan(rank_targets(a, b, own)[:7]).all()
    )
    assert score_both_directions(a, b, own)['image_to_audio']['unanswered'] == 7
    with pytest.raises(BadInput, match='same ids'):
        score_retrieval(rank_relevant(a, b, np.full(300, -1)))


def test_plain_ranks_score(pair):
    r = rank_targets(*pair)
    assert score_retrieval(r, 300)['mrr'] == pytest.approx(
        score_retrieval(rank_relevant(*pair))['mrr']
    )
    for wrong, pool in ((r, None), (r - 1, 300), (r, 10)):
        with pytest.raises(BadInput):
            score_retrieval(wrong, pool)


def test_memory_does_not_grow_with_the_matrix():
    "20,000 x 20,000 similarities would be 1.6 GB; the walk may add 150 MB."
    import subprocess, sys

    code = """
import resource, torch
torch.set_num_threads(1)
from wavbrivl.metrics.retrieval import rank_targets
x = torch.randn(20000, 8)
rank_targets(x[:100], x[:100])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rank_targets(x, x)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    grown = int(
        subprocess.run(
            [sys.executable, '-c', code], capture_output=True, text=True, check=True
        ).stdout
    )
    assert grown < 150_000
