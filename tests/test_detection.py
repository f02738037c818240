"""Detection: the metrics against sed_eval 0.2.1 (its published cases, its numbers on its own files and
on random corpora) and against their definitions; the detector against what it must not depend on."""

import math
from itertools import combinations, permutations
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

from wavbrivl.metrics.events import clean_events, draw_timeline, activity, to_arrays
from wavbrivl.metrics.event_scores import (
    constant_events,
    best_constant_answer,
    event_scores,
    largest_matching,
    segment_scores,
)
from wavbrivl.tasks.thresholds import (
    AIMS,
    THRESHOLDS,
    WIDTHS,
    choose_thresholds,
    count_grid,
    frame_targets,
    active_runs,
    peak_per_segment,
    median_filter_scores,
)
from wavbrivl.tasks.detection import (
    DetectionHead,
    detect,
    detection_scores,
    train_detector,
    train_head,
    frame_loss,
    frame_probabilities,
)
from wavbrivl.core.files import BadInput
from wavbrivl.decoders.captioner import pad_frames

FILES = (
    Path(__file__).parents[2]
    / 'shared'
    / 'data'
    / 'sed_eval'
    / 'tests'
    / 'data'
    / 'sound_event'
)
needs_files = pytest.mark.skipif(
    not FILES.exists(), reason='no annotation files beside the checkout'
)
fast = settings(
    max_examples=100, deadline=None, suppress_health_check=list(HealthCheck)
)


pytestmark = pytest.mark.usefixtures('one_thread')


def event(label, onset, offset):
    return dict(label=label, onset=onset, offset=offset)


def read(name):
    "An annotation file of sed_eval's tests: {recording: events}."
    out = {}
    for line in (FILES / name).read_text().splitlines():
        cells = [c.strip() for c in line.split('\t')]
        number = [i for i, c in enumerate(cells) if c.replace('.', '', 1).isdigit()]
        clip = out.setdefault('' if 0 in number else cells[0], [])
        if len(number) == 2:
            clip.append(event(cells[-1], *(float(cells[i]) for i in number)))
    return out


def pair(ref, est):
    "Both lists of every recording in the reference, and the classes of the reference."
    ref, est = read(ref), read(est)
    return (
        list(ref.values()),
        [est.get(k, []) for k in ref],
        sorted({e['label'] for own in ref.values() for e in own}),
    )


def accuracy(s):
    c = s['counts']
    return (c['tp'] + c['tn']) / (c['claimed'] + c['true'] - c['tp'] + c['tn'])


# --- sed_eval's published cases ---


@needs_files
def test_street_as_published():
    ref, est, classes = pair('street_fold1_reference.txt', 'street_fold1_detected.txt')
    s = segment_scores(ref, est, classes)
    assert (
        len(ref) == 6
        and accuracy(s) == pytest.approx(0.84244791666, abs=1e-9)
        and s['error_rate'] == pytest.approx(1.0616698292220115, abs=1e-12)
    )
    s = segment_scores(ref, est, classes, seconds=1200.0)
    assert accuracy(s) == pytest.approx(0.9719907407407408, abs=1e-12) and s[
        'error_rate'
    ] == pytest.approx(1.0616698292220115, abs=1e-12)


@needs_files
def test_binary_as_published():
    names = [f'binary{k}{d}.txt' for k in (1, 2) for d in ('', '_detected')]
    a, b, c, d = ([e for own in read(n).values() for e in own] for n in names)
    for s in (
        segment_scores([a, c], [b, d], ['event1']),
        event_scores([a, c], [b, d], ['event1'], 0.2, 0.5),
    ):
        assert s['f1'] == pytest.approx(2 / 3) and s['error_rate'] == pytest.approx(1)
    s = segment_scores([a, c], [b, d], ['event1'])
    assert (
        accuracy(s) == pytest.approx(2 / 3)
        and s['recall'] == 1
        and s['counts']['tn'] == 2
    )
    ref, est, classes = pair('binary5.txt', 'binary5_detected.txt')
    s = event_scores(ref, est, classes, 0.2, 0.5)
    assert s['error_rate'] == pytest.approx(1.5) and s['f1'] == 0


