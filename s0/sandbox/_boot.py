"""Entry point of the worker processes: `python -s -S -P _boot.py judge|candidate ...`.

Makes `s0.sandbox.<module>` importable without running `s0/__init__.py` or having anything else of the installation on the
import path.
"""

import os
import sys
import types

_here = os.path.dirname(os.path.abspath(__file__))
for _name, _path in (("s0", os.path.dirname(_here)), ("s0.sandbox", _here)):
    _module = types.ModuleType(_name)
    _module.__path__ = [_path]
    sys.modules[_name] = _module

if sys.argv[1] == "judge":
    from s0.sandbox.judge import main
else:
    from s0.sandbox.candidate import main
main(sys.argv[2:])
