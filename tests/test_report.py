"The report: one map, two papers never mixed with ours, figures that repeat byte for byte."

import io
import json

import numpy as np
import pandas as pd
import pytest

from wavbrivl.core.config import find_root
from wavbrivl.core.files import BadInput, read_json, write_json
from wavbrivl.core.plotting import encode_ogg, show_player, png_bytes, save_figure
from wavbrivl.report.summary import metrics_frame, mean_and_spread, collect_metrics
from wavbrivl.report.papers import (
    TABLE_METRICS,
    PRINTED_FAULTS,
    PRINTED_TABLES,
    read_printed_table,
    read_paper_file,
)
from wavbrivl.report.tables import (
    PICTURE_KINDS,
    bold_best,
    retrieval_table,
    save_table,
    compare_with_paper,
    to_markdown,
)
from wavbrivl.report.picture_tables import (
    pictures_table,
    compare_with_survey,
)
from wavbrivl.report.figures import runs_figure, training_figure
from wavbrivl.report.timelines import timeline_figure
from wavbrivl.report.space_figures import (
    confusion_figure,
    gallery_figure,
    similarity_figure,
    space_figure,
)
from wavbrivl.report.picture_figures import (
    edits_figure,
    describe_changes,
    pictures_figure,
    study_figure,
    classify_trend,
)
from wavbrivl.survey.answers import (
    RESPONSE_COLUMNS,
    PROXY_NAME,
    proxy_responses,
    survey_table,
)

rng = np.random.default_rng(0)


def metrics(corpus, run, **tasks):
    return dict(corpus=corpus, run=run, tasks=tasks)


@pytest.fixture
def results(tmp_path):
    for run, value in (('wavbrivl', 0.3), ('l2', 0.1)):
        write_json(
            metrics(
                'foley',
                run,
                audio_to_image=dict(
                    mrr=mean_and_spread(
                        [value, value + 0.02],
                        [0, 1],
                        chance=0.02,
                        pool=320,
                        supervision='pairs',
                    )
                ),
                zero_shot=dict(
                    top1=mean_and_spread(
                        [value], [0], chance=0.05, pool=20, templates='scene'
                    )
                ),
            ),
            tmp_path / 'metrics' / f'{run}.json',
        )
    return tmp_path


def test_spread():
    s = mean_and_spread([1.0, 2.0, 3.0], range(3), chance=0.1, pool=None)
    assert s == dict(mean=2.0, std=1.0, n=3, seeds=[0, 1, 2], chance=0.1)
    assert 'std' not in mean_and_spread([1.0], [5]) and mean_and_spread([1, 2], 2)[
        'seeds'
    ] == [0, 1]
    for wrong in (
        ([], []),
        ([1.0], [0, 1]),
        ([float('nan')], [0]),
        ([float('inf')], [0]),
    ):
        with pytest.raises(BadInput):
            mean_and_spread(*wrong)


def test_summary_is_flat_and_bad_files_stop_nothing(results, capsys):
    (results / 'metrics' / 'cut.json').write_text('{"corp')
    (results / 'metrics' / 'list.json').write_text('[]')
    (results / 'metrics' / 'bare.json').write_text(
        '{"corpus": "x", "run": "y", "tasks": {"t": {"m": 1}}}'
    )
    summary = collect_metrics(results)
    assert set(summary) == {
        f'foley/{r}/{m}'
        for r in ('wavbrivl', 'l2')
        for m in ('audio_to_image/mrr', 'zero_shot/top1')
    }
    assert read_json(results / 'summary.json') == summary
    said = capsys.readouterr().out
    assert (
        all(f in said for f in ('cut.json', 'list.json', 'bare.json'))
        and str(results) not in said
    )
    assert metrics_frame(summary).shape[0] == 4


def test_two_files_may_not_claim_one_number(results):
    write_json(
        json.loads((results / 'metrics' / 'l2.json').read_text()),
        results / 'metrics' / 'l2-again.json',
    )
    with pytest.raises(BadInput, match='both claim'):
        collect_metrics(results)