@needs_files
def test_audioset_as_published():
    s = segment_scores(*pair('audioset1.txt', 'audioset1_detected.txt'))
    assert (accuracy(s), s['f1'], s['error_rate']) == (1, 1, 0)


def test_direct_use_as_published():
    ref = [[event('car', 0, 2.5), event('car', 2.8, 4.5), event('car', 6, 10)]]
    s = segment_scores(ref, [[event('car', 1, 3.5), event('car', 7, 8)]], ['car'])
    assert accuracy(s) == 0.5 and s['error_rate'] == pytest.approx(5 / 9)
    s = event_scores(
        ref, [[event('car', 0.2, 3.5), event('car', 6, 8)]], ['car'], 0.2, 0.5
    )
    assert s['f1'] == pytest.approx(0.8) and s['error_rate'] == pytest.approx(1 / 3)


def test_order_does_not_matter_as_published():
    "Where greedy matching finds one of two, in one order of the reference."
    ref, est = (
        [event('A', 1.0, 3.0), event('A', 1.5, 3.0)],
        [event('A', 1.25, 3.0), event('A', 1.75, 3.0)],
    )
    for r in (ref, ref[::-1]):
        for e in (est, est[::-1]):
            assert event_scores([r], [e], ['A'], 0.25)['f1'] == 1


def test_silence_as_published():
    "sed_eval's empty_system_output_handling: None gives 1.0, zero_score .5."
    ref, est = (
        [[event('A', 0.3, 0.8)], [event('B', 0.1, 0.8)]],
        [[event('A', 0.2, 0.9)], []],
    )
    assert (
        event_scores(ref, est, ['A', 'B'], unclaimed_precision=np.nan)['f1_macro'] == 1
    )
    assert event_scores(ref, est, ['A', 'B'])['f1_macro'] == 0.5


# --- numbers computed with sed_eval 0.2.1 ---

# segments of 1 s, then events (.2 s, 20 %): f1, error rate, macro f1 with and without
# the classes never claimed
SED_EVAL = dict(
    street_fold1=(
        (
            0.31014823261117447,
            1.0616698292220115,
            0.1313700253820381,
            0.1313700253820381,
        ),
        (0, 2.535211267605634, 0, 0),
    ),
    office_snr0_high_v2=(
        (
            0.43380281690140843,
            0.793939393939394,
            0.3706392111013386,
            0.4632990138766732,
        ),
        (
            0.0547945205479452,
            1.9117647058823528,
            0.04547964113181504,
            0.0568495514147688,
        ),
    ),
    office_snr0_med_v2=(
        (
            0.34146341463414637,
            1.1285714285714286,
            0.27300558779282186,
            0.40950838168923276,
        ),
        (
            0.0967741935483871,
            1.8888888888888888,
            0.08888888888888889,
            0.13333333333333333,
        ),
    ),
    binary5=(
        (0.7058823529411764, 0.5, 0.7058823529411764, 0.7058823529411764),
        (0, 1.5, 0, 0),
    ),
)


@needs_files
@pytest.mark.parametrize('name', SED_EVAL)
def test_real_files_as_sed_eval_scores_them(name):
    ref, est, classes = pair(
        f'{name}_reference.txt' if name[0] == 's' else f'{name}.txt',
        f'{name}_detected.txt',
    )
    for score, want in zip((segment_scores, event_scores), SED_EVAL[name]):
        s, left_out = (
            score(ref, est, classes),
            score(ref, est, classes, unclaimed_precision=np.nan),
        )
        assert (
            s['f1'],
            s['error_rate'],
            s['f1_macro'],
            left_out['f1_macro'],
        ) == pytest.approx(want, abs=1e-12)


