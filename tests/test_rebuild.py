"`wavbrivl repro`: stages side by side, each after those it needs; a failure and an interruption lose nothing."

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import yaml

from wavbrivl.app.cli import main
from wavbrivl.review import rebuild

NEEDS = dict(a=set(), b={'a'}, c={'a'}, d={'b'}, e={'b', 'c'})


def test_what_changed_and_all_after_it():
    assert rebuild.find_stale(NEEDS, set()) == {}
    assert rebuild.find_stale(NEEDS, {'e'}) == {'e': set()}
    assert rebuild.find_stale(NEEDS, {'c'}) == {'c': set(), 'e': {'c'}}
    assert rebuild.find_stale(NEEDS, {'a'}) == NEEDS
    assert rebuild.count_waiting(NEEDS) == dict(a=4, b=2, c=1, d=0, e=0)


@pytest.mark.parametrize('jobs', [1, 2, 3])
def test_each_after_what_it_needs_and_no_more_at_once(jobs):
    done, running, most, lock = [], set(), [0], threading.Lock()

    def run(stage):
        with lock:
            assert NEEDS[stage] <= set(done)
            running.add(stage)
            most[0] = max(most[0], len(running))
        time.sleep(0.05)
        with lock:
            running.discard(stage)
            done.append(stage)
        return 0

    assert rebuild.run_in_order(NEEDS, run, jobs) == []
    assert sorted(done) == sorted(NEEDS) and most[0] == min(jobs, 2)


def test_after_a_failure_none_begins():
    done = []

    def run(stage):
        time.sleep(dict(b=0.3).get(stage, 0))
        done.append(stage)
        return int(stage == 'c')

    assert rebuild.run_in_order(NEEDS, run, 2) == ['c']
    assert done == ['a', 'c', 'b'], 'b ran beside c and was waited for'


def test_the_machine_is_shared_out(monkeypatch):
    monkeypatch.setattr('wavbrivl.pipeline.launch.count_cores', lambda: 16)
    assert rebuild.share_machine() == (4, 4)
    assert rebuild.share_machine(3) == (3, 5)
    assert rebuild.share_machine(32) == (32, 1)
    assert rebuild.share_machine(device='cuda') == (1, 16)
    memory = lambda: type('memory', (), dict(total=9 * 2**30))
    monkeypatch.setattr('psutil.virtual_memory', memory)
    assert rebuild.share_machine() == (2, 8)


@pytest.mark.parametrize(
    'answers, status, calls',
    [
        ([(0, False)], 0, 1),
        ([(255, True), (255, True), (0, False)], 0, 3),
        ([(255, False)], 255, 1),
        ([(255, True)] * 9, 255, rebuild.TURNS),
    ],
)
def test_a_stage_waits_for_its_turn(monkeypatch, answers, status, calls):
    left = iter(answers)
    monkeypatch.setattr(rebuild, 'call_dvc', lambda *_: next(left))
    assert rebuild.run_stage('a', '.', 1, rebuild.Running()) == status
    assert len(list(left)) == len(answers) - calls


# ---------------------------------------------------------------- with DVC

STAGE = """
import os, sys, time
name, *needs = sys.argv[1:]
assert all(os.path.exists(n) for n in needs)
began = time.time()
time.sleep(1)
print('hello from', name, os.environ['OMP_NUM_THREADS'], flush=True)
if os.path.exists('broken-' + name):
    sys.exit(3)
open(name, 'w').write(f'{began} {time.time()}')
"""


def write_stages(folder):
    "Four stages: a, then b and c, then d; c depends on a file that a test may change."
    stages = {}
    for name, needs in dict(a=[], b=['a'], c=['a'], d=['b', 'c']).items():
        cmd = ' '.join([sys.executable, 'stage.py', name, *needs])
        more = ['setting'] if name == 'c' else []
        stages[name] = dict(cmd=cmd, deps=[*needs, *more], outs=[name])
    (folder / 'dvc.yaml').write_text(yaml.safe_dump(dict(stages=stages)))