def test_nothing_there_is_an_empty_map(tmp_path):
    assert collect_metrics(tmp_path) == {}
    t = compare_with_paper({}, 'BGTAI', 2)
    assert list(t.index) == list(read_printed_table('BGTAI', 2).index) and t.attrs[
        'notes'
    ][1:] == [f'BGTAI, Table 2: {f}' for f in PRINTED_FAULTS['BGTAI', 2]]


@pytest.mark.parametrize('which', PRINTED_TABLES)
def test_printed_tables_are_whole(which):
    t = read_printed_table(*which)
    assert len(t) and t.index.is_unique and t.columns.is_unique
    assert not t.isna().any().any() and 'source' not in t
    sources = set(read_paper_file(PRINTED_TABLES[which])['source'])
    assert sources == {f'{which[0]}, Table {which[1]}'}


def test_every_fault_belongs_to_a_printed_table_and_names_its_source():
    assert set(PRINTED_FAULTS) <= set(PRINTED_TABLES)
    assert (read_paper_file('faults.csv') != '').all().all()


def test_printed_values():
    t = read_printed_table('WavBriVL', 2)
    assert t.loc['WavBriVL'].tolist() == [
        '0.9117',
        '0.8832',
        '0.4741',
        '0.3720',
        '0.0611',
        '0.0608',
    ]
    assert t.loc['Supervise'].tolist() == ['0.5200', '0.6179', '0.4331', '', '', '']
    b = read_printed_table('BGTAI', 2)
    assert b.loc['BGTAI'].tolist() == [
        '0.9455',
        '0.8911',
        '0.4748',
        '0.5130',
        '0.6932',
        '0.4351',
        '0.0622',
        '0.0745',
    ]
    assert b.loc['SOTA'].tolist() == [
        '0.959',
        '0.8949',
        '0.5671',
        '0.544',
        '0.687',
        '',
        '',
        '',
    ]
    assert (
        read_printed_table('BGTAI', 3).loc['WavBriVL', 'B4'] == '0.92'
        and read_printed_table('BGTAI', 4).loc['(F)', 'R@5'] == '81.22'
    )


def test_ours_and_theirs_never_share_a_column(results):
    summary = collect_metrics(results)
    for which in TABLE_METRICS:
        t = compare_with_paper(summary, *which)
        theirs = [c for c in t if 'as printed' in c[0]]
        assert (
            t[theirs].loc[read_printed_table(*which).index].to_numpy()
            == read_printed_table(*which).to_numpy()
        ).all()
        assert (t[theirs].drop(read_printed_table(*which).index) == '').all().all()
    t = compare_with_paper(summary, 'WavBriVL', 2)
    column = t['ours, foley', 'A→I MRR of 320']
    assert (
        column['WavBriVL'] == '0.310 ± 0.014'
        and column['l2'] == '0.110 ± 0.014'
        and column['chance'] == '0.020'
        and column['SOTA'] == ''
    )
    zero = t['ours, foley', 'zero-shot top-1 of 20 classes']
    assert zero['WavBriVL (ZS)'] == '0.300' and zero['WavBriVL'] == ''
    assert any('supervision pairs' in n for n in t.attrs['notes']) and any(
        'templates scene' in n for n in t.attrs['notes']
    )


def test_two_pools_are_two_columns(results):
    write_json(
        metrics(
            'foley',
            'big',
            audio_to_image=dict(
                mrr=mean_and_spread([0.01], [0], chance=0.001, pool=15000)
            ),
        ),
        results / 'metrics' / 'big.json',
    )
    t = compare_with_paper(collect_metrics(results), 'WavBriVL', 2)
    assert ('ours, foley', 'A→I MRR of 320') in t and (
        'ours, foley',
        'A→I MRR of 15,000',
    ) in t


