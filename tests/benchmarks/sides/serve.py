"""The process of one side: `python serve.py on_arq`."""

import importlib
import sys

from kit import serve

if __name__ == "__main__":
    serve(importlib.import_module(sys.argv[1]).SIDE)
