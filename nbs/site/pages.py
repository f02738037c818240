"""The pages that Sphinx builds the site from: the committed notebooks, and what is written from code and results.

`make docs` calls `write_pages`. Nothing of the library is run: signatures, docstrings and the comments beside
parameters are read from its text. Only the settings are imported, because pydantic knows their ranges.
"""

import ast
import csv
import io
import json
import os
import re
import shutil
import sys
import tokenize
from collections import Counter, defaultdict
from pathlib import Path

import house
from house import ROOT

sys.path.insert(0, str(ROOT))
HERE = Path(__file__).parent
SOURCE = ROOT / 'build/pages'
VERSION = re.search(
    r"__version__ = ['\"](.+)['\"]", (ROOT / 'wavbrivl/__init__.py').read_text()
)[1]
# files that pages link to
LINKED = 'params.yaml', 'presets', 'results', 'CHANGELOG.md', 'CONTRIBUTING.md'


def write(name, text):
    path = SOURCE / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding='utf-8')


def table(head, rows):
    "Rows as Markdown."
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines) + '\n'


def toctree(names, *options):
    lines = ''.join(f':{o}:\n' if ':' not in o else f':{o}\n' for o in options)
    return f'```{{toctree}}\n{lines}' + '\n'.join(names) + '\n```\n'


def plain(text):
    "Text of a docstring or comment as Markdown: what is not in backticks is literal."
    parts = re.split(r'(`[^`\n]+`)', text)
    parts[::2] = [re.sub(r'([\\*_<>\[\]$#|{}~])', r'\\\1', p) for p in parts[::2]]
    return ''.join(parts)


# -- notebooks


def first_sentences(text, most=160):
    "The last paragraph before a picture, in plain words and cut: the picture's alternative text."
    words = re.sub(r'\[([^]]+)\]\([^)]+\)|[`*_#>$|]', r'\1', text)
    words = ' '.join(words.strip().split('\n\n')[-1].split())
    return words if len(words) <= most else words[:most].rsplit(' ', 1)[0] + ' …'


def prepare_notebook(path, fold=False):
    "A notebook as a page: pictures have alternative texts, a chapter names its module; the theme draws next and previous."
    nb = house.read_notebook(path)
    cells = [c for c in nb['cells'] if c['id'] != 'navigation']
    said = house.heading(path)[0]
    for cell in cells:
        text = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown':
            said = first_sentences(text) or said
            continue
        cell['metadata']['mystnb'] = {'image': {'alt': said}}
        if fold:
            cell['metadata']['tags'] = ['hide-input']
    if path in house.chapters():
        cells[0]['source'].append('\n\n' + module_line(path))
    nb['cells'] = cells
    write(path.relative_to(ROOT), json.dumps(nb))


def module_line(path):
    name = house.module_of(path)
    wing, module = name.split('.')
    return f'Module [`wavbrivl.{name}`](../../reference/{wing}/{module}.md)'


def copy_notebooks():
    shutil.copytree(
        ROOT / 'nbs',
        SOURCE / 'nbs',
        ignore=shutil.ignore_patterns('.*', 'site', '*.ipynb'),
    )
    for path in house.notebooks():
        prepare_notebook(path)
    for name in LINKED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, SOURCE / name)
    for path in (ROOT / 'results/reports').glob('*.ipynb'):
        prepare_notebook(path, fold=True)


def write_wings():
    "A page for each wing, which lists its chapters."
    for number, wing in enumerate(house.wings()):
        paths = [p for p in house.chapters() if p.parent.name.endswith(f'_{wing}')]
        rows = [[f'[{house.heading(p)[0]}]({p.name})', house.heading(p)[1]] for p in paths]
        text = f'# {number} {wing}\n\n{house.WINGS[wing]}\n\n' + table(['chapter', ''], rows)
        write(f'nbs/{paths[0].parent.name}/index.md', text + toctree([p.stem for p in paths], 'hidden'))


# -- results


def write_tables():
    "A page of every table of the report."
    parts = ['# Tables\n']
    for path in sorted((ROOT / 'results/tables').glob('*.md')):
        parts.append(f'## {path.stem}\n\n{path.read_text()}')
        (SOURCE / 'results/tables' / path.name).unlink()
    write('results/tables/index.md', '\n\n'.join(parts))


# -- settings and commands


def comments(text):
    "{line: comment} of code."
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {t.start[0]: t.string.lstrip('# ') for t in tokens if t.type == tokenize.COMMENT}


