"""The Makefile in a folder of any name: nothing is written outside, and every command is found.

An environment takes minutes and gigabytes; here a small script stands in for Python and notes how it is called.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from house import ROOT

NAMES = ('a b [c] "d" $e', "it's (new) #1 100%", 'plain')
# stands in for Python: `-m venv DIR` makes DIR with this script in it; each call is a line of the log
STUB = """#!/bin/sh
echo "$0|$PYTHONPATH|$*" >> "$LOG"
if [ "$1 $2" = "-m venv" ]; then
  mkdir -p "$3/bin" && cp "$0" "$3/bin/python"
fi
"""


@pytest.fixture(params=NAMES)
def checkout(request, tmp_path, monkeypatch):
    "What `make` reads, in a folder with an unusual name."
    folder = tmp_path / 'around' / request.param
    folder.mkdir(parents=True)
    for name in ('Makefile', 'constraints.txt', 'pyproject.toml'):
        shutil.copy(ROOT / name, folder)
    stub = tmp_path / 'python'
    stub.write_text(STUB)
    stub.chmod(0o755)
    monkeypatch.setenv('LOG', str(tmp_path / 'log'))
    monkeypatch.delenv('VENV', raising=False)
    return folder


def make(folder, *words):
    "Run make; return the calls of Python: program, PYTHONPATH, arguments."
    log = folder.parents[1] / 'log'
    log.write_text('')
    command = ['make', '-s', f'PYTHON={folder.parents[1]}/python', *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [line.split('|') for line in log.read_text().splitlines()]


def test_setup_stays_inside(checkout):
    calls = make(checkout, 'setup')
    assert calls[0][2] == '-m venv .venv'
    assert calls[1][0] == '.venv/bin/python' and calls[1][2].startswith('-m pip')
    assert (checkout / '.venv/.ready').exists()
    assert os.listdir(checkout.parent) == [checkout.name], 'nothing beside it'
    assert make(checkout, 'setup') == [], 'it is not done twice'


def test_targets_find_their_programs(checkout):
    make(checkout, 'setup')
    for target, said in dict(
        test=[
            '.venv/bin/nbdev_test --n_workers 2',
            '-m pytest -q -n 2 --dist loadfile --no-loadscope-reorder',
        ],
        repro=['.venv/bin/wavbrivl repro', '.venv/bin/wavbrivl verify'],
        verify=['.venv/bin/wavbrivl verify'],
        export=['.venv/bin/nbdev_export', '.venv/bin/nbdev_clean'],
        map=['tests/house.py --write'],
        lab=['-m jupyterlab nbs'],
    ).items():
        calls = make(checkout, target)
        found = [words.removeprefix(f'{checkout}/').strip() for _, _, words in calls]
        assert found == said
        assert {path for _, path, _ in calls} == {str(checkout)}


def test_one_stage_and_a_number_of_stages_at_once(checkout):
    make(checkout, 'setup')
    for given, said in (
        ('STAGE=--force datasets', '.venv/bin/wavbrivl repro --force datasets'),
        ('JOBS=3', '.venv/bin/wavbrivl repro --jobs 3'),
    ):
        words = make(checkout, 'repro', given)[0][2]
        words = ' '.join(words.removeprefix(f'{checkout}/').split())
        assert words == said


def test_an_environment_elsewhere(checkout):
    elsewhere = checkout.parents[1] / 'venv'
    make(checkout, 'setup', f'VENV={elsewhere}')
    assert (elsewhere / '.ready').exists() and not (checkout / '.venv').exists()
    (call, _) = make(checkout, 'test', f'VENV={elsewhere}')
    assert call[1:] == [str(checkout), f'{elsewhere}/bin/nbdev_test --n_workers 2']


def test_the_site_has_an_environment_of_its_own(checkout):
    calls = make(checkout, 'docs')
    programs = {Path(program).parent.name for program, *_ in calls[1:]}
    assert calls[0][2] == '-m venv .venv-docs' and programs == {'bin'}
    assert calls[-2][2] == 'nbs/site/pages.py' and ' -W ' in calls[-1][2]
    assert (checkout / '.venv-docs/.ready').exists() and not (
        checkout / '.venv'
    ).exists()
    assert len(make(checkout, 'docs')) == 2, 'it is not set up twice'


def test_smoke_stays_inside(checkout):
    make(checkout, 'setup')
    git = ['git', '-c', 'user.name=x', '-c', 'user.email=x@x']
    for words in (['init', '-q'], ['add', 'Makefile'], ['commit', '-qm', 'x']):
        subprocess.run([*git, *words], cwd=checkout, check=True, capture_output=True)
    calls = make(checkout, 'smoke')
    copy = checkout / 'build/smoke'
    assert (copy / 'Makefile').exists()
    assert [path for _, path, _ in calls[1:]] == [str(copy)] * 4
    assert os.listdir(checkout.parent) == [checkout.name]


def test_a_failed_setup_is_tried_again(checkout):
    stub = checkout.parents[1] / 'python'
    stub.write_text(STUB + '[ "$2" != pip ]\n')
    command = ['make', '-s', 'setup', f'PYTHON={stub}']
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    assert done.returncode and not (checkout / '.venv/.ready').exists()
    assert ('VENV=/another/place' in done.stderr) == ('$' in checkout.name)
