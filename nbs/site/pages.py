"""The pages that Sphinx builds the site from: the committed notebooks, and what is read from code and results.

`make docs` writes them to build/pages. No notebook is run, and of the library only the settings are imported, because
pydantic knows their ranges: signatures, docstrings and the comments beside parameters are read from the text.
"""

import ast
import csv
import io
import json
import os
import re
import sys
import tokenize
from collections import Counter, defaultdict
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / 'tests'), str(HERE.parents[1])]

import house  # noqa: E402
from house import ROOT  # noqa: E402

PAGES = ROOT / 'build/pages'
MOST = 88  # characters of a value that the reference shows
LINKED = 'params.yaml', 'presets', 'results', 'CITATION.cff'  # what pages link to
TYPES = dict(str='text', bool='true or false', int='a whole number', float='a number')
TYPES |= dict(list='a list', dict='a mapping', Union='auto, or at least 1')
written = set()


def read(name) -> str:
    return (ROOT / name).read_text(encoding='utf-8')


def write(name, content):
    "Write a page; one that is the same keeps its time, so Sphinx builds what changed."
    path = PAGES / name
    written.add(path)
    if isinstance(content, str):
        content = content.encode()
    if path.exists() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def table(head, rows) -> str:
    lines = [head, ['---'] * len(head), *rows]
    return ''.join(f'| {" | ".join(line)} |\n' for line in lines)


def toctree(names, *options) -> str:
    lines = [f':{o}:' if ':' not in o else f':{o}' for o in options]
    return '\n'.join(['```{toctree}', *lines, '', *names, '```\n'])


def plain(text) -> str:
    "Markdown of a docstring or comment: all but what stands in backticks is literal."
    parts = re.split(r'(`[^`\n]+`)', text)
    parts[::2] = [re.sub(r'([\\*_<>\[\]$#|{}~])', r'\\\1', p) for p in parts[::2]]
    return ''.join(parts)


def first_paragraph(text) -> str:
    return ' '.join(text.strip().split('\n\n')[0].split())


# ---- notebooks


def shorten(text, most=160) -> str:
    "The last paragraph before a picture without its marks: what is told of it where it is not seen."
    words = re.sub(r'!?\[([^]]+)\]\([^)]+\)', r'\1', text)
    words = ' '.join(re.sub(r'[`*_#>$|]', '', words.strip().split('\n\n')[-1]).split())
    return words if len(words) <= most else words[:most].rsplit(' ', 1)[0] + ' …'


def only_imports(text) -> bool:
    body = ast.parse(house.without_magics(text)).body
    return bool(body) and all(isinstance(n, ast.Import | ast.ImportFrom) for n in body)


def prepare_code(cell, said, fold):
    "Alternative texts for its pictures; imports are folded, and what the library takes is marked."
    text = cell['source'] = ''.join(cell['source'])
    tags = ['exported'] if house.EXPORT.match(text) else []
    cell['imports'] = only_imports(text)  # several such cells become one
    if fold or cell['imports']:
        tags.append('hide-input')
    cell['metadata'] = dict(tags=tags, mystnb=dict(image=dict(alt=said)))


def prepare_notebook(path, fold=False):
    "A notebook as a page. The links at its end are the theme's, and a chapter names its module."
    nb = house.read_notebook(path)
    said = house.heading(path)[0]
    cells = []
    for cell in nb['cells']:
        text = ''.join(cell['source'])
        if cell['id'] == 'navigation' or re.match(r'#\| *(default_exp|hide)\b', text):
            continue
        if cell['cell_type'] == 'code':
            if only_imports(text) and cells and cells[-1].get('imports'):
                cells[-1]['source'] += '\n\n' + text
                continue
            prepare_code(cell, said, fold)
        else:
            said = shorten(text) or said
            cell['source'] = relink(text, path)
        cells.append(cell)
    if path in house.chapters():
        cells[0]['source'] += (
            f'\n\nModule {module_link(house.module_of(path), path.parent)}'
        )
    for cell in cells:
        cell.pop('imports', None)
    write(path.relative_to(ROOT), json.dumps(nb | dict(cells=cells)))


