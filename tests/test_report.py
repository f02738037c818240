"The report: one map, two papers never mixed with ours, figures that repeat byte for byte."
import io
import json

import numpy as np
import pandas as pd
import pytest

from wavbrivl.core import BadInput, read_json, write_json
from wavbrivl.report import (BESIDE, FAULTS, PRINTED, confusion_figure, entries, gallery_figure, ogg_bytes, player, printed, retrieval_table, runs_figure,
                             save_figure, save_table, similarity_figure, space_figure, spread, summarise, table_beside, to_markdown, training_curves)

rng = np.random.default_rng(0)


def metrics(corpus, run, **tasks):
    return dict(corpus=corpus, run=run, tasks=tasks)


@pytest.fixture
def results(tmp_path):
    for run, value in (('wavbrivl', .3), ('l2', .1)):
        write_json(metrics('foley', run, audio_to_image=dict(mrr=spread([value, value + .02], [0, 1], chance=.02, pool=320, supervision='pairs')),
                           zero_shot=dict(top1=spread([value], [0], chance=.05, pool=20, templates='scene'))), tmp_path/'metrics'/f'{run}.json')
    return tmp_path


def test_spread():
    s = spread([1., 2., 3.], range(3), chance=.1, pool=None)
    assert s == dict(mean=2., std=1., n=3, seeds=[0, 1, 2], chance=.1)
    assert 'std' not in spread([1.], [5]) and spread([1, 2], 2)['seeds'] == [0, 1]
    for wrong in (([], []), ([1.], [0, 1]), ([float('nan')], [0]), ([float('inf')], [0])):
        with pytest.raises(BadInput): spread(*wrong)


def test_summary_is_flat_and_bad_files_stop_nothing(results, capsys):
    (results/'metrics'/'cut.json').write_text('{"corp')
    (results/'metrics'/'list.json').write_text('[]')
    (results/'metrics'/'bare.json').write_text('{"corpus": "x", "run": "y", "tasks": {"t": {"m": 1}}}')
    summary = summarise(results)
    assert set(summary) == {f'foley/{r}/{m}' for r in ('wavbrivl', 'l2') for m in ('audio_to_image/mrr', 'zero_shot/top1')}
    assert read_json(results/'summary.json') == summary
    said = capsys.readouterr().out
    assert all(f in said for f in ('cut.json', 'list.json', 'bare.json')) and str(results) not in said
    assert entries(summary).shape[0] == 4


def test_two_files_may_not_claim_one_number(results):
    write_json(json.loads((results/'metrics'/'l2.json').read_text()), results/'metrics'/'l2-again.json')
    with pytest.raises(BadInput, match='both claim'): summarise(results)


def test_nothing_there_is_an_empty_map(tmp_path):
    assert summarise(tmp_path) == {}
    t = table_beside({}, 'BGTAI', 2)
    assert list(t.index) == list(printed('BGTAI', 2).index) and t.attrs['notes'][1:] == [f'BGTAI, Table 2: {f}' for f in FAULTS['BGTAI', 2]]


@pytest.mark.parametrize('which', PRINTED)
def test_printed_tables_are_whole(which):
    t = printed(*which)
    width = {line.count(';') for line in PRINTED[which].split('\n')}
    assert len(width) == 1 and t.index.is_unique and t.columns.is_unique


def test_printed_values():
    t = printed('WavBriVL', 2)
    assert t.loc['WavBriVL'].tolist() == ['0.9117', '0.8832', '0.4741', '0.3720', '0.0611', '0.0608']
    assert t.loc['Supervise'].tolist() == ['0.5200', '0.6179', '0.4331', '', '', '']
    b = printed('BGTAI', 2)
    assert b.loc['BGTAI'].tolist() == ['0.9455', '0.8911', '0.4748', '0.5130', '0.6932', '0.4351', '0.0622', '0.0745']
    assert b.loc['SOTA'].tolist() == ['0.959', '0.8949', '0.5671', '0.544', '0.687', '', '', '']
    assert printed('BGTAI', 3).loc['WavBriVL', 'B4'] == '0.92' and printed('BGTAI', 4).loc['(F)', 'R@5'] == '81.22'


def test_ours_and_theirs_never_share_a_column(results):
    summary = summarise(results)
    for which in BESIDE:
        t = table_beside(summary, *which)
        theirs = [c for c in t if 'as printed' in c[0]]
        assert (t[theirs].loc[printed(*which).index].to_numpy() == printed(*which).to_numpy()).all()
        assert (t[theirs].drop(printed(*which).index) == '').all().all()
    t = table_beside(summary, 'WavBriVL', 2)
    column = t['ours, foley', 'A→I MRR of 320']
    assert column['WavBriVL'] == '0.310 ± 0.014' and column['l2'] == '0.110 ± 0.014' and column['luck'] == '0.020' and column['SOTA'] == ''
    zero = t['ours, foley', 'zero-shot top-1 of 20']
    assert zero['WavBriVL (ZS)'] == '0.300' and zero['WavBriVL'] == ''
    assert any('supervision pairs' in n for n in t.attrs['notes']) and any('templates scene' in n for n in t.attrs['notes'])


def test_two_pools_are_two_columns(results):
    write_json(metrics('foley', 'big', audio_to_image=dict(mrr=spread([.01], [0], chance=.001, pool=15000))), results/'metrics'/'big.json')
    t = table_beside(summarise(results), 'WavBriVL', 2)
    assert ('ours, foley', 'A→I MRR of 320') in t and ('ours, foley', 'A→I MRR of 15,000') in t