def beside(node, notes, lines):
    "The comment of a node: beside it, else the lines above it."
    if found := notes.get(node.end_lineno) or notes.get(node.lineno):
        return found
    above, i = [], node.lineno - 1
    while i in notes and lines[i - 1].lstrip().startswith('#'):
        above.insert(0, notes[i])
        i -= 1
    return ' '.join(above)


def section_notes():
    "{class: {field: comment}} of the sections of params.yaml."
    found = {}
    for name in ('params', 'picture_params'):
        text = (ROOT / f'wavbrivl/core/{name}.py').read_text()
        notes, lines = comments(text), text.split('\n')
        for c in ast.parse(text).body:
            if isinstance(c, ast.ClassDef):
                fields = [n for n in c.body if isinstance(n, ast.AnnAssign)]
                found[c.name] = {n.target.id: beside(n, notes, lines) for n in fields}
    return found


def write_board():
    "Every setting: meaning, default, range."
    from wavbrivl.core.config import _section_of, describe_allowed
    from wavbrivl.core.picture_params import Params

    notes = section_notes()

    def rows(section, values, prefix=''):
        for name, field in type(section).model_fields.items():
            value = getattr(section, name)
            if _section_of(field):
                yield from rows(value, values, f'{prefix}{name}.')
                continue
            told = [notes[c.__name__].get(name, '') for c in type(section).__mro__ if c.__name__ in notes]
            meaning = next(filter(None, told), '')
            yield [f'`{prefix}{name}`', plain(meaning), f'`{json.dumps(value)}`', plain(describe_allowed(field))]

    whole = Params()
    head = ['setting', 'meaning', 'default', 'takes']
    general = [r for r in rows(whole, None) if '.' not in r[0]]
    parts = ['# Settings\n', table(head, general)]
    for name, field in Params.model_fields.items():
        section = getattr(whole, name)
        if _section_of(field):
            parts.append(f'## {name}\n\n{plain(type(section).__doc__ or "")}\n')
            parts.append(table(head, rows(section, None, name + '.')))
    write('board.md', '\n'.join(parts))


def write_commands():
    "Every command of the command line, from the tables it is made of."

    def read(name):
        with open(ROOT / 'wavbrivl/app' / f'{name}.csv', encoding='utf-8') as f:
            return list(csv.DictReader(f))

    options, examples = read('options'), read('examples')
    parts = ['# Commands\n']
    for c in read('commands'):
        shown = '\n'.join(e['example'] for e in examples if e['command'] == c['command'])
        parts.append(f'## {c["command"]}\n\n{plain(c["help"])}\n\n```\n{shown}\n```\n')
        kinds = ['common', c['command']] + ['model'] * bool(c['takes_model'])
        rows = [
            [f'`{o["option"]}`', plain(o['help']), f'`{o["default"]}`' if o['default'] else '']
            for o in options
            if o['command'] in kinds
        ]
        parts.append(table(['option', 'meaning', 'default'], rows))
    write('commands.md', '\n'.join(parts))


# -- reference


def signature(node):
    "A function's parameters and what it returns, as text."
    returns = f' -> {ast.unparse(node.returns)}' if node.returns else ''
    return f'({ast.unparse(node.args)}){returns}'


def fields(node, notes, lines):
    "What the comments beside parameters say."
    a = node.args
    for arg in [*a.posonlyargs, *a.args, a.vararg, *a.kwonlyargs, a.kwarg]:
        if arg and (told := notes.get(arg.lineno)) and arg.lineno != node.body[0].lineno:
            yield f':param {arg.arg}: {plain(told)}'
    last = node.body[0].lineno
    where = [i for i in range(node.lineno, last) if '->' in lines[i - 1] or lines[i - 1].startswith('):')]
    if where and where[-1] in notes:
        yield f':returns: {plain(notes[where[-1]])}'


def directive(kind, name, body, colons=4, options=()):
    fence = ':' * colons
    head = ''.join(f':{o}\n' for o in options)
    return f'{fence}{{py:{kind}}} {name}\n{head}\n{body}\n{fence}\n'


def docstring(node):
    return plain(ast.get_docstring(node) or '')


def describe_function(node, notes, lines, owner=''):
    body = docstring(node) + '\n\n' + '\n'.join(fields(node, notes, lines))
    decorators = {ast.unparse(d) for d in node.decorator_list}
    if owner and 'property' in decorators:
        return directive('property', owner + node.name, body)
    return directive('method' if owner else 'function', owner + node.name + signature(node), body)


