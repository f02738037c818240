"Every number that a title, a table, a sentence of the report or the README states is the summary's."

import json
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from wavbrivl.app.layout import read_layout
from wavbrivl.core.config import find_root, list_runs, write_preset
from wavbrivl.core.files import read_json
from wavbrivl.pipeline.evaluation import PAIR_SUPERVISION, pair_supervision
from wavbrivl.pipeline.lab import Lab
from wavbrivl.pipeline.sources import add_wrong_pairs, carried_runs, name_rows
from wavbrivl.report.figures import runs_figure, tasks_figure, training_figure
from wavbrivl.report.papers import TABLE_METRICS
from wavbrivl.report.summary import (
    compare_runs,
    mark_carried,
    mean_and_spread,
    own_numbers,
    run_supervisions,
)
from wavbrivl.report.tables import to_markdown
from wavbrivl.report.timelines import alignment_story
from wavbrivl.review import claims
from wavbrivl.review.verification import read_clips

ROOT = find_root()
RESULTS = ROOT / 'results'
needs_results = pytest.mark.skipif(
    not (RESULTS / 'scores/clips.csv').exists(), reason='no results are committed here'
)


@pytest.fixture(scope='module')
def summary():
    "As the report reads it: rows of runs that the board of params.yaml has not are marked."
    found = read_json(RESULTS / 'summary.json')
    add_wrong_pairs(Lab(root=ROOT), found)
    boards = any('board' in entry for entry in found.values())
    return mark_carried(found, carried_runs(Lab(root=ROOT)) if boards else [])


@pytest.fixture(scope='module')
def clips():
    return read_clips((RESULTS / 'scores/clips.csv').read_text())


@pytest.fixture(scope='module')
def judged(summary, clips):
    return claims.judge_claims(summary, 'foley', clips)


def report_cells(kind):
    cells = read_json(RESULTS / 'reports/report.ipynb')['cells']
    return [c for c in cells if c['cell_type'] == kind]


def report_text():
    "What the report's cells printed and showed, as text."
    said = []
    for cell in report_cells('code'):
        for out in cell['outputs']:
            data = out.get('data', {})
            said += [*out.get('text', []), *data.get('text/markdown', [])]
    return ''.join(said)


@needs_results
def test_scores_of_clips_are_those_of_the_summary(summary, clips):
    assert len(clips) == 320
    for key in clips:
        if not key.endswith('/meteor'):  # of a corpus it is no mean over clips
            assert clips[key].mean() == pytest.approx(summary[key]['mean'], abs=6e-5), (
                key
            )
    probed = [k for k in own_numbers(summary) if k.endswith('/probe/accuracy')]
    without = {k.split('/')[1] for k in probed if k not in clips}
    assert without == {'log_mel', 'mfcc'}


@needs_results
def test_the_table_of_claims_is_computed(judged):
    table = to_markdown(claims.claims_table(judged))
    assert table == (RESULTS / 'tables/claims.md').read_text()
    assert table in report_text()


@needs_results
def test_another_number_changes_the_table(summary, clips):
    changed = json.loads(json.dumps(summary))
    changed['foley/bgtai/detection/f1']['mean'] = 0.9
    rows = claims.judge_claims(changed, 'foley', clips)
    assert (
        to_markdown(claims.claims_table(rows))
        != (RESULTS / 'tables/claims.md').read_text()
    )


@needs_results
def test_sentences_of_the_report_are_computed(judged):
    said = report_text()
    controls = ('random_drop', 'random_drop_50')
    own = claims.describe_pair(judged), claims.count_verdicts(judged)
    assert all(own)
    for sentence in (*own, *(claims.describe_control(judged, c) for c in controls)):
        assert sentence in said, 'one that is empty is left out'
    assert said.index('Gloss (BGTAI)') < said.index('| paper |')