def test_tables_are_saved_whole(results):
    t = table_beside(summarise(results), 'BGTAI', 4)
    save_table(t, results/'tables'/'bgtai-4')
    assert (results/'tables'/'bgtai-4.md').read_text() == to_markdown(t)
    back = pd.read_csv(results/'tables'/'bgtai-4.csv', index_col=0, comment='#', dtype=str, keep_default_na=False)
    assert (back.to_numpy() == t.to_numpy()).all()
    lines = to_markdown(t).split('\n')
    assert len({l.count('|') for l in lines if l.startswith('|')}) == 1
    ranked = retrieval_table(summarise(results), 'foley')
    assert to_markdown(ranked) == to_markdown(ranked.reset_index()) and to_markdown(ranked).startswith('| task | run | MRR |')


def test_retrieval_table(results):
    t = retrieval_table(summarise(results), 'foley')
    assert t.loc[('A→I of 320', 'luck'), 'MRR'] == '0.020'
    with pytest.raises(BadInput): retrieval_table(summarise(results), 'esc50')


@pytest.fixture(scope='module')
def space():
    y = np.repeat(np.array(['dog', 'rain', 'crow']), 15)
    centres = dict(zip(('dog', 'rain', 'crow'), rng.standard_normal((3, 16))))
    see = lambda: np.stack([centres[c] + .4*rng.standard_normal(16) for c in y]).astype('f')
    return see(), see(), y


def history(runs=('a', 'b'), **more):
    return pd.concat([pd.DataFrame(dict(run=r, seed=s, epoch=[1, 2, 3], loss=[3., 2, 1.5], **more)) for r in runs for s in (0, 1)])


def every_figure(results, space):
    a, v, y = space
    picture = np.full((8, 8, 3), .5)
    yield training_curves(history(score=[.1, .2, .3], seconds=[1., 2, 3]), seconds=True)
    yield training_curves(history(['a']))
    yield similarity_figure(a, v, y)
    yield similarity_figure(a, v[:20], y, y[:20])
    yield similarity_figure(a[:3], v[:3], ['x', 'x', 'x'])
    yield space_figure(dict(sound=a, picture=v), dict(sound=y, picture=y))
    yield confusion_figure(y, np.zeros(45, int), ['crow', 'dog', 'rain'])
    yield confusion_figure([0, 1, 1], [0, 1, 1], ['a', 'b'])
    yield gallery_figure([np.ones(4000, 'f'), np.zeros(900, 'f')], [picture]*2, [[picture]*3]*2, ['dog', 'rain'], [['dog', 'rain', 'crow']]*2)
    yield runs_figure(summarise(results), 'foley', 'audio_to_image', 'mrr')
    yield runs_figure(summarise(results), 'foley', 'zero_shot', 'top1', ['l2'])


def test_figures_repeat_byte_for_byte_and_are_closed(results, space):
    import matplotlib.pyplot as plt
    for i, (one, two) in enumerate(zip(every_figure(results, space), every_figure(results, space))):
        for fig, name in ((one, 'a'), (two, 'b')): save_figure(fig, results/'figures'/f'{i}{name}.png')
        assert (results/'figures'/f'{i}a.png').read_bytes() == (results/'figures'/f'{i}b.png').read_bytes()
    assert not plt.get_fignums() and not list((results/'figures').glob('.*'))


def test_titles_say_what_the_numbers_say(results, space):
    a, v, y = space
    assert confusion_figure(['dog', 'dog', 'rain', 'rain'], ['dog', 'dog', 'rain', 'dog'], ['dog', 'rain']).get_suptitle().replace('\n', ' ') == '75% of 4 sounds are named right (luck 50%); rain is taken for dog 50% of the time'
    assert runs_figure(summarise(results), 'foley', 'audio_to_image', 'mrr').get_suptitle().replace('\n', ' ').startswith('wavbrivl is best, 0.310 ± 0.014 (15.5 times luck), clear of l2')
    assert 'b reaches a validation MRR of 0.400' in training_curves(pd.concat([history('a', score=[.1, .2, .2]), history('b', score=[.1, .4, .3])])).get_suptitle()
    assert '100%' in similarity_figure(a, a, y).get_suptitle() or '9' in similarity_figure(a, a, y).get_suptitle()


def test_figures_refuse(results, space):
    a, v, y = space
    for wrong in (lambda: training_curves(history().iloc[:0]), lambda: training_curves(pd.DataFrame(dict(run=['a']))), lambda: similarity_figure(a, v[:3], y),
                  lambda: confusion_figure(y, y[:3], ['dog']), lambda: runs_figure({}, 'foley', 'x', 'y'), lambda: gallery_figure([], [], [], [], [])):
        with pytest.raises(BadInput): wrong()


@pytest.mark.parametrize('n', [1, 500, 16000, 16000*12])
def test_players_are_small_and_repeat(n):
    import soundfile as sf
    x = .3*np.sin(np.arange(n)*.1)
    packed = ogg_bytes(x)
    back, rate = sf.read(io.BytesIO(packed))
    assert packed == ogg_bytes(x) and rate == 16000 and len(back) == min(n, 160_000) and len(packed) < 8000 + n
    html = player(x, label='<dog>').data
    assert 'audio/ogg' in html and '&lt;dog&gt;' in html
