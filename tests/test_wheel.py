"""The library without its clone: the wheel, the lab that `wavbrivl init` lays out from it, and what DVC reads there.

The wheel is built from a copy of what git keeps, without a network, and installed into a folder.
"""

import csv
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from house import ROOT, sources

from wavbrivl.app.cli import HEAD, main
from wavbrivl.app.layout import (
    CHANGED,
    MARK,
    BEFORE,
    lay_out_lab,
    CARRIED,
    read_layout,
    list_layout,
    make_quoted,
    missing_packages,
    set_up,
)
from wavbrivl.core.config import find_preset, find_root, load_params
from wavbrivl.core.files import BadInput

CALL = 'import sys; from wavbrivl.app.cli import main; sys.exit(main())'
# a license that is an expression is understood from here on
BUILDS = int(version('setuptools').split('.')[0]) >= 77


def outside(target, **more):
    "The environment of a user: the installed library, not the repository."
    quiet = dict(OMP_NUM_THREADS='1', PYTHONWARNINGS='ignore', HF_HUB_OFFLINE='1')
    return os.environ | quiet | dict(PYTHONPATH=str(target)) | more


def call(lab, target, *words):
    "Run `wavbrivl` of the installed library in a folder: status, output, errors."
    command = [sys.executable, '-c', CALL, *map(str, words)]
    done = subprocess.run(
        command, cwd=lab, env=outside(target), capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    "A copy of the repository's files, without what was built or trained."
    if not (ROOT / 'pyproject.toml').exists():
        pytest.skip('this is a lab; a wheel is built of the repository')
    copy = tmp_path_factory.mktemp('source') / 'wavbrivl'
    git = ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard']
    done = subprocess.run(git, cwd=ROOT, capture_output=True, text=True)
    for name in filter(None, done.stdout.split('\0')):
        carried = name in CARRIED or 'benchmarks' in name
        made = name.startswith('results/') and not carried
        if (ROOT / name).is_file() and not made:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    if not copy.exists():
        pytest.skip('this folder is no git repository')
    return copy


@pytest.fixture(scope='module')
def wheel(source, tmp_path_factory):
    if not BUILDS:
        pytest.skip('setuptools 77 or newer builds the wheel')
    out = tmp_path_factory.mktemp('wheel')
    pip = [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps']
    build = [*pip, '--no-build-isolation', '--no-index', '-w', str(out), str(source)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (found,) = out.glob('wavbrivl-*.whl')
    return found


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    "A folder with the library as the wheel installs it."
    target = tmp_path_factory.mktemp('installed')
    pip = [sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--no-compile']
    subprocess.run([*pip, '--no-index', '-t', str(target), str(wheel)], check=True)
    return target


@pytest.fixture(scope='module')
def lab(installed, tmp_path_factory):
    "A lab as `wavbrivl init` of the installed library lays it out."
    around = tmp_path_factory.mktemp('user')
    status, out, err = call(around, installed, 'init', 'lab')
    assert status == 0, err
    assert out.startswith('lab  ') and 'make repro' in out
    return around / 'lab'


# ---------------------------------------------------------------- the wheel


def test_the_wheel_has_every_file_once(wheel, source):
    names = zipfile.ZipFile(wheel).namelist()
    assert len(names) == len(set(names))
    with zipfile.ZipFile(wheel).open('wavbrivl/layout.zip') as packed:
        laid = zipfile.ZipFile(packed).namelist()
    wanted = list_layout(source, source / 'wavbrivl/app/layout.csv')
    assert laid == [*(p.as_posix() for p in wanted), *CARRIED]
    modules = {str(p.relative_to(source)) for p in source.glob('wavbrivl/**/*.py')}
    assert {n for n in names if n.endswith('.py')} == modules
    assert {'wavbrivl/app/lab/Makefile', 'wavbrivl/app/lab/README.md'} <= set(names)
    released = {
        str(p.relative_to(source))
        for p in source.glob('wavbrivl/released/**/*')
        if p.is_file()
    }
    assert len(released) > 8 and released <= set(names)
    assert wheel.stat().st_size < 28e6


def test_building_leaves_no_trace(wheel, source):
    assert not (source / 'build').exists() and not (source / 'dist').exists()


def test_git_keeps_no_second_copy():
    assert not (ROOT / 'wavbrivl/layout.zip').exists()


def test_the_installed_library_is_meant(installed, tmp_path):
    code = 'import wavbrivl; print(wavbrivl.__file__)'
    done = subprocess.run(
        [sys.executable, '-c', code],
        cwd=tmp_path,
        env=outside(installed),
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == str(installed / 'wavbrivl/__init__.py')
    status, out, _ = call(tmp_path, installed, '--version')
    assert status == 0 and len(out.splitlines()) == 1
    assert out.startswith('wavbrivl ') and 'Python 3' in out and 'torch ' in out


# ---------------------------------------------------------------- the lab


def test_the_lab_is_the_repositorys(lab, source):
    for name in list_layout(source, source / 'wavbrivl/app/layout.csv'):
        if str(name) not in CHANGED:
            assert (lab / name).read_bytes() == (source / name).read_bytes(), name
    assert not any((lab / d).exists() for d in ('build', 'checkpoints', 'models', MARK))
    assert {p.stem for p in (lab / 'results').iterdir()} == {'benchmarks'}


def test_make_test_runs_chapters_only(lab):
    "nbdev_test passes by a folder with the file .notest: stages are DVC's, and guides need a trained model."
    notebooks = {p.parent for p in lab.glob('nbs/*/*.ipynb')}
    passed_by = {p.name for p in notebooks if (p / '.notest').exists()}
    assert passed_by == {'stages', 'guides'}


LINK = re.compile(r'\]\(([^)#\s]+)|src="([^"]+)"')
ELSEWHERE = ('http', 'mailto', 'data:', 'attachment:')


def test_links_lead_somewhere_in_the_lab(lab):
    "To a file that is laid out, or to the reports and figures that make repro writes there."
    lost = {}
    for notebook in sorted(lab.glob('nbs/**/*.ipynb')):
        for text in sources(notebook, 'markdown'):
            for to in map(''.join, LINK.findall(text)):
                path = os.path.normpath(notebook.parent / to)
                if not to.startswith(ELSEWHERE) and not os.path.exists(path):
                    lost[os.path.relpath(path, lab)] = notebook.name
    made = ('results/reports/', 'results/figures/', 'nbs/figures/')
    assert [p for p in lost if not p.startswith(made)] == []


def test_targets_that_the_guides_name_are_the_lab_s(lab):
    targets = re.findall(r'^([a-z]+):', (lab / 'Makefile').read_text(), re.M)
    named = set()
    for notebook in lab.glob('nbs/**/*.ipynb'):
        for text in sources(notebook, 'markdown'):
            named |= set(re.findall(r'`(?:DEVICE=\w+ )?make ([a-z]+)', text))
    assert {'repro', 'bench'} <= named
    assert named - set(targets) == {'export'}, 'and of this the guide says where'


def test_the_lab_follows_the_installed_library(lab, installed):
    link = lab / 'wavbrivl'
    assert link.is_symlink() and link.resolve() == (installed / 'wavbrivl').resolve()
    assert find_root(lab / 'nbs/stages') == lab.resolve()
    makefile = (lab / 'Makefile').read_text()
    assert make_quoted(sys.executable) in makefile and '@PYTHON@' not in makefile


def test_every_module_and_notebook_of_a_stage_is_there(lab):
    stages = yaml.safe_load((lab / 'dvc.yaml').read_text())['stages']
    for stage in stages.values():
        for path in stage.get('do', stage)['deps']:
            if path.startswith(('wavbrivl/', 'nbs/')):
                assert (lab / path).exists(), path
    source = load_params(None, lab).corpus.source
    assert (lab / source).is_dir()


def test_dvc_reads_the_lab_and_sees_an_upgrade(lab, installed):
    "A new lab has all to make; a stage that is up to date is stale after an upgrade of what it uses."
    pytest.importorskip('dvc', reason='dvc is not installed')

    def dvc(*words):
        command = [sys.executable, '-m', 'dvc', *words]
        return subprocess.run(
            command, cwd=lab, env=outside(installed), capture_output=True, text=True
        )

    done = dvc('stage', 'list', '--names-only')
    assert done.returncode == 0, done.stderr
    assert {'corpus', 'train@wavbrivl', 'report'} <= set(done.stdout.split())
    assert 'changed checksum' in dvc('status', 'data.dvc').stdout
    (lab / 'build/corpus').mkdir(parents=True)
    (lab / 'build/corpus/x').write_text('x')
    (lab / 'build/scenes').mkdir()
    (lab / 'results/reports').mkdir()
    (lab / 'results/reports/corpus.ipynb').write_text('{}')
    done = dvc('commit', '--force', 'corpus')
    assert done.returncode == 0, done.stderr
    locked = yaml.safe_load((lab / 'dvc.lock').read_text())['stages']['corpus']
    assert 'wavbrivl/media' in [d['path'] for d in locked['deps']]
    assert 'up to date' in dvc('status', 'corpus').stdout
    module = installed / 'wavbrivl/media/signal.py'
    before = module.read_text()
    module.write_text(before + '\n# of another version\n')
    assert 'wavbrivl/media' in dvc('status', 'corpus').stdout
    module.write_text(before)
    params = installed / 'wavbrivl/core/params.py'
    text = params.read_text()
    params.write_text(
        text.replace('max_seconds: Seconds = 10.0', 'max_seconds: Seconds = 9.0')
    )
    assert params.read_text() != text
    assert 'core/params.py' in dvc('status', 'corpus').stdout
    params.write_text(text)


def test_a_stage_notebook_runs_there(lab, installed, tmp_path):
    "The first stage, with the smallest corpus, on the installed library."
    pytest.importorskip('papermill', reason='papermill is not installed')
    place = tmp_path / 'lab'
    status, _, err = call(tmp_path, installed, 'init', 'lab')
    assert status == 0, err
    few = dict(train=48, valid=24, test=24, min_seconds=1.0, max_seconds=1.1)
    preset = dict(corpus=dict(foley=few, image_size=48, frames=1))
    (place / 'presets/few.yaml').write_text(yaml.safe_dump(preset))
    status, _, err = call(
        place / 'nbs', installed, 'params', '--preset', 'few', '--write'
    )
    assert status == 0, err
    command = [sys.executable, '-m', 'papermill', '-k', 'python3', '--no-progress-bar']
    done = subprocess.run(
        [*command, 'nbs/stages/corpus.ipynb', str(tmp_path / 'done.ipynb')],
        cwd=place,
        env=outside(installed),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (place / 'build/corpus/manifest.parquet').exists()


def test_settings_of_ones_own_fail_no_test(lab, installed):
    "make test follows a preset that was written, such as one with a single run."
    text = (lab / 'params.yaml').read_text()
    status, _, err = call(lab, installed, 'params', '--preset', 'own_data', '--write')
    assert status == 0, err
    chosen = 'surveyed or printed or run_of or papers or dvc_watches_settings'
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider']
    done = subprocess.run(
        [*command, 'tests/test_params.py', '-k', chosen],
        cwd=lab,
        env=outside(installed),
        capture_output=True,
        text=True,
    )
    (lab / 'params.yaml').write_text(text)
    assert done.returncode == 0, done.stdout[-3000:]


# ---------------------------------------------------------------- laying out


def test_never_over_a_file(tmp_path, capsys):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine/thesis.txt').write_text('mine')
    (tmp_path / 'file').write_text('mine')
    for name, said in (('mine', 'thesis.txt'), ('file', 'is a file')):
        assert main(['init', str(tmp_path / name)]) == 2
        err = capsys.readouterr().err
        assert said in err and len(err.splitlines()) == 1
    assert os.listdir(tmp_path / 'mine') == ['thesis.txt']
    assert main(['init', str(tmp_path / 'file/lab')]) == 2
    assert 'Traceback' not in capsys.readouterr().err


def test_an_environment_and_a_repository_may_be_there(tmp_path):
    for name in BEFORE - {MARK}:
        (tmp_path / name).mkdir()
    n = lay_out_lab(tmp_path)
    assert n == len(read_layout()) + 2
    with pytest.raises(BadInput, match='not empty'):
        lay_out_lab(tmp_path)


def test_a_killed_init_is_ended_by_the_same_command(tmp_path, monkeypatch):
    from wavbrivl.app import layout

    calls = []
    lay = layout.lay_file

    def dying(*args):
        calls.append(args)
        if len(calls) == 20:
            raise KeyboardInterrupt
        lay(*args)

    monkeypatch.setattr(layout, 'lay_file', dying)
    with pytest.raises(KeyboardInterrupt):
        lay_out_lab(tmp_path / 'lab')
    assert (tmp_path / 'lab' / MARK).exists()
    lay_out_lab(tmp_path / 'lab')
    assert not (tmp_path / 'lab' / MARK).exists()
    assert (tmp_path / 'lab/dvc.yaml').exists()


def test_a_lab_anywhere(tmp_path):
    "A folder of any name, from inside it too."
    odd = tmp_path / 'a b [c] $d é'
    lay_out_lab(odd)
    assert load_params('wavbrivl', odd, 'smoke').audio.hidden == 32
    assert make_quoted('/a $b/#c') == '/a $$b/\\#c'


def test_make_calls_the_python_of_the_lab(tmp_path):
    "A stub stands in for Python; make names what is missing and calls what is there."
    lab = tmp_path / 'my lab'
    lay_out_lab(lab)
    log, stub = tmp_path / 'log', tmp_path / 'bin dir/python'
    stub.parent.mkdir()
    stub.write_text(f'#!/bin/sh\necho "$*" >> "{log}"\necho "{tmp_path}"\n')
    stub.chmod(0o755)
    for program in ('nbdev_test', 'wavbrivl'):
        words = stub.read_text().replace('"$*"', f'"{program} $*"')
        (stub.parent / program).write_text(words)
        (stub.parent / program).chmod(0o755)
    for target, extras, said in (
        ('repro', 'lab,captions', 'wavbrivl repro'),
        ('test', all_extras(lab), '-m pytest -q -n 2'),
        ('lab', 'lab', '-m jupyterlab nbs'),
    ):
        log.write_text('')
        done = subprocess.run(
            ['make', target, f'PYTHON={stub}'], cwd=lab, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        calls = log.read_text()
        assert f'set_up("{extras}")' in calls
        assert calls.index('set_up') < calls.index(said), (
            'installed before it is called'
        )
    assert os.readlink(lab / 'wavbrivl') == str(tmp_path), 'linked anew'
    stub.write_text('#!/bin/sh\ncase "$2" in *set_up*) exit 1;; esac\necho /\n')
    done = subprocess.run(
        ['make', 'repro', f'PYTHON={stub}'], cwd=lab, capture_output=True, text=True
    )
    assert done.returncode and 'dvc' not in done.stderr


# ---------------------------------------------------------------- what make installs


def all_extras(folder):
    "The extras that a Makefile installs for the tests."
    named = re.findall(r'\blab,captions[a-z,]+', (folder / 'Makefile').read_text())
    assert len(named) == 1
    return named[0]


def test_a_lab_is_tested_with_what_a_clone_is(tmp_path):
    lay_out_lab(tmp_path / 'lab')
    ours = all_extras(tmp_path / 'lab').split(',')
    assert ours == all_extras(ROOT).split(',')
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    apart = {'docs'}  # the site has an environment of its own
    assert set(ours) == set(project['optional-dependencies']) - apart


def write_wheel(folder, release, needs):
    "A wheel of one empty module, `oddly_named`."
    info = f'oddly_named-{release}.dist-info'
    head = f'Metadata-Version: 2.1\nName: Oddly.Named\nVersion: {release}\n'
    kind = 'Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n'
    path = folder / f'oddly_named-{release}-py3-none-any.whl'
    with zipfile.ZipFile(path, 'w') as z:
        z.writestr('oddly_named.py', '')
        z.writestr(f'{info}/METADATA', f'{head}Requires-Dist: {needs}\n')
        z.writestr(f'{info}/WHEEL', kind)
        z.writestr(f'{info}/RECORD', '')


@pytest.fixture
def shop(tmp_path, monkeypatch):
    "A folder is all of the index; what is installed goes below another, and is found there."
    prefix = tmp_path / 'prefix'
    settings = dict(NO_INDEX='1', FIND_LINKS=tmp_path / 'shop', PREFIX=prefix)
    for name, value in settings.items():
        monkeypatch.setenv(f'PIP_{name}', str(value))
    monkeypatch.setenv('PIP_CONFIG_FILE', os.devnull)
    site = sysconfig.get_path('purelib', vars=dict(base=str(prefix)))
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv('PYTHONPATH', f'{site}:{os.environ.get("PYTHONPATH", "")}')
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'shop').mkdir()
    said = ["oddly-named>=1; extra == 'lab'", "numpy; extra == 'lab'"]
    monkeypatch.setattr('wavbrivl.app.layout.requires', lambda name: said)
    return tmp_path / 'shop'


def test_what_is_missing_comes_in_the_lab_s_versions(shop, capfd):
    "And numpy, which is there, stays, whatever constraints.txt says."
    for release in ('1.0', '1.5'):
        write_wheel(shop, release, 'numpy')
    Path('constraints.txt').write_text('numpy==1.0\nOddly_Named==1.0\n')
    assert missing_packages('lab') == ['oddly-named>=1']
    set_up('lab')
    assert version('oddly-named') == '1.0'
    assert 'oddly-named>=1' in capfd.readouterr().out
    set_up('lab')
    assert capfd.readouterr().out == '', 'it is not done twice'


def test_what_cannot_be_installed_is_said(shop, capfd):
    Path('constraints.txt').write_text('')
    with pytest.raises(SystemExit) as e:
        set_up('lab')
    assert "pip install 'wavbrivl[lab]'" in str(e.value) and 'PYTHON=' in str(e.value)
    assert 'Traceback' not in capfd.readouterr().err


# ---------------------------------------------------------------- presets by name, versions, examples


def test_presets_by_name(tmp_path, monkeypatch, capsys):
    lay_out_lab(tmp_path / 'lab')
    monkeypatch.chdir(tmp_path / 'lab/nbs')
    assert find_preset('smoke') == tmp_path / 'lab/presets/smoke.yaml'
    assert main(['params', '--preset', 'smok']) == 2
    assert (
        'ablations, clip, full, own_data, papers, real, smoke'
        in capsys.readouterr().err
    )
    assert main(['params', '--preset', 'gone/smoke']) == 2
    assert main(['params', '--preset', 'smoke', '--write']) == 0
    assert load_params().audio.hidden == 32
    (tmp_path / 'lab/nbs/smoke').mkdir()
    assert find_preset('smoke').suffix == '.yaml'


def test_every_command_has_an_example():
    "And each example is one that the parser takes."
    import shlex

    from wavbrivl.app.cli import parser

    with open(ROOT / 'wavbrivl/app/examples.csv', newline='') as f:
        rows = list(csv.DictReader(f))
    with open(ROOT / 'wavbrivl/app/commands.csv', newline='') as f:
        commands = [r['command'] for r in csv.DictReader(f)]
    assert {r['command'] for r in rows} == set(commands)
    for row in rows:
        words = shlex.split(row['example'])
        assert words[0] == 'wavbrivl' and words[1] == row['command']
        parser().parse_args(words[1:])
    assert all(f'  {c} ' in HEAD for c in commands)


def test_without_a_word_the_commands_are_listed(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert 'wavbrivl init lab' in out and 'wavbrivl embed recordings' in out
    with pytest.raises(SystemExit) as e:
        main(['--version'])
    assert e.value.code == 0 and capsys.readouterr().out.startswith('wavbrivl ')
