"""The measures of the house: what `test_layout.py` holds the code to, and what `make map` writes.

`python tests/house.py` prints the measures; `python tests/house.py --write` also renews the map of the chapters
(nbs/index.ipynb), the links between them, and the drawing of the wings in CONTRIBUTING.md.
"""

import ast
import collections
import json
import os
import re
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXPORT = re.compile(r'#\s*\|\s*exporti?s?\b')
DEFINITIONS = (ast.FunctionDef, ast.ClassDef)


def read_notebook(path):
    return json.loads(Path(path).read_text(encoding='utf-8'))


def sources(path, kind='code'):
    "The texts of a notebook's cells of one kind."
    cells = read_notebook(path)['cells']
    return [''.join(c['source']) for c in cells if c['cell_type'] == kind]


def chapters():
    "Every library chapter in reading order."
    return sorted(ROOT.glob('nbs/[0-9]*/[0-9]*.ipynb'))


def module_of(path):
    "The module a chapter exports: 'wing.module'."
    found = (re.search(r'^#\| *default_exp (\S+)', s, re.M) for s in sources(path))
    return next(m[1] for m in found if m)


def wings():
    "The wings in reading order."
    return [p.name.split('_', 1)[1] for p in sorted(ROOT.glob('nbs/[0-9]*/'))]


def notebooks():
    "Every notebook people write: chapters, stages, guides, the map."
    return sorted(
        p for p in ROOT.glob('nbs/**/*.ipynb') if '.ipynb_checkpoints' not in p.parts
    )


def code_texts():
    "(place, text) of all code that people write."
    for p in notebooks():
        for i, text in enumerate(sources(p)):
            yield f'{p.relative_to(ROOT)} [{i}]', without_magics(text)
    for folder in ('tests', 'benchmarks'):
        for p in sorted((ROOT / folder).glob('*.py')):
            yield str(p.relative_to(ROOT)), p.read_text(encoding='utf-8')


def without_magics(text):
    lines = text.split('\n')
    return '\n'.join('pass' if line.startswith(('%', '!')) else line for line in lines)


def wide_lines(limit=120):
    "Lines of code over the limit: (place, line)."
    return [
        (place, line)
        for place, text in code_texts()
        for line in text.split('\n')
        if len(line) > limit
    ]


def nodes_a_line():
    "Syntax nodes that begin on each line of code."
    counts = []
    for _, text in code_texts():
        lines = (n.lineno for n in ast.walk(ast.parse(text)) if hasattr(n, 'lineno'))
        counts += collections.Counter(lines).values()
    return counts


def exported_cells(path):
    "Lines of each exported cell, its directives aside."
    bodies = []
    for text in sources(path):
        if EXPORT.match(text):
            lines = [line for line in text.strip().split('\n') if line[:2] != '#|']
            bodies.append(lines)
    return [len(lines) for lines in bodies]


def library_modules():
    "Module files of the library: {'wing.module': path}."
    files = sorted(ROOT.glob('wavbrivl/*/*.py'))
    return {f'{p.parent.name}.{p.stem}': p for p in files if p.stem != '__init__'}


def imports(path):
    "The 'wing.module's that a library file imports, lazily or not."
    found = set()
    wing = path.parent.name
    for n in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if not isinstance(n, ast.ImportFrom):
            continue
        name = n.module or ''
        if not name or name == 'wavbrivl':  # `from . import x`
            found |= {f'{wing}.{a.name}' for a in n.names if n.level}
            continue
        if name.count('.') == 1 and name.startswith('wavbrivl.'):  # a wing
            found |= {f'{name[9:]}.{a.name}' for a in n.names}
            continue
        if n.level == 1:
            found.add(f'{wing}.{name}')
        elif n.level == 2:
            found.add(name)
        elif name.startswith('wavbrivl.'):
            found.add(name.removeprefix('wavbrivl.'))
    return found


def wing_arrows():
    "{wing: wings it imports}."
    arrows = {w: set() for w in wings()}
    for name, path in library_modules().items():
        wing = name.split('.')[0]
        arrows[wing] |= {other.split('.')[0] for other in imports(path)} - {wing}
    return arrows


def is_patch(node):
    return any('patch' in ast.unparse(d) for d in node.decorator_list)


def definitions():
    "Public functions and classes of the library: {name: modules that define it}."
    found = collections.defaultdict(list)
    for name, path in library_modules().items():
        for n in ast.parse(path.read_text(encoding='utf-8')).body:
            if isinstance(n, DEFINITIONS) and not is_patch(n) and n.name[0] != '_':
                found[n.name].append(name)
    return found


def methods():
    "Methods of each class, patched ones included: {class: number}."
    counts = collections.Counter()
    for path in library_modules().values():
        for n in ast.parse(path.read_text(encoding='utf-8')).body:
            if isinstance(n, ast.ClassDef):
                counts[n.name] += sum(isinstance(m, ast.FunctionDef) for m in n.body)
            elif isinstance(n, ast.FunctionDef) and is_patch(n) and n.args.args:
                owner = n.args.args[0].annotation
                counts[ast.unparse(owner) if owner else n.name] += 1
    return counts