def corpus(seed):
    "A random corpus; estimates are jittered, split, renamed, missed, invented; a coarse grid gives ties."
    draw = Random(seed).random
    number = lambda low, high: low + int(draw() * (high - low))
    one_of = lambda *values: values[number(0, len(values))]
    names, length, grid = (
        [f'class {k}' for k in range(number(1, 6))],
        2 + 10 * draw(),
        one_of(0, 0.1, 0.25, 1.0),
    )
    tick = lambda t: round(t / grid) * grid if grid else t

    def new():
        on = tick(length * draw())
        return event(
            one_of(*names), on, on + tick(one_of(0.1, 0.4, 2) * (0.5 + draw()))
        )

    def heard(e):
        wide = one_of(0.05, 0.2, 0.4)
        on = max(0, e['onset'] + tick(wide * (2 * draw() - 1)))
        return event(
            e['label'] if draw() < 0.7 else one_of(*names),
            on,
            max(on, e['offset'] + tick(wide * (2 * draw() - 1))),
        )

    ref = [[new() for _ in range(number(0, 12))] for _ in range(number(1, 7))]
    est = [
        sorted(
            [heard(e) for e in own for _ in range(one_of(0, 1, 1, 2))]
            + [new() for _ in range(number(0, 4))],
            key=lambda e: draw(),
        )
        for own in ref
    ]
    seconds = None if draw() < 0.5 else [length * (0.6 + 0.7 * draw()) for _ in ref]
    return dict(
        names=names,
        ref=ref,
        est=est,
        seconds=seconds,
        resolution=one_of(0.1, 0.5, 1.0),
        collar=one_of(0.1, 0.2, 0.25),
        share=one_of(0.0, 0.2, 0.5),
    )


def both(c, silent=0.0):
    return (
        segment_scores(
            c['ref'], c['est'], c['names'], c['resolution'], c['seconds'], silent
        ),
        event_scores(c['ref'], c['est'], c['names'], c['collar'], c['share'], silent),
    )


@pytest.mark.parametrize(
    'silent, segments, events',
    [
        (
            np.nan,
            (201.55452383139058, 201.67794198664188, 172.56730870880892),
            (140.34961213816658, 140.20753491668512, 315.4095303155806),
        ),
        (
            0.0,
            (201.55452383139058, 196.40928067427666, 172.56730870880892),
            (140.34961213816658, 139.0024067115569, 315.4095303155806),
        ),
    ],
)
def test_random_corpora_as_sed_eval_scores_them(silent, segments, events):
    "Sums over 300 corpora; corpus by corpus and class by class 5000 were compared."
    found = [both(corpus(k), silent) for k in range(300)]
    for of, want in enumerate((segments, events)):
        assert [
            np.nansum([s[of][k] for s in found])
            for k in ('f1', 'f1_macro', 'error_rate')
        ] == pytest.approx(want, abs=1e-9)


# --- the definitions, written out ---


def segments_by_hand(ref, est, classes, resolution, seconds):
    cells = lambda own, n: {
        (k, e['label'])
        for e in own
        for k in range(
            math.floor(e['onset'] / resolution), math.ceil(e['offset'] / resolution)
        )
        if k < n
    }
    tp = claimed = true = 0
    for k, (r, e) in enumerate(zip(ref, est)):
        n = math.ceil(
            (
                max([x['offset'] for x in r + e], default=0)
                if seconds is None
                else seconds[k]
            )
            / resolution
        )
        a, b = cells(r, n), cells(e, n)
        tp, claimed, true = tp + len(a & b), claimed + len(b), true + len(a)
    return tp, claimed, true


def hits_by_hand(ref, est, collar, share):
    "The largest number of pairs, by trying every order (few events)."
    near = lambda r, e: (
        r['label'] == e['label']
        and abs(r['onset'] - e['onset']) <= collar
        and abs(r['offset'] - e['offset'])
        <= max(collar, share * (r['offset'] - r['onset']))
    )
    if len(ref) > len(est):
        return max(
            (
                sum(near(r, e) for r, e in zip(p, est))
                for p in permutations(ref, len(est))
            ),
            default=0,
        )
    return max(
        (sum(near(r, e) for r, e in zip(ref, p)) for p in permutations(est, len(ref))),
        default=0,
    )


times = st.integers(0, 40).map(lambda k: k / 10)
lists = st.lists(
    st.builds(
        lambda l, a, b: event(l, min(a, b), max(a, b)),
        st.sampled_from('xyz'),
        times,
        times,
    ),
    max_size=5,
)


