"What the manipulation chapter cannot tell well: odd sounds, bad input, pools with gaps, draws, determinism."

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr

from wavbrivl.core.files import BadInput
from wavbrivl.core.params import AudioParams
from wavbrivl.core.picture_params import StudyParams
from wavbrivl.generation.edits import (
    EDITS,
    add_points,
    apply_edit,
    interpolate_points,
    remove,
    slerp,
    sweep,
)
from wavbrivl.generation.measures import (
    Pool,
    correlation_with,
    cosine_with_unedited,
    rho_and_slope,
    match,
    reciprocal_ranks,
    retrieved_attribute,
    similarity,
)
from wavbrivl.generation.study import (
    PROBE_MIN_PICTURES,
    fit_linear_probe,
    shuffled,
    study_edits_of,
)
from wavbrivl.metrics.intervals import bootstrap
from wavbrivl.media.sound import SAMPLE_RATE
from wavbrivl.media.signal import (
    apply_gain,
    high_pass,
    low_pass,
    mix,
    shift_pitch,
    rms_dbfs,
    change_speed,
)
from wavbrivl.audio.tower import AudioTower, embed_clips

torch.set_num_threads(1)
VALUES = dict(
    gain=(-60, 6),
    low_pass=(40, 7000),
    high_pass=(40, 7000),
    pitch=(-12, 7),
    speed=(0.3, 3),
)