def titles(summary, clips):
    "The title of every figure that states numbers of the summary, made anew."
    rows = name_rows(summary)
    given = summary, 'foley'
    history = [
        RESULTS / f'history/{run}.csv' for run in ('wavbrivl', 'wav2clip', 'level')
    ]
    figures = dict(
        zero_shot=runs_figure(*given, 'zero_shot', 'top1', clips=clips),
        probe=runs_figure(*given, 'probe', 'accuracy', clips=clips),
        table2=tasks_figure(summary, TABLE_METRICS['BGTAI', 2], rows, clips=clips),
        training=training_figure(pd.concat(map(pd.read_csv, history))),
    )
    found = {name: fig.get_suptitle() for name, fig in figures.items()}
    return found | dict(alignment=alignment_story(*given, 'bgtai'))


@needs_results
def test_titles_of_the_figures_are_computed(summary, clips):
    for name, title in titles(summary, clips).items():
        written = Image.open(RESULTS / f'figures/{name}.png').text['Title']
        assert written == title.replace('\n', ' '), name


def test_no_number_is_typed_into_the_report():
    book = read_json(ROOT / 'nbs/stages/report.ipynb')
    for cell in book['cells']:
        text = ''.join(cell['source'])
        assert not re.search(r'(?<!\d)0?\.\d{2,}', text), text


@needs_results
def test_numbers_of_the_readme_are_the_summarys(summary):
    known = {0.0}
    for entry in summary.values():
        known |= {round(entry[k], 3) for k in ('mean', 'chance') if k in entry}
    text = (ROOT / 'README.md').read_text()
    stated = [float(n) for n in re.findall(r'(?<![\d.])\.\d{3}\b', text)]
    assert len(stated) > 20
    assert [n for n in stated if n not in known] == []


@pytest.fixture(scope='module')
def full_board(tmp_path_factory):
    "A lab with every variant."
    root = tmp_path_factory.mktemp('full')
    (root / 'params.yaml').write_bytes(read_layout()['params.yaml'])
    write_preset(ROOT / 'presets/full.yaml', root)
    return root


@pytest.mark.parametrize(
    'run, kind',
    [
        ('wavbrivl', 'pictures'),
        ('unibrivl', 'captions'),
        ('base', 'gloss'),
        ('result_filter', 'gloss'),
        ('ds_net', 'contrast'),
        ('bgtai', 'contrast'),
        ('random_drop', 'contrast'),
    ],
)
def test_a_run_says_what_it_was_taught_with(full_board, run, kind):
    tower = 'audio' if run in list_runs(full_board) else 'bridge'
    assert pair_supervision(Lab(run, full_board), tower) == PAIR_SUPERVISION[kind]


@needs_results
def test_no_sound_was_paired_with_words_only_where_it_is_true(summary):
    glossed = {k.split('/')[1] for k in summary if '/audio_to_gloss/' in k}
    for run, said in run_supervisions(summary).items():
        if 'no sound was paired with words' in said:
            assert run not in glossed
    assert len(glossed) > 3


@pytest.mark.parametrize(
    'low, high, rule, verdict',
    [
        (0.1, 0.2, 'beats', claims.REPRODUCED),
        (-0.1, 0.2, 'beats', claims.LEVEL),
        (-0.2, -0.1, 'beats', claims.LOST),
        (-0.1, 0.1, 'level', claims.LEVEL),
        (0.1, 0.2, 'level', claims.LOST),
        (0.0, 0.2, 'above chance', claims.LEVEL),
        (0.1, 0.2, 'rises', claims.REPRODUCED),
    ],
)
def test_the_rule_gives_the_verdict(low, high, rule, verdict):
    found = dict(difference=(low + high) / 2, low=low, high=high)
    assert claims.give_verdict(rule, found) == verdict


@pytest.mark.parametrize('difference', [-0.3, 0.3])
@pytest.mark.parametrize('rule', ['beats', 'level', 'above chance', 'rises'])
def test_without_an_interval_nothing_is_decided(rule, difference):
    found = dict(difference=difference)
    assert claims.give_verdict(rule, found) == claims.UNDECIDED


def test_seeds_widen_the_interval_over_clips():
    "Ten thousand clips say nothing of another seed."
    keys = [f'toy/{run}/zero_shot/top1' for run in 'abc']
    values = [[0.62, 0.58], [0.57, 0.61], [0.5, 0.6]]
    small = {k: mean_and_spread(v, 2) for k, v in zip(keys, values)}
    right = np.random.default_rng(0).random((10000, 2)) < (0.60, 0.57)
    scores = pd.DataFrame(right.astype(float), columns=keys[:2])
    both = compare_runs(small, *keys[:2], scores)
    one = {k: {'mean': small[k]['mean'], 'n': 1} for k in keys[:2]}
    alone = compare_runs(one, *keys[:2], scores)
    assert alone['basis'] == 'clips' and both['basis'] == 'clips and seeds'
    assert both['high'] - both['low'] > 3 * (alone['high'] - alone['low'])


