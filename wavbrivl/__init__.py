"Sound, picture and word in one space: an audio tower taught by a frozen image-text model."
__version__ = "0.1.0"
__all__ = ["WavBriVL", "BriVL"]


def __getattr__(name):
    "The two models, imported when first asked for: the command line stays quick."
    if name == "WavBriVL":
        from .api.pictures import WavBriVL

        return WavBriVL
    if name == "BriVL":
        from .image_text.brivl import BriVL

        return BriVL
    raise AttributeError(f"module 'wavbrivl' has no attribute {name!r}")
