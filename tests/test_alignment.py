"""What the alignment chapter cannot show well.

Every path there is, librosa's ties, gradients, empty pairs, one pair at a time.
"""

import math
from itertools import product

import librosa
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.autograd import gradcheck

from wavbrivl.gloss.alignment import (
    alignment_ce,
    alignment_scores,
    cosine_cost,
    dtw,
    add_gumbel_noise,
    nearest_rows,
    real_entries,
    monotone_path,
    one_hot_path,
    pair_score,
    path_rows,
    row_softmax,
    sp_loss,
    lay_out,
    straight_through,
)
from wavbrivl.gloss.selection import (
    running_quantile,
    best_share,
    selection_scores,
    self_paced,
)
from wavbrivl.core.files import BadInput

INF = float('inf')
quick = settings(max_examples=60, deadline=None)


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def every_path(S, skip):
    "All monotone paths of one pair with what they earn."
    for p in product(range(-1, S.shape[1]), repeat=len(S)):
        used = [t for t in p if t >= 0]
        if used == sorted(used):
            yield sum(S[q][t] if t >= 0 else skip[q] for q, t in enumerate(p)), p


def best_by_hand(S, skip):
    "The best path; among equals, from the last row to the first: take rather than skip, the earliest column."
    order = lambda p: [(t < 0, t) for t in reversed(p)]
    best = max(e for e, _ in every_path(S, skip))
    return best, list(min((p for e, p in every_path(S, skip) if e == best), key=order))


@quick
@given(
    seed=st.integers(0, 2**31),
    rows=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    data=st.data(),
)
def test_monotone_path_is_the_best_of_all(seed, rows, data):
    columns = data.draw(
        st.lists(st.integers(0, 4), min_size=len(rows), max_size=len(rows))
    )
    g = torch.Generator().manual_seed(seed)
    S = torch.randint(-2, 3, (len(rows), 4, 4), generator=g).double()
    skip = torch.randint(-1, 2, (len(rows), 4), generator=g).double()
    path, total = monotone_path(S, skip, rows, columns)
    for i, (r, c) in enumerate(zip(rows, columns)):
        best, by_hand = best_by_hand(S[i, :r, :c].numpy(), skip[i])
        assert path[i].tolist() == by_hand + [-1] * (4 - r) and total[i] == best


@pytest.mark.parametrize('Q, T', [(5, 2), (4, 1), (1, 6), (1, 1), (0, 3), (3, 0)])
def test_monotone_path_of_odd_shapes(Q, T):
    S = drawn(Q, 6, Q, T)
    path, total = monotone_path(S, 0.1)
    assert path.shape == (6, Q) and path.dtype == torch.int64 and total.dtype == S.dtype
    for s, p, n in zip(S, path.tolist(), total.tolist()):
        best, by_hand = best_by_hand(s.double().numpy(), [0.1] * Q)
        assert p == by_hand and math.isclose(best, n, rel_tol=1e-5, abs_tol=1e-6)


def test_monotone_path_may_skip_everything_or_nothing():
    S = drawn(0, 3, 4, 5)
    path, total = monotone_path(S, 100.0)
    assert (
        (path == -1).all()
        and (total == 400).all()
        and (pair_score(S, path) == -INF).all()
        and (nearest_rows(path, 5) == -1).all()
    )
    assert (monotone_path(S, -INF)[0] >= 0).all()
    S[1] = -INF
    path, total = monotone_path(S, 0.0, columns=[5, 5, 0])
    assert (path[1:] == -1).all() and (total[1:] == 0).all() and not total.requires_grad
    with pytest.raises(BadInput, match='NaN'):
        monotone_path(S * torch.nan, 0.0)