@fast
@given(
    st.lists(st.tuples(lists, lists), min_size=1, max_size=3),
    st.sampled_from([0.1, 0.3, 1.0]),
    st.sampled_from([0.0, 0.2]),
)
def test_counts_as_defined(clips, resolution, share):
    ref, est = map(list, zip(*clips))
    s = segment_scores(ref, est, 'xyz', resolution)['counts']
    assert (s['tp'], s['claimed'], s['true']) == segments_by_hand(
        ref, est, 'xyz', resolution, None
    )
    e = event_scores(ref, est, 'xyz', 0.2, share)
    assert (
        e['counts']['tp']
        == sum(hits_by_hand(r, x, 0.2, share) for r, x in clips)
        == sum(c['tp'] for c in e['classes'].values())
    )
    for c in (s, e['counts']):
        assert (
            c['true'] - c['tp'] == c['substitutions'] + c['deletions']
            and c['claimed'] - c['tp'] == c['substitutions'] + c['insertions']
        )


def test_matching_is_a_largest_one():
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    g = np.random.default_rng(0)
    for _ in range(200):
        n, m = g.integers(1, 12, 2)
        pairs = np.argwhere(g.random((n, m)) < g.uniform(0.05, 0.6))
        found = largest_matching(map(tuple, pairs.tolist()))
        assert set(found.items()) <= set(map(tuple, pairs.tolist())) and len(
            set(found.values())
        ) == len(found)
        want = maximum_bipartite_matching(
            csr_array((np.ones(len(pairs)), pairs.T), shape=(n, m))
        )
        assert len(found) == (want >= 0).sum()


def test_a_long_chain_of_swaps():
    "Every first choice is wrong, and putting them right goes through 4000 owners."
    n = 4000
    pairs = [(k, e) for k in range(n) for e in (k, k - 1) if e >= 0][::-1] + [
        (n, n - 1)
    ]
    assert len(largest_matching(pairs)) == n
    knocks = lambda shift: [
        event('knock', round(0.15 * k + shift, 3), round(0.15 * k + shift + 0.05, 3))
        for k in range(n)
    ]
    assert event_scores([knocks(0)[::-1]], [knocks(0.19)], ['knock'])['f1'] == 1


def test_clips_and_classes_keep_apart():
    same, later = [[event('a', 1, 2)], []], [[], [event('a', 1, 2)]]
    for score in (segment_scores, event_scores):
        assert score(same, later, ['a', 'b'])['counts']['tp'] == 0
    s = event_scores(same, [[event('b', 1, 2)], []], ['a', 'b'])
    assert (
        s['counts'] | dict(tp=0, substitutions=1, deletions=0, insertions=0)
        == s['counts']
        and s['error_rate'] == 1
    )


def test_nothing_to_score():
    for score in (segment_scores, event_scores):
        s = score([[], []], [[], [event('a', 0, 1)]], ['a'])
        assert (
            math.isnan(s['f1'])
            and math.isnan(s['f1_macro'])
            and math.isnan(s['error_rate'])
            and s['counts']['claimed'] == 1
        )
        assert score([[event('a', 0, 1)]], [[]], ['a'])['f1'] == 0
    with pytest.raises(BadInput, match='nothing to score'):
        detection_scores([[]], [[]], [1.0], ['a'])


@pytest.mark.parametrize(
    'bad',
    [
        event('?', 0, 1),
        event('a', -1, 1),
        event('a', 2, 1),
        event('a', 0, math.nan),
        event('a', 0, math.inf),
        {'label': 'a'},
    ],
)
def test_metrics_refuse_what_they_cannot_count(bad):
    for score in (segment_scores, event_scores):
        for ref, est, name in (
            ([[bad]], [[]], 'reference'),
            ([[]], [[bad]], 'estimated'),
        ):
            with pytest.raises(BadInput, match=f'{name}: 1 of 1 .* clip 0'):
                score(ref, est, ['a'])


# --- annotations ---

wild = st.one_of(st.floats(), st.integers(-3, 14), st.none(), st.text(max_size=2))


