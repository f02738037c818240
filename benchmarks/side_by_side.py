"""What the benchmarks share: ways timed in turn, what the machine could do at best, one file of results.

`bench/NAME/FACT` in results/benchmarks.json: what is done and against what, `seconds` and `against_seconds` (medians),
`ratio` (theirs over ours, above 1 is better) with the lowest and highest of the single rounds, how near the results
are, the floor (FLOPs over the rate of a large matrix product in that precision, measured in the same run), and the
machine.
"""

import argparse, contextlib, functools, platform, re, time
from pathlib import Path
from statistics import median

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from wavbrivl.core.files import read_json, write_json
from wavbrivl.core.runtime import log

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / 'results' / 'benchmarks.json'
DTYPES = dict(fp32=torch.float32, bf16=torch.bfloat16)


def options(doc: str, times: int = 5) -> argparse.ArgumentParser:
    "The options of every benchmark."
    p = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument('--device', default='cpu')
    p.add_argument('--threads', type=int, default=2, help='of the CPU')
    p.add_argument('--times', type=int, default=times, help='rounds that count')
    p.add_argument(
        '--quick',
        action='store_true',
        help='tiny sizes: shows that it runs, not how fast; kept apart in build/',
    )
    p.add_argument('--results', type=Path)
    return p


def begin(parser, argv=None):
    "Read the options, set threads and seed."
    o = parser.parse_args(argv)
    o.results = o.results or (
        ROOT / 'build' / 'benchmarks.json' if o.quick else RESULTS
    )
    torch.set_num_threads(o.threads)
    torch.manual_seed(0)
    return o


def wait(device: str):
    "Wait until a GPU is idle."
    if device != 'cpu':
        getattr(torch, device.split(':')[0]).synchronize()


def precisely(precision: str, device: str):
    "bf16 on an accelerator is autocast; on the CPU the fast copy brings its own."
    return (
        torch.autocast(device.split(':')[0], torch.bfloat16)
        if precision == 'bf16' and device != 'cpu'
        else contextlib.nullcontext()
    )


def in_turn(ways: dict, times: int, device: str) -> dict:
    "Seconds of every way, `times` each: a round to warm up, then round after round, each in the other order."
    seconds = {k: [] for k in ways}
    for i in range(times + 1):
        for k in list(ways)[:: 1 - 2 * (i % 2)]:
            wait(device)
            began = time.perf_counter()
            ways[k]()
            wait(device)
            if i:
                seconds[k].append(time.perf_counter() - began)
    return seconds


@functools.cache
def matmul_rate(
    precision: str, device: str, quick: bool = False, times: int = 7
) -> float:
    "FLOP/s of a large square matrix product, the best of several."
    n = 256 if quick else 2048 if device == 'cpu' else 8192
    x = torch.randn(n, n, device=device, dtype=DTYPES[precision])
    return (
        2 * n**3 / min(in_turn(dict(product=lambda: x @ x), times, device)['product'])
    )


def flops(run) -> int:
    "FLOPs of a call, on the plain kernels, for the fused ones hide theirs."
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
            run()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counted.get_total_flops()


def machine(device: str) -> str:
    "The name of the processor that does the work."
    if device.startswith('cuda'):
        return torch.cuda.get_device_name(device)
    cpu = Path('/proc/cpuinfo')
    named = (
        re.search(r'model name\s*:\s*(.+)', cpu.read_text()) if cpu.exists() else None
    )
    return named[1] if named else platform.processor() or platform.machine()


def compare_times(ours, theirs) -> dict:
    "Ratio of the medians, and of the single rounds the lowest and highest."
    if not len(theirs):
        return {}
    each = [t / s for t, s in zip(theirs, ours)]
    return dict(
        against_seconds=median(theirs),
        ratio=median(theirs) / median(ours),
        ratio_low=min(each),
        ratio_high=max(each),
    )


def compare_floor(o, work: int, ours, precision: str) -> dict:
    "Seconds that the FLOPs alone would take, and their share of ours."
    if not work:
        return {}
    floor = work / matmul_rate(precision, o.device, o.quick)
    share = floor / median(ours)
    return dict(gflop=work / 1e9, floor_seconds=floor, share_of_floor=share)


def store(results: Path, name: str, facts: dict):
    "Write the facts of one benchmark; the others stay in the file."
    known = read_json(results) if results.exists() else {}
    kept = {k: v for k, v in known.items() if not k.startswith(f'bench/{name}/')}
    write_json(kept | {f'bench/{name}/{k}': v for k, v in facts.items()}, results)


def describe(name: str, out: dict, facts: dict) -> str:
    "One benchmark in a line."
    line = f'{name}: {out["seconds"]:.4g} s'
    if 'ratio' in out:
        line += f', {out["against"]} {out["against_seconds"]:.4g} s'
        line += f', ratio {out["ratio"]:.2f}'
        line += f' ({out["ratio_low"]:.2f} to {out["ratio_high"]:.2f})'
    for k, v in facts.items():
        line += f' {k} {v:.4g}' if isinstance(v, float) else f' {k} {v}'
    return line


def record(
    o,
    name: str,
    what: str,
    ours,
    against: str = '',
    theirs=(),
    work: int = 0,
    precision: str = 'fp32',
    **facts,
):
    "Work out one comparison, log it and store it; `work`: FLOPs of ours."
    out = dict(
        what=what,
        against=against,
        precision=precision,
        seconds=median(ours),
        rounds=len(ours),
    )
    out |= compare_times(ours, theirs)
    out |= compare_floor(o, work, ours, precision)
    out |= facts
    out['device'] = machine(o.device)
    out['threads'] = torch.get_num_threads()
    out['torch'] = torch.__version__
    if o.device != 'cpu':
        name += f'_{o.device.split(":")[0]}'
    store(o.results, name, out)
    log(describe(name, out, facts))
    return out


def similar(a, b) -> float:
    "The lowest cosine between rows of `a` and `b` [..., D]."
    return (
        torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=-1)
        .min()
        .item()
    )


def gap(a, b) -> float:
    "The largest absolute difference."
    return (a.double() - b.double()).abs().max().item()
