"""Build the example: python setup.py build_ext --inplace"""

from Cython.Build import cythonize
from setuptools import setup

setup(name="block", ext_modules=cythonize("block.pyx"))  # slidedot's .pxd is found on sys.path