def test_padding_changes_nothing():
    rows, columns = [4, 1, 0, 3], [6, 1, 5, 2]
    R, H = drawn(1, 4, 4, 8), drawn(2, 4, 6, 8)
    S = alignment_scores(R, H, rows, columns)
    path, total = monotone_path(S, -0.2, rows, columns)
    P, score, rest = (
        row_softmax(S, -0.2, rows, columns),
        pair_score(S, path),
        nearest_rows(path, 6, columns),
    )
    cost = cosine_cost(R, H)
    mask, spent, length = dtw(cost, rows, columns)
    target = path_rows(mask)
    ce, sp = (
        alignment_ce(P, target, rows),
        {r: sp_loss(P, target, rows, columns, r) for r in ('mask', 'index')},
    )
    for i, (r, c) in enumerate(zip(rows, columns)):
        s = alignment_scores(R[i : i + 1, :r], H[i : i + 1, :c])
        p, n = monotone_path(s, -0.2)
        one = row_softmax(s, -0.2)
        assert (
            torch.allclose(S[i, :r, :c], s[0], atol=1e-6)
            and (S[i, r:] == -INF).all()
            and (S[i, :, c:] == -INF).all()
        )
        assert (
            path[i, :r].tolist() == p[0].tolist()
            and (path[i, r:] == -1).all()
            and torch.allclose(total[i], n[0], atol=1e-6)
        )
        assert torch.allclose(
            torch.cat((P[i, :r, :c], P[i, :r, -1:]), 1), one[0], atol=1e-6
        )
        assert P[i, :, c:-1].sum() == 0 and P[i, r:].sum() == 0
        assert (
            torch.allclose(score[i], pair_score(s, p)[0])
            or score[i] == pair_score(s, p)[0] == -INF
        )
        assert (
            rest[i, :c].tolist() == nearest_rows(p, c)[0].tolist()
            and (rest[i, c:] == -1).all()
        )
        m, k, l = dtw(cost[i : i + 1, :r, :c])
        assert (
            torch.equal(mask[i, :r, :c], m[0])
            and mask[i].sum() == l[0] == length[i]
            and spent[i] == k[0]
        )
        assert torch.allclose(ce[i], alignment_ce(one, path_rows(m))[0], atol=1e-6)
        for k in sp:
            assert torch.allclose(
                sp[k][i], sp_loss(one, path_rows(m), reading=k)[0], atol=1e-5
            )
    assert spent[2] == INF and length[2] == 0 and ce[2] == 0 and sp['mask'][2] == 0


@quick
@given(
    seed=st.integers(0, 2**31), ties=st.booleans(), double=st.booleans(), data=st.data()
)
def test_dtw_is_librosa_step_for_step(seed, ties, double, data):
    sizes = data.draw(
        st.lists(
            st.tuples(st.integers(1, 9), st.integers(1, 12)), min_size=1, max_size=20
        )
    )
    g = np.random.default_rng(seed)
    cost = (
        g.integers(-1, 3, (len(sizes), 9, 12))
        if ties
        else g.random((len(sizes), 9, 12))
    )
    cost = cost.astype('float64' if double else 'float32')
    rows, columns = zip(*sizes)
    mask, total, length = dtw(cost, rows, columns)
    assert (
        mask.dtype == torch.bool
        and total.dtype == torch.float64
        and length.dtype == torch.int64
    )
    for c, m, n, l, (r, k) in zip(cost, mask, total, length, sizes):
        D, wp = librosa.sequence.dtw(C=c[:r, :k])
        assert (
            m.nonzero().tolist() == wp[::-1].tolist()
            and D[-1, -1] == n
            and len(wp) == l
        )


def test_dtw_before_it_is_compiled_is_dtw(monkeypatch):
    from wavbrivl.gloss import alignment

    cost = drawn(3, 41, 7, 11)
    rows, columns = torch.arange(41) % 8, torch.arange(41) % 12
    results = []
    for limit in (cost.numel(), 0):  # plain, then in machine code
        monkeypatch.setattr(alignment, 'COMPILE_AFTER', limit)
        monkeypatch.setattr(alignment, '_fill_paths', alignment._Loop())
        results.append(dtw(cost, rows, columns))
    assert all(torch.equal(a, b) for a, b in zip(*results))


