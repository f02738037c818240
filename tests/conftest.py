"What several test files share."

import os

import pytest
import torch

if 'PYTEST_XDIST_WORKER' in os.environ:  # two processes share the cores
    torch.set_num_threads(1)


@pytest.fixture(scope='module')
def one_thread():
    "Small models are quicker, and sums the same everywhere, on one thread."
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)