def test_plain_features_are_compared_over_the_clips_alone():
    "The spread between seeds of towers says nothing of features without a seed."
    small = {
        f'toy/{run}/probe/accuracy': mean_and_spread(values, len(values))
        for run, values in dict(
            a=[0.95, 0.75], b=[0.9], mfcc=[0.8], log_mel=[0.6]
        ).items()
    }
    a, b, mfcc, log_mel = small
    clips = pd.DataFrame({'toy/a/zero_shot/top1': np.ones(320)})
    plain = compare_runs(small, mfcc, log_mel, clips)
    assert plain['basis'] == 'counts' and 0.1 < plain['low'] < 0.2 < plain['high']
    towers = compare_runs(small, a, b, clips)
    assert towers['basis'] == 'counts and seeds' and towers['low'] < -1 < towers['high']
    assert compare_runs(small, mfcc, log_mel)['basis'] == 'none', 'no clips to count'


def test_an_interval_over_seeds_holds_the_clips_too():
    key = 'toy/a/text_to_audio/r1'
    small = {key: mean_and_spread([0.1, 0.1001], 2, chance=0.003)}
    clips = pd.DataFrame({'toy/a/zero_shot/top1': np.ones(320)})
    found = claims.beyond_chance(small, key, clips)
    assert found['basis'] == 'counts and seeds'
    assert 0.05 < found['high'] - found['low'] < 0.08
    assert claims.beyond_chance(small, key)['basis'] == 'seeds'


def test_a_finding_without_the_spread_of_training_says_so():
    found = dict(first=0.8, second=0.7, low=0.02, high=0.18, basis='counts')
    assert claims.outcome_words(found) == 'better, over counts alone'
    assert claims.outcome_words(found | dict(basis='clips and seeds')) == 'better'
    assert claims.outcome_words(found | dict(low=-0.02)) == claims.LEVEL


def test_a_pair_is_counted_in_both_directions():
    "A number in which only the other run is claimed to be better counts as well."
    found = dict(first=0.8, second=0.7, difference=0.1, low=0.02, high=0.18)
    found |= dict(basis='clips and seeds', seeds=(2, 1))
    rows = [
        dict(number='zero-shot', key='a/zero_shot/top1', second='b', found=found),
        dict(number='probe', key='b/probe/accuracy', second='a', found=found),
        dict(number='none', claim='of a run that is not there'),
    ]
    said = claims.describe_pair(rows, 'a', 'b', ('A', 'B'))
    assert said.startswith('A, 1 to 2 seeds, beats B, 1 to 2 seeds, here in 1 of 2')
    assert 'probe 0.700 beside 0.800 (worse)' in said
    both = claims.describe_control(rows, 'b'), claims.describe_control(rows, 'a')
    assert both[0] == 'zero-shot, 1 to 2 seeds each: b 0.700; a 0.800 (better).'
    assert both[1] == 'probe, 1 to 2 seeds each: a 0.700; b 0.800 (better).'


@needs_results
def test_the_notes_explain_every_basis_in_the_table(summary, clips):
    rows = claims.judge_claims(summary, 'foley', clips)
    notes = ' '.join(claims.claims_table(rows).attrs['notes']).lower()
    printed = {r['found']['basis'] for r in rows if 'found' in r} - {'none'}
    for basis in printed:  # none: 'no interval: one seed'
        assert all(word in notes for word in re.findall('[a-z]{4,}', basis)), basis


def test_an_empty_board_tests_nothing():
    rows = claims.judge_claims({}, 'foley')
    assert {r['verdict'] for r in rows} == {claims.UNTESTED, claims.ELSEWHERE}
    assert claims.describe_pair(rows) == '' and claims.describe_control(rows, 'x') == ''
    assert len(claims.claims_table(rows)) == len(rows)
