"Copies are found, shares have intervals, and drawings are named blindly."

import numpy as np
import pandas as pd
import pytest
import torch

from wavbrivl.core.files import BadFile, BadInput
from wavbrivl.generation.fidelity import KnownPictures, nearest_distances
from wavbrivl.report.picture_figures import classes_figure, pictures_figure
from wavbrivl.report.picture_tables import pictures_table
from wavbrivl.report.summary import mean_and_spread
from wavbrivl.survey.naming import blind_sheet, score_naming, write_sheet


def smooth_pictures(n, seed, side=64):
    g = torch.Generator().manual_seed(seed)
    small = torch.rand(n, 3, 8, 8, generator=g) * 255
    wide = torch.nn.functional.interpolate(small, (side, side), mode='bilinear')
    return wide.round().byte()


def test_a_copy_is_found_after_a_shift_at_another_size(one_thread):
    known, new = smooth_pictures(60, 0), smooth_pictures(40, 1)
    seen = KnownPictures(known, new)
    moved = known.roll((3, -2), (2, 3))
    wide = torch.nn.functional.interpolate(known.float(), 160, mode='bilinear')
    for copy in (known, known.flip(-1), moved, wide.round().byte()):
        assert seen.score(copy)['copies'] == 1
    assert seen.score(new)['copies'] == pytest.approx(0.05)
    assert seen.score(smooth_pictures(40, 2))['copies'] <= 0.2
    assert seen.score(known)['nearest'] < 0.5 < seen.score(new)['nearest']
    assert seen.score(known[:0]) == {}


def test_blocks_do_not_change_a_distance(one_thread):
    known, new = smooth_pictures(30, 0), smooth_pictures(5, 1)
    small = KnownPictures(known, new).thumbnails
    whole = nearest_distances(new, small)
    parts = nearest_distances(new, small, batch=2, block=7)
    torch.testing.assert_close(whole, parts, rtol=1e-3, atol=1e-2)


def test_nothing_known_is_refused():
    with pytest.raises(BadInput, match='known pictures'):
        KnownPictures(smooth_pictures(0, 0), smooth_pictures(2, 1))
    with pytest.raises(BadInput, match='uint8'):
        KnownPictures(smooth_pictures(2, 0).float(), smooth_pictures(2, 1))


def scored(kind, n, r1, copies, **more):
    facts = dict(sounds=n, first=32, extractor='judge', pool=24)
    numbers = dict(r1=r1, copies=copies, **more)
    return {
        f'foley/wavbrivl/{kind}/{k}': mean_and_spread([v], [0], **facts)
        for k, v in numbers.items()
    }


def test_the_table_has_intervals_and_the_same_sounds():
    summary = scored('diffusion', 320, 0.8125, 0.02, r1_first=0.75)
    summary |= scored('ranked', 32, 0.9375, 0.0)
    summary |= scored('mosaic', 320, 0.85, 1.0, r1_first=0.875)
    t = pictures_table(summary, 'foley')
    drawn = t.loc[('diffusion', 'wavbrivl')]
    assert drawn['R@1 of 320 sounds'] == '0.81 [0.77, 0.85]'
    assert drawn['R@1 of 32 sounds'].startswith('0.75 [0.58')
    assert t.loc[('best of several', 'wavbrivl'), 'R@1 of 32 sounds'].startswith(
        '0.94 ['
    )
    assert [c for c in t if c.startswith('copies')] == ['copies']
    named = next(n for n in t.attrs['notes'] if n.startswith('Nearest'))
    assert 'mosaic' in named and 'diffusion' not in named and 'several' not in named
    sounds = next(n for n in t.attrs['notes'] if n.startswith('sounds'))
    assert '32 (best of several)' in sounds


def test_pictures_of_a_page_are_64_pixels_or_more():
    picture = np.full((64, 64, 3), 90, np.uint8)
    rows = {f'class {i}': [(picture, picture, 'cat')] * 2 for i in range(5)}
    many = {f'way {k}': picture for k in range(9)}
    sound = dict(label='dog', clip=np.zeros(16000, np.float32), pictures=many)
    for fig in (classes_figure(rows, 'title'), pictures_figure([sound] * 8)):
        fig.canvas.draw()
        tiles = [ax.get_window_extent() for ax in fig.axes if ax.images]
        pixels = [min(t.width, t.height) * 80 / fig.dpi for t in tiles]
        assert len(pixels) >= 20 and min(pixels) >= 64
    with pytest.raises(BadInput, match='no drawing'):
        classes_figure({})


def test_naming(tmp_path):
    pictures = np.zeros((60, 3, 8, 8), np.uint8)
    labels = [f'kind {i % 4}' for i in range(60)]
    fig, answers = blind_sheet(pictures, labels, 3)
    titles = {ax.get_title() for ax in fig.axes}
    assert len(answers) == 48 and not titles & set(labels) and '48' in titles
    write_sheet(tmp_path, pictures, labels, 3)
    given = pd.read_csv(tmp_path / 'given.csv', dtype=str, keep_default_na=False)
    blank = score_naming(tmp_path / 'answers.csv', tmp_path / 'given.csv')
    assert blank['right'] == 0 and blank['blank'] == 48 and blank['chance'] == 0.25
    given['given'] = [' ' + n.upper() for n in answers.label]
    assert score_naming(answers, given)['share'] == 1
    assert score_naming(answers, given[:24])['share'] == 0.5
    with pytest.raises(BadInput, match='already'):
        write_sheet(tmp_path, pictures, labels)
    with pytest.raises(BadInput, match='unicorn'):
        score_naming(answers, pd.DataFrame(dict(number=[1], given=['unicorn'])))
    with pytest.raises(BadInput, match='twice'):
        score_naming(answers, pd.DataFrame(dict(number=[1, 1], given=['', ''])))
    with pytest.raises(BadFile):
        score_naming(answers, tmp_path / 'missing.csv')