@fast
@given(
    st.lists(
        st.one_of(
            st.none(),
            st.lists(
                st.one_of(
                    st.none(),
                    st.just('dog'),
                    st.builds(
                        event, st.sampled_from(['a', 'b', 'c', None]), wild, wild
                    ),
                    st.just({}),
                ),
                max_size=5,
            ),
        ),
        max_size=3,
    )
)
def test_clean_events_can_be_counted(events):
    kept, said = clean_events(events, [10] * len(events), ['a', 'b'])
    assert len(kept) == len(events)
    s = to_arrays(kept, ['a', 'b'], 'kept')
    assert (
        (s.offset > s.onset).all()
        and (s.offset <= 10).all()
        and clean_events(kept, [10] * len(events), ['a', 'b']) == (kept, [])
    )
    given_ = sum(len(own or []) for own in events)
    assert sum(map(len, kept)) + sum('left out' in line for line in said) == given_


def test_sentences_name_clip_event_and_fault():
    kept, said = clean_events(
        [[event('dgo', 0, 1), event('dog', 8, 12)]], [10], ['dog'], ['clip-7']
    )
    assert kept == [[event('dog', 8, 10)]]
    assert (
        said[0]
        == 'clip-7: dgo from 0 to 1 s is of no known class (did you mean dog?); left out.'
    )
    assert (
        said[1]
        == 'clip-7: dog from 8 to 12 s ends after the clip, which lasts 10 s; cut.'
    )
    twice = [event('dog', 1, 2), event('dog', 1, 2), event('dog', 1, 3)]
    assert clean_events([twice], [10]) == (
        [twice[1:]],
        ['clip 0: dog from 1 to 2 s is written twice; left out.'],
    )
    assert clean_events([[event('dog', 8, 12)]], None) == (
        [[event('dog', 8, 12)]],
        [],
    )


# --- frames and events ---


@fast
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=4),
    st.integers(0, 2**32),
    st.sampled_from([0.01, 0.02, 0.0213, 0.1]),
)
def test_runs_and_targets_are_inverse(lengths, seed, hop):
    g = np.random.default_rng(seed)
    active = [g.random((n, 3)) > 0.4 for n in lengths]
    s = active_runs(active, hop)
    assert all(map(np.array_equal, frame_targets(s, np.array(lengths), 3, hop), active))
    assert (s.offset - s.onset > hop / 2).all()
    assert active_runs([np.ones((35, 1), bool)], 0.02).offset == 0.7 < 35 * 0.02


def test_median_and_threshold_commute():
    g = np.random.default_rng(1)
    scores = [g.random((n, 4)).astype(np.float32) for n in (50, 2, 1)]
    width = np.array([1, 3, 9, 25])
    for level in (0.2, 0.5, 0.8):
        assert all(
            ((a >= level) == b).all()
            for a, b in zip(
                median_filter_scores(scores, width),
                median_filter_scores([s >= level for s in scores], width),
            )
        )
    for k, w in enumerate(width):
        alone = median_filter_scores([scores[0][:, [k]]], w)[0][:, 0]
        for of in (width, w):
            assert np.array_equal(median_filter_scores(scores, of)[0][:, k], alone), (
                'classes do not mix'
            )


@pytest.mark.parametrize('hop', [0.02, 0.03, 0.1])
def test_peaks_agree_with_the_metric(hop):
    "The grid's shortcut claims the very segments that the events would."
    g = np.random.default_rng(2)
    scores = [g.random((n, 3)).astype(np.float32) ** 4 for n in (130, 30, 75)]
    seconds = [len(s) * hop for s in scores]
    size = np.ceil(np.round(seconds, 6)).astype(int)
    for level in (0.3, 0.6, 0.9):
        claimed = peak_per_segment(scores, size, hop) >= level
        assert np.array_equal(
            claimed,
            activity(active_runs([s >= level for s in scores], hop), size, 3, 1.0),
        )


