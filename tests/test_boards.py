"Every row says which board made it; a row that another board left is marked, kept, and never paired with a stranger."

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from wavbrivl.app.layout import read_layout
from wavbrivl.core.config import (
    find_root,
    list_experiments,
    read_config_layers,
    read_preset,
    write_preset,
)
from wavbrivl.core.files import BadInput, read_json, read_yaml, write_json
from wavbrivl.pipeline import lab as labs
from wavbrivl.pipeline.lab import Lab, name_board, store_metrics
from wavbrivl.pipeline.sources import carried_makings, pair_selection, table4_rows
from wavbrivl.pipeline.sources import read_variant_histories
from wavbrivl.report.summary import (
    MARK,
    collect_metrics,
    compare_runs,
    list_carried,
    mark_carried,
    mean_and_spread,
)
from wavbrivl.report.tables import (
    compare_with_paper,
    retrieval_table,
    selection_table,
    to_markdown,
)
from wavbrivl.review import verification
from wavbrivl.review.clip_scores import carried_scores
from wavbrivl.review.verification import compare_summaries, explain_differences

ROOT = find_root()


SHIPPED = read_layout()['params.yaml'].decode()
NEEDED = ('ablations', 'full', 'smoke')  # presets


@pytest.fixture(scope='module', autouse=True)
def shipped():
    "The params.yaml as it lies here, committed or not."
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labs, 'shipped_params', lambda root: SHIPPED)
        yield


def lay_out(root):
    "A lab with the presets that a test needs."
    (root / 'params.yaml').write_text(SHIPPED)
    (root / 'presets').mkdir()
    for name in NEEDED:
        shutil.copy(ROOT / f'presets/{name}.yaml', root / 'presets')
    return root


@pytest.fixture
def root(tmp_path):
    return lay_out(tmp_path)


FEW = """
runs: {wavbrivl: {}}
variants: {base: {language: {select: {by: none}}}, ds_rf: {}}
encoders: {wavlm: build/wavlm}
"""  # a params.yaml that is read at once


def edit(root, old, new):
    text = (root / 'params.yaml').read_text()
    assert old in text
    (root / 'params.yaml').write_text(text.replace(old, new))


# ---------------------------------------------------------------- presets that add


def test_ablations_add_and_full_adds_to_them(root):
    board = list_experiments(read_config_layers(root))
    more = list_experiments(read_config_layers(root, 'ablations'))
    whole = read_config_layers(root, 'full')
    assert set(board) < set(more) < set(list_experiments(whole))
    assert {k: more[k] for k in board} == board, 'nothing of the board is changed'
    for group in ('runs', 'variants', 'encoder_variants'):
        assert set(read_preset(root / 'presets/full.yaml')[group]) <= set(whole[group])
    seeds = whole['variants']['total']['language']
    assert seeds == dict(select=dict(by='none'), seeds=[0, 1, 2, 3, 4])
    queue = [whole['runs'][r]['train']['seeds'] for r in ('wavbrivl', 'infonce')]
    assert queue == [whole['runs']['moco_early']['train']['seeds']] * 2


def test_every_variant_of_the_default_board_has_two_seeds(root):
    for run in read_config_layers(root)['variants']:
        assert Lab(run, root).seeds == [0, 1]


def test_written_twice_a_preset_changes_nothing(root):
    write_preset('full', root)
    first = (root / 'params.yaml').read_text()
    write_preset('full', root)
    assert (root / 'params.yaml').read_text() == first
    assert not {'adds', 'presets'} & set(read_yaml(root / 'params.yaml'))


@pytest.mark.parametrize(
    'preset', sorted((ROOT / 'presets').glob('*.yaml')), ids=lambda p: p.stem
)
def test_a_written_preset_keeps_the_comments(root, preset):
    wanted, before = (
        read_config_layers(root, preset),
        (root / 'params.yaml').read_text(),
    )
    path = write_preset(preset, root)
    assert read_yaml(path) == wanted
    kept = path.read_text()
    assert kept.count('#') >= before.count('#') - 2
    same = set(before.splitlines()) & set(kept.splitlines())
    assert len(same) > len(before.splitlines()) / 3
    assert path.with_name('params.yaml.before').read_text() == before


def test_a_preset_that_holds_itself_is_refused(tmp_path):
    (tmp_path / 'a.yaml').write_text('presets: [b]')
    (tmp_path / 'b.yaml').write_text('presets: [a]')
    with pytest.raises(BadInput, match='holds itself'):
        read_preset(tmp_path / 'a.yaml')
    (tmp_path / 'a.yaml').write_text('presets: b')
    with pytest.raises(BadInput, match='must be a list'):
        read_preset(tmp_path / 'a.yaml')


# ---------------------------------------------------------------- the name of a board


def test_a_board_is_known_by_its_settings(root):
    assert name_board('wavbrivl', root) == 'default'
    write_preset('ablations', root)
    assert name_board('base', root, 'variant') == 'default'
    assert name_board('l2', root, 'variant') == 'ablations'
    write_preset('full', root)
    assert name_board('infonce', root) == 'full'
    assert name_board('wavbrivl', root) == 'default', 'more seeds, and no other setting'
    write_preset('smoke', root)
    assert name_board('wavbrivl', root) == 'smoke'


