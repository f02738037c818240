"Sound, picture and word in one space: an audio tower taught by a frozen image-text model."
__version__ = "0.1.0"
__all__ = ["WavBriVL", "BriVL"]

import os

# Threads that spin while they wait starve each other as soon as anything else runs (benchmarks/threads.py).
# OpenMP reads this once, when torch is imported; what a user has set stays.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def __getattr__(name):
    "The two models, imported when first asked for: the command line stays quick."
    if name == "WavBriVL":
        from .api.pictures import WavBriVL

        return WavBriVL
    if name == "BriVL":
        from .image_text.brivl import BriVL

        return BriVL
    raise AttributeError(f"module 'wavbrivl' has no attribute {name!r}")