def test_grid_counts_are_the_scores():
    g, C = np.random.default_rng(3), ['a', 'b', 'c']
    scores = [median_filter_scores([g.random((n, 3))], 9)[0] for n in (140, 101)]
    events = [[event('a', 0.3, 1.2), event('b', 2, 2.2)], [event('a', 0, 0.5)]]
    seconds = [2.8, 2.02]
    grid = count_grid(scores, to_arrays(events, C, 'events'), seconds, 0.02)
    for i, j in ((0, 9), (3, 10), (5, 8)):
        s = active_runs(
            [q >= THRESHOLDS[j] for q in median_filter_scores(scores, WIDTHS[i])], 0.02
        )
        found = [
            [event(C[l], a, b) for k, l, a, b in zip(*s) if k == clip]
            for clip in (0, 1)
        ]
        for of, score in enumerate(
            (
                segment_scores(events, found, C, seconds=seconds),
                event_scores(events, found, C),
            )
        ):
            assert grid[of, i, j].T.tolist() == [
                [score['classes'][c][k] for k in ('tp', 'claimed', 'true')] for c in C
            ]


def test_choice_takes_the_best_and_lends_to_the_absent():
    grid = np.zeros((2, len(WIDTHS), len(THRESHOLDS), 3, 2), int)
    grid[..., 1, :], grid[..., 2, 0] = 10, 10  # the second class never occurs
    grid[:, 2, 5:9, 0, 0] = [5, 8, 8, 5]
    grid[0, 4, 12, 0, 0] = 9  # a lone spike
    for aim in AIMS:
        threshold, width = choose_thresholds(grid, aim)
        assert (width == WIDTHS[2]).all() and np.isin(
            threshold, THRESHOLDS[[6, 7]]
        ).all()


@fast
@given(st.lists(lists, min_size=1, max_size=3))
def test_constant_answer_is_the_best_of_all_subsets(events):
    if not any(events):
        return
    seconds, classes = [4.0] * len(events), list('wxyz')
    best = best_constant_answer(events, seconds, classes)
    f1 = lambda score, on, key: score(events, constant_events(on, seconds), classes)[
        key
    ]
    for name, score, key in (
        ('f1', segment_scores, 'f1'),
        ('event_f1', event_scores, 'f1'),
        ('f1_macro', segment_scores, 'f1_macro'),
        ('event_f1_macro', event_scores, 'f1_macro'),
    ):
        every = [
            f1(score, on, key) for n in (1, 2, 3, 4) for on in combinations(classes, n)
        ]
        if math.isnan(every[0]):
            continue  # zero-length events touch no segment
        assert f1(score, best[name], key) == pytest.approx(max(every))


# --- the detector ---


@pytest.fixture(scope='module')
def world():
    "Three classes, each a direction in 16-dimensional frames, float16; a fourth that never sounds."
    g, C = np.random.default_rng(5), ['a', 'b', 'c', 'never']
    axis = g.standard_normal((3, 16))
    frames, events, seconds = [], [], []
    for _ in range(90):
        n = int(g.integers(60, 140))
        x, own = 0.7 * g.standard_normal((n, 16)), []
        for k in range(3):
            if g.random() < 0.6:
                on = int(g.integers(0, n - 30))
                off = on + int(g.integers(10, 30))
                x[on:off] += axis[k]
                own.append(event(C[k], on * 0.02, off * 0.02))
        (
            frames.append(x.astype(np.float16)),
            events.append(own),
            seconds.append(n * 0.02),
        )
    return frames, events, seconds, C


@pytest.fixture(scope='module')
def detector(world):
    return train_detector(*world, range(50), range(50, 70), epochs=15)


