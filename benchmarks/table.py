"""The benchmarks as a table and a figure, beside their file.

make bench
python benchmarks/table.py --results /tmp/benchmarks.json      # writes /tmp/benchmarks.md and .png
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from side_by_side import RESULTS
from wavbrivl.core.files import BadInput, read_json, atomic_write
from wavbrivl.core.runtime import log
from wavbrivl.core.plotting import palette, styled, set_finding, save_figure

COLUMNS = [
    'what',
    'against',
    'ours',
    'theirs',
    'ratio',
    'agreement',
    'floor',
    'share of the floor',
]


def read_results(path) -> pd.DataFrame:
    "One row a comparison, in the order of names. Raises `BadInput` when there is none."
    rows = {}
    for k, v in read_json(path).items():
        _, name, fact = k.split('/')
        rows.setdefault(name, {})[fact] = v
    if not rows:
        raise BadInput(f'{path} holds no benchmark; run `make bench`.')
    return pd.DataFrame.from_dict(rows, orient='index')


def seconds(x: float) -> str:
    "Three digits, in ms below a second."
    return '' if pd.isna(x) else f'{x:.3g} s' if x >= 1 else f'{1e3 * x:.3g} ms'


def agreement(r) -> str:
    "How near the two results are."
    found = []
    if pd.notna(r.get('error')):
        found.append(f'error {r["error"]:.1e}' if r['error'] else 'equal')
    if pd.notna(r.get('other_paths')):
        found.append(
            'same paths'
            if not r['other_paths']
            else f'{r["other_paths"]:.0f} other paths'
        )
    if pd.notna(r.get('cosine')):
        found.append(f'cosine {r["cosine"]:.5f}')
    if pd.notna(r.get('cosine_weights_rounded')):
        found.append(
            f"with the CNN's weights alone rounded {r['cosine_weights_rounded']:.5f}"
        )
    return ', '.join(found)


def cell_row(r) -> list:
    "One comparison in words, in the order of `COLUMNS`."
    ratio = ''
    if pd.notna(r.get('ratio')):
        ratio = f'{r["ratio"]:.2f} ({r["ratio_low"]:.2f} to {r["ratio_high"]:.2f})'
    share = ''
    if pd.notna(r.get('share_of_floor')):
        share = f'{r["share_of_floor"]:.0%}'
    return [
        r['what'],
        r['against'],
        seconds(r['seconds']),
        seconds(r.get('against_seconds')),
        ratio,
        agreement(r),
        seconds(r.get('floor_seconds')),
        share,
    ]


def cells(t: pd.DataFrame) -> pd.DataFrame:
    "The comparisons in words."
    return pd.DataFrame([cell_row(r) for _, r in t.iterrows()], columns=COLUMNS)


def line(row) -> str:
    "A row of a Markdown table."
    return '| ' + ' | '.join(row) + ' |'


def markdown(t: pd.DataFrame) -> str:
    "A table for every machine."
    parts = [
        'Median seconds of each, measured in turn in one process; ratio: theirs over ours, above 1 is better, '
        'with the lowest and highest round. Agreement: largest absolute difference, lowest cosine. '
        'Floor: FLOPs over the rate of a large matrix product in that precision.'
    ]
    for (device, threads, version), group in t.groupby(
        ['device', 'threads', 'torch'], sort=False
    ):
        where = (
            device
            if 'cuda' in str(group.index[0])
            else f'{device}, {threads:.0f} threads'
        )
        parts.append(
            '\n'.join(
                [
                    f'{where}, torch {version}',
                    '',
                    line(COLUMNS),
                    line(['---'] * 2 + ['---:'] * 3 + ['---'] + ['---:'] * 2),
                    *map(line, cells(group).to_numpy()),
                ]
            )
        )
    return '\n\n'.join(parts) + '\n'


TICKS = np.array([0.25, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500])


def draw_ratios(ax, t: pd.DataFrame):
    "A bar for each ratio, the lowest and highest round as a line."
    y = np.arange(len(t))
    colours = [palette(2)[int(p == 'bf16')] for p in t.precision]
    ax.barh(y, t.ratio - 1, left=1, color=colours, height=0.6)
    ax.hlines(y, t.ratio_low, t.ratio_high, color='.25', lw=1)
    for i, r in enumerate(t.itertuples()):
        text = f'{r.ratio:.1f}' if r.ratio > 9.95 else f'{r.ratio:.2f}'
        end = (max(r.ratio, r.ratio_high, 1), i)
        offset = dict(textcoords='offset points', va='center', fontsize=8)
        ax.annotate(text, end, (4, 0), **offset)
    ax.axvline(1, color='.2', lw=0.8)


def label_axes(ax, t: pd.DataFrame):
    "What is compared with what, and a log axis with plain numbers."
    labels = [f'{a}\nagainst {b}' for a, b in zip(t.what, t.against)]
    ax.set_yticks(np.arange(len(t)), labels, fontsize=7.5)
    low = min(0.8, 0.9 * t.ratio_low.min())
    high = 1.6 * t.ratio_high.max()
    ax.set(xscale='log', xlabel='times as fast (log scale)', xlim=(low, high))
    ticks = TICKS[(TICKS >= low) & (TICKS <= high)]
    ax.set_xticks(ticks, [f'{k:g}' for k in ticks])
    ax.minorticks_off()
    ax.tick_params(axis='y', length=0)


def add_legend(ax):
    "Say which colour is which precision."
    from matplotlib.patches import Rectangle

    boxes = [Rectangle((0, 0), 1, 1, color=c) for c in palette(2)]
    options = dict(title='our precision', loc='lower right')
    ax.legend(handles=boxes, labels=['fp32', 'bf16'], **options)


@styled
def bars(t: pd.DataFrame):
    "Every ratio on a log axis, the lowest and highest round as a line."
    import matplotlib.pyplot as plt

    t = t[t.ratio.notna()].sort_values('ratio')
    fig, ax = plt.subplots(figsize=(8.5, 0.8 + 0.42 * len(t)), layout='constrained')
    draw_ratios(ax, t)
    label_axes(ax, t)
    add_legend(ax)
    least = t.iloc[0]
    set_finding(
        fig,
        f'{(t.ratio > 1).sum()} of {len(t)} are faster than what they are compared with; '
        f'least: {least.what} ({least.ratio:.2f})',
    )
    return fig


def main(argv=None):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument('--results', type=Path, default=RESULTS)
    o = p.parse_args(argv)
    t = read_results(o.results)
    with atomic_write(o.results.with_suffix('.md')) as tmp:
        tmp.write_text(markdown(t))
    save_figure(bars(t), o.results.with_suffix('.png'))
    log(f'{len(t)} benchmarks in {o.results.with_suffix(".md")}')


if __name__ == '__main__':
    main()
