"A line under `teachers:`: what it may change, what it adds to an interval, what the report says of it."

import numpy as np
import pandas as pd
import pytest
import yaml

from wavbrivl.core.config import is_replicate, load_params, read_config_layers
from wavbrivl.core.files import BadInput, write_json
from wavbrivl.pipeline.lab import Lab, listed_as
from wavbrivl.report.summary import (
    collect_metrics,
    compare_runs,
    entries_by_teacher,
    mean_and_spread,
    own_numbers,
    teacher_spread,
)
from wavbrivl.review import claims, headlines, verification

BOARD = """
runs: {wavbrivl: {train: {loss: infonce, seeds: [3, 4]}}, supervised: {train: {loss: labels}}}
teachers:
  seed_1: {brivl: {seed: 1}}
  short: {brivl: {seed: 2}, train: {seeds: [0]}}
  small: {brivl: {cnn: test_resnet}, train: {temperature: 0.2}}
  clip: {teacher: {kind: transformers, checkpoint: there}}
"""


@pytest.fixture
def board(tmp_path):
    def write(text=BOARD):
        (tmp_path / 'params.yaml').write_text(text)
        return tmp_path

    return write


def test_a_teacher_is_laid_over_the_run_that_it_teaches(board):
    p = load_params('small', board())
    assert (p.train.loss, p.train.seeds) == ('infonce', [3, 4])
    assert (p.brivl.cnn, p.train.temperature) == ('test_resnet', 0.2)
    assert p.evaluate.tasks == ['zero_shot', 'probe', 'retrieval']
    assert 'detection' in load_params('wavbrivl', board()).evaluate.tasks


def test_only_another_seed_makes_a_replicate(board):
    config = read_config_layers(board())
    found = {name for name in config['teachers'] if is_replicate(config, name)}
    assert found == {'seed_1', 'short'}
    released = config | dict(teacher=dict(kind='conse', checkpoint='a + b'))
    assert not is_replicate(released, 'seed_1')


def test_a_teacher_has_folders_of_its_own(board):
    root = board()
    own, other = Lab('wavbrivl', root), Lab('seed_1', root)
    assert own.taught_by == root / 'build' and own.models == root / 'models/wavbrivl'
    assert other.taught_by == root / 'build/teachers/seed_1'
    assert other.models == root / 'models/teachers/seed_1'
    assert listed_as(own) == ('foley', 'wavbrivl')
    assert listed_as(other) == ('foley@seed_1', 'wavbrivl')


@pytest.mark.parametrize(
    'text, words',
    [
        ('{a: {corpus: {seed: 1}}}', ['teacher a may change', 'corpus', 'brivl']),
        ('{a/b: {brivl: {seed: 1}}}', ['a/b', 'rename']),
        ('{wavbrivl: {}}', ['wavbrivl', 'runs:', 'teachers:', 'rename']),
        ('[a]', ['teachers', 'map names']),
        ('{a: {brivl: {sed: 1}}}', ['brivl.sed', 'brivl.seed']),
        ('{a: {train: {loss: labels}}}', ['labels', 'report.reference']),
    ],
)
def test_a_mistake_is_said(board, text, words):
    root = board(f'runs: {{wavbrivl: {{}}}}\nteachers: {text}')
    with pytest.raises(BadInput) as said:
        load_params('a', root)
    assert all(w in str(said.value) for w in words)


def test_a_reference_that_is_no_run_is_said(board):
    root = board('runs: {x: {}}\nteachers: {a: {brivl: {seed: 1}}}')
    with pytest.raises(BadInput, match="'wavbrivl'; name a run: x"):
        load_params('a', root)
    assert load_params('x', root)


def test_no_pictures_are_asked_of_a_teacher(board):
    with pytest.raises(BadInput, match='small stands under pictures'):
        load_params(None, board(BOARD + 'pictures: {small: {}}'))


def metrics_files(results, values, number=('zero_shot', 'top1')):
    "Write metrics files: {(corpus, run): values}; those with @seed are replicates."
    task, metric = number
    for (corpus, run), pair in values.items():
        facts = dict(supervision='pictures: pairs', chance=0.04)
        if run == 'brivl':
            facts = dict(supervision='no sound: pairs', pictures=320)
        if '@seed' in corpus:
            facts['replicate'] = True
        tasks = {task: {metric: mean_and_spread(pair, len(pair), **facts)}}
        path = results / 'metrics' / f'{corpus}-{run}.json'
        write_json(dict(corpus=corpus, run=run, tasks=tasks), path)


@pytest.fixture
def summary(tmp_path):
    values = {
        ('foley', 'wavbrivl'): [0.71, 0.712],
        ('foley', 'wav2clip'): [0.67, 0.672],
        ('foley@seed_1', 'wavbrivl'): [0.66, 0.662],
        ('foley@seed_2', 'wavbrivl'): [0.75, 0.752],
        ('foley@clip', 'wavbrivl'): [0.9, 0.902],
        ('foley', 'brivl'): [0.70],
        ('foley@seed_1', 'brivl'): [0.60],
        ('foley@seed_2', 'brivl'): [0.80],
        ('foley@clip', 'brivl'): [0.95],
    }
    metrics_files(tmp_path, values)
    return collect_metrics(tmp_path, write=False)