def test_what_can_be_heard_is_found(world, detector):
    frames, events, seconds, C = world
    found = detect(detector, frames[70:], seconds[70:])
    s = detection_scores(found, events[70:], seconds[70:], C, detector.constant)
    assert (
        s['f1'] > 0.95
        and s['event_f1'] > 0.9
        and s['f1_macro'] > 0.95
        and s['event_f1_macro'] > 0.9
    )
    assert (
        s['pool'] == 4
        and s['n'] == 20
        and all(0 < s['chance'][k] < s[k] for k in ('f1', 'f1_macro'))
        and all(s['chance'][k] < 0.3 for k in ('event_f1', 'event_f1_macro'))
    )
    assert detector.remarks == [
        'No training clip has never; never claimed.'
    ] and not any(e['label'] == 'never' for own in found for e in own)
    assert clean_events(found, seconds[70:], C) == (found, [])
    cut = [s / 2 for s in seconds[70:]]
    with pytest.raises(BadInput, match='is hop right'):
        detect(detector, frames[70:], cut)
    cut = [s - 0.3 for s in seconds[70:]]
    assert any(e['offset'] > s for own, s in zip(found, cut) for e in own) and all(
        e['offset'] <= s
        for own, s in zip(detect(detector, frames[70:], cut), cut)
        for e in own
    )


def test_a_class_nobody_taught_is_never_claimed(world):
    frames, _, seconds, C = world
    d = train_detector(*world, range(50), range(50, 70), epochs=1)
    with torch.no_grad():
        d.b2[3] = 50.0  # however sure the head may be
    assert frame_probabilities(d, frames[:1])[0][:, 3].min() > 0.99 and not any(
        e['label'] == 'never' for own in detect(d, frames[:9]) for e in own
    )


def test_the_best_epoch_counts(world):
    frames, events, seconds, C = world
    size = np.array(list(map(len, frames)))
    targets = frame_targets(to_arrays(events, C, 'events'), size, 4, 0.02)
    head = DetectionHead(16, C, hidden=64)
    seen = train_head(
        head, frames, targets, range(6), range(50, 70), epochs=25, patience=3, lr=0.03
    )
    assert np.argmin(seen) == len(seen) - 4 and len(seen) < 25, (
        'too little to learn from: it gets worse, and stops'
    )
    x, real = pad_frames(frames[50:70])
    y, _ = pad_frames(targets[50:70])
    with torch.no_grad():
        total, n = frame_loss(head.eval()(x, real), real, y)
    assert float(total / n) == pytest.approx(min(seen), rel=1e-5)


def test_labels_at_random_give_chance(world):
    "Where nothing can be learnt, the scores are those of the constant answer."
    frames, events, seconds, C = world
    events = [events[i] for i in np.random.default_rng(0).permutation(90)]
    events = [
        [e | dict(offset=min(e['offset'], s)) for e in own if e['onset'] < s - 0.1]
        for own, s in zip(events, seconds)
    ]
    d = train_detector(frames, events, seconds, C, range(50), range(50, 70), epochs=4)
    s = detection_scores(
        detect(d, frames[70:], seconds[70:]), events[70:], seconds[70:], C, d.constant
    )
    assert s['f1'] < s['chance']['f1'] + 0.1 and s['event_f1'] < 0.3


def test_company_order_and_seed(world, detector):
    frames, events, seconds, C = world
    again = train_detector(*world, range(50), range(50, 70), epochs=15)
    assert (
        again.history == detector.history
        and torch.equal(again.threshold, detector.threshold)
        and torch.equal(again.width, detector.width)
    )
    assert (
        train_detector(*world, range(50), range(50, 70), seed=1, epochs=1).history
        != detector.history[:1]
    )
    together = detect(detector, frames[70:], seconds[70:])
    assert detect(detector, frames[70:][::-1], seconds[70:][::-1]) == together[::-1]
    assert [
        detect(detector, [f], [s])[0] for f, s in zip(frames[70:], seconds[70:])
    ] == together
    for p, f in zip(frame_probabilities(detector, frames[70:]), frames[70:]):
        assert np.allclose(p, frame_probabilities(detector, [f])[0], atol=1e-5)


def test_test_clips_teach_nothing(world, detector):
    "Neither standardisation nor thresholds look beyond the clips they were given."
    frames, events, seconds, C = world
    loud = [f if i < 70 else f * 3 + 1 for i, f in enumerate(frames)]
    other = train_detector(
        loud, events, seconds, C, range(50), range(50, 70), epochs=15
    )
    assert all(
        torch.equal(a, b)
        for a, b in zip(other.state_dict().values(), detector.state_dict().values())
    )