def relink(text, path) -> str:
    "Links as they hold here: the front page takes the place of the README, and the report lies among the results."
    text = text.replace('](../README.md)', '](../index.md)')
    if path.parent.name == 'stages':
        text = text.replace('](../figures/', '](../../results/figures/')
    return text


def module_link(name, start) -> str:
    wing, module = name.split('.')
    target = os.path.relpath(ROOT / f'reference/{wing}/{module}.md', start)
    return f'[`wavbrivl.{name}`]({target})'


def write_notebooks():
    for path in house.notebooks():
        prepare_notebook(path)
    for path in sorted((ROOT / 'results/reports').glob('*.ipynb')):
        prepare_notebook(path, fold=True)
    files = [ROOT / 'nbs/method.svg']
    for name in LINKED:
        top = ROOT / name
        files += [p for p in top.rglob('*') if p.is_file()] if top.is_dir() else [top]
    for path in files:
        if path.suffix not in ('.ipynb', '.md'):
            write(path.relative_to(ROOT), path.read_bytes())


def chapters_of(wing) -> list:
    return [p for p in house.chapters() if p.parent.name.endswith(f'_{wing}')]


def write_wings():
    "A page for each wing: what it is, and its chapters."
    for number, wing in enumerate(house.wings()):
        paths = chapters_of(wing)
        rows = [
            [f'[{house.heading(p)[0]}]({p.name})', house.heading(p)[1]] for p in paths
        ]
        parts = [f'# {number} {wing}', house.WINGS[wing], table(['chapter', ''], rows)]
        parts.append(
            f'Its functions: [the reference of {wing}](../../reference/{wing}.md).'
        )
        parts.append(toctree([p.stem for p in paths], 'hidden'))
        write(f'nbs/{paths[0].parent.name}/index.md', '\n\n'.join(parts))


# ---- results


