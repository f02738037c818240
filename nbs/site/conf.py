"How Sphinx builds the site: `make docs`. The pages are written by pages.py, beside this file."

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / 'tests')]

import pages  # noqa: E402

project = 'WavBriVL'
author = 'The WavBriVL authors'
release = version = pages.VERSION
html_title = f'{project} {version}'
language = 'en'

extensions = ['myst_nb', 'sphinx_copybutton']
nb_execution_mode = 'off'  # the outputs are those that are committed
nb_render_image_options = {'class': 'output'}
myst_enable_extensions = ['amsmath', 'dollarmath', 'colon_fence', 'fieldlist']
myst_heading_anchors = 4
myst_links_external_new_tab = False
add_module_names = False
maximum_signature_line_length = 88
python_use_unqualified_type_names = True
toc_object_entries = False
suppress_warnings = ['mystnb.unknown_mime_type']

html_theme = 'furo'
html_static_path = ['static']
html_css_files = ['site.css']
html_show_sphinx = False
html_copy_source = False
html_math_renderer = 'mathml'
pygments_style = 'a11y-high-contrast-light'
pygments_dark_style = 'github-dark'


def setup(app):
    app.add_html_math_renderer('mathml', (pages.math_inline, None), (pages.math_block, None))