def test_tables_are_saved_whole(results):
    t = compare_with_paper(collect_metrics(results), 'BGTAI', 4)
    save_table(t, results / 'tables' / 'bgtai-4')
    assert (results / 'tables' / 'bgtai-4.md').read_text() == to_markdown(t)
    back = pd.read_csv(
        results / 'tables' / 'bgtai-4.csv',
        index_col=0,
        comment='#',
        dtype=str,
        keep_default_na=False,
    )
    assert (back.to_numpy() == t.to_numpy()).all()
    lines = to_markdown(t).split('\n')
    assert len({l.count('|') for l in lines if l.startswith('|')}) == 1
    ranked = retrieval_table(collect_metrics(results), 'foley')
    text = to_markdown(ranked)
    assert text == to_markdown(ranked.reset_index())
    assert text.startswith('| task | run | taught with | seeds | MRR |')


def test_retrieval_table(results):
    t = retrieval_table(collect_metrics(results), 'foley')
    assert t.loc[('A→I of 320', 'chance'), 'MRR'] == '0.020'
    with pytest.raises(BadInput):
        retrieval_table(collect_metrics(results), 'esc50')


@pytest.fixture(scope='module')
def space():
    y = np.repeat(np.array(['dog', 'rain', 'crow']), 15)
    centres = dict(zip(('dog', 'rain', 'crow'), rng.standard_normal((3, 16))))
    see = lambda: np.stack(
        [centres[c] + 0.4 * rng.standard_normal(16) for c in y]
    ).astype('f')
    return see(), see(), y


def history(runs=('a', 'b'), **more):
    return pd.concat(
        [
            pd.DataFrame(
                dict(run=r, seed=s, epoch=[1, 2, 3], loss=[3.0, 2, 1.5], **more)
            )
            for r in runs
            for s in (0, 1)
        ]
    )


def dots(of=0, side=8):
    return np.random.default_rng(of).integers(0, 256, (side, side, 3), dtype=np.uint8)


def made_study(rho=0.5, drop=(), edit='gain'):
    values = [-12.0, 0.0, 12.0]
    rows = [
        dict(edit=edit, value=v, measure=m, mean=0.5 + v / 100, low=0.4, high=0.7, n=9)
        for m in ('drift', 'match', 'mrr', 'drawn_intensity', 'retrieved_intensity')
        for v in values
        if m not in drop
    ]
    rows += [
        dict(edit=edit, value=v, measure='clipped', mean=s, low=s, high=s, n=9)
        for v, s in zip(values, (0, 0, 0.25))
    ]
    return pd.DataFrame(rows), {
        f'{edit}/{m}': dict(mean=rho, low=rho - 0.1, high=rho + 0.1)
        for m in ('drawn_intensity', 'retrieved_intensity')
        if m not in drop
    }


def every_figure(results, space):
    a, v, y = space
    picture = np.full((8, 8, 3), 0.5)
    yield training_figure(
        history(score=[0.1, 0.2, 0.3], seconds=[1.0, 2, 3]), seconds=True
    )
    yield training_figure(history(['a']))
    yield similarity_figure(a, v, y)
    yield similarity_figure(a, v[:20], y, y[:20])
    yield similarity_figure(a[:3], v[:3], ['x', 'x', 'x'])
    yield space_figure(dict(sound=a, picture=v), dict(sound=y, picture=y))
    yield confusion_figure(y, np.zeros(45, int), ['crow', 'dog', 'rain'])
    yield confusion_figure([0, 1, 1], [0, 1, 1], ['a', 'b'])
    yield gallery_figure(
        [np.ones(4000, 'f'), np.zeros(900, 'f')],
        [picture] * 2,
        [[picture] * 3] * 2,
        ['dog', 'rain'],
        [['dog', 'rain', 'crow']] * 2,
    )
    yield runs_figure(collect_metrics(results), 'foley', 'audio_to_image', 'mrr')
    yield runs_figure(collect_metrics(results), 'foley', 'zero_shot', 'top1', ['l2'])
    yield pictures_figure(
        [
            dict(
                label='dog',
                clip=np.ones(4000, 'f'),
                pictures=dict(own=dots(), drawn=None),
            ),
            dict(label='rain', clip=np.ones(900, 'f'), pictures=dict(guided=dots(3))),
        ],
        'Two',
    )
    yield edits_figure(
        [
            dict(name='volume', steps=[('0 dB', dots()), ('12 dB*', dots(3))]),
            dict(name='pitch', steps=[('0', dots())]),
        ]
    )
    yield study_figure(dict(a=made_study(), b=made_study(drop=('match',))))