def report_sections() -> dict:
    "{table: (heading, text)} of the report, in its order."
    found, heading, text = {}, '', ''
    for cell in house.read_notebook(ROOT / 'results/reports/report.ipynb')['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown':
            *_, title = [None, *re.finditer(r'^#+ (.+)\n?', source, re.M)]
            heading = title[1] if title else heading
            text = source[title.end() :] if title else source
        elif saved := re.search(r"tables / '(\w+)'", source):
            found[saved[1]] = heading, text
    return found


def verdicts() -> Counter:
    "How many numbers of the papers' claims have each verdict."
    lines = read('results/tables/claims.csv').splitlines()
    rows = csv.DictReader(line for line in lines if not line.startswith('#'))  # notes
    return Counter(r['verdict'] for r in rows)


def count_verdicts() -> str:
    found = verdicts()
    counts = ', '.join(f'{n} {verdict}' for verdict, n in found.most_common())
    return f'They make {sum(found.values())} comparisons: {counts}.'


def table_title(name, heading) -> str:
    "Several tables of a section are told apart by the paper's number, or by their file."
    if found := re.fullmatch(r'(wavbrivl|bgtai)_table(\d)', name):
        return f'{dict(wavbrivl="WavBriVL", bgtai="BGTAI")[found[1]]}, Table {found[2]}'
    is_shared = [h for h, _ in report_sections().values()].count(heading) > 1
    return f'{heading}: {name}' if is_shared else heading


def write_tables() -> list:
    "A page for each table of the report. Returns their names."
    there = {p.stem for p in (ROOT / 'results/tables').glob('*.md')}
    names = [n for n in report_sections() if n in there]
    names += sorted(there - set(names))
    for name in names:
        heading, text = report_sections().get(name, (name, ''))
        counts = count_verdicts() if name == 'claims' else ''
        parts = [
            f'# {table_title(name, heading)}',
            text,
            counts,
            read(f'results/tables/{name}.md'),
        ]
        parts.append(f'[The same as CSV]({name}.csv)')
        write(f'results/tables/{name}.md', '\n\n'.join(parts))
    write(
        'results/benchmarks.md',
        '# Speed\n\n![Times beside the usual alternative](benchmarks.png)\n\n'
        + read('results/benchmarks.md'),
    )
    return names


# ---- settings and commands


def comments(text) -> dict:
    "{line: comment} of code."
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {
        t.start[0]: t.string.lstrip('# ') for t in tokens if t.type == tokenize.COMMENT
    }


class Code:
    "A module's text, its syntax tree and its comments."

    def __init__(self, path):
        self.text = Path(path).read_text(encoding='utf-8')
        self.lines = ['', *self.text.split('\n')]
        self.body = ast.parse(self.text).body
        self.notes = comments(self.text)

    def beside(self, node) -> str:
        "The comment on a node's line, else the one above it."
        for line in (node.end_lineno, node.lineno):
            if line in self.notes:
                return self.notes[line]
        above, i = [], node.lineno - 1
        while i in self.notes and self.lines[i].lstrip().startswith('#'):
            above.insert(0, self.notes[i])
            i -= 1
        return ' '.join(above)


def setting_notes() -> dict:
    "{class: {setting: what its comment says}}."
    found = {}
    for name in ('params', 'picture_params'):
        code = Code(ROOT / f'wavbrivl/core/{name}.py')
        for c in code.body:
            if isinstance(c, ast.ClassDef):
                fields = [n for n in c.body if isinstance(n, ast.AnnAssign)]
                found[c.name] = {n.target.id: code.beside(n) for n in fields}
    return found


def meaning(section, name, notes) -> str:
    "What a setting is, told by its class or the one it inherits from."
    told = (notes.get(c.__name__, {}).get(name) for c in type(section).__mro__)
    return plain(next(filter(None, told), ''))


def takes(field) -> str:
    from wavbrivl.core.config import describe_allowed

    words = describe_allowed(field)
    return re.sub(r'of type (\w+)', lambda m: TYPES.get(m[1], m[1]), words)


def setting_rows(section, notes, prefix=''):
    from wavbrivl.core.params import Section

    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from setting_rows(value, notes, f'{prefix}{name}.')
            continue
        told = (
            meaning(section, name, notes),
            f'`{json.dumps(value)}`',
            plain(takes(field)),
        )
        yield [f'`{prefix}{name}`', *told]


def write_settings():
    "Every setting: what it means, what it is by default, what it takes."
    from wavbrivl.core.picture_params import Params

    notes, whole = setting_notes(), Params()
    head = ['setting', 'meaning', 'default', 'takes']
    groups = defaultdict(list)
    for row in setting_rows(whole, notes):
        groups[row[0].strip('`').split('.')[0] if '.' in row[0] else ''].append(row)
    parts = [(HERE / 'settings.md').read_text(), table(head, groups.pop(''))]
    for name, rows in groups.items():
        what = type(getattr(whole, name)).__doc__ or ''
        parts += [f'## {name}', plain(what), table(head, rows)]
    write('settings.md', '\n\n'.join(parts))


def write_commands():
    "Every command, from the tables that the command line is made of."
    names = ('commands', 'options', 'examples')
    texts = [read(f'wavbrivl/app/{n}.csv').splitlines() for n in names]
    commands, options, examples = (list(csv.DictReader(t)) for t in texts)
    parts = [(HERE / 'commands.md').read_text()]
    for c in commands:
        shown = [e['example'] for e in examples if e['command'] == c['command']]
        groups = (
            ['common', 'model', c['command']]
            if c['takes_model']
            else ['common', c['command']]
        )
        parts += [
            f'## {c["command"]}',
            plain(c['help']),
            '\n'.join(['```', *shown, '```']),
        ]
        rows = [
            [
                f'`{o["option"]}`',
                plain(o['help']),
                f'`{o["default"]}`' * bool(o['default']),
            ]
            for o in sorted(
                options,
                key=lambda o: (
                    -groups.index(o['command']) if o['command'] in groups else 0
                ),
            )
            if o['command'] in groups
        ]
        parts.append(table(['option', 'meaning', 'default'], rows))
    write('commands.md', '\n\n'.join(parts))


# ---- reference


def directive(kind, name, body, colons=4, **options) -> str:
    "A definition for Sphinx, which draws the signature, links the types and fills index and search."
    fence = ':' * colons
    lines = [f':{key}: {json.dumps(value)}' for key, value in options.items()]
    return '\n'.join([f'{fence}{{py:{kind}}} {name}', *lines, '', body, fence, ''])


def signature(node, drop_self=False) -> str:
    args = ast.unparse(node.args)
    args = re.sub(r'^(self|cls)(: [\w.]+)?(, )?', '', args) if drop_self else args
    return f'({args})' + (f' -> {ast.unparse(node.returns)}' if node.returns else '')


def last_line(node, code) -> int:
    "The line a function's head ends on."
    lines = range(node.body[0].lineno - 1, node.lineno - 1, -1)
    return next((i for i in lines if re.search(r'\).*:', code.lines[i])), node.lineno)


def parameter_fields(node, code) -> list:
    "What the comments say of parameters and of what is returned."
    a, end = node.args, last_line(node, code)
    args = [*a.posonlyargs, *a.args, a.vararg, *a.kwonlyargs, a.kwarg]
    told = [(g.arg, code.beside(g)) for g in args if g and g.lineno != end]
    lines = [f':param {name}: {plain(what)}' for name, what in told if what]
    if end in code.notes:
        lines.append(f':returns: {plain(code.notes[end])}')
    return lines


def docstring(node) -> str:
    return plain(ast.get_docstring(node) or '')


def describe_function(node, code, owner=None, **options) -> str:
    "A function; a method where it has an owner ('' inside its class)."
    body = '\n'.join([docstring(node), '', *parameter_fields(node, code)])
    decorators = ' '.join(ast.unparse(d) for d in node.decorator_list)
    if owner is None:
        return directive('function', node.name + signature(node), body, **options)
    if 'property' in decorators or 'as_prop' in decorators:
        return directive('property', owner + node.name, body, **options)
    is_static = 'staticmethod' in decorators
    name = owner + node.name + signature(node, not is_static)
    return directive('method', name, body, **options)


def describe_value(node, name, code) -> str:
    options = {}
    if getattr(node, 'annotation', None):
        options['type'] = ast.unparse(node.annotation)
    if node.value:
        value = ast.unparse(node.value)
        options['value'] = value if len(value) <= MOST else value[:MOST] + ' …'
    kind = 'attribute' if options.get('type') else 'data'
    return directive(kind, name, plain(code.beside(node)), **options)


def describe_class(node, code, added) -> str:
    "A class: its fields, its methods, and where other chapters add some."
    parts = [docstring(node)]
    inner = {getattr(n, 'name', ''): n for n in node.body}
    init = inner.get('__init__')
    if init:
        parts.append('\n'.join(parameter_fields(init, code)))
    if node.bases:
        parts.append('Bases: ' + ', '.join(f'`{ast.unparse(b)}`' for b in node.bases))
    for n in node.body:
        if isinstance(n, ast.AnnAssign) and n.target.id[0] != '_':
            parts.append(describe_value(n, n.target.id, code))
        elif isinstance(n, ast.FunctionDef) and n.name[0] != '_':
            parts.append(describe_function(n, code, ''))
    if added:
        links = ', '.join(f'{{py:obj}}`{n.name} <{target}>`' for target, n in added)
        parts.append(f'Added by the chapters that follow: {links}.')
    return directive(
        'class',
        node.name + (signature(init, True) if init else ''),
        '\n\n'.join(parts),
        5,
    )


def is_added(node) -> bool:
    return (
        isinstance(node, ast.FunctionDef)
        and house.is_patch(node)
        and node.name[0] != '_'
    )


def owners_of(node) -> list:
    "The classes a method is added to."
    kinds = node.args.args[0].annotation
    return [ast.unparse(k) for k in getattr(kinds, 'elts', [kinds])]


def names_of(node):
    "The names that a statement of a module defines, each with the statement that defines it alone."
    if hasattr(node, 'name'):
        yield node.name, node
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        target = getattr(node, 'target', None) or node.targets[0]
        if isinstance(target, ast.Tuple):
            for i, t in enumerate(target.elts):
                elements = getattr(node.value, 'elts', None)
                value = elements[i] if elements else ast.Constant(i)  # of a range
                yield t.id, ast.copy_location(ast.Assign([t], value), node)
        elif isinstance(target, ast.Name):
            yield target.id, node


class Reference:
    "The public names of all modules, in reading order."

    def __init__(self):
        paths = house.library_modules()
        self.chapters = {house.module_of(p): p for p in house.chapters()}
        self.code = {name: Code(paths[name]) for name in self.chapters}
        self.home = {}  # class -> the module that defines it
        self.added = defaultdict(
            list
        )  # class -> the methods that later chapters give it
        for name, code in self.code.items():
            for n in code.body:
                if isinstance(n, ast.ClassDef):
                    self.home[n.name] = f'wavbrivl.{name}'
                elif is_added(n):
                    first = owners_of(n)[0]
                    self.home.setdefault(first, f'wavbrivl.{name}')  # another library's
                    target = f'{self.home[first]}.{first}.{n.name}'
                    for owner in owners_of(n):
                        self.added[owner].append((target, n))

    def public(self, name) -> list:
        "What a module's `__all__` names, and the methods it adds: (shown name, node)."
        body = self.code[name].body
        named = {key: n for n in reversed(body) for key, n in names_of(n)}
        public = ast.literal_eval(named['__all__'].value)
        found = [(named[key].lineno, key, named[key]) for key in public]
        added = filter(is_added, body)
        found += [(n.lineno, f'{owners_of(n)[0]}.{n.name}', n) for n in added]
        return [(key, n) for _, key, n in sorted(found, key=lambda f: f[0])]

    def describe(self, name, key, node) -> str:
        code = self.code[name]
        if isinstance(node, ast.ClassDef):
            return describe_class(node, code, self.added[key])
        if not isinstance(node, ast.FunctionDef):
            return describe_value(node, key, code)
        if '.' not in key:
            return describe_function(node, code)
        owner = owners_of(node)[0]
        return describe_function(node, code, owner + '.', module=self.home[owner])

    def place(self, name, key) -> str:
        "The full name under which Sphinx knows something public."
        owner = key.split('.')[0]
        return f'{self.home[owner]}.{key}' if '.' in key else f'wavbrivl.{name}.{key}'

    def list_names(self, name) -> str:
        rows = []
        for key, node in self.public(name):
            is_value = not isinstance(node, ast.FunctionDef | ast.ClassDef)
            told = self.code[name].beside(node) if is_value else ast.get_docstring(node)
            rows.append(
                [
                    f'{{py:obj}}`{key} <{self.place(name, key)}>`',
                    plain(first_paragraph(told or '')),
                ]
            )
        return table(['name', ''], rows)

    def write_module(self, name):
        wing, module = name.split('.')
        title, sentence = house.heading(self.chapters[name])
        chapter = os.path.relpath(self.chapters[name], ROOT / 'reference' / wing)
        way = f'[Reference](../../reference.md) / [{wing}](../{wing}.md)'
        parts = [
            '---\norphan: true\n---',
            way,
            f'# {name}',
            sentence,
        ]  # the wing's page lists it
        parts.append(f'Read it in the chapter [{title}]({chapter}).')
        parts.append(f'```{{py:module}} wavbrivl.{name}\n```')
        parts += [self.describe(name, key, node) for key, node in self.public(name)]
        write(f'reference/{wing}/{module}.md', '\n\n'.join(parts))

    def write_wing(self, wing):
        names = [n for n in self.chapters if n.startswith(f'{wing}.')]
        parts = [f'# {wing}', house.WINGS[wing]]
        for name in names:
            page = name.replace('.', '/')
            parts += [
                f'## [{name}]({page}.md)',
                house.heading(self.chapters[name])[1],
                self.list_names(name),
            ]
        write(f'reference/{wing}.md', '\n\n'.join(parts))

    def list_methods(self, owner) -> str:
        rows = [
            [
                f'{{py:obj}}`{n.name} <{target}>`',
                plain(first_paragraph(ast.get_docstring(n) or '')),
            ]
            for target, n in self.added[owner]
        ]
        return table(['call', ''], rows)

    def write(self):
        for name in self.chapters:
            self.write_module(name)
        for wing in house.wings():
            self.write_wing(wing)
        methods = {
            f'<!-- {c} -->': self.list_methods(c) for c in ('WavBriVL', 'Painter')
        }
        rows = [[f'[{w}](reference/{w}.md)', house.WINGS[w]] for w in house.wings()]
        text = fill(
            'reference.md', methods | {'<!-- wings -->': table(['wing', ''], rows)}
        )
        write(
            'reference.md',
            text + toctree([f'reference/{w}' for w in house.wings()], 'hidden'),
        )


# ---- the front page, and the order of all


def fill(name, marks) -> str:
    "A page written by hand, with what is read from results or code in the place of its marks."
    text = (HERE / name).read_text(encoding='utf-8')
    for mark, new in marks.items():
        if mark not in text:
            raise SystemExit(f'nbs/site/{name} has no {mark}')
        text = text.replace(mark, new)
    return text


def gallery() -> str:
    "The rows of sounds and pictures that the guide `listen` made."
    for cell in house.read_notebook(ROOT / 'nbs/guides/listen.ipynb')['cells']:
        for output in cell.get('outputs', []):
            html = ''.join(output.get('data', {}).get('text/html', ''))
            if 'class="heard"' in html:
                return f'```{{raw}} html\n{html}\n```'
    raise SystemExit(
        'nbs/guides/listen.ipynb has no sounds; execute it after make repro'
    )


def readme_section(title) -> str:
    return re.search(rf'^## {title}\n(.+?)(?=^## |\Z)', read('README.md'), re.M | re.S)[
        1
    ].strip()


def guides() -> list:
    "The guides, in the order in which the map and the README name them."
    text = '\n'.join(house.sources(ROOT / 'nbs/index.ipynb', 'markdown')) + read(
        'README.md'
    )
    named = dict.fromkeys(re.findall(r'guides/(\w+)\.ipynb', text))
    rest = sorted(
        p.stem for p in (ROOT / 'nbs/guides').glob('*.ipynb') if p.stem not in named
    )
    return [f'nbs/guides/{n}' for n in [*named, *rest]]


def contributing() -> str:
    "CONTRIBUTING.md with its drawing as a table."
    rows = [
        [f'`{w}`', ', '.join(o for o in house.wings() if o in arrows)]
        for w, arrows in house.wing_arrows().items()
    ]
    text = re.sub(r'```mermaid\n.*?```', '', read('CONTRIBUTING.md'), flags=re.S)
    text = text.replace(
        'an arrow below means *imports*.\nArrows that follow from two others are left out.',
        'each wing and those it imports:',
    )
    return text.replace('<!-- wings -->', table(['wing', 'imports'], rows))


def write_front(tables):
    stages = dict.fromkeys(re.findall(r'nbs/stages/\w+(?=\.ipynb)', read('dvc.yaml')))
    wings = [f'nbs/{chapters_of(w)[0].parent.name}/index' for w in house.wings()]
    marks = {
        '<!-- gallery -->': gallery(),
        '<!-- headline -->': read('results/tables/headline.md'),
        '<!-- verdicts -->': count_verdicts(),
        '<!-- use -->': readme_section('Use it'),
        '<!-- commands -->': readme_section('Two commands'),
    }
    trees = {
        'Guides': ['The map of chapters <nbs/index>', *guides()],
        'Results': [
            'results/reports/report',
            *(f'results/tables/{n}' for n in tables),
            'results/benchmarks',
        ],
        'Chapters': wings,
        'Reference': ['reference', 'commands', 'settings'],
        'Pipeline': stages,
        'Project': ['CONTRIBUTING', 'CHANGELOG'],
    }
    tocs = [toctree(names, 'hidden', f'caption: {c}') for c, names in trees.items()]
    write('index.md', '\n\n'.join([fill('index.md', marks), *tocs]))
    write('CONTRIBUTING.md', contributing())
    write('CHANGELOG.md', read('CHANGELOG.md'))


def write_pages():
    "Write every page, and remove what no page is any more."
    written.clear()
    write_notebooks()
    write_wings()
    tables = write_tables()
    write_settings()
    write_commands()
    Reference().write()
    write_front(tables)
    for path in PAGES.rglob('*'):
        if path.is_file() and path not in written:
            path.unlink()


if __name__ == '__main__':
    write_pages()
