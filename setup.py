"""What pyproject.toml cannot say: the config groups and the published figures lie at the top of the repository and travel
inside the package (s0/paths.py finds either)."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
#: folder of the repository -> folder of the package
SHIPPED = {"configs": "s0/_configs", "experiments/published": "s0/_published"}


class BuildWithConfigs(build_py):
    def _shipped(self):
        for folder, inside in SHIPPED.items():
            for path in sorted((HERE / folder).rglob("*")):
                if path.is_file() and path.suffix in (".yaml", ".csv", ".md"):
                    yield path, Path(self.build_lib) / inside / path.relative_to(HERE / folder)

    def run(self):
        super().run()
        if not self.editable_mode:  # a checkout uses the folders where they are
            for source, target in self._shipped():
                self.mkpath(str(target.parent))
                self.copy_file(str(source), str(target), preserve_mode=False)

    def get_outputs(self, include_bytecode=True):
        shipped = [] if self.editable_mode else [str(target) for _, target in self._shipped()]
        return super().get_outputs(include_bytecode) + shipped


setup(cmdclass={"build_py": BuildWithConfigs})
