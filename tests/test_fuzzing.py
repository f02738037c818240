"No bytes crash a reader, hang it or fill the memory: what a fuzzer found, and mutations of small right files."

import resource
import time
from itertools import islice

import pytest

from fuzzing import FINDINGS, TARGETS, mutations, seeds, try_input

# mutations for each reader, the first of an endless row: as many as it reads in twelve seconds
TRIED = dict(sound=4_500, picture=17_000, table=50_000, model=210, index=8_000)
LONGEST = 10  # processor seconds for one input; a reader that hangs takes for ever
MEMORY = 1 << 30  # bytes that a reader may add to the process

pytestmark = pytest.mark.usefixtures('one_thread')


def peak():
    "Bytes that this process has held at most."
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def check(target, data):
    "Read it within the time allowed."
    begin = time.process_time()
    try:
        read = try_input(target, data)
    except Exception as e:
        raise AssertionError(f'{target} broke on {data!r}') from e
    took = time.process_time() - begin
    assert took < LONGEST, f'{target} took {took:.0f} s for {data!r}'
    return read


@pytest.mark.parametrize('target', TARGETS)
def test_right_files_are_read(target):
    for data in TARGETS[target][1]():
        assert check(target, data)


@pytest.mark.parametrize('target', TARGETS)
def test_findings_stay_mended(target):
    before = peak()
    for data in seeds(target):
        check(target, data)
    assert peak() - before < MEMORY


@pytest.mark.parametrize('target', TARGETS)
def test_mutations(target):
    check(target, next(iter(seeds(target))))
    each_once = dict.fromkeys(islice(mutations(target), TRIED[target]))
    before, tried = peak(), [0, 0]
    for data in each_once:
        tried[check(target, data)] += 1
    assert min(tried) > 0, 'a mutation that is always read, or never, tries nothing'
    assert peak() - before < MEMORY


def test_findings_have_a_reader():
    assert {f.name for f in FINDINGS.glob('*')} <= set(TARGETS)