def test_figures_repeat_byte_for_byte_and_are_closed(results, space):
    import matplotlib.pyplot as plt

    for i, (one, two) in enumerate(
        zip(every_figure(results, space), every_figure(results, space))
    ):
        for fig, name in ((one, 'a'), (two, 'b')):
            save_figure(fig, results / 'figures' / f'{i}{name}.png')
        assert (results / 'figures' / f'{i}a.png').read_bytes() == (
            results / 'figures' / f'{i}b.png'
        ).read_bytes()
    assert not plt.get_fignums() and not list((results / 'figures').glob('.*'))


def test_titles_say_what_the_numbers_say(results, space):
    a, v, y = space
    assert (
        confusion_figure(
            ['dog', 'dog', 'rain', 'rain'],
            ['dog', 'dog', 'rain', 'dog'],
            ['dog', 'rain'],
        )
        .get_suptitle()
        .replace('\n', ' ')
        == '3 of 4 (75% [30%, 95%]) sounds are named right, chance 50%; rain is taken for dog in 1 of 2'
    )
    assert (
        runs_figure(collect_metrics(results), 'foley', 'audio_to_image', 'mrr')
        .get_suptitle()
        .replace('\n', ' ')
        == 'wavbrivl 0.310 ± 0.014 (2 seeds), above l2 (2 seeds) by 0.139 to 0.261'
    )
    assert (
        'best epoch: b 0.400 ± 0.000 (2 seeds), a 0.200'
        in training_figure(
            pd.concat(
                [
                    history('a', score=[0.1, 0.2, 0.2]),
                    history('b', score=[0.1, 0.4, 0.3]),
                ]
            )
        ).get_suptitle()
    )
    assert (
        '100%' in similarity_figure(a, a, y).get_suptitle()
        or '9' in similarity_figure(a, a, y).get_suptitle()
    )


def board(**runs):
    "A summary of zero-shot numbers of one seed each: run=(mean, supervision, share of wrong pairs)."
    found = {}
    for run, (mean, said, wrong) in runs.items():
        facts = dict(supervision=said, mismatch=wrong)
        found[f'toy/{run}/zero_shot/top1'] = mean_and_spread([mean], [0], **facts)
    return found


def test_a_title_compares_runs_of_one_setting_alone():
    told = board(a=(0.8, 'gloss', 0.1), b=(0.6, 'gloss', 0.25), c=(0.5, 'gloss', 0.25))
    fig = runs_figure(told, 'toy', 'zero_shot', 'top1')
    title = fig.get_suptitle().replace('\n', ' ')
    assert 'gloss, 10% wrong pairs: a 0.800 (1 seed);' in title
    assert 'gloss, 25% wrong pairs: b 0.600 (1 seed), 0.100 above c' in title
    labels = [t.get_text() for t in fig.axes[0].get_yticklabels()]
    assert labels[0] == 'a  (1 seed, 10% wrong pairs)'


def test_a_supervision_has_one_colour_in_every_figure():
    def colours(**runs):
        fig = runs_figure(board(**runs), 'toy', 'zero_shot', 'top1')
        handles, names = fig.legends[0].legend_handles, fig.legends[0].texts
        found = [tuple(np.ravel(h.get_color())) for h in handles]
        return dict(zip([t.get_text() for t in names], found))

    few = colours(a=(0.8, 'pictures', None), b=(0.7, 'gloss and contrast', None))
    more = colours(
        a=(0.8, 'pictures', None),
        c=(0.7, 'gloss', None),
        b=(0.7, 'gloss and contrast', None),
    )
    assert few.items() <= more.items() and len(set(more.values())) == 3


def test_whiskers_and_pools_are_named():
    told = board(a=(0.8, 'pictures', None))
    told['toy/a/zero_shot/top1']['pool'] = 24
    label = runs_figure(told, 'toy', 'zero_shot', 'top1').axes[0].get_xlabel()
    assert label.startswith('zero-shot top-1 of 24 classes, toy')
    assert 'standard deviation between seeds' in label


