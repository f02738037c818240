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


def cells(t: pd.DataFrame) -> pd.DataFrame:
    "The comparisons in words."
    rows = [
        dict(
            zip(
                COLUMNS,
                [
                    r['what'],
                    r['against'],
                    seconds(r['seconds']),
                    seconds(r.get('against_seconds')),
                    f'{r["ratio"]:.2f} ({r["ratio_low"]:.2f} to {r["ratio_high"]:.2f})'
                    if pd.notna(r.get('ratio'))
                    else '',
                    agreement(r),
                    seconds(r.get('floor_seconds')),
                    f'{r["share_of_floor"]:.0%}'
                    if pd.notna(r.get('share_of_floor'))
                    else '',
                ],
            )
        )
        for _, r in t.iterrows()
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def markdown(t: pd.DataFrame) -> str:
    "A table for every machine."
    line = lambda row: '| ' + ' | '.join(row) + ' |'
    parts = [
        'Median seconds of each, measured in turn in one process; ratio: theirs over ours, above 1 is better, with the lowest and highest round. '
        'Agreement: largest absolute difference, lowest cosine. Floor: FLOPs over the rate of a large matrix product in that precision.'
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


@styled
def bars(t: pd.DataFrame):
    "Every ratio on a log axis, the lowest and highest round as a line."
    import matplotlib.pyplot as plt

    t = t[t.ratio.notna()].sort_values('ratio')
    fig, ax = plt.subplots(figsize=(8.5, 0.8 + 0.42 * len(t)), layout='constrained')
    y, colour = np.arange(len(t)), np.where(t.precision == 'bf16', 1, 0)
    ax.barh(y, t.ratio - 1, left=1, color=[palette(2)[c] for c in colour], height=0.6)
    ax.hlines(y, t.ratio_low, t.ratio_high, color='.25', lw=1)
    for i, r in enumerate(t.itertuples()):
        ax.annotate(
            f'{r.ratio:.1f}' if r.ratio > 9.95 else f'{r.ratio:.2f}',
            (max(r.ratio, r.ratio_high, 1), i),
            (4, 0),
            textcoords='offset points',
            va='center',
            fontsize=8,
        )
    ax.axvline(1, color='.2', lw=0.8)
    ax.set_yticks(
        y, [f'{a}\nagainst {b}' for a, b in zip(t.what, t.against)], fontsize=7.5
    )
    ax.set(
        xscale='log',
        xlabel='times as fast (log scale)',
        xlim=(min(0.8, 0.9 * t.ratio_low.min()), 1.6 * t.ratio_high.max()),
    )
    ticks = [
        k
        for k in (0.25, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
        if ax.get_xlim()[0] <= k <= ax.get_xlim()[1]
    ]
    ax.set_xticks(ticks, [f'{k:g}' for k in ticks])
    ax.minorticks_off()
    ax.tick_params(axis='y', length=0)
    ax.legend(
        handles=[plt.Rectangle((0, 0), 1, 1, color=c) for c in palette(2)],
        labels=['fp32', 'bf16'],
        title='our precision',
        loc='lower right',
    )
    least = t.iloc[0]
    set_finding(
        fig,
        f'{(t.ratio > 1).sum()} of {len(t)} are faster than what they are compared with; least: {least.what} ({least.ratio:.2f})',
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