def test_a_changed_setting_is_named(root):
    edit(root, 'queue: 512', 'queue: 128')
    assert name_board('wavbrivl', root) == 'changed (train.queue)'
    edit(
        root,
        '  wavbrivl: {}\n  wav2clip',
        '  wavbrivl: {}\n  mine: {train: {loss: l2}}\n  wav2clip',
    )
    assert name_board('mine', root) == 'changed (train.loss, train.queue)'


def test_what_changes_no_number_changes_no_board(root):
    edit(root, 'device: auto', 'device: cpu')
    edit(root, 'esc50: null', 'esc50: sets/esc50')
    assert name_board('wavbrivl', root) == 'default'


def test_an_unfinished_preset_of_ones_own_is_passed_over(root):
    (root / 'presets/aaa.yaml').write_text('nonsense: 1')
    edit(root, 'queue: 512', 'queue: 128')
    assert name_board('wavbrivl', root) == 'changed (train.queue)'


def numbers(mean, n=2):
    values = [mean - 0.01, mean + 0.01][:n]
    return mean_and_spread(values, n, chance=0.05, pool=24, supervision='gloss: also')


def leave(root, run, mean, teacher='a'):
    "What a run's stage leaves: metrics, and a training curve."
    folder = root / 'build/brivl'
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'model.safetensors').write_text(teacher)
    tasks = dict(zero_shot=dict(top1=numbers(mean)))
    tasks |= dict(audio_to_image=dict(mrr=numbers(mean / 2)))
    tasks |= dict(selection=dict(auc=numbers(mean)))
    metrics = dict(corpus='foley', run=run, tasks=tasks)
    store_metrics(Lab(run, root), metrics, root / f'results/metrics/{run}/foley.json')
    history = pd.DataFrame(dict(run=run, seed=0, epoch=[1, 2], loss=1.0, top1=mean))
    place = root / f'results/history/{run}.csv'
    place.parent.mkdir(parents=True, exist_ok=True)
    history.to_csv(place, index=False)
    place = root / f'build/embeddings/{run}/seconds.csv'
    place.parent.mkdir(parents=True, exist_ok=True)
    history[['seed', 'epoch']].assign(seconds=1.0).to_csv(place, index=False)


@pytest.fixture(scope='module')
def small_board(tmp_path_factory):
    "The default board of a lab in which another board left the ablations; and how its summary reads."
    root = lay_out(tmp_path_factory.mktemp('board'))
    write_preset('ablations', root)
    leave(root, 'ds_net', 0.6)
    leave(root, 'sp_only', 0.5, teacher='b')
    (root / 'params.yaml').write_text(SHIPPED)
    shutil.rmtree(root / 'build/embeddings')
    for run, mean in dict(base=0.55, ds_rf=0.58, wavbrivl=0.7).items():
        leave(root, run, mean)
    (root / 'params.yaml').write_text(FEW)
    lab = Lab(root=root)
    carried = list_carried(lab.results, list_experiments(read_config_layers(root)))
    return lab, mark_carried(collect_metrics(lab.results), carried)


def test_every_number_says_its_board_and_its_teacher(small_board):
    lab, _ = small_board
    stored = read_json(lab.results / 'summary.json')
    boards = {k.split('/')[1]: e['board'] for k, e in stored.items()}
    assert boards.pop('ds_net') == boards.pop('sp_only') == 'ablations'
    assert set(boards.values()) == {'default'}
    made = read_json(lab.results / 'metrics/ds_net/foley.json')['made']
    assert (made['mismatch'], made['chooses']) == (0.25, 'ds_net')
    assert len(made['teacher']) == 12


def test_rows_of_another_board_are_kept_and_marked(small_board):
    lab, summary = small_board
    assert list(carried_makings(lab)) == ['ds_net', 'sp_only']
    assert set(table4_rows(lab)) == {'sp_only', 'ds_rf'}
    table = selection_table(summary, 'foley', pair_selection(lab))
    boards = table.set_index('variant').board
    assert boards['ds_net'] == 'ablations' + MARK and boards['base'] == 'default'
    rows = retrieval_table(summary, 'foley')
    beside = compare_with_paper(summary, 'BGTAI', 5)
    for found in (table, rows, beside):
        said = to_markdown(found)
        assert 'ablations †' in said and '- †: not a run of this board' in said
        assert said.count('default †') == 0
    curves = read_variant_histories(lab)
    timed = curves.groupby('run').seconds.count()
    assert timed['ds_net' + MARK] == 0 and timed['base'] == 2


def test_a_table_without_boards_has_no_column_of_them():
    summary = {'foley/a/audio_to_image/mrr': numbers(0.3)}
    assert 'board' not in retrieval_table(summary, 'foley')