def test_figures_of_one_run_name_it(space):
    a, v, y = space
    beep, event = np.ones(1600, 'f'), [dict(label='dog', onset=0.0, offset=0.1)]
    planes = dict(sound=a, picture=v), dict(sound=y, picture=y)
    for fig in (
        similarity_figure(a, v, y, run='tower, seed 0'),
        space_figure(*planes, run='tower, seed 0'),
        timeline_figure([beep], [event], [event], run='tower, seed 0'),
        gallery_figure(
            [beep], [dots()], [[dots()]], ['dog'], [['dog']], run='tower, seed 0'
        ),
    ):
        assert fig.get_suptitle().startswith('tower, seed 0: ')


def test_a_gallery_says_how_the_whole_split_does():
    right = np.arange(320) < 283
    shown = [np.ones(1600, 'f')], [dots()], [[dots()]], ['dog'], [['dog']]
    title = gallery_figure(*shown, right).get_suptitle().replace('\n', ' ')
    assert title.endswith('of all test sounds 283 of 320 (88% [84%, 91%]) do first')


@pytest.mark.parametrize(
    'paper, table, percent', [('BGTAI', 5, True), ('BGTAI', 2, False)]
)
def test_a_table_says_where_the_paper_prints_percent(paper, table, percent):
    notes = compare_with_paper({}, paper, table).attrs['notes']
    assert any('in percent' in n for n in notes) == percent


def test_notes_explain_the_columns_that_there_are():
    summary = {'toy/a/diffusion/r1': mean_and_spread([0.3], [0])}
    notes = ' '.join(pictures_table(summary, 'toy').attrs['notes'])
    assert 'R@1' in notes and 'FID' not in notes and 'codebook' not in notes
    summary['toy/a/diffusion/fid'] = mean_and_spread([30.0], [0])
    assert 'FID' in ' '.join(pictures_table(summary, 'toy').attrs['notes'])


def test_figures_refuse(results, space):
    a, v, y = space
    for wrong in (
        lambda: training_figure(history().iloc[:0]),
        lambda: training_figure(pd.DataFrame(dict(run=['a']))),
        lambda: similarity_figure(a, v[:3], y),
        lambda: confusion_figure(y, y[:3], ['dog']),
        lambda: runs_figure({}, 'foley', 'x', 'y'),
        lambda: gallery_figure([], [], [], [], []),
    ):
        with pytest.raises(BadInput):
            wrong()


def labels_of(fig):
    return [ax.get_ylabel() for ax in fig.axes]


def test_pictures_keep_their_pixels_and_leave_blanks():
    tiny = np.array(
        [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], np.uint8
    )
    fig = pictures_figure(
        [
            dict(
                label='dog',
                clip=np.ones(4000, 'f'),
                pictures=dict(own=tiny, guided=None),
            ),
            dict(label='rain', clip=np.ones(4000, 'f'), pictures=dict(own=tiny)),
        ]
    )
    shown = [
        ax.images[0]
        for ax in fig.axes
        if ax.images and ax.images[0].get_array().shape == tiny.shape
    ]
    assert (
        len(fig.axes) == 6
        and len(shown) == 2
        and all(i.get_interpolation() == 'nearest' for i in shown)
    )
    assert (
        [ax.get_title(loc='center') for ax in fig.axes[1:3]] == ['own', 'guided']
        and not fig.axes[2].images
        and not fig.axes[5].images
    )