def nested_comprehensions():
    "Comprehensions inside comprehensions, in exported code."
    kinds = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    found = []
    for name, path in library_modules().items():
        for n in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            inner = [m for m in ast.walk(n) if isinstance(m, kinds) and m is not n]
            if isinstance(n, kinds) and inner:
                found.append(f'{name}: {ast.unparse(n)[:80]}')
    return found


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def measures():
    "The page in numbers."
    cells = [n for p in chapters() for n in exported_cells(p)]
    lengths = {
        m: len(p.read_text(encoding='utf-8').splitlines())
        for m, p in library_modules().items()
    }
    sizes = collections.Counter(m.split('.')[0] for m in lengths)
    nodes = nodes_a_line()
    doubled = sum(len(m) > 1 for m in definitions().values())
    return {
        'code lines over 120 characters': len(wide_lines()),
        'syntax nodes a line, 90th percentile': percentile(nodes, 0.9),
        'exported cell, median': statistics.median(cells),
        'exported cell, 90th percentile': percentile(cells, 0.9),
        'exported cell, longest': max(cells),
        'modules': len(lengths),
        'longest module': max(lengths.values()),
        'largest wing': max(sizes.values()),
        'most methods of a class': max(methods().values()),
        'comprehensions inside comprehensions': len(nested_comprehensions()),
        'names defined in two modules or more': doubled,
        'of names in all': len(definitions()),
    }


def heading(path):
    "A chapter's title and the sentence under it."
    first = sources(path, 'markdown')[0]
    title = re.search(r'^# (.+)$', first, re.M)[1].strip()
    sentence = re.search(r'^> ?((?:.+\n?)+?)(?:\n\n|\Z)', first, re.M)
    text = sentence[1] if sentence else ''
    return title, ' '.join(
        re.sub(r'^> ?', '', line) for line in text.split('\n')
    ).strip()


WINGS = dict(
    line.split(': ', 1)
    for line in (Path(__file__).parent / 'wings.txt').read_text().splitlines()
)


def link(path, start):
    "A chapter as a Markdown link, relative to the notebook `start`."
    target = os.path.relpath(path, Path(start).parent).replace(os.sep, '/')
    return f'[{heading(path)[0]}]({target})'


def navigation(path):
    "The line at a chapter's end: previous, map, next."
    book = chapters()
    i = book.index(path)
    back = os.path.relpath(ROOT / 'nbs/index.ipynb', path.parent).replace(os.sep, '/')
    parts = ['← ' + link(book[i - 1], path)] if i else []
    parts.append(f'[map]({back})')
    if i + 1 < len(book):
        parts.append(link(book[i + 1], path) + ' →')
    return '---\n' + ' · '.join(parts)


def map_text():
    "The map of the chapters: what each wing is, and what each chapter answers."
    start = ROOT / 'nbs/index.ipynb'
    parts = []
    for number, wing in enumerate(wings()):
        rows = [
            f'| {link(p, start)} | `{module_of(p)}` | {heading(p)[1]} |'
            for p in chapters()
            if p.parent.name.endswith(f'_{wing}')
        ]
        parts.append(
            f'## {number} {wing}\n\n{WINGS[wing]}\n\n| chapter | module | |\n|---|---|---|\n'
            + '\n'.join(rows)
        )
    return '\n\n'.join(parts)


def drawing():
    "The wings and their imports, as a Mermaid graph; an arrow that follows from two others is left out."
    arrows = wing_arrows()
    reach = {}
    for w in wings():
        reach[w] = set(arrows[w]).union(*(reach.get(o, set()) for o in arrows[w]))
    lines = ['```mermaid', 'flowchart BT']
    for w in wings():
        implied = set().union(*(reach[o] for o in arrows[w]))
        lines += [f'  {w} --> {o}' for o in wings() if o in arrows[w] - implied]
    return '\n'.join([*lines, '```'])


def replace_between(text, mark, new):
    "`text` with what stands between the comments `mark` and its end replaced."
    pattern = rf'(<!-- {mark} -->\n).*?(\n<!-- end of {mark} -->)'
    return re.sub(pattern, lambda m: m[1] + new + m[2], text, flags=re.S)


def write_notebook(nb, path):
    text = json.dumps(
        nb, indent=1, sort_keys=True, ensure_ascii=False, separators=(',', ': ')
    )
    path.write_text(text + '\n', encoding='utf-8')


def markdown_cell(text, name):
    return dict(
        cell_type='markdown', id=name, metadata={}, source=text.splitlines(True)
    )


def write_map():
    "Renew the map, the links between chapters and the drawing of the wings."
    for p in chapters():
        nb = read_notebook(p)
        if nb['cells'][-1].get('id') == 'navigation':
            nb['cells'].pop()
        nb['cells'].append(markdown_cell(navigation(p), 'navigation'))
        write_notebook(nb, p)
    path = ROOT / 'nbs/index.ipynb'
    nb = read_notebook(path)
    kept = [c for c in nb['cells'] if c.get('id') != 'map']
    nb['cells'] = kept + [markdown_cell(map_text(), 'map')]
    write_notebook(nb, path)
    path = ROOT / 'CONTRIBUTING.md'
    text = path.read_text(encoding='utf-8')
    path.write_text(replace_between(text, 'wings', drawing()), encoding='utf-8')


if __name__ == '__main__':
    if '--write' in sys.argv:
        write_map()
    for name, value in measures().items():
        print(f'{name:40s} {value}')
