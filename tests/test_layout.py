"The house: notebooks are the source, chapters stand in order, stages and parameters agree."

import ast, json, re, shutil, subprocess, sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted((ROOT / 'nbs').glob('[0-9]*.ipynb'))
STAGES = sorted((ROOT / 'nbs/stages').glob('*.ipynb'))
PIPELINE = yaml.safe_load((ROOT / 'dvc.yaml').read_text())['stages']


def cells(path, kind='code'):
    return [
        ''.join(c['source'])
        for c in json.loads(path.read_text())['cells']
        if c['cell_type'] == kind
    ]


def module(path):
    return next(
        m[1]
        for c in cells(path)
        if (m := re.search(r'^#\| *default_exp (\w+)', c, re.M))
    )


ORDER = [module(p) for p in CHAPTERS]


def test_library_is_what_the_notebooks_export(tmp_path):
    copy = tmp_path / 'lab'
    shutil.copytree(
        ROOT / 'nbs', copy / 'nbs', ignore=shutil.ignore_patterns('.ipynb_checkpoints')
    )
    for f in ('settings.ini', 'pyproject.toml'):
        shutil.copy(ROOT / f, copy / f)
    (copy / 'wavbrivl').mkdir()
    shutil.copy(ROOT / 'wavbrivl/__init__.py', copy / 'wavbrivl/__init__.py')
    subprocess.run(
        [str(Path(sys.executable).parent / 'nbdev_export')],
        cwd=copy,
        check=True,
        capture_output=True,
    )
    made, kept = (
        {f.name: f.read_text() for f in (d / 'wavbrivl').glob('*.py')}
        for d in (copy, ROOT)
    )
    assert made.keys() == kept.keys()
    assert [n for n in made if made[n] != kept[n]] == [], 'run `make export`'


@pytest.mark.parametrize('path', CHAPTERS, ids=lambda p: p.stem)
def test_chapter_imports_only_earlier_ones(path):
    name = module(path)
    tree = ast.parse((ROOT / f'wavbrivl/{name}.py').read_text())
    used = {
        n.module.removeprefix('wavbrivl.')
        for n in ast.walk(tree)
        if isinstance(n, ast.ImportFrom)
        and n.module
        and (n.level == 1 or n.module.startswith('wavbrivl'))
    }
    assert used & set(ORDER) <= set(ORDER[: ORDER.index(name)])


@pytest.mark.parametrize('path', CHAPTERS, ids=lambda p: p.stem)
def test_exported_cells_are_short(path):
    lengths = [
        len(c.strip().splitlines()) for c in cells(path) if re.match(r'#\| *export', c)
    ]
    assert max(lengths) <= 45 and sorted(lengths)[len(lengths) // 2] <= 25


@pytest.mark.parametrize('path', STAGES, ids=lambda p: p.stem)
def test_stage_notebook_only_calls_the_library(path):
    source = '\n'.join(cells(path))
    assert not re.search(r'^\s*(def|class) ', source, re.M) and 'chdir' not in source
    tagged = [
        c
        for c in json.loads(path.read_text())['cells']
        if 'parameters' in c['metadata'].get('tags', [])
    ]
    assert len(tagged) == 1, 'the parameters cell has lost its tag'


def test_every_stage_has_its_notebook():
    assert {p.stem for p in STAGES} == set(PIPELINE)


@pytest.mark.parametrize(
    'name, kind',
    [
        ('train', 'runs'),
        ('evaluate', 'runs'),
        ('arm', 'arms'),
        ('front', 'fronts'),
        ('generate', 'pictures'),
    ],
)
def test_a_run_depends_on_its_own_overlay_only(name, kind):
    stage = PIPELINE[name]
    assert stage['foreach'] == f'${{{kind}}}'
    assert [
        p
        for p in stage['do']['params']
        if p.split('.')[0] in ('runs', 'arms', 'fronts', 'pictures')
    ] == [f'{kind}.${{key}}']


def test_committed_notebooks_are_small():
    big = [
        p
        for d in ('nbs', 'results')
        for p in (ROOT / d).rglob('*.ipynb')
        if p.stat().st_size > 500_000
    ]
    assert big == []


def test_top_level_of_the_card():
    for name in (
        'nbs',
        'wavbrivl',
        'data.dvc',
        'dvc.yaml',
        'params.yaml',
        'tests',
        'settings.ini',
        'README.md',
    ):
        assert (ROOT / name).exists()