def test_a_page_of_pictures_is_small():
    y, x = np.mgrid[:64, :64] / 64
    scene = lambda i: (
        255
        * np.stack(
            [x * (i % 3) / 2, y, (x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.02 * (1 + i % 6)],
            -1,
        )
    ).astype(np.uint8)
    hum = lambda i: np.sin(np.arange(32000) * 0.05 * (i + 1)).astype('f')
    fig = pictures_figure(
        [
            dict(
                label=f'sound {i}',
                clip=hum(i),
                pictures={f'way {j}': scene(i + j) for j in range(6)},
            )
            for i in range(12)
        ]
    )
    assert len(png_bytes(fig)) < 120_000


def test_grid_marks_what_was_clipped():
    rows = [
        dict(name='volume', steps=[('0 dB', dots()), ('12 dB*', dots())]),
        dict(name='pitch', steps=[('-4', dots()), ('0', dots(1)), ('4', dots(2))]),
    ]
    fig = edits_figure(rows, describe_changes(rows))
    title = {ax.get_title(loc='center'): ax.title.get_color() for ax in fig.axes}
    assert (
        title['12 dB*'] == '#c00000'
        and title['0 dB'] != '#c00000'
        and len(fig.axes) == 6
    )
    assert fig.get_suptitle().replace('\n', ' ').startswith(
        'From the first picture of a row to its last, pixels change most along pitch'
    ) and 'least along volume (0)' in fig.get_suptitle().replace('\n', ' ')
    alone = [
        dict(name='volume', steps=[('0 dB', dots())]),
        dict(name='speed', steps=[('1', dots()), ('2', dots(side=16))]),
    ]
    assert (
        describe_changes(alone) == ''
        and not edits_figure(alone, describe_changes(alone)).get_suptitle()
    )


def test_study_leaves_out_what_is_missing():
    both = study_figure(dict(a=made_study(0.5), b=made_study(0.0)))
    assert labels_of(both) == [
        'cosine with the unchanged sound',
        'cosine with its own picture',
        'intensity of the picture drawn',
    ]
    said = both.get_suptitle().replace('\n', ' ')
    assert 'a rises, ρ 0.50 (0.40 to 0.60)' in said and 'b shows no relation' in said
    assert (
        'a: ρ 0.50 (0.40 to 0.60)'
        in [t.get_text() for t in both.axes[2].get_legend().get_texts()]
        and not both.axes[0].get_legend()
    )
    assert any('25.0%' in t.get_text() for t in both.axes[0].texts)
    other = study_figure(dict(a=made_study(0.5, drop=('match', 'drawn_intensity'))))
    assert labels_of(other) == [
        'cosine with the unchanged sound',
        'MRR of its own picture',
        'intensity of pictures retrieved',
    ]
    less = study_figure(
        dict(
            a=made_study(drop=('drawn_intensity', 'retrieved_intensity')),
            b=(pd.DataFrame(), {}),
        )
    )
    assert (
        len(less.axes) == 2
        and 'a 0.38 to 0.62' in less.get_suptitle()
        and less.axes[0].get_legend()
    )
    assert (
        study_figure(dict(a=made_study(edit='pitch')), edit='pitch')
        .axes[0]
        .get_xlabel()
        == 'pitch [semitones]'
    )
    unknown = study_figure(
        dict(
            a=(
                made_study()[0],
                {'gain/drawn_intensity': dict(mean=None, low=None, high=float('nan'))},
            ),
            b=made_study(-0.5),
        )
    )
    assert (
        unknown.get_suptitle()
        .replace('\n', ' ')
        .endswith('gain: b falls, ρ -0.50 (-0.60 to -0.40)')
        and unknown.axes[2].get_legend().get_texts()[0].get_text() == 'a'
    )
    for wrong in ({}, dict(a=(pd.DataFrame(), {})), dict(a=made_study(edit='pitch'))):
        with pytest.raises(BadInput, match="'gain'"):
            study_figure(wrong)


@pytest.mark.parametrize(
    'r, word',
    [
        (dict(mean=0.5, low=0.1, high=0.8), 'rises'),
        (dict(mean=-0.5, low=-0.8, high=-0.1), 'falls'),
        (dict(mean=0.5, low=-0.1, high=0.8), 'shows no relation'),
        (
            dict(mean=0.5, low=0.1, high=0.8, chance_low=-0.6, chance_high=0.6),
            'shows no relation',
        ),
        (dict(mean=0.7, low=0.1, high=0.8, chance_low=-0.6, chance_high=0.6), 'rises'),
    ],
)
def test_tendency(r, word):
    assert classify_trend(r) == word


def test_pictures_table():
    entry = lambda v, **facts: mean_and_spread(
        [v], [0], extractor='judge (tiny)', **facts
    )
    summary = {
        f'foley/{k}': v
        for k, v in {
            'real/real/r1': entry(0.9, chance=0.1, pool=10, sounds=320),
            'wavbrivl/prompts_ranked/score': entry(0.25, sounds=20),
            'wavbrivl/diffusion/r1': mean_and_spread(
                [0.3, 0.5], [0, 1], chance=0.1, pool=10, sounds=320
            ),
            'wavbrivl/diffusion/kid': entry(0.0123, sounds=320),
            'codec/reconstructed/usage': entry(0.5, sounds=320),
            'random/random/r5': entry(0.5, chance=0.5, pool=10, sounds=320),
            'level/diffusion/fid': entry(12.345, sounds=320),
            'wavbrivl/guided/is': entry(3.0, sounds=96),
            'wavbrivl/probe/accuracy': entry(0.8),
        }.items()
    } | {'other/wavbrivl/diffusion/r1': entry(0.99, chance=0.01)}
    t = pictures_table(summary, 'foley')
    columns = ['seeds', 'R@1', 'R@5', 'FID', 'KID', 'IS', 'codes used', 'cosine']
    assert list(t.columns) == columns
    assert list(t.index) == [
        (PICTURE_KINDS['random'], 'random'),
        (PICTURE_KINDS['guided'], 'wavbrivl'),
        ('diffusion', 'wavbrivl'),
        ('diffusion', 'level'),
        (PICTURE_KINDS['prompts_ranked'], 'wavbrivl'),
        (PICTURE_KINDS['reconstructed'], 'codec'),
        (PICTURE_KINDS['real'], 'real'),
        ('chance', ''),
    ]
    assert (
        t.loc[('diffusion', 'wavbrivl')].tolist()
        == ['1 to 2', '0.400 ± 0.141', '', '', '0.012', '', '', '']
        and t.loc[('diffusion', 'level'), 'FID'] == '12.35'
    )
    assert t.loc[('chance', '')].tolist() == ['', '0.100', '0.500', '', '', '', '', '']
    assert (
        t.attrs['notes'][0] == 'extractor: judge (tiny).'
        and '96 (guided by the image tower' in t.attrs['notes'][1]
        and '20 (from a sentence, best of several)' in t.attrs['notes'][1]
    )
    assert '**' not in to_markdown(t) and to_markdown(t).startswith(
        '| kind | run | seeds | R@1 |'
    )
    with pytest.raises(BadInput, match='esc50'):
        pictures_table(summary, 'esc50')
    bare = pictures_table(
        {'foley/wavbrivl/diffusion/score': mean_and_spread([0.3], [0])}, 'foley'
    )
    assert len(bare) == 1 and len(bare.attrs['notes']) == 1


def test_the_missing_table_stays_empty_until_there_is_ours():
    t = compare_with_paper({}, 'WavBriVL', 3)
    assert (
        list(t.index) == ['WavBriVL', 'S2I', 'Pedersoli et al.']
        and (t == '').all().all()
        and any('missing from the text' in n for n in t.attrs['notes'])
    )
    ours = compare_with_paper(
        {'vegas/wavbrivl/diffusion/fid': mean_and_spread([30.0], [0], pool=5)},
        'WavBriVL',
        3,
    )
    assert (
        ours.loc['WavBriVL', ('ours, vegas', 'diffusion FID of 5 classes')] == '30.000'
        and (ours.iloc[:, :3] == '').all().all()
    )


def test_smaller_kid_is_better():
    t = bold_best(
        pd.DataFrame({'KID': ['0.2', '-0.1'], 'R@1': ['0.2', '0.1']}, ['a', 'b'])
    )
    assert t.loc['b', 'KID'] == '**-0.1**' and t.loc['a', 'R@1'] == '**0.2**'


def answers(target, other, neither, repeats=1):
    said = ['target'] * target + ['other'] * other + ['neither'] * neither
    return pd.DataFrame(
        [
            dict(
                participant='p',
                trial=f't{r}-{i}',
                repeat=r + 1,
                item=i,
                label='dog',
                choice=c,
                seconds=1.0,
            )
            for r in range(repeats)
            for i, c in enumerate(said)
        ],
        columns=RESPONSE_COLUMNS,
    )


def test_survey_beside():
    nobody = compare_with_survey(None)
    assert (nobody['ours'] == '').all().all() and nobody.index.tolist() == [
        'AudioCLIP',
        'WavBriVL',
        PROXY_NAME,
    ]
    assert (
        nobody['WavBriVL, Table 4, as printed']
        .loc[['AudioCLIP', 'WavBriVL']]
        .to_numpy()
        == read_printed_table('WavBriVL', 4).to_numpy()
    ).all()
    assert nobody.attrs['notes'][0].startswith('No people were asked')
    assert (
        (compare_with_survey(survey_table(answers(0, 0, 0)))['ours'] == '').all().all()
    )
    people, proxy = (
        survey_table(answers(8, 1, 1, repeats=3)),
        survey_table(proxy_responses(['target'] * 6 + ['neither'] * 4, ['dog'] * 10)),
    )
    t = compare_with_survey(people, proxy)['ours']
    assert (
        t.loc['WavBriVL'].tolist()
        == ['80% [63, 90]', '10% [3, 26]', '10% [3, 26]', '30', '1']
        and (t.loc['AudioCLIP'] == '').all()
    )
    assert t.loc[PROXY_NAME].tolist() == [
        '60% [31, 83]',
        '0% [0, 28]',
        '40% [17, 69]',
        '10',
        '',
    ]
    notes = compare_with_survey(people, proxy).attrs['notes']
    assert (
        '80% / 10% / 10%' in notes[0]
        and '100% of the sounds' in notes[0]
        and any('Wilson' in n for n in notes)
    )
    assert (compare_with_survey(None, proxy)['ours'].loc['WavBriVL'] == '').all()
    with pytest.raises(BadInput, match='Wav2CLIP'):
        compare_with_survey(None, row='Wav2CLIP')


@pytest.mark.parametrize(
    'picture',
    [np.zeros((8, 8, 3)), np.zeros((3, 8, 8), np.uint8), np.zeros((8, 8), np.uint8)],
)
def test_pictures_are_bytes(picture):
    with pytest.raises(BadInput, match='dog, own'):
        pictures_figure(
            [dict(label='dog', clip=np.ones(900, 'f'), pictures=dict(own=picture))]
        )
    with pytest.raises(BadInput, match='volume, 0 dB'):
        edits_figure([dict(name='volume', steps=[('0 dB', picture)])])


def test_nothing_to_show_is_refused():
    for wrong in (
        lambda: pictures_figure([]),
        lambda: pictures_figure(
            [dict(label='dog', clip=np.ones(900, 'f'), pictures={})]
        ),
        lambda: edits_figure([]),
        lambda: edits_figure([dict(name='volume', steps=[])]),
    ):
        with pytest.raises(BadInput):
            wrong()


@pytest.mark.parametrize('n', [1, 500, 16000, 16000 * 12])
def test_players_are_small_and_repeat(n):
    import soundfile as sf

    x = 0.3 * np.sin(np.arange(n) * 0.1)
    packed = encode_ogg(x)
    back, rate = sf.read(io.BytesIO(packed))
    assert (
        packed == encode_ogg(x)
        and rate == 16000
        and len(back) == min(n, 160_000)
        and len(packed) < 8000 + n
    )
    html = show_player(x, label='<dog>').data
    assert 'audio/ogg' in html and '&lt;dog&gt;' in html


def test_every_name_of_the_glossary_exists():
    page = json.loads((find_root() / 'nbs/guides/glossary.ipynb').read_text('utf-8'))
    space = {}
    for cell in page['cells']:
        if cell['cell_type'] == 'code':
            exec(''.join(cell['source']), space)
    assert len(space['names']) > 60
