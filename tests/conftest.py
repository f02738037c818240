"What several test files share."

import os

import numpy as np
import pytest
import torch

if 'PYTEST_XDIST_WORKER' in os.environ:  # two processes share the cores
    torch.set_num_threads(1)
    os.environ.setdefault('OMP_NUM_THREADS', '1')  # of the programs that tests start

# These take longest. A worker takes whole files: the longest come first, so that none is left to one worker at the end.
FIRST = """
pipeline fuzzing distributed report wheel bulk released_lab export faults inputs captioning peers planning generation
encoders vqgan sound_files foley
""".split()


def pytest_collection_modifyitems(items):
    "Order the files; within a file nothing changes."
    place = {f'test_{name}': i for i, name in enumerate(FIRST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


def seed():
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(autouse=True, scope='module')
def seeded_module():
    "The same random numbers in what a file's tests share, whichever file ran before it."
    seed()


@pytest.fixture(autouse=True)
def seeded():
    "The same random numbers in a test, whichever ran before it."
    seed()


@pytest.fixture(scope='module')
def one_thread():
    "Small models are quicker, and sums the same everywhere, on one thread."
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)
