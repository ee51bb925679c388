"""Packaging lives in pyproject.toml; this file only adds the top-level recipes/ to a wheel, as nemo_demix/recipes.

An editable install needs no copy: the code then falls back on the repository's own recipes/.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

RECIPES = sorted(path.as_posix() for path in Path("recipes").rglob("*.yaml"))


class BuildWithRecipes(build_py):
    """`build_py` that also carries recipes/ into wheels and source archives."""

    def run(self) -> None:
        """Build the package, then copy the recipes into it."""
        super().run()
        if self.editable_mode:
            return
        for recipe in RECIPES:
            target = Path(self.build_lib, "nemo_demix", recipe)
            self.mkpath(str(target.parent))
            self.copy_file(recipe, str(target), preserve_mode=False)

    def get_source_files(self) -> list[str]:
        """What a source archive must hold."""
        return [*super().get_source_files(), *RECIPES]


setup(cmdclass={"build_py": BuildWithRecipes})
