"""Retrieval over the whole pool, both ways: blocks of similarities against a plain loop over queries, same embeddings.

make bench                                    # 15,000 x 15,000 x 512
python benchmarks/retrieval.py --pool 100000 --times 1
"""

import resource

import numpy as np
import torch
import torch.nn.functional as F

from side_by_side import begin, in_turn, options, record
from wavbrivl.metrics.retrieval import score_both_directions, rank_targets


def plain_ranks(a, b, queries: int):
    "What one would write first, for the first `queries`: one after the other, in both directions."
    found = []
    for q, g in ((a, b), (b, a)):
        for i in range(queries):
            s = g @ q[i]
            found.append(1 + (s > s[i]).sum().item())
    return np.array(found)


@torch.no_grad()
def main(argv=None):
    p = options(__doc__, times=3)
    p.add_argument('--pool', type=int, default=15_000)
    p.add_argument('--dim', type=int, default=512)
    p.add_argument(
        '--plain',
        type=int,
        default=500,
        help='queries that the plain loop is given; its time is scaled up to the pool',
    )
    o = begin(p, argv)
    if o.quick:
        o.pool, o.plain = 600, 60
    a = F.normalize(torch.randn(o.pool, o.dim, device=o.device), dim=1)
    b = F.normalize(
        a + 4.5 * torch.randn(o.pool, o.dim, device=o.device) / o.dim**0.5, dim=1
    )
    memory = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # GiB
    before = memory()
    score_both_directions(a, b)
    extra = memory() - before
    want = plain_ranks(a, b, o.plain)
    got = np.concatenate([rank_targets(x, y)[: o.plain] for x, y in ((a, b), (b, a))])
    taken = in_turn(
        dict(
            ours=lambda: score_both_directions(a, b),
            theirs=lambda: plain_ranks(a, b, o.plain),
        ),
        o.times,
        o.device,
    )
    record(
        o,
        f'retrieval_{o.pool}',
        f'Retrieval both ways, {o.pool:,} x {o.pool:,} x {o.dim}',
        taken['ours'],
        'a loop over queries',
        [t * o.pool / o.plain for t in taken['theirs']],
        2 * o.pool**2 * o.dim,
        error=float(np.abs(got - want).max()),
        extra_gib=extra,
        process_gib=memory(),
    )


if __name__ == '__main__':
    main()
