"Every kind of file that people bring becomes what the guide says."

import pytest

from what_is_read import AREAS, markdown, outcome, written

KINDS = [(area, kind) for area, (_, kinds, _) in AREAS.items() for kind in kinds]


@pytest.mark.parametrize('area,kind', KINDS, ids=[f'{a}: {k.name}' for a, k in KINDS])
def test_outcome(area, kind):
    became, said = outcome(kind, AREAS[area][2])
    assert became == kind.outcome, said
    assert (became == 'read') == (not said)


def test_the_guide_is_this_table():
    assert written() == markdown(), 'run python tests/what_is_read.py --write'
