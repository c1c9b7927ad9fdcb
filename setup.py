"""Builds the one compiled module; everything else is in pyproject.toml."""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = bool(os.environ.get("SLUICE_DEBUG"))

core = Extension(
    "sluice._core",
    sources=["sluice/_core.pyx"],
    extra_compile_args=["-std=c11", "-Wall", "-Wextra", "-O0" if DEBUG else "-O3"],
)
directives = {
    "language_level": "3",
    "boundscheck": DEBUG,
    "wraparound": False,
    "initializedcheck": DEBUG,
    "cdivision": True,
    # Not freethreading_compatible: assign() borrows references from a dict that other threads
    # change, which needs the GIL. A free-threaded Python turns the GIL on for this module.
}
setup(ext_modules=cythonize([core], compiler_directives=directives))
