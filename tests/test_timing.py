"When a token sounds: the sequences, the measure, and the net that is taught by contrast."

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tiny import BRIDGE, HEARD
from wavbrivl.gloss.bridge import Bridge, token_contrast
from wavbrivl.pipeline.sources import placing_variants
from wavbrivl.report.timelines import describe_gain
from wavbrivl.suites.timing import (
    LEAST_GAP,
    LONGEST_EVENT,
    gain_with_interval,
    make_sequence,
    milliseconds_off,
    peak_times,
    placed_sequences,
    render_sequence,
    score_timing,
    sequence_tokens,
    time_sequences,
    usual_times,
)

pytestmark = pytest.mark.usefixtures('one_thread')
DRAWN = [make_sequence('valid', i) for i in range(60)]
WORDS = sorted({t['token'].lower() for s in DRAWN for t in sequence_tokens(s)})


def make_bridge(words=WORDS, **changes):
    "An untrained bridge, always from the same seed."
    torch.manual_seed(0)
    return Bridge(HEARD, BRIDGE.model_copy(update=changes), words, dim=12).eval()


def test_sequences_hold_short_events_in_order():
    for s in DRAWN:
        times = np.array([source.times[0] for source in s.sources])
        assert np.all(times[:, 1] - times[:, 0] <= LONGEST_EVENT + 1e-3)
        edges = np.r_[0, times.ravel(), s.seconds]
        assert np.all(np.diff(edges)[::2] >= LEAST_GAP - 2e-3)
        assert len({source.label for source in s.sources}) == 4 and len(s.named) == 3
        assert {t['of'] for t in sequence_tokens(s)} == set(s.named)
    assert DRAWN[3] == make_sequence('valid', 3) != make_sequence('test', 3)
    wave = render_sequence(DRAWN[3])
    assert np.array_equal(wave, render_sequence(make_sequence('valid', 3)))
    assert wave.dtype == np.float32 and len(wave) == 48000 and np.abs(wave).max() < 1


def test_the_measure_by_hand():
    tokens = [dict(token='DOG', onset=1.0, offset=1.2, of=0)]
    tokens.append(dict(token='CAT', onset=2.0, offset=2.4, of=1))
    assert milliseconds_off([1.1, 2.2], tokens) == pytest.approx(0, abs=1e-9)
    assert milliseconds_off([1.2, 1.9], tokens) == pytest.approx(200)


def test_those_who_do_not_listen():
    even, usual, middle = [], [], []
    for s in DRAWN:
        tokens = sequence_tokens(s)
        n = len(tokens)
        even.append(milliseconds_off((np.arange(n) + 0.5) / n * 3, tokens))
        usual.append(milliseconds_off(usual_times(n, 3.0), tokens))
        middle.append(milliseconds_off(np.full(n, 1.5), tokens))
    assert np.mean(usual) < np.mean(even) < np.mean(middle)
    assert np.mean(usual) > 250, 'guessing must be bad, or the measure tells nothing'
    assert np.allclose(usual_times(1, 3.0), [1.5]), 'a number of tokens never met'


def test_peaks_are_found_where_there_is_nothing_else():
    wave = 1e-4 * np.random.default_rng(0).standard_normal(48000).astype(np.float32)
    tokens = []
    for of, onset in enumerate((0.7, 2.0)):
        at = slice(round(16000 * onset), round(16000 * (onset + 0.2)))
        fading = np.exp(-np.arange(3200) / 600) * np.hanning(3200)
        wave[at] += (fading * np.sin(0.4 * np.arange(3200))).astype(np.float32)
        span = dict(onset=onset, offset=onset + 0.2, of=of)
        tokens += [dict(token='DOG', **span), dict(token='BARK', **span)]
    assert milliseconds_off(peak_times(wave, tokens), tokens) < 60
    assert len(peak_times(np.zeros(48000, np.float32), tokens)) == 4


