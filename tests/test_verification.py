"`wavbrivl verify`: a fresh summary beside the committed one; a changed number is named."

import json
import subprocess

import pandas as pd
import pytest

from wavbrivl.app.cli import main
from wavbrivl.core.files import write_json
from wavbrivl.report.summary import mean_and_spread
from wavbrivl.review import verification


def entry(mean, n=2, **facts):
    values = [mean - 0.01, mean + 0.01] if n == 2 else [mean]
    return mean_and_spread(values, n, **facts)


BOARD = {
    'toy/a/zero_shot/top1': entry(0.7, pool=24),
    'toy/b/zero_shot/top1': entry(0.5, pool=24),
    'toy/a/diffusion/fid': entry(20.0, n=1, sounds=320),
    'toy/a/diffusion/r1': entry(0.5, n=1, sounds=320),
    'toy/a/study_gain_drawn_rate/rho': entry(0.2, n=1, low=0.1, high=0.3),
}


def git(folder, *words):
    names = '-c user.name=t -c user.email=t@t -c commit.gpgsign=false'.split()
    subprocess.run(['git', *names, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def lab(tmp_path, monkeypatch):
    "A repository with DVC and committed results."
    (tmp_path / '.dvc').mkdir()
    (tmp_path / '.dvc/config').write_text('[core]\n    analytics = false\n')
    (tmp_path / 'params.yaml').write_text('train: {seeds: [0, 1]}\n')
    write_json(BOARD, tmp_path / verification.SUMMARY)
    git(tmp_path, 'init', '-q')
    git(tmp_path, 'add', '.')
    git(tmp_path, 'commit', '-qm', 'results')
    (tmp_path / 'dvc.lock').write_text('stages: {report: {}}\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def change(lab, **means):
    "Write a summary in which numbers are changed; None: gone."
    board = dict(BOARD)
    for short, mean in means.items():
        key = next(k for k in BOARD if k.endswith(short.replace('__', '/')))
        board[key] = board[key] | dict(mean=mean)
        if mean is None:
            del board[key]
    write_json(board, lab / verification.SUMMARY)


def test_the_same_numbers_are_reproduced(lab, capsys):
    assert main(['verify']) == 0
    assert 'All 5 numbers are reproduced, 5 of them the same' in capsys.readouterr().out


@pytest.mark.parametrize('lock', [None, 'stages: {corpus: {}}'])
def test_results_that_only_lie_there_are_not_reproduced(lab, capsys, lock):
    (lab / 'dvc.lock').unlink()
    if lock:
        (lab / 'dvc.lock').write_text(lock)
    assert main(['verify']) == 2
    assert 'nothing was computed here' in capsys.readouterr().err
    change(lab, diffusion__r1=0.52)
    assert main(['verify']) == 0, 'made by hand, without DVC'


@pytest.mark.parametrize(
    'short, within, outside',
    [
        ('a__zero_shot__top1', 0.72, 0.6),
        ('diffusion__fid', 21.5, 23.0),
        ('diffusion__r1', 0.55, 0.3),
        ('rate__rho', 0.28, -0.2),
    ],
)
def test_a_changed_number_is_named(lab, capsys, short, within, outside):
    change(lab, **{short: within})
    assert main(['verify']) == 0
    assert 'NOT' not in capsys.readouterr().out
    change(lab, **{short: outside})
    assert main(['verify']) == 1
    said = capsys.readouterr().out
    line = next(s for s in said.splitlines() if 'NOT within' in s)
    assert short.replace('__', '/') in line and f'here {outside:.4g}' in line
    assert said.count('NOT within') == 1 and '1 of 5 numbers are not' in said


def test_one_in_twenty_misses_its_own_interval_by_chance(lab, capsys):
    change(lab, diffusion__r1=0.4)
    assert main(['verify']) == 0
    said = capsys.readouterr().out
    assert '1 of 5 numbers are near' in said and 'All 5 numbers are reproduced' in said
    assert verification.widening_for_all(1) == pytest.approx(1)
    assert 2 < verification.widening_for_all(720) < 2.1
    keys = [f'toy/r{i}/diffusion/fid' for i in range(100)]
    fids = [{k: entry(v, n=1) for k in keys} for v in (20.0, 23.0)]
    without = verification.compare_summaries(*fids)
    assert set(without.verdict) == {'outside'}, 'a tenth stays a tenth'


def test_as_json_and_every_number(lab, capsys):
    change(lab, a__zero_shot__top1=0.3)
    assert main(['verify', '--json']) == 1
    found = json.loads(capsys.readouterr().out)
    assert found['numbers']['toy/a/zero_shot/top1']['verdict'] == 'outside'
    assert main(['verify', '--all']) == 1
    assert capsys.readouterr().out.count(', the same') == 4


def test_clips_tell_more_than_two_seeds():
    clips = pd.DataFrame({'toy/a/zero_shot/top1': [1.0, 0.0] * 200})
    again = clips.copy()
    again.iloc[:40] = 0.0
    old, new = BOARD['toy/a/zero_shot/top1'], entry(0.65)
    summaries = [{'toy/a/zero_shot/top1': entry} for entry in (old, new)]
    found = verification.compare_summaries(*summaries, clips, again)
    assert found.basis.iloc[0] == 'clips and seeds'
    alone = verification.compare_summaries(*summaries)
    assert alone.basis.iloc[0] == 'seeds'
    assert found.allowed.iloc[0] < alone.allowed.iloc[0]


def test_another_board_is_said(lab, capsys):
    (lab / 'params.yaml').write_text('train: {seeds: [0]}\nruns: {mine: {}}\n')
    change(lab, b__zero_shot__top1=None)
    assert main(['verify']) == 0
    said = capsys.readouterr().out
    assert 'params.yaml differs from the committed one (train.seeds, runs)' in said
    assert 'not on this board: b (1)' in said


def test_what_cannot_be_compared_is_a_sentence(
    lab, tmp_path_factory, capsys, monkeypatch
):
    assert main(['verify', '--against', 'v9']) == 2
    assert 'git knows no such revision' in capsys.readouterr().err
    (lab / verification.SUMMARY).unlink()
    assert main(['verify']) == 2
    assert 'make repro' in capsys.readouterr().err
    bare = tmp_path_factory.mktemp('bare')
    (bare / 'params.yaml').write_text('train: {seeds: [0, 1]}\n')
    write_json(BOARD, bare / verification.SUMMARY)
    monkeypatch.chdir(bare)
    monkeypatch.setattr(
        verification, 'read_carried', {}.get
    )  # as in a clone: a wheel carries a release's numbers
    assert main(['verify']) == 2
    assert 'no git repository' in capsys.readouterr().err


def test_without_git_the_release_is_compared_with(lab, capsys, monkeypatch):
    carried = {verification.SUMMARY: json.dumps(BOARD)}
    monkeypatch.setattr(verification, 'read_carried', carried.get)
    monkeypatch.setattr(verification, 'read_committed', lambda *_: None)
    change(lab, a__zero_shot__top1=0.3)
    assert main(['verify']) == 1
    assert 'the installed release' in capsys.readouterr().out


def test_many_changed_numbers_are_named_in_order_and_counted(lab, capsys):
    board = {f'toy/r{i}/zero_shot/top1': entry(0.5) for i in range(30)}
    write_json(board, lab / verification.SUMMARY)
    git(lab, 'commit', '-qam', 'many')
    write_json({k: entry(0.8) for k in board}, lab / verification.SUMMARY)
    assert main(['verify']) == 1
    said = capsys.readouterr().out
    assert said.count('NOT within') == 20 and 'the 20 farthest are named above' in said
    assert main(['verify', '--all']) == 1
    assert capsys.readouterr().out.count('NOT within') == 30
