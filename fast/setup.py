"""Builds the extension with nghttp2 compiled in; everything else stands in pyproject.toml."""

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

# The build hooks of setuptools do not look for modules beside this file.
sys.path.insert(0, str(Path(__file__).parent))
from nghttp2 import sources

library = sources()
macros = [
    ("NGHTTP2_STATICLIB", "1"),
    ("HAVE_ARPA_INET_H", "1"),
    ("HAVE_NETINET_IN_H", "1"),
    ("HAVE_CLOCK_GETTIME", "1"),
    ("HAVE_DECL_CLOCK_MONOTONIC", "1"),
]
flags = ["-O2", "-fvisibility=hidden", "-fstack-protector-strong", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"]
# For example PYMICRO_FAST_FLAGS="-fsanitize=address".
extra = os.environ.get("PYMICRO_FAST_FLAGS", "").split()

setup(
    ext_modules=cythonize(
        [
            Extension(
                "pymicro_fast._engine",
                ["src/pymicro_fast/_engine.pyx", *sorted(map(str, library.glob("*.c")))],
                include_dirs=[str(library), str(library / "includes")],
                define_macros=macros,
                extra_compile_args=[*flags, *extra],
                extra_link_args=extra,
            )
        ],
        language_level=3,
    )
)