KEY = 'foley/wavbrivl/zero_shot/top1'


def test_replicates_alone_tell_the_spread_between_teachers(summary):
    assert len(entries_by_teacher(summary, KEY)) == 3, 'clip is another teacher'
    spread, freedom, seeds = teacher_spread(summary, KEY)
    assert freedom == 2 and seeds == pytest.approx(2)
    assert spread == pytest.approx(np.std([0.711, 0.661, 0.751], ddof=1))
    assert teacher_spread(summary, 'foley/brivl/zero_shot/top1')[0] == pytest.approx(
        0.1
    )
    assert teacher_spread(own_numbers(summary), KEY) == (0.0, 0, 1)


def test_teachers_widen_a_comparison_and_its_claim(summary):
    pair = KEY, KEY.replace('wavbrivl', 'wav2clip')
    one = compare_runs(own_numbers(summary), *pair)
    three = compare_runs(summary, *pair)
    assert (one['basis'], three['basis']) == ('seeds', 'seeds and 3 teachers')
    assert three['high'] - three['low'] > 5 * (one['high'] - one['low'])
    notes = {
        len(s): claims.claims_table(claims.judge_claims(s, 'foley')).attrs['notes'][0]
        for s in (summary, own_numbers(summary))
    }
    assert 'Teachers: also' in notes[9] and 'There is one teacher' in notes[3]


def test_what_no_teacher_taught_has_no_spread_of_teachers(summary):
    for run, basis in dict(supervised='seeds', log_mel='none').items():
        key = f'foley/{run}/zero_shot/top1'
        more = summary | {key: mean_and_spread([0.5, 0.51], 2, supervision='labels')}
        found = claims.beyond_chance(more | {key: more[key] | dict(chance=0)}, key)
        assert found['basis'] == basis


def test_verify_allows_for_another_teacher(summary):
    fresh = {k: v | dict(mean=v['mean'] + 0.03) for k, v in summary.items()}
    own = own_numbers(summary)
    narrow = verification.compare_summaries(own, fresh).loc[KEY]
    wide = verification.compare_summaries(summary, fresh).loc[KEY]
    assert narrow.verdict == 'outside' and wide.verdict == 'within'
    assert wide.basis == 'seeds and 3 teachers'


def test_the_headline_says_what_stands_behind_it(summary):
    table = headlines.headline_table(summary, 'foley').set_index('run')
    row, other = table.loc['WavBriVL'], table.loc['Wav2CLIP']
    own = f'{summary[KEY]["mean"]:.3f} ['
    assert row['zero-shot'].startswith(own), 'as in every other table'
    assert other['zero-shot'].startswith('0.671 [')
    assert row['audio seeds'] == '2'
    alone = headlines.measure_under(summary, KEY)
    wide = headlines.measure_under(summary, KEY, others=True)
    assert wide['high'] - wide['low'] > alone['high'] - alone['low']


def test_every_teacher_has_a_row(summary, board):
    lab = Lab(root=board(BOARD.replace('short', 'seed_2')))
    table = headlines.teachers_table(lab, summary)
    rows = ['the board', 'clip', 'seed_1', 'seed_2', "mean over the teacher's seeds"]
    assert table.teacher.tolist() == rows
    assert table.changed[2] == 'brivl: {seed: 1}'
    assert table['pictures named'][2].startswith('0.600 [0.5')
    assert table.teachers.tolist() == [1, 1, 1, 1, 3]
    found = headlines.measure_teachers(summary, 'foley', 'wavbrivl')
    said = headlines.describe_teachers(found)
    assert said.startswith('Of 4 teachers clip names most pictures (0.950')
    assert said.endswith(
        'as high or higher in 4% of all orders: the better teacher teaches better hearing here.'
    )
    empty = headlines.teachers_table(lab, own_numbers(summary))
    assert not len(empty)


def test_clips_are_paired_over_all_teachers(summary):
    keys = list(entries_by_teacher(summary, KEY))
    rng = np.random.default_rng(0)
    right = rng.random((320, 3)) < [summary[k]['mean'] for k in keys]
    clips = pd.DataFrame(right.astype(float), columns=keys)
    found = headlines.measure_headline(summary, KEY, clips)
    alone = headlines.measure_headline(own_numbers(summary), KEY, clips)
    assert found['low'] < found['mean'] < found['high']
    assert found['high'] - found['low'] > alone['high'] - alone['low']


def test_the_smoke_board_has_another_teacher():
    from wavbrivl.core.config import find_root

    root = find_root()
    smoke = yaml.safe_load((root / 'presets/smoke.yaml').read_text())
    assert smoke['teachers'] and 'teachers' in (root / 'params.yaml').read_text()
