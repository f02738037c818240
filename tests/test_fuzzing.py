"No bytes crash a reader, hang it or fill the memory: what a fuzzer found, and mutations of small right files."

import resource
import time

import pytest

from fuzzing import FINDINGS, TARGETS, mutations, seeds, try_input

SECONDS = 12  # for each of the five readers
LONGEST = 10  # s for one input; a reader that hangs takes for ever
MEMORY = 1 << 30  # bytes that a reader may add to the process

pytestmark = pytest.mark.usefixtures('one_thread')


def peak():
    "Bytes that this process has held at most."
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def check(target, data):
    "Read it within the time allowed."
    begin = time.monotonic()
    try:
        read = try_input(target, data)
    except Exception as e:
        raise AssertionError(f'{target} broke on {data!r}') from e
    took = time.monotonic() - begin
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
    before, end, tried = peak(), time.monotonic() + SECONDS, [0, 0]
    for data in mutations(target):
        tried[check(target, data)] += 1
        if time.monotonic() > end:
            break
    assert min(tried) > 0, 'a mutation that is always read, or never, tries nothing'
    assert peak() - before < MEMORY


def test_findings_have_a_reader():
    assert {f.name for f in FINDINGS.glob('*')} <= set(TARGETS)
