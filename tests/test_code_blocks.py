"""Every block of code that the README, the guides and the site's own pages show.

Those of the README and the quick start run, on the model in the package. The others need data or weights that are not
here: of them every name is looked up, every command line is parsed, and every setting is laid over params.yaml.
"""

import ast
import importlib
import re
import shlex
import tomllib

import nbformat
import pytest
import yaml
from house import ROOT

from wavbrivl import WavBriVL
from wavbrivl.app.cli import parser
from wavbrivl.app.examples import render_examples
from wavbrivl.core.config import load_params

GUIDES = sorted((ROOT / 'nbs/guides').glob('*.ipynb'))
PAGES = [
    ROOT / 'README.md',
    ROOT / 'CONTRIBUTING.md',
    *(ROOT / 'nbs/site').glob('*.md'),
]
OPTIONAL = {'mteb'}  # needs more than the lab
MAKE = set(re.findall(r'^([a-z]+):', (ROOT / 'Makefile').read_text(), re.M))
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']


def text_of(path) -> str:
    if path.suffix == '.md':
        return path.read_text()
    cells = nbformat.read(path, 4).cells
    return '\n\n'.join(c.source for c in cells if c.cell_type == 'markdown')


def blocks(*languages):
    for path in [*PAGES, *GUIDES]:
        for language, body in re.findall(
            r'^```(\w*)\n(.*?)^```', text_of(path), re.M | re.S
        ):
            if language in languages:
                yield pytest.param(body, id=f'{path.stem}: {body.splitlines()[0][:40]}')


def command_lines():
    for block in blocks('', 'bash'):
        (body,) = block.values
        for line in body.replace('\\\n', ' ').splitlines():
            words = shlex.split(line, comments=True)
            if len(words) > 1 and words[0] in ('wavbrivl', 'make', 'pip', 'python'):
                yield pytest.param(words, id=' '.join(words)[:60])


@pytest.mark.parametrize('words', command_lines())
def test_a_command_line_is_one(words):
    if '&&' in words:
        words = words[: words.index('&&')]
    if words[0] == 'wavbrivl':
        parser().parse_args(words[1:])
    elif words[0] == 'make':
        assert words[1] in MAKE
    elif words[0] == 'pip':
        asked = re.findall(r'\[(.*?)\]', ' '.join(words))
        known = PROJECT['optional-dependencies']
        assert all(extra in known for part in asked for extra in part.split(','))
    elif words[1] != '-m':
        assert (ROOT / words[1]).is_file()


@pytest.mark.parametrize('body', blocks('yaml'))
def test_settings_are_taken(body, tmp_path):
    (tmp_path / 'shown.yaml').write_text(body)
    assert isinstance(yaml.safe_load(body), dict)
    load_params(preset=tmp_path / 'shown.yaml')


@pytest.mark.parametrize('body', blocks('python'))
def test_names_are_there(body):
    for node in ast.walk(ast.parse(body)):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module.split('.')[0] not in OPTIONAL
        ):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, a.name) for a in node.names)
        elif (
            isinstance(node, ast.Attribute) and getattr(node.value, 'id', '') == 'model'
        ):
            assert hasattr(WavBriVL, node.attr) or node.attr == 'rejected'


@pytest.fixture
def examples(tmp_path, monkeypatch):
    "A folder with what `wavbrivl examples scenes` writes."
    monkeypatch.chdir(tmp_path)
    render_examples('scenes')


def test_the_readme_runs(examples):
    (block,) = re.findall(r'```python\n(.*?)```', text_of(ROOT / 'README.md'), re.S)
    *lines, drawing = ast.parse(block).body
    scope = {}
    exec(compile(ast.Module(lines, []), 'README.md', 'exec'), scope)
    (picture,) = eval(
        compile(ast.Expression(drawing.value), 'README.md', 'eval'), scope
    )
    assert picture.size == (64, 64) and picture.info['cosine'] > 0.4
    assert scope['model'].classify(scope['dog'])[0][0] == 'dog'


def test_the_quick_start_runs():
    cells = nbformat.read(ROOT / 'nbs/guides/quick_start.ipynb', 4).cells
    scope = {}
    for cell in cells:
        if cell.cell_type == 'code':
            exec(compile(cell.source, 'quick_start', 'exec'), scope)
    assert scope['model'].classify(scope['bell']['sound'])[0][0] == 'bell'
    assert len(scope['drawn']) == 3