def test_state_travels(world, detector):
    import pickle

    frames, _, seconds, C = world
    there = pickle.loads(pickle.dumps(detector))
    assert detect(there, frames[70:], seconds[70:]) == detect(
        detector, frames[70:], seconds[70:]
    )
    fresh = DetectionHead(16, C)
    fresh.load_state_dict(detector.state_dict())
    assert detect(fresh, frames[70:]) == detect(detector, frames[70:])


def test_little_data(world):
    frames, events, seconds, C = world
    quick = dict(epochs=1, hidden=8)
    one = next(i for i, own in enumerate(events) if own)
    assert len(train_detector(*world, [one], **quick).remarks) == 2
    assert 'validation' in train_detector(*world, range(20), **quick).remarks[0]
    quiet = [[] if i >= 50 else own for i, own in enumerate(events)]
    assert (
        'thresholds'
        in train_detector(
            frames, quiet, seconds, C, range(50), range(50, 70), **quick
        ).remarks[0]
    )
    none = [
        None if i % 2 else own for i, own in enumerate(events)
    ]  # as a table gives it
    d = train_detector(
        frames, none, seconds, C, range(50), range(50, 70), epochs=0, hidden=8
    )
    assert (
        d.history == [] and len(detect(d, [frames[0][:1]])) == 1 and detect(d, []) == []
    )


@pytest.mark.parametrize(
    'change, match',
    [
        (dict(events=[[]] * 90), 'nothing to learn'),
        (dict(train=[]), 'no training clips'),
        (dict(valid=[3]), 'trained on and validated on'),
        (dict(hop=0.2), 'is hop right'),
        (dict(seconds=[1.0]), 'each clip needs all three'),
        (dict(aim='chance'), 'not|odd'),
        (dict(context=4), 'odd'),
        (dict(classes=['a']), 'unknown class'),
        (dict(classes=[]), 'told apart'),
    ],
)
def test_bad_input_is_a_sentence(world, change, match):
    given_ = (
        dict(zip(('frames', 'events', 'seconds', 'classes'), world))
        | dict(train=range(50), valid=range(50, 70), epochs=1)
        | change
    )
    with pytest.raises(BadInput, match=match):
        train_detector(**given_)


def test_broken_frames_are_named(world, detector):
    frames, events, seconds, C = world
    for broken, match in (
        (frames[3][:0], 'Clip 3 has no frames'),
        (frames[3] * np.float16(np.nan), 'Clip 3 has frames that are not finite'),
        (frames[3][:, :5], 'Clip 3 has frames of 5 numbers, not of 16'),
    ):
        bad = [broken if i == 3 else f for i, f in enumerate(frames)]
        with pytest.raises(BadInput, match=match):
            train_detector(bad, events, seconds, C, range(50), range(50, 70), epochs=1)
        with pytest.raises(BadInput, match=match):
            detect(detector, bad)
        train_detector(
            bad, events, seconds, C, range(4, 50), range(50, 70), epochs=0
        )  # unused, so unharmed


def test_timeline_has_what_a_reader_needs():
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots()
    draw_timeline(
        ax,
        [event('sea_waves', 0, 2), event('dog', 1, 1.5)],
        [event('dog', 1.1, 1.4)],
        3,
        ['cat', 'dog', 'sea_waves'],
    )
    assert (
        ax.get_xlabel() == 'time [s]'
        and ax.get_xlim() == (0, 3)
        and ax.get_legend_handles_labels()[1] == ['true', 'detected']
    )
    named = {y: t.get_text() for y, t in zip(ax.get_yticks(), ax.get_yticklabels())}
    assert named == {1: 'dog', 0: 'sea waves'}
    bars = {
        (c.get_paths()[k].get_extents().x0, c.get_paths()[k].get_extents().y0)
        for c in ax.collections
        for k in range(len(c.get_paths()))
    }
    assert (
        len(bars) == 3
        and {x for x, y in bars if y > 0.5} == {1, 1.1}
        and max(y for x, y in bars if x == 1) > max(y for x, y in bars if x == 1.1)
    )
    draw_timeline(plt.subplots()[1], [], [], 3, ['cat'])
    plt.close('all')