def describe_class(node, notes, lines):
    parts = [docstring(node)]
    bases = ', '.join(ast.unparse(b) for b in node.bases)
    if bases:
        parts.append(f'Bases: `{bases}`')
    for n in node.body:
        if isinstance(n, ast.AnnAssign) and n.target.id[0] != '_':
            options = [f'type: {json.dumps(ast.unparse(n.annotation))}']
            if n.value:
                options.append(f'value: {json.dumps(ast.unparse(n.value)[:88])}')
            parts.append(directive('attribute', n.target.id, plain(beside(n, notes, lines)), 4, options))
        elif isinstance(n, ast.FunctionDef) and n.name[0] != '_':
            parts.append(describe_function(n, notes, lines, f'{node.name}.').replace(f'{node.name}.', '', 1))
    init = next((n for n in node.body if getattr(n, 'name', '') == '__init__'), None)
    head = node.name
    if init:
        head += '(' + re.sub(r'^self(, )?', '', ast.unparse(init.args)) + ')'
        parts.append('\n'.join(fields(init, notes, lines)))
    return directive('class', head, '\n\n'.join(parts), 5)


def describe_module(name, path, chapter):
    "The reference of a module: every name of its `__all__`, and the methods it adds to classes."
    text = path.read_text(encoding='utf-8')
    notes, lines, tree = comments(text), text.split('\n'), ast.parse(text)
    public = next(ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign))
    title, sentence = house.heading(chapter)
    parts = [
        f'# {name}\n\n{sentence}\n',
        f'Explained in the chapter [{title}]({os.path.relpath(chapter, ROOT / "reference" / "wing")}).\n',
        f'```{{py:module}} wavbrivl.{name}\n```\n',
    ]
    for n in tree.body:
        if isinstance(n, ast.FunctionDef) and house.is_patch(n) and n.name[0] != '_':
            parts.append(describe_function(n, notes, lines, ast.unparse(n.args.args[0].annotation) + '.'))
        elif isinstance(n, ast.FunctionDef) and n.name in public:
            parts.append(describe_function(n, notes, lines))
        elif isinstance(n, ast.ClassDef) and n.name in public:
            parts.append(describe_class(n, notes, lines))
        elif isinstance(n, ast.Assign) and getattr(n.targets[0], 'id', '') in public:
            value = f'value: {json.dumps(ast.unparse(n.value)[:88])}'
            parts.append(directive('data', n.targets[0].id, plain(beside(n, notes, lines)), 4, [value]))
    wing, module = name.split('.')
    write(f'reference/{wing}/{module}.md', '\n'.join(parts))


def write_reference():
    modules = house.library_modules()
    for path in house.chapters():
        name = house.module_of(path)
        describe_module(name, modules[name], path)
    for wing in house.wings():
        names = [n.split('.')[1] for n in map(house.module_of, house.chapters()) if n.startswith(wing + '.')]
        pages = [f'{wing}/{n}' for n in names]
        write(f'reference/{wing}.md', f'# {wing}\n\n{house.WINGS[wing]}\n\n' + toctree(pages))
    text = '# Reference\n\n' + toctree([f'reference/{w}' for w in house.wings()], 'maxdepth: 1')
    write('reference.md', text)


# -- mathematics


def _mathml(node, display):
    from latex2mathml.converter import convert

    return convert(node.astext(), display=display)


def math_inline(writer, node):
    from docutils.nodes import SkipNode

    writer.body.append(_mathml(node, 'inline'))
    raise SkipNode


def math_block(writer, node):
    from docutils.nodes import SkipNode

    writer.body.append(f'<div class="math">{_mathml(node, "block")}</div>')
    raise SkipNode


def write_index():
    guides = sorted(p.stem for p in (ROOT / 'nbs/guides').glob('*.ipynb'))
    wings = [f'nbs/{p.parent.name}/index' for p in house.chapters() if p.stem.startswith('01_')]
    stages = [f'nbs/stages/{p.stem}' for p in (ROOT / 'nbs/stages').glob('*.ipynb')]
    write('index.md', '\n'.join([
        (HERE / 'index.md').read_text(),
        toctree(['nbs/index', *(f'nbs/guides/{g}' for g in guides)], 'hidden', 'caption: Guides'),
        toctree(['results/reports/report', 'results/tables/index'], 'hidden', 'caption: Results'),
        toctree(wings, 'hidden', 'caption: Chapters'),
        toctree(stages, 'hidden', 'caption: Stages'),
        toctree(['reference', 'board', 'commands'], 'hidden', 'caption: Reference'),
        toctree(['CHANGELOG', 'CONTRIBUTING'], 'hidden', 'caption: Project'),
    ]))


def write_pages():
    shutil.rmtree(SOURCE, ignore_errors=True)
    SOURCE.mkdir(parents=True)
    copy_notebooks()
    write_wings()
    write_tables()
    write_board()
    write_commands()
    write_reference()
    write_index()


if __name__ == '__main__':
    write_pages()