def sound(n, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


def points(n, d=16, seed=0):
    return F.normalize(
        torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1
    )


@pytest.fixture(scope='module')
def tower():
    torch.manual_seed(0)
    return AudioTower(
        AudioParams(
            level=True,
            conv_dim=[16] * 7,
            hidden=32,
            layers=1,
            heads=2,
            ffn=64,
            pos_kernel=16,
            pos_groups=2,
            embed=24,
        ),
        16,
        window=0.5,
    )


@pytest.mark.parametrize('edit', EDITS)
@pytest.mark.parametrize('n', [1, 7, 100, 1600, 5000])
def test_edits_take_any_length_and_silence(edit, n):
    for x in (sound(n), np.zeros(n, np.float32), np.ones(n)):
        for value in VALUES[edit]:
            y, share = apply_edit(x, edit, value)
            assert (
                y.dtype == np.float32
                and np.isfinite(y).all()
                and np.abs(y).max() <= 1
                and 0 <= share <= 1
            )
            assert len(y) == (max(1, round(n / value)) if edit == 'speed' else n)
            assert x.any() or (not y.any() and share == 0), 'silence stays silent'


@pytest.mark.parametrize('edit, neutral', [('gain', 0), ('pitch', 0), ('speed', 1)])
def test_neutral_values_change_nothing(edit, neutral):
    x = sound(1600)
    assert np.array_equal(apply_edit(x, edit, neutral)[0], x)


@pytest.mark.parametrize('factor', [0.1, 0.5, 1.7, 10])
@pytest.mark.parametrize('n', [1, 50, 1600, 8001])
def test_speed_keeps_its_promise_of_length(n, factor):
    for keep in (False, True):
        y = change_speed(sound(n), factor, keep_pitch=keep)
        assert len(y) == max(1, round(n / factor)) and np.isfinite(y).all()


@pytest.mark.parametrize(
    'edit, value',
    [
        ('gain', np.nan),
        ('gain', 1e6),
        ('low_pass', 0),
        ('low_pass', 8000),
        ('high_pass', 9000),
        ('high_pass', -5),
        ('pitch', np.inf),
        ('pitch', 60),
        ('speed', 0),
        ('speed', -1),
        ('speed', np.nan),
        ('speed', 50),
    ],
)
def test_nonsense_is_refused_with_the_range(edit, value):
    with pytest.raises(BadInput, match='must lie between'):
        apply_edit(sound(1600), edit, value)


@pytest.mark.parametrize(
    'x',
    [
        np.array([0.1, np.nan]),
        np.array([np.inf, 0.0]),
        np.zeros((2, 100)),
        np.zeros(0),
        np.float32(1),
    ],
)
def test_what_is_no_sound_is_refused(x):
    for f in (
        lambda x: apply_gain(x, 3),
        lambda x: low_pass(x, 100),
        lambda x: high_pass(x, 100),
        lambda x: shift_pitch(x, 2),
        lambda x: change_speed(x, 2),
        lambda x: mix(x, sound(9), 0),
        lambda x: mix(sound(9), x, 0),
    ):
        with pytest.raises(BadInput, match='samples'):
            f(x)


def test_unknown_edit_names_the_known_ones():
    with pytest.raises(BadInput, match='gain, low_pass, high_pass, pitch, speed'):
        apply_edit(sound(9), 'reverse', 1)


def test_clipping_is_counted_exactly():
    x = np.array([0.1, 0.5, -0.5, -0.9, 0], np.float32)
    y, share = apply_gain(x, 20 * np.log10(2.1))
    assert share == 3 / 5 and y.tolist() == pytest.approx([0.21, 1, -1, -1, 0])
    assert np.array_equal(x, np.array([0.1, 0.5, -0.5, -0.9, 0], np.float32)), (
        'the input is left alone'
    )


def test_what_a_filter_pushes_past_full_scale_is_cut_and_counted():
    square = np.where(
        np.sin(2 * np.pi * 100 * np.arange(4000) / SAMPLE_RATE) >= 0, 1.0, -1.0
    )
    y, share = apply_edit(square, 'low_pass', 400)
    assert (
        np.abs(low_pass(square, 400)).max() > 1.05
        and np.abs(y).max() == 1
        and share > 0.05
    )


@pytest.mark.parametrize('n, m', [(1600, 400), (400, 1600), (800, 800)])
def test_mix_keeps_the_first_and_sets_the_second(n, m):
    a, b = sound(n, 1), 3 * sound(m, 2)
    y = mix(a, b, 7)
    assert len(y) == max(n, m)
    rest = y - np.pad(a, (0, len(y) - n))
    assert (
        rms_dbfs(a) - rms_dbfs(rest[:m]) == pytest.approx(7, abs=0.01)
        and not rest[m:].any()
    )
    assert not mix(0 * a, b, 7).any() and np.array_equal(mix(a, 0 * b, 7)[:n], a)


def test_slerp_is_even_and_symmetric():
    a, b = points(20), points(20, seed=1)
    for t in (0, 0.2, 0.5, 1):
        x = slerp(a, b, t)
        assert torch.allclose(x.norm(dim=1), torch.ones(20)) and torch.allclose(
            x, slerp(b, a, 1 - t), atol=1e-5
        )
        angle = torch.arccos((a * b).sum(1))
        assert torch.allclose(
            torch.arccos((a * x).sum(1).clamp(-1, 1)), t * angle, atol=2e-3
        )
    assert torch.allclose(slerp(5 * a, 0.1 * b, 0.3), slerp(a, b, 0.3), atol=1e-6), (
        'only the direction counts'
    )
    assert torch.equal(slerp(a[:1], b, 0.5), slerp(a[:1].expand(20, -1), b, 0.5))


@pytest.mark.parametrize('gap', [0, 1e-7, 1e-4])
@pytest.mark.parametrize('sign', [1, -1])
def test_slerp_near_and_at_equal_and_opposite_points(gap, sign):
    a = points(8)
    b = sign * F.normalize(
        a + gap * torch.randn(8, 16, generator=torch.Generator().manual_seed(3)), dim=1
    )
    way = interpolate_points(a, b, 9)
    steps = torch.arccos((way[1:].double() * way[:-1].double()).sum(-1).clamp(-1, 1))
    assert (
        torch.isfinite(way).all()
        and torch.allclose(way.norm(dim=-1), torch.ones(9, 8))
        and torch.allclose(way[0], a, atol=1e-6)
        and torch.allclose(way[-1], b, atol=1e-3)
    )
    assert torch.allclose(
        steps.sum(0),
        torch.full((8,), 0.0 if sign > 0 else torch.pi).double(),
        atol=3e-3,
    )


def test_arithmetic_refuses_what_has_no_direction_or_shape():
    a = points(4)
    assert torch.allclose(add_points(a, points(1, seed=5), 0), a, atol=1e-6)
    other = points(4, seed=2)
    assert (remove(a, other) * other).sum(1).abs().max() < 1e-6 and torch.allclose(
        remove(a, other).norm(dim=1), torch.ones(4)
    )
    with pytest.raises(BadInput, match='2 of 4 rows cancel'):
        add_points(a, torch.cat([-a[:2], a[2:]]))
    with pytest.raises(BadInput, match='removed'):
        remove(a, -a)
    for bad in (
        points(3),
        points(4, 8),
        torch.full((4, 16), torch.nan),
        torch.zeros(16),
    ):
        with pytest.raises(BadInput):
            slerp(a, bad, 0.5)
    with pytest.raises(BadInput, match='2 or more'):
        interpolate_points(a, a, 1)


def test_sweep_is_embedding_each_edited_clip(tower):
    clips = [sound(n, n) for n in (300, 8000, 12000)]
    e, cut = sweep(tower, iter(clips), 'gain', [-6, 0, 40], batch=2)
    assert (
        e.shape == (3, 3, 16)
        and cut.shape == (3, 3)
        and not cut[:2].any()
        and (cut[2] > 0.5).all()
    )
    for v, value in enumerate([-6, 0, 40]):
        assert torch.allclose(
            e[v],
            embed_clips(tower, [apply_gain(x, value)[0] for x in clips])[1],
            atol=1e-5,
        )
    assert torch.allclose(
        sweep(tower, clips[1:], 'speed', [2])[0][0],
        embed_clips(tower, [change_speed(x, 2) for x in clips[1:]])[1],
        atol=1e-5,
    )
    for clips, values in (([], [0]), ([sound(9)], [])):
        with pytest.raises(BadInput, match='needs clips and values'):
            sweep(tower, clips, 'gain', values)


def test_bootstrap_is_seeded_and_draws_clips():
    x = np.random.default_rng(0).normal(size=(30, 4))
    a, b = bootstrap(x, 300, ('s', 1)), bootstrap(x, 300, ('s', 1))
    assert all(np.array_equal(p, q) for p, q in zip(a, b)) and not np.array_equal(
        a[1], bootstrap(x, 300, ('s', 2))[1]
    )
    assert (a[1] < a[0]).all() and (a[0] < a[2]).all() and np.allclose(a[0], x.mean(0))
    assert np.allclose((a[2] - a[1]) / 2, 1.96 * x.std(0) / 30**0.5, rtol=0.25), (
        'close to the normal interval'
    )
    assert bootstrap([3.0], 5) == (3, 3, 3)
    mean, low, high = bootstrap(x[:, 0], 300, 's', np.median)
    assert mean == np.median(x[:, 0]) and low < mean < high
    for bad in ([], np.zeros((0, 3)), 3.0):
        with pytest.raises(BadInput, match='no clips'):
            bootstrap(bad)
    with pytest.raises(BadInput, match='at least once'):
        bootstrap(x, 0)


def test_measures_by_hand():
    pictures = points(6)
    e = torch.stack([pictures, pictures.roll(1, 0), -pictures])
    assert np.allclose(
        cosine_with_unedited(e, 0, 20)[0],
        [1, (pictures * pictures.roll(1, 0)).sum(1).mean(), -1],
        atol=1e-6,
    )
    found = match(e, pictures, 20)
    assert found['mrr'][0][0] == 1 and np.allclose(
        found['match'][0], cosine_with_unedited(e, 0, 20)[0]
    )
    order = (e[1] @ pictures.T).argsort(1, descending=True)
    assert np.allclose(
        reciprocal_ranks(e, pictures)[1],
        [1 / (1 + o.tolist().index(i)) for i, o in enumerate(order)],
    )
    with pytest.raises(BadInput, match='values, N, D'):
        similarity(e, pictures[:5])


def test_spearman_is_scipys_and_flat_clips_count_as_zero():
    rng = np.random.default_rng(0)
    values, x = np.array([-6.0, 0, 3, 9, 9]), rng.normal(size=(5, 7)).round(1)
    rho, slope = rho_and_slope(values, x)
    assert np.allclose(rho, [spearmanr(values, c)[0] for c in x.T]) and np.allclose(
        slope, [np.polyfit(values, c, 1)[0] for c in x.T]
    )
    found = correlation_with(
        values,
        np.column_stack([x, np.full(5, 0.3), np.full(5, np.nan), [1, 2, np.nan, 4, 5]]),
        50,
    )
    assert found['n'] == 8 and found['mean'] == pytest.approx(rho.sum() / 8)
    assert found['pooled'] == pytest.approx(
        spearmanr(np.tile(values, 8), np.column_stack([x, np.full(5, 0.3)]).T.ravel())[
            0
        ]
    )
    assert found['low'] <= found['mean'] <= found['high'] and 'p' not in found
    for v, m in (
        ([1, 1, 1], np.zeros((3, 2))),
        ([0, 1], np.zeros((3, 2))),
        ([0, 1], np.zeros(2)),
    ):
        with pytest.raises(BadInput, match='two different values'):
            correlation_with(v, m)
    with pytest.raises(BadInput, match='nothing to rank'):
        correlation_with([0, 1], np.full((2, 3), np.nan))


def gappy_pool():
    "Three classes: two with the attribute, one without; a fourth with one picture of it."
    labels = np.array(['a'] * 12 + ['b'] * 12 + ['none'] * 5 + ['one'])
    value = np.concatenate(
        [np.random.default_rng(1).uniform(size=24), np.full(5, np.nan), [0.7]]
    )
    return Pool(points(30, seed=4), labels, dict(intensity=value))


def test_retrieved_by_hand_and_with_gaps():
    pool, e, labels = (
        gappy_pool(),
        torch.stack([points(5, seed=s) for s in (7, 8)]),
        np.array(['b', 'none', 'one', 'a', 'unheard of']),
    )
    x = retrieved_attribute(e, labels, pool, 'intensity', k=5)
    assert np.isnan(x[:, [1, 4]]).all() and np.allclose(x[:, 2], 0.7), (
        'fewer than k where the class has fewer'
    )
    for v in range(2):
        near = (e[v, 0] @ pool.embeddings[12:24].T).argsort(descending=True)[:5] + 12
        assert x[v, 0] == pytest.approx(pool.attributes['intensity'][near].mean())
    wide = retrieved_attribute(e, labels, pool, 'intensity', 5, within_class=False)
    has = np.isfinite(pool.attributes['intensity'])
    near = (e[1, 4] @ pool.embeddings[has].T).argsort(descending=True)[:5]
    assert np.isfinite(wide).all() and wide[1, 4] == pytest.approx(
        pool.attributes['intensity'][has][near].mean()
    )


def test_shuffled_stays_within_classes():
    pool = gappy_pool()
    value, s = pool.attributes['intensity'], shuffled(pool, 'intensity', 40)
    assert (
        s.shape == (30, 40)
        and np.array_equal(s, shuffled(pool, 'intensity', 40), equal_nan=True)
        and np.isnan(s[24:29]).all()
        and (s[29] == 0.7).all()
    )
    for rows in (slice(0, 12), slice(12, 24)):
        assert np.array_equal(
            np.sort(s[rows], 0), np.sort(value[rows])[:, None].repeat(40, 1)
        )
    assert (s[:12] != value[:12, None]).any(0).all() and shuffled(
        pool, 'intensity', 0
    ).shape == (30, 0)


def test_reader_reads_a_linear_world_and_knows_its_limits():
    rng = np.random.default_rng(2)
    labels, value = np.arange(120) % 3, rng.uniform(size=120)
    x = rng.normal(size=(3, 24))[labels] + np.outer(value - 0.5, rng.normal(size=24))
    pool = Pool(
        torch.from_numpy(x).float(),
        labels,
        dict(intensity=value, luck=rng.uniform(size=120)),
    )
    reader = fit_linear_probe(pool, 'intensity', shuffles=30)
    read = reader.predict(F.normalize(pool.embeddings, dim=1)[None], labels)
    assert (
        read.shape == (1, 120, 31)
        and spearmanr(read[0, :, 0], value)[0] > 0.95
        and reader.quality(50)['mean'] > 0.9
    )
    assert abs(fit_linear_probe(pool, 'luck').quality(50)['mean']) < 0.35
    unknown = reader.predict(
        F.normalize(pool.embeddings, dim=1)[None, :2], np.array([0, 99])
    )
    assert np.isfinite(unknown[0, 0]).all() and np.isnan(unknown[0, 1]).all()
    anyone = fit_linear_probe(pool, 'intensity', within_class=False)
    assert np.isfinite(
        anyone.predict(F.normalize(pool.embeddings, dim=1)[None, :2], np.array([0, 99]))
    ).all()
    few = Pool(
        pool.embeddings[: PROBE_MIN_PICTURES - 1],
        labels[: PROBE_MIN_PICTURES - 1],
        dict(intensity=value[: PROBE_MIN_PICTURES - 1]),
    )
    with pytest.raises(BadInput, match='a reading needs'):
        fit_linear_probe(few, 'intensity')


def small_study(tower, **options):
    labels = np.array(['a', 'b', 'none', 'a', 'b', 'one'])
    params = StudyParams(gains=[6, -6], pitches=[2], speeds=[1.0], resamples=30)
    return study_edits_of(
        tower,
        [sound(4000, i) for i in range(6)],
        points(6, seed=9),
        labels,
        gappy_pool(),
        params,
        shuffles=8,
        **options,
    )


def test_study_is_tidy_deterministic_and_always_holds_the_unedited(tower):
    frame, rhos = small_study(tower)
    assert (
        list(frame) == ['edit', 'value', 'measure', 'mean', 'low', 'high', 'n']
        and not frame.isna().any().any()
    )
    assert frame.groupby('edit').value.unique().map(sorted).to_dict() == dict(
        gain=[-6, 0, 6], pitch=[0, 2], speed=[1]
    )
    at = frame[frame.measure == 'drift'].set_index(['edit', 'value'])['mean']
    assert np.allclose([at['gain', 0], at['pitch', 0], at['speed', 1]], 1, atol=1e-5)
    n = frame.groupby('measure').n.unique().map(list).to_dict()
    assert n == dict(
        clipped=[6],
        drift=[6],
        match=[6],
        mrr=[6],
        retrieved_intensity=[5],
        read_intensity=[5],
    )
    assert set(rhos) == {
        'pool/read_intensity',
        *(
            f'{e}/{m}_intensity'
            for e in ('gain', 'pitch')
            for m in ('retrieved', 'read')
        ),
    }, 'one value has no correlation'
    assert 1 / 9 <= rhos['gain/read_intensity']['slope_p'] <= 1
    again, r = small_study(tower)
    assert frame.equals(again) and r == rhos
    other, _ = small_study(tower, seed=1)
    assert not frame.low.equals(other.low) and frame['mean'].equals(other['mean'])


def test_drawn_pictures_enter_the_frame(tower):
    seen = []

    def draw(e, edit, values):
        assert len(values) == len(e)
        seen.append(e)
        return e[..., :1].numpy() * 0 + np.arange(len(e))[:, None, None]

    frame, rhos = small_study(tower, draw=draw)
    assert [tuple(e.shape) for e in seen] == [
        (3, 6, 16),
        (2, 6, 16),
        (1, 6, 16),
    ] and torch.allclose(seen[0].norm(dim=-1), torch.ones(3, 6))
    drawn = frame[(frame.measure == 'drawn_intensity') & (frame.edit == 'gain')]
    assert drawn['mean'].tolist() == [0, 1, 2] and set(drawn.n) == {5}, (
        'a class without the attribute is left out'
    )
    assert (
        rhos['gain/drawn_intensity']['mean'] == pytest.approx(1)
        and rhos['gain/drawn_intensity']['slope'] == pytest.approx(1 / 6)
        and 'p' not in rhos['gain/drawn_intensity']
    )
    with pytest.raises(BadInput, match='one row a point'):
        small_study(tower, draw=lambda e, edit, values: np.zeros(len(e)))