@pytest.fixture
def lab(tmp_path, monkeypatch):
    (tmp_path / '.dvc').mkdir()
    config = '[core]\n    analytics = false\n    no_scm = true\n'
    (tmp_path / '.dvc/config').write_text(config)
    (tmp_path / 'params.yaml').write_text('corpus: {source: stage.py}\n')
    (tmp_path / 'stage.py').write_text(STAGE)
    (tmp_path / 'setting').write_text('1')
    write_stages(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    return tmp_path


def times(lab, name):
    return [float(x) for x in (lab / name).read_text().split()]


def test_stages_run_side_by_side_and_once(lab, capfd):
    assert main(['repro', '--jobs', '2']) == 0
    said = capfd.readouterr().out
    assert said.startswith('4 stages, 2 at once on ')
    assert 'b: hello from b ' in said and 'c: hello from c ' in said
    first, second = times(lab, 'b'), times(lab, 'c')
    assert max(first[0], second[0]) < min(first[1], second[1]), 'beside each other'
    assert times(lab, 'd')[0] > max(first[1], second[1])
    assert main(['repro']) == 0
    assert capfd.readouterr().out == 'Up to date: everything.\n'
    before = {name: times(lab, name) for name in 'abcd'}
    (lab / 'setting').write_text('2')
    assert main(['repro', '--jobs', '2']) == 0
    assert capfd.readouterr().out.startswith('2 stages, ')
    same = {name for name in 'abcd' if times(lab, name) == before[name]}
    assert same == {'a', 'b'}, 'only what is stale runs'


def test_a_failed_stage_is_named_and_the_rest_is_kept(lab, capfd):
    (lab / 'broken-c').touch()
    assert main(['repro', '--jobs', '2']) == 1
    said = capfd.readouterr().out
    assert 'Failed: c; its lines above begin with its name.' in said
    assert (lab / 'b').exists() and not (lab / 'd').exists()
    before = times(lab, 'b')
    (lab / 'broken-c').unlink()
    assert main(['repro', '--jobs', '2']) == 0
    assert times(lab, 'b') == before, 'what was done is kept'


def test_an_interrupted_run_goes_on(lab, capfd):
    program = 'import sys; from wavbrivl.app.cli import main; sys.exit(main())'
    command = [sys.executable, '-c', program, 'repro', '--jobs', '2']
    run = subprocess.Popen(command, start_new_session=True)
    while run.poll() is None and not (lab / 'dvc.lock').exists():
        time.sleep(0.1)
    os.killpg(run.pid, signal.SIGINT)
    assert run.wait(60) not in (0, None)
    before = times(lab, 'a')
    assert main(['repro', '--jobs', '2']) == 0
    assert times(lab, 'a') == before and (lab / 'd').exists()


def test_named_stages_and_what_they_need(lab, capfd):
    assert main(['repro', 'c']) == 0
    assert (lab / 'a').exists() and (lab / 'c').exists() and not (lab / 'b').exists()
    before = times(lab, 'a'), times(lab, 'c')
    assert main(['repro', 'c']) == 0 and times(lab, 'c') == before[1]
    assert main(['repro', '--force', 'c']) == 0
    assert times(lab, 'a') == before[0] and times(lab, 'c') != before[1]
    capfd.readouterr()
    assert main(['repro', 'x']) == 2
    assert 'x is no stage of dvc.yaml; there are a, b, c, d' in capfd.readouterr().err
    assert main(['repro', '--force']) == 2
    assert '--force needs the names of stages' in capfd.readouterr().err


def test_what_stopped_begins_nothing(monkeypatch):
    running = rebuild.Running()
    rebuild.stop_stages(running)
    asked = []
    monkeypatch.setattr(rebuild, 'call_dvc', lambda *_: asked.append(1) or (1, True))
    assert rebuild.run_stage('a', '.', 1, running) == 130 and not asked


def test_a_group_stands_for_its_stages():
    needs = {'a': set(), 'g@one': {'a'}, 'g@two': set(), 'z': {'g@one'}}
    named, chosen = rebuild.select_stages(needs, ['g'])
    assert named == {'g@one', 'g@two'} and set(chosen) == {'a', 'g@one', 'g@two'}


def test_every_line_is_read_before_anything_runs(lab, capfd):
    (lab / 'params.yaml').write_text(
        'runs: {good: {}, bad: {train: {los: infonce}}}\nreport: {reference: good}\n'
    )
    assert main(['repro']) == 2
    said = capfd.readouterr()
    assert 'los' in said.err and not (lab / 'a').exists()
    for text in ('runs: {my run: {}}', 'runs: {v1.0: {}}', 'encoders: {a/b: x}'):
        (lab / 'params.yaml').write_text(text + '\n')
        assert main(['repro']) == 2
        name = text.split('{')[1].split(':')[0]
        assert f'{name!r} in params.yaml' in capfd.readouterr().err
    assert not (lab / 'a').exists()
    (lab / 'params.yaml').write_text('corpus: {source: mine/pairs.csv}\n')
    assert main(['repro']) == 2
    assert 'corpus.source' in capfd.readouterr().err and not (lab / 'a').exists()


def test_a_lab_that_dvc_cannot_read_is_a_sentence(lab, capfd):
    (lab / 'dvc.yaml').write_text('stages: [1]\n')
    assert main(['repro']) == 2
    assert 'DVC cannot read' in capfd.readouterr().err
