"""Build the package with the shipped configs in it; everything else about the package is in pyproject.toml."""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

CONFIGS = Path("configs")
KINDS = (".py", ".yaml", ".md", ".json")


class BuildPy(build_py):
    """Copy `configs/` into the package as `pipeline/configs`. An editable install reads the checkout's own."""

    def run(self) -> None:
        """Build the package, then copy the configs."""
        super().run()
        if not self.editable_mode:
            for target, source in self._configs().items():
                self.mkpath(str(Path(target).parent))
                self.copy_file(source, target)

    def get_source_files(self) -> list[str]:
        """Return the files that a source distribution needs."""
        return [*super().get_source_files(), *self._configs().values()]

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Return the files that `run` writes."""
        outputs = super().get_outputs(include_bytecode)
        return outputs if self.editable_mode else [*outputs, *self._configs()]

    def get_output_mapping(self) -> dict[str, str]:
        """Return the source of each file that `run` writes."""
        mapping = super().get_output_mapping()
        return mapping if self.editable_mode else mapping | self._configs()

    def _configs(self) -> dict[str, str]:
        """Return the built path of each shipped config with its source, both as text with `/`."""
        sources = sorted(path for path in CONFIGS.rglob("*") if path.suffix in KINDS)
        return {(Path(self.build_lib) / "pipeline" / path).as_posix(): path.as_posix() for path in sources}


setup(cmdclass={"build_py": BuildPy})
