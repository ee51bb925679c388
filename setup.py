"""Packaging lives in pyproject.toml; this file only adds the top-level recipes/ and slurm/ to a wheel, in nemo_demix/.

An editable install needs no copy: the code then falls back on the repository's own folders.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FILES = sorted(path.as_posix() for folder in ("recipes", "slurm") for path in Path(folder).rglob("*.*"))


class BuildWithFiles(build_py):
    """`build_py` that also carries recipes/ and slurm/ into wheels and source archives."""

    def run(self) -> None:
        """Build the package, then copy the files into it."""
        super().run()
        if self.editable_mode:
            return
        for file in FILES:
            target = Path(self.build_lib, "nemo_demix", file)
            self.mkpath(str(target.parent))
            self.copy_file(file, str(target), preserve_mode=False)

    def get_source_files(self) -> list[str]:
        """Return what a source archive must hold."""
        return [*super().get_source_files(), *FILES]


setup(cmdclass={"build_py": BuildWithFiles})
