"How Sphinx builds the site: `make docs`. The pages are written by pages.py, beside this file."

import re
from pathlib import Path

from docutils.nodes import SkipNode
from latex2mathml.converter import convert

ROOT = Path(__file__).parents[2]
INIT = (ROOT / 'wavbrivl/__init__.py').read_text()

project = 'WavBriVL'
author = 'The WavBriVL authors'
copyright = author
release = version = re.search(r'__version__ = [\'"](.+)[\'"]', INIT)[1]
html_title = f'{project} {version}'
language = 'en'

extensions = ['myst_nb', 'sphinx_copybutton']
nb_execution_mode = 'off'  # the outputs are those that are committed
nb_merge_streams = True
nb_render_markdown_format = 'myst'  # tables of the report
nb_code_prompt_show = 'Show the code'
nb_code_prompt_hide = 'Hide the code'
nb_render_image_options = {'class': 'output'}
myst_enable_extensions = ['amsmath', 'dollarmath', 'colon_fence', 'fieldlist']
myst_heading_anchors = 4
myst_links_external_new_tab = False
add_module_names = False
maximum_signature_line_length = 88
python_use_unqualified_type_names = True
toc_object_entries_show_parents = 'hide'
suppress_warnings = ['mystnb.unknown_mime_type']

html_theme = 'furo'
html_static_path = ['static']
html_css_files = ['site.css']
html_favicon = 'static/icon.svg'
html_logo = 'static/icon.svg'
exclude_patterns = ['README.md']
copybutton_selector = 'div:not(.output) > div.highlight pre'
html_show_sphinx = False
html_copy_source = False
html_math_renderer = 'mathml'
pygments_style = 'a11y-high-contrast-light'
pygments_dark_style = 'github-dark'


def write_mathml(writer, node, display):
    "Equations as MathML: every browser draws it, and no page loads a program from elsewhere."
    writer.body.append(convert(node.astext(), display=display))
    raise SkipNode


def setup(app):
    inline = lambda writer, node: write_mathml(writer, node, 'inline')
    block = lambda writer, node: write_mathml(writer, node, 'block')
    app.add_html_math_renderer('mathml', (inline, None), (block, None))