@pytest.mark.parametrize('shape', [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_dtw_of_nothing(shape):
    mask, total, length = dtw(torch.zeros(shape))
    assert (
        mask.shape == shape
        and not mask.any()
        and (total == INF).all()
        and (length == 0).all()
    )


def test_dtw_refuses():
    cost = drawn(4, 3, 4, 5)
    for value in (torch.nan, INF, -INF):
        bad = cost.clone()
        bad[1, 2, 3] = value
        with pytest.raises(BadInput, match='pair 1'):
            dtw(bad)
        assert dtw(bad, columns=[5, 3, 5])[2][1] > 0, (
            'what lies outside does not matter'
        )
    with pytest.raises(BadInput, match='rows'):
        dtw(cost, rows=[4, 5, 4])
    with pytest.raises(BadInput, match='columns'):
        dtw(cost, columns=[4, 5])
    with pytest.raises(BadInput, match=r'\[N, Q, T\]'):
        dtw(cost[0])


def test_integer_and_half_costs():
    whole = torch.randint(0, 5, (4, 5, 6), generator=torch.Generator().manual_seed(0))
    assert all(
        torch.equal(a, b) for a, b in zip(dtw(whole), dtw(whole.double()))
    ) and torch.equal(dtw(whole.half())[0], dtw(whole.numpy())[0])


def plain_ce(P, target, rows, literal):
    total, count = 0.0, 0
    for q in range(rows):
        if not literal and sum(target[q]) == 0:
            continue
        count += 1
        for t, a in enumerate(target[q]):
            if a > 0:
                total -= (1.0 if literal else float(a)) * math.log(P[q][t])
    return total / max(count, 1)


def plain_sp(P, target, rows, T, reading):
    total, count = 0.0, 0
    for q in range(rows):
        a, b = [float(x) for x in target[q][:T]], [float(x) for x in P[q][:T]]
        if sum(a) == 0:
            continue
        count += 1
        if reading == 'mask':
            total += sum(abs(x / max(a) - y / max(b)) for x, y in zip(a, b))
        elif T > 1:
            total += abs(
                sum(t * x for t, x in enumerate(a)) / sum(a)
                - sum(t * x for t, x in enumerate(b)) / sum(b)
            ) / (T - 1)
    return total / max(count, 1)


@quick
@given(seed=st.integers(0, 2**31), data=st.data())
def test_losses_are_the_loops(seed, data):
    rows, columns = (
        [data.draw(st.integers(low, most)) for _ in range(3)]
        for low, most in ((0, 4), (1, 6))
    )
    S, cost = drawn(seed, 3, 4, 6).double(), drawn(seed + 1, 3, 4, 6)
    P = row_softmax(S, 0.3, rows, columns)
    mask = dtw(cost, rows, columns)[0]
    target = path_rows(mask).double()
    target[:, data.draw(st.integers(0, 3))] = 0
    ce, literal = (
        alignment_ce(P, target, rows),
        alignment_ce(S.sigmoid(), target, rows, literal=True),
    )
    with_skip = torch.cat((target, (target.sum(2, keepdim=True) == 0).double()), 2)
    skipping = alignment_ce(P, with_skip, rows)
    for i in range(3):
        assert math.isclose(
            ce[i], plain_ce(P[i], target[i], rows[i], False), abs_tol=1e-9
        )
        assert math.isclose(
            skipping[i], plain_ce(P[i], with_skip[i], rows[i], False), abs_tol=1e-9
        )
        assert math.isclose(
            literal[i], plain_ce(S[i].sigmoid(), target[i], rows[i], True), abs_tol=1e-9
        )
        for r in ('mask', 'index'):
            assert math.isclose(
                sp_loss(P, target, rows, columns, r)[i],
                plain_sp(P[i], target[i], rows[i], columns[i], r),
                abs_tol=1e-9,
            )


def test_gradients():
    rows, columns = [3, 1, 0], [4, 2, 3]
    S, skip = (
        drawn(5, 3, 3, 4).double().requires_grad_(),
        drawn(6, 3, 3).double().requires_grad_(),
    )
    outside = ~real_entries(S, rows, columns)
    P = lambda S, skip: row_softmax(S.masked_fill(outside, -INF), skip, rows, columns)
    target = path_rows(dtw(drawn(7, 3, 3, 4), rows, columns)[0]).double()
    assert gradcheck(P, (S, skip))
    assert gradcheck(lambda S, skip: alignment_ce(P(S, skip), target, rows), (S, skip))
    assert gradcheck(
        lambda S: alignment_ce(S.sigmoid(), target, rows, literal=True), (S,)
    )
    for r in ('mask', 'index'):
        assert gradcheck(
            lambda S, skip: sp_loss(P(S, skip), target, rows, columns, r), (S, skip)
        )
    assert gradcheck(
        lay_out,
        (
            drawn(8, 2, 5, 3).double().requires_grad_(),
            drawn(9, 2, 3, 4).double().requires_grad_(),
        ),
    )
    path = monotone_path(S.detach(), 0.0, rows, columns)[0]
    assert gradcheck(lambda S: pair_score(S, path)[:1], (S,))


def test_straight_through_takes_the_gradient_of_the_soft_rows():
    soft, hard, pull = (drawn(s, 2, 3, 4).requires_grad_() for s in (10, 11, 12))
    out = straight_through(hard, soft)
    assert torch.equal(out, hard)
    (out * pull.detach()).sum().backward()
    assert torch.equal(soft.grad, pull) and hard.grad is None


def test_no_gradient_is_lost_to_empty_or_certain_rows():
    S = torch.full((2, 3, 4), -INF).requires_grad_()
    P = row_softmax(S, -INF, rows=[0, 3])
    assert (P == 0).all()
    target = torch.zeros(2, 3, 4)
    loss = alignment_ce(P, target).sum() + sum(
        sp_loss(P, target, reading=r).sum() for r in ('mask', 'index')
    )
    loss.backward()
    assert loss == 0 and S.grad.isfinite().all()
    S = (1e4 * torch.eye(4))[
        None
    ].requires_grad_()  # probabilities that are 0 and 1 to the last bit
    target = torch.eye(4).flip(0)[None]
    P = row_softmax(S, 0.0)
    loss = alignment_ce(P, target).sum() + sum(
        sp_loss(P, target, reading=r).sum() for r in ('mask', 'index')
    )
    loss.backward()
    assert loss.isfinite() and S.grad.isfinite().all()


def test_one_token_one_frame():
    S = torch.tensor([[[0.5]]])
    path, total = monotone_path(S, 0.0)
    assert (
        path.tolist() == [[0]]
        and total == 0.5
        and nearest_rows(path, 1).tolist() == [[0]]
        and pair_score(S, path) == 0.5
    )
    mask, cost, length = dtw(S)
    assert mask.tolist() == [[[True]]] and cost == 0.5 and length == 1
    P = row_softmax(S, 0.0)
    assert (
        sp_loss(P, path_rows(mask), reading='index') == 0
        and sp_loss(P, path_rows(mask)) == 0
    )
    assert torch.allclose(alignment_ce(P, path_rows(mask)), -P[0, :, 0].log())


def test_literal_form_is_blind_off_the_path():
    mask = dtw(drawn(13, 1, 3, 6))[0]
    logits = torch.zeros(1, 3, 6, requires_grad=True)
    alignment_ce(logits.sigmoid(), mask, literal=True).sum().backward()
    assert (logits.grad[~mask] == 0).all() and (logits.grad[mask] < 0).all()
    logits.grad = None
    alignment_ce(row_softmax(logits, 0.0), path_rows(mask)).sum().backward()
    assert (logits.grad[~mask] > 0).all()


def test_losses_refuse():
    P, target = torch.rand(1, 2, 5), torch.rand(1, 2, 3)
    for loss in (alignment_ce, sp_loss):
        with pytest.raises(BadInput, match='5 columns, the target 3'):
            loss(P, target)
    with pytest.raises(BadInput, match="'mask' and 'index'"):
        sp_loss(P, P, reading='soft')
    with pytest.raises(BadInput, match='above 0'):
        self_paced(torch.ones(2), 0.0, soft=True)


@quick
@given(
    st.lists(
        st.lists(st.integers(-1, 6), min_size=4, max_size=4), min_size=1, max_size=4
    ),
    st.integers(1, 7),
)
def test_held_is_the_nearest_row(paths, T):
    path = torch.tensor(paths).clamp(max=T - 1)
    columns = [1 + i % T for i in range(len(path))]
    for p, row, c in zip(
        path.tolist(), nearest_rows(path, T, columns).tolist(), columns
    ):
        for t in range(T):
            near = [(abs(k - t), q) for q, k in enumerate(p) if k >= 0]
            assert row[t] == (min(near)[1] if near and t < c else -1)


def test_gumbel():
    S = drawn(14, 2, 3, 4)
    S[0, 0, 0] = -INF
    noisy = [
        add_gumbel_noise(S, torch.Generator().manual_seed(s), 1.0) for s in (0, 0, 1)
    ]
    assert (
        torch.equal(noisy[0], noisy[1])
        and not torch.equal(noisy[0], noisy[2])
        and noisy[0][0, 0, 0] == -INF
    )
    assert torch.equal(add_gumbel_noise(S, torch.Generator().manual_seed(0), 0.0), S)
    scores = torch.tensor([0.0, 1.0, 2.0]).expand(20_000, 3)
    won = (
        add_gumbel_noise(scores, torch.Generator().manual_seed(2)).argmax(1).bincount()
        / 20_000
    )
    assert torch.allclose(won, scores[0].softmax(0), atol=0.02), (
        'the maximum is a draw from the softmax'
    )


def test_one_hot_path():
    path = torch.tensor([[0, -1, 2], [-1, 1, 1]])
    A = one_hot_path(path, 3)
    assert A.dtype == torch.float32 and A.tolist() == [
        [[1, 0, 0], [0, 0, 0], [0, 0, 1]],
        [[0, 0, 0], [0, 1, 0], [0, 1, 0]],
    ]


@quick
@given(
    st.lists(st.sampled_from([-INF, -1.0, 0.0, 0.5, 2.0]), min_size=1, max_size=12),
    st.floats(0, 1),
)
def test_select_keeps_the_best_share(scores, keep):
    kept = best_share(torch.tensor(scores), keep).tolist()
    count = max(1, math.ceil(round(keep * len(scores), 7)))
    by_hand = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:count]
    assert sorted(by_hand) == [i for i, k in enumerate(kept) if k]


def test_select_corners():
    assert best_share(torch.full((10,), -INF), 0.7).tolist() == [True] * 7 + [False] * 3
    assert best_share(torch.tensor([torch.nan, 1.0]), 0.5).tolist() == [
        False,
        True,
    ] and best_share(torch.zeros(0), 0.5).shape == (0,)


def test_running_quantile():
    scores = torch.tensor([1.0, 2.0, 3.0, 4.0, -INF])
    first = running_quantile(scores, None, 0.5, 0.9)
    assert (
        first == 2
        and running_quantile(scores, 4.0, 0.5, 0.75) == 0.75 * 4 + 0.25 * 2
        and running_quantile(scores, first, 0.5, 0.9) == 2
    )
    assert (
        running_quantile(torch.full((3,), -INF), 1.5, 0.5, 0.9) == 1.5
        and running_quantile(torch.full((3,), -INF), None, 0.5, 0.9) == -INF
    )
    assert running_quantile(scores, -INF, 0.5, 0.9) == 2, (
        'a first batch without any score is forgotten'
    )
    assert running_quantile(torch.zeros(0), 1.5, 0.5, 0.9) == 1.5


def test_self_paced():
    losses = torch.tensor([0.2, 1.0, 3.0, INF, torch.nan], requires_grad=True)
    assert (
        self_paced(losses, 1.0).tolist() == [1, 0, 0, 0, 0]
        and not self_paced(losses, 1.0).requires_grad
    )
    assert torch.allclose(
        self_paced(losses, 2.0, soft=True), torch.tensor([0.9, 0.5, 0, 0, 0])
    )


def test_selection_scores():
    out = selection_scores(
        torch.tensor([3.0, -INF, 2.0, 1.0]),
        [False, True, False, True],
        torch.tensor([True, False, False, True]),
    )
    assert out == dict(auc=1.0, precision=0.5, recall=0.5, rejected=2, n=4)
    assert selection_scores([1.0, 1.0], [False, True], [True, True])['auc'] == 0.5
    clean = selection_scores([1.0, 2.0], [False, False], [True, True])
    assert (
        all(math.isnan(clean[k]) for k in ('auc', 'precision', 'recall'))
        and clean['rejected'] == 0
    )
    every = selection_scores([-INF, -INF], [True, True], [False, True])
    assert (
        math.isnan(every['auc']) and every['precision'] == 1 and every['recall'] == 0.5
    )
    with pytest.raises(BadInput, match='2 scores, 1 labels'):
        selection_scores([1.0, 2.0], [True], [True, True])
