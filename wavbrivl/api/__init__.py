"A trained model for those who use it. The class WavBriVL is told over three chapters: folder, model, painter."

from . import folder, model, painter  # noqa: F401, all methods are there whichever chapter is imported
