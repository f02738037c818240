"The house: notebooks are the source, wings stand in order, the page is readable, stages and parameters agree."

import json
import re
import shutil
import subprocess
import sys

import house
import pytest
import yaml
from house import ROOT

CHAPTERS = house.chapters()
STAGES = sorted((ROOT / 'nbs/stages').glob('*.ipynb'))
PIPELINE = yaml.safe_load((ROOT / 'dvc.yaml').read_text())['stages']
ORDER = [house.module_of(p) for p in CHAPTERS]
# one thing under one name; these mean the same wherever they stand
HOMONYMS = {'forward', 'save', 'load', 'main'}


def names(paths):
    return [str(p.relative_to(ROOT)) for p in paths]


@pytest.mark.parametrize(
    'page', sorted(ROOT.glob('nbs/**/*.ipynb')), ids=lambda p: p.stem
)
def test_what_a_page_shows_is_of_no_machine(page):
    cells = json.loads(page.read_text())['cells']
    shown = json.dumps([c.get('outputs') for c in cells])
    assert not re.findall(
        '(?:site-packages|/(?:home|root|tmp|work|Users)/).{,80}', shown
    )


def test_library_is_what_the_notebooks_export(tmp_path):
    copy = tmp_path / 'lab'
    ignored = shutil.ignore_patterns('.ipynb_checkpoints')
    shutil.copytree(ROOT / 'nbs', copy / 'nbs', ignore=ignored)
    for name in ('settings.ini', 'pyproject.toml'):
        shutil.copy(ROOT / name, copy / name)
    for init in ROOT.glob('wavbrivl/**/__init__.py'):
        target = copy / init.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(init, target)
    export = shutil.which('nbdev_export', path=str(_bin()))
    subprocess.run([export], cwd=copy, check=True, capture_output=True)
    made, kept = (
        {f.relative_to(d): f.read_text() for f in (d / 'wavbrivl').rglob('*.py')}
        for d in (copy, ROOT)
    )
    assert made.keys() == kept.keys()
    assert [n for n in made if made[n] != kept[n]] == [], 'run `make export`'


def _bin():
    from pathlib import Path

    return Path(sys.executable).parent