def test_rows_of_two_teachers_get_no_interval(small_board):
    _, summary = small_board
    base, near, far = (
        f'foley/{run}/zero_shot/top1' for run in ('base', 'ds_net', 'sp_only')
    )
    clips = pd.DataFrame(np.eye(3)[[0, 1, 2] * 8], columns=[base, near, far])
    assert 'low' in compare_runs(summary, near, base, clips)
    found = compare_runs(summary, far, base, clips)
    assert 'low' not in found and found['basis'] == 'two teachers'


def test_scores_of_clips_are_kept_for_rows_that_are(small_board, tmp_path):
    _, summary = small_board
    own, left = 'foley/base/zero_shot/top1', 'foley/ds_net/zero_shot/top1'
    stale = 'foley/sp_only/zero_shot/top1'
    old = pd.DataFrame({own: 0.5, left: 0.6, stale: 0.9}, index=['x', 'y'])
    old.to_csv(tmp_path / 'clips.csv')
    now = pd.DataFrame({own: 0.55}, index=['x', 'y'])
    assert list(carried_scores(tmp_path / 'clips.csv', now, summary)) == [left]
    other = now.set_axis(['x', 'z'])
    assert carried_scores(tmp_path / 'clips.csv', other, summary).empty
    assert carried_scores(tmp_path / 'none.csv', now, summary).empty


def test_verify_compares_rows_of_one_board(small_board):
    lab, _ = small_board
    committed = read_json(lab.results / 'summary.json')
    fresh = {k: e | dict(mean=0.1) for k, e in committed.items()}
    for key in fresh:
        if '/base/' in key:
            fresh[key]['board'] = 'full'
    compared = compare_summaries(committed, fresh)
    assert not any('/base/' in k for k in compared.index)
    assert any('/ds_rf/' in k for k in compared.index)
    text = (lab.root / 'params.yaml').read_text()
    said = ' '.join(explain_differences(committed, fresh, text, text))
    assert 'of another board: base, here full (3)' in said


def test_dvc_keeps_the_results_of_runs_that_are_not_on_the_board(tmp_path):
    "The pipeline's way of writing in small: a stage for each run, and a report that reads them all."
    (tmp_path / '.dvc').mkdir()
    (tmp_path / '.dvc/config').write_text('[core]\n    no_scm = true\n')
    make = 'mkdir -p results/metrics/${key} && echo 1 > results/metrics/${key}/m.json'
    row = dict(cmd=make, outs=[{'results/metrics/${key}': dict(cache=False)}])
    report = dict(cmd='ls results/metrics > list', deps=['results/metrics'])
    report['outs'] = [dict(list=dict(cache=False))]
    stages = dict(row=dict(foreach='${runs}', do=row), report=report)
    (tmp_path / 'dvc.yaml').write_text(yaml.safe_dump(dict(stages=stages)))

    def repro(*runs):
        fields = dict(runs={run: {} for run in runs})
        (tmp_path / 'params.yaml').write_text(yaml.safe_dump(fields))
        call = ['python', '-m', 'dvc', 'repro', '-q']
        subprocess.run(call, cwd=tmp_path, check=True)
        return (tmp_path / 'list').read_text().split()

    assert repro('a', 'b') == ['a', 'b']
    assert repro('a') == ['a', 'b'], 'b is not on the board, and stays'


def test_the_report_keeps_the_scores_of_clips_that_it_does_not_write():
    stages = yaml.safe_load((Path(ROOT) / 'dvc.yaml').read_text())['stages']
    outs = {
        k: v
        for o in stages['report']['outs']
        if isinstance(o, dict)
        for k, v in o.items()
    }
    assert outs['results/scores/clips.csv']['persist']


def test_collected_metrics_without_a_making_have_no_board(tmp_path):
    metrics = dict(corpus='toy', run='a', tasks=dict(probe=dict(accuracy=numbers(0.5))))
    write_json(metrics, tmp_path / 'metrics/a/toy.json')
    assert 'board' not in collect_metrics(tmp_path)['toy/a/probe/accuracy']


def test_numbers_that_another_board_left_are_not_this_ones(tmp_path):
    "Results come with git: a trial's report and its verification leave alone what lies there of the default board."
    lay_out(tmp_path)
    kept = dict(board='default', **mean_and_spread([0.9, 0.9], 2))
    numbers = {
        'foley/wavbrivl/zero_shot/top1': kept,
        'foley/ds_rf/diffusion/r1': kept,
        'foley/gone/zero_shot/top1': kept,
        'foley@seed_2/wavbrivl/zero_shot/top1': kept | dict(replicate=True),
    }
    other = {'foley@seed_2/wavbrivl/zero_shot/top1'}
    assert labs.list_left(tmp_path, numbers) == set()
    assert labs.list_other_teachers(tmp_path, numbers) == other
    write_preset('smoke', tmp_path)
    fresh = numbers | {'foley/wavbrivl/zero_shot/top1': kept | dict(board='smoke')}
    assert labs.list_left(tmp_path, fresh) == {'foley/ds_rf/diffusion/r1'}
    kept_here = verification.drop_carried(tmp_path, fresh)
    assert set(kept_here) == {
        'foley/wavbrivl/zero_shot/top1',
        'foley/gone/zero_shot/top1',
    }
