"""The build step that pyproject.toml cannot say: the wheel carries a lab, packed from the top of the repository.

`wavbrivl init` lays it out. wavbrivl/app/layout.csv lists its files; each stands once in git.
"""

import atexit
import runpy
import shutil
import tempfile
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
APP = HERE / 'wavbrivl/app'
pack_layout = runpy.run_path(str(APP / 'layout.py'))['pack_layout']


class BuildWithLab(build_py):
    "Build the package, then put the lab beside its modules."

    def run(self):
        super().run()
        if getattr(self, 'editable_mode', False):
            return  # the clone around the package has the files
        package = Path(self.build_lib) / 'wavbrivl'
        pack_layout(HERE, APP / 'layout.csv', package / 'layout.zip')
        for file in (APP / 'lab').iterdir():
            (package / 'app/lab').mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, package / 'app/lab' / file.name)


# the folder build is the lab's own; what is built for a wheel goes elsewhere
build_base = tempfile.mkdtemp()
atexit.register(shutil.rmtree, build_base, ignore_errors=True)
setup(
    cmdclass=dict(build_py=BuildWithLab),
    options=dict(build=dict(build_base=build_base)),
)