def test_token_contrast_is_a_loop_over_tokens():
    g = torch.Generator().manual_seed(0)
    entries = torch.tensor([[3, 4, 0], [4, 5, 6], [7, 0, 0], [0, 0, 0]])
    rows = torch.tensor([2, 3, 1, 0])
    s = torch.randn(4, 4, 3, generator=g, requires_grad=True)
    found = token_contrast(s, entries, rows)
    for i in range(4):
        each = []
        for q in range(rows[i]):
            lacks = [
                j
                for j in range(4)
                if j == i or entries[i, q] not in entries[j, : rows[j]]
            ]
            each.append(s[i, lacks, q].logsumexp(0) - s[i, i, q])
        by_hand = sum(each) / max(1, len(each))
        assert float(found[i]) == pytest.approx(float(by_hand), abs=1e-6)
    found.sum().backward()
    assert s.grad.isfinite().all() and not s.grad[3].any()


def test_the_setting_adds_a_net_and_changes_nothing_else():
    paper, timed = make_bridge(timing='dtw'), make_bridge(timing='contrast')
    own = timed.state_dict()
    assert all(torch.equal(own[k], w) for k, w in paper.state_dict().items())
    more = own.keys() - paper.state_dict().keys()
    assert more and all(k.startswith('timing_net.') for k in more)
    assert not hasattr(make_bridge(timing='contrast', ds_net=False), 'timing_net')
    assert make_bridge().state_dict().keys() == own.keys(), 'contrast is the default'


def test_frames_apart_do_not_know_each_other():
    bridge = make_bridge(timing='contrast')
    x = torch.randn(1, 9, 3, 16)
    other = x.clone()
    other[0, 4] += 1
    for net, seen in ((bridge.timing_net, 1), (None, 9)):
        changed = []
        for y in (x, other):
            real = torch.ones(1, 9, dtype=torch.bool)
            low = bridge.tower.first_layer(bridge.tower.sound_inputs(y), real)
            changed.append(net.frames_apart(y) if net else low)
        moved = (changed[0] != changed[1]).any(2)
        assert int(moved.sum()) == seen


def test_a_bridge_is_timed():
    for timing in ('dtw', 'contrast'):
        bridge = make_bridge(timing=timing)
        off = time_sequences(bridge, 'valid', 4)
        assert all(len(v) == 4 and np.isfinite(v).all() for v in off.values())
        assert off['oracle'].max() <= 1000 * bridge.frame_hop / 2 + 1
        score = score_timing(off)['timing']
        names = {k for k, v in score.items() if isinstance(v, float)}
        assert names == score['chance'].keys() and score['pool'] == 4
        (shown,) = placed_sequences(bridge, 1)
        assert shown['scores'].shape[0] == len(shown['spans'])
        assert shown['net'] == dict(dtw='DS-Net', contrast='TimingNet')[timing]
    assert (
        score_timing(time_sequences(make_bridge(['rain', 'falls']), 'valid', 4)) == {}
    )


def test_each_way_of_timing_has_its_figure(tmp_path):
    lab, off = SimpleNamespace(root=tmp_path), '{ds_net: false}'
    both = (
        f'base: {{language: {off}}}, timed: {{}}, paper: {{language: {{timing: dtw}}}}'
    )
    boards = {both: dict(alignment='timed', alignment_dtw='paper')}
    boards['paper: {language: {timing: dtw}}'] = dict(alignment_dtw='paper')
    boards['other: {}, ds_rf: {}'] = dict(alignment='ds_rf')
    boards[f'base: {{language: {off}}}'] = {}
    for variants, figures in boards.items():
        (tmp_path / 'params.yaml').write_text(f'variants: {{{variants}}}\n')
        assert placing_variants(lab) == figures


def test_gains_are_paired():
    hard = np.random.default_rng(0).uniform(0, 1000, 50)
    gain = gain_with_interval('gain', hard, hard + 20)
    assert np.allclose(list(gain.values()), 20)
    assert describe_gain(-30, -40, -20, 'x').startswith('30 ms further off than x')
    assert describe_gain(5, -4, 14, 'x').startswith('no nearer than x (+5 ms')
