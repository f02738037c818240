"The site: its pages have every chapter, name, setting and table; built, its links lead somewhere and it reads well."

import ast
import json
import re
import sys

import house
import pytest
import site_pages
from house import ROOT

sys.path.append(str(ROOT / 'nbs/site'))
pages = pytest.importorskip('pages')
BUILT = ROOT / 'build/site'


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "The pages that Sphinx is given, written anew."
    folder = tmp_path_factory.mktemp('pages')
    usual, pages.PAGES = pages.PAGES, folder
    pages.write_pages()
    pages.PAGES = usual
    return folder


def test_the_diagram_is_what_its_code_draws():
    method = pytest.importorskip('method')
    assert (ROOT / 'nbs/method.svg').read_text() == method.draw_method()


def listed(made) -> list:
    "Every page that a page lists, in order."
    found = []
    for path in sorted(made.rglob('*.md')):
        for tree in re.findall(r'```{toctree}\n(.*?)```', path.read_text(), re.S):
            lines = [n for n in tree.split('\n') if n and n[0] != ':']
            names = [re.sub(r'.* <(.+)>', r'\1', n) for n in lines]
            found += [(path.parent / n).relative_to(made) for n in names]
    return [str(n) for n in found]


def test_every_page_is_listed_once(made):
    files = [
        p.relative_to(made) for p in made.rglob('*') if p.suffix in ('.md', '.ipynb')
    ]
    there = {str(f.with_suffix('')) for f in files} - {'index'}
    there = {
        n for n in there if not re.match(r'reference/\w+/', n)
    }  # their wing's page has them
    names = listed(made)
    assert sorted(names) == sorted(there)


def test_chapters_stand_in_reading_order(made):
    order = [n for n in listed(made) if re.match(r'nbs/\d+_\w+/\d+_', n)]
    expected = [str(p.relative_to(ROOT).with_suffix('')) for p in house.chapters()]
    assert order == expected


def test_links_of_pages_lead_to_files(made):
    broken = []
    for path in made.rglob('*.md'):
        for link in re.findall(r'\]\(([^)#:]+)\)', path.read_text()):
            if not (path.parent / link).exists() and link != 'genindex':
                broken.append(f'{path.relative_to(made)}: {link}')
    assert broken == []


def public_names(path) -> list:
    for n in ast.parse(path.read_text()).body:
        if isinstance(n, ast.Assign) and n.targets[0].id == '__all__':
            return ast.literal_eval(n.value)


@pytest.mark.parametrize('name', house.library_modules())
def test_the_reference_has_every_public_name(made, name):
    page = (made / f'reference/{name.replace(".", "/")}.md').read_text()
    defined = set(re.findall(r'{py:(?:function|class|data|attribute)} (\w+)', page))
    assert set(public_names(house.library_modules()[name])) <= defined


def test_every_setting_and_command_has_its_line(made):
    from wavbrivl.app.cli import read_rows
    from wavbrivl.core.config import list_keys

    text = (made / 'settings.md').read_text()
    keys = list_keys()
    groups = {k.rpartition('.')[0] for k in keys}
    lines = re.findall(r'^\| `([\w.]+)` \| (.*?) \| `.+` \| .+ \|$', text, re.M)
    assert {k for k, _ in lines} == set(keys) - groups
    assert [k for k, meaning in lines if not meaning] == []
    told = (made / 'commands.md').read_text()
    commands = [r['command'] for r in read_rows('commands.csv')]
    assert re.findall(r'^## (\S+)$', told, re.M) == commands


def test_the_front_page_has_sounds_and_the_numbers_of_the_tables(made):
    text = (made / 'index.md').read_text()
    assert text.count('<audio') == 5 and '<!--' not in text
    for line in (ROOT / 'results/tables/headline.md').read_text().splitlines():
        assert line in text


def test_pictures_of_notebooks_have_words(made):
    for path in made.rglob('*.ipynb'):
        for cell in json.loads(path.read_text())['cells']:
            if any(
                'image/' in k
                for o in cell.get('outputs', [])
                for k in o.get('data', {})
            ):
                assert len(cell['metadata']['mystnb']['image']['alt']) > 3


# ---- the built site: `make docs` first


@pytest.fixture(scope='module')
def site(made):
    "The site, where it was built from the present pages."
    if not (BUILT / 'index.html').exists():
        pytest.skip('make docs builds the site')
    for path in made.rglob('*'):
        kept = pages.PAGES / path.relative_to(made)
        if path.is_file() and not (
            kept.exists() and kept.read_bytes() == path.read_bytes()
        ):
            pytest.skip('the site is older than its pages; make docs builds it anew')
    return BUILT


def test_links_anchors_weights_and_words(site):
    assert site_pages.text_faults(site) == []


def test_pages_in_a_browser(site):
    assert site_pages.browser_faults(site, site_pages.FEW[:5]) == []