@pytest.mark.parametrize('command', [['check'], ['format', '--check']], ids=' '.join)
def test_ruff(command):
    done = subprocess.run(
        [str(_bin() / 'ruff'), *command, 'nbs', 'tests', 'benchmarks'],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_modules_import_what_they_use():
    "A name that only a demo uses is imported in a demo cell."
    only = '--isolated --select F401 --exclude __init__.py wavbrivl'.split()
    done = subprocess.run(
        [str(_bin() / 'ruff'), 'check', *only],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_the_page_is_readable():
    found = house.measures()
    limits = {
        'code lines over 120 characters': 0,
        'syntax nodes a line, 90th percentile': 14,
        'exported cell, median': 12,
        'exported cell, 90th percentile': 24,
        'exported cell, longest': 40,
        'longest module': 500,
        'largest wing': 8,
        'most methods of a class': 15,
        'comprehensions inside comprehensions': 0,
    }
    over = {k: (found[k], most) for k, most in limits.items() if found[k] > most}
    assert over == {}


def test_a_name_is_defined_once():
    doubled = {n: m for n, m in house.definitions().items() if len(m) > 1}
    assert {n: m for n, m in doubled.items() if n not in HOMONYMS} == {}


def test_wings_import_one_way():
    order = house.wings()
    back = {
        w: sorted(o for o in others if order.index(o) >= order.index(w))
        for w, others in house.wing_arrows().items()
    }
    assert {w: o for w, o in back.items() if o} == {}


@pytest.mark.parametrize('name', ORDER)
def test_chapter_imports_only_earlier_ones(name):
    used = house.imports(house.library_modules()[name])
    assert used & set(ORDER) <= set(ORDER[: ORDER.index(name)])


def test_chapters_stand_in_the_folder_of_their_wing():
    for path, name in zip(CHAPTERS, ORDER):
        wing, module = name.split('.')
        assert path.parent.name.split('_', 1)[1] == wing
        assert path.stem.split('_', 1)[1] == module


@pytest.mark.parametrize('path', CHAPTERS, ids=lambda p: p.stem)
def test_chapter_has_a_head_and_links(path):
    title, sentence = house.heading(path)
    assert title and sentence
    last = house.read_notebook(path)['cells'][-1]
    assert ''.join(last['source']) == house.navigation(path), 'run `make map`'


def test_the_map_is_the_chapters():
    cells = house.sources(ROOT / 'nbs/index.ipynb', 'markdown')
    assert cells[-1] == house.map_text(), 'run `make map`'
    assert house.drawing() in (ROOT / 'CONTRIBUTING.md').read_text(), 'run `make map`'


@pytest.mark.parametrize('path', STAGES, ids=lambda p: p.stem)
def test_stage_notebook_only_calls_the_library(path):
    source = '\n'.join(house.sources(path))
    assert not re.search(r'^\s*(def|class) ', source, re.M) and 'chdir' not in source
    cells = json.loads(path.read_text())['cells']
    tagged = [c for c in cells if 'parameters' in c['metadata'].get('tags', [])]
    assert len(tagged) == 1, 'the parameters cell has lost its tag'


def test_every_stage_has_its_notebook():
    commands = [s.get('do', s)['cmd'] for s in PIPELINE.values()]
    used = {re.search(r'nbs/stages/(\w+)\.ipynb', c)[1] for c in commands}
    assert {p.stem for p in STAGES} == used
    assert set(PIPELINE) - used == {'encoder_variant'}, 'it shares variant.ipynb'


def test_stages_depend_on_files_that_exist():
    for stage in PIPELINE.values():
        for path in stage.get('do', stage)['deps']:
            if path.startswith(('wavbrivl/', 'nbs/')):
                assert (ROOT / path).exists(), path


KINDS = [
    ('train', 'runs'),
    ('evaluate', 'runs'),
    ('variant', 'variants'),
    ('encoder_variant', 'encoder_variants'),
    ('encoder', 'encoders'),
    ('generate', 'pictures'),
]


@pytest.mark.parametrize('name, kind', KINDS)
def test_a_run_depends_on_its_own_overlay_only(name, kind):
    stage = PIPELINE[name]
    assert stage['foreach'] == f'${{{kind}}}'
    overlays = {k for _, k in KINDS}
    params = [p for p in stage['do']['params'] if isinstance(p, str)]
    keys = [p for p in params if p.split('.')[0] in overlays]
    assert keys == [f'{kind}.${{key}}']


def test_committed_notebooks_are_small():
    folders = ('nbs', 'results')
    books = [p for d in folders for p in (ROOT / d).rglob('*.ipynb')]
    assert names(p for p in books if p.stat().st_size > 500_000) == []


def test_top_level_of_the_card():
    card = 'nbs wavbrivl data.dvc dvc.yaml params.yaml tests settings.ini README.md'
    for name in card.split():
        assert (ROOT / name).exists()


def test_readme_is_one_page_and_its_numbers_are_the_summary():
    text = (ROOT / 'README.md').read_text()
    assert len(text.split()) <= 700
    summary = json.loads((ROOT / 'results/summary.json').read_text())
    rows = {
        'WavBriVL': 'wavbrivl',
        'Wav2CLIP (ResNet-18)': 'wav2clip',
        'BGTAI': 'bgtai',
        'supervised': 'supervised',
        'spectral statistics (MFCC)': 'mfcc',
    }
    columns = ['zero_shot/top1', 'probe/accuracy', 'audio_to_image/mrr', 'detection/f1']
    for title, run in rows.items():
        line = next(s for s in text.splitlines() if s.startswith(f'| {title} |'))
        printed = [c.strip() for c in line.strip('|').split('|')][2:]
        found = [summary.get(f'foley/{run}/{c}', {}).get('mean') for c in columns]
        assert printed == ['' if v is None else f'{v:.3f}'[1:] for v in found], title


def test_links_of_the_front_pages_lead_somewhere():
    for name in ('README.md', 'CONTRIBUTING.md', 'nbs/index.ipynb'):
        path = ROOT / name
        for target in re.findall(r'\]\(([^)#:]+)\)', path.read_text()):
            assert (path.parent / target).exists(), f'{name}: {target}'
